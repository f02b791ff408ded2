//! A permit request that reaches Redis after its own release holds nothing.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::{Answer, BackendErrorKind};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::semaphore::{AcquireError, PermitBackend, PermitId, PermitOp, PermitReply};
use tower_sluice::{Key, RedisBackend, RedisSemaphore, Semaphore, SemaphorePolicy};

use crate::support::frozen::Frozen;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;

const SECOND: Duration = Duration::from_secs(1);
const NAME: &str = "{sluice:exports:rann}:";

fn ann() -> Key {
    Key::from("ann")
}

fn permits(capacity: u32) -> SemaphorePolicy {
    SemaphorePolicy::new("exports", capacity).with_lease(30 * SECOND)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < 20 * SECOND, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A server behind a proxy, and a connection beside the proxy that reads its state.
struct Held {
    server: RedisServer,
    proxy: Proxy,
    beside: Semaphore<RedisSemaphore>,
}

impl Held {
    async fn start(capacity: u32) -> Self {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.port()).await;
        let redis = RedisBackend::connect(server.url())
            .await
            .expect("the server runs");
        let beside = Semaphore::new(permits(capacity), RedisSemaphore::new(&redis));
        // The script is loaded: a held request takes effect as soon as it arrives.
        assert!(beside.peek(&ann()).await.is_ok());
        Self {
            server,
            proxy,
            beside,
        }
    }

    async fn semaphore(&self) -> Semaphore<RedisSemaphore> {
        let redis = RedisBackend::connect(self.proxy.url()).await;
        let redis = redis.expect("the server runs");
        Semaphore::new(self.beside.policy().clone(), RedisSemaphore::new(&redis))
    }

    async fn remaining(&self) -> u64 {
        let look = self.beside.peek(&ann()).await;
        look.expect("the backend replies").remaining()
    }

    /// The number of requests that have passed the proxy.
    fn passed(&self) -> usize {
        self.proxy.decisions()
    }

    /// Lets the held request arrive, and returns when one more request was done.
    async fn late_request_arrives(&self) {
        let passed = self.passed();
        let calls = || self.server.calls("evalsha") + self.server.calls("eval");
        let done = calls();
        self.proxy.release_held();
        until("a late request arrives", || self.passed() > passed).await;
        until("a late request is done", || calls() > done).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquire_that_arrives_after_its_release_holds_nothing() {
    let held = Held::start(1).await;
    let semaphore = held.semaphore().await;
    let before = held.passed();
    held.proxy.hold();
    match semaphore.try_acquire(&ann(), 1).await {
        Err(AcquireError::Backend(error)) => {
            assert!(matches!(error.kind(), BackendErrorKind::Timeout(_)));
        }
        other => panic!("{other:?}"),
    }
    // The release uses another connection.
    until("the release passes", || held.passed() > before).await;
    held.late_request_arrives().await;
    assert_eq!(held.remaining().await, 1);
    assert!(semaphore.try_acquire(&ann(), 1).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_acquire_that_arrives_after_its_release_holds_nothing() {
    let held = Held::start(1).await;
    let semaphore = held.semaphore().await;
    let before = held.passed();
    held.proxy.hold();
    let key = ann();
    let acquire = semaphore.try_acquire(&key, 1);
    let dropped = tokio::time::timeout(Duration::from_millis(20), acquire).await;
    assert!(dropped.is_err());
    until("the release passes", || held.passed() > before).await;
    held.late_request_arrives().await;
    assert_eq!(held.remaining().await, 1);
}

/// It has a place in the queue from before. Its release gives the place up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_arrives_after_its_release_neither_holds_nor_waits() {
    let held = Held::start(1).await;
    let first = held.beside.try_acquire(&ann(), 1).await.expect("free");
    let semaphore = held.semaphore().await;
    let before = held.passed();
    let key = ann();
    let waits = semaphore.acquire(&key, 1, 20 * SECOND);
    let hold = async {
        until("it has a place", || held.passed() > before + 2).await;
        held.proxy.hold();
    };
    let (waits, ()) = tokio::join!(waits, hold);
    assert!(matches!(waits, Err(AcquireError::Backend(_))), "{waits:?}");
    // The place is free.
    let queue = format!("{NAME}pq");
    until("the release is done", || {
        held.server.get::<usize>(&["EXISTS", &queue]) == 0
    })
    .await;
    assert!(first.release().await.expect("the command is permitted"));
    held.late_request_arrives().await;
    assert_eq!(held.remaining().await, 1);
    assert_eq!(held.server.get::<usize>(&["EXISTS", &queue]), 0);
}

/// The connection breaks. The acquire is sent again, succeeds and is released. Then its first copy arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_copy_of_a_repeated_acquire_holds_nothing_after_the_release() {
    let held = Held::start(1).await;
    let semaphore = held.semaphore().await;
    held.proxy.hold();
    let key = ann();
    let close = async {
        sleep(Duration::from_millis(50)).await;
        held.proxy.close_held();
    };
    let (got, ()) = tokio::join!(semaphore.try_acquire(&key, 1), close);
    let permit = got.expect("the second copy is answered");
    assert_eq!(held.remaining().await, 0);
    assert!(permit.release().await.expect("the command is permitted"));
    assert_eq!(held.remaining().await, 1);
    held.late_request_arrives().await;
    assert_eq!(held.remaining().await, 1);
}

#[cfg(feature = "blocking")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_acquire_that_arrives_after_its_release_holds_nothing() {
    use tower_sluice::blocking;
    let held = Held::start(1).await;
    let url = held.proxy.url();
    let redis = tokio::task::spawn_blocking(move || blocking::RedisBackend::connect(url));
    let redis = redis.await.expect("no panic").expect("the server runs");
    let semaphore = blocking::Semaphore::new(permits(1), redis);
    let before = held.passed();
    held.proxy.hold();
    let acquire = move || semaphore.try_acquire(&ann(), 1);
    let got = tokio::task::spawn_blocking(acquire)
        .await
        .expect("no panic");
    assert!(matches!(got, Err(AcquireError::Backend(_))), "{got:?}");
    until("the release passes", || held.passed() > before).await;
    held.late_request_arrives().await;
    assert_eq!(held.remaining().await, 1);
}

async fn ask(redis: &RedisSemaphore, permits: &SemaphorePolicy, op: PermitOp) -> PermitReply {
    let reply = match redis.ask(op, permits, &ann()) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    reply.expect("the backend replies")
}

#[tokio::test]
async fn only_a_revoked_id_is_denied_for_one_lease() {
    let server = RedisServer::start();
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let connection = Frozen::connect(&server.url(), &clock).await;
    let builder = RedisBackend::builder().time_limit(20 * SECOND);
    let redis = RedisSemaphore::new(&builder.from_transport(RedisConnection::new(connection)));
    let permits = permits(10);
    let acquire = |id, weight| PermitOp::Acquire { id, weight };
    let wait = |id, weight| PermitOp::Wait {
        id,
        weight,
        waited: Duration::ZERO,
    };
    let [unseen, held, other] = [(); 3].map(|()| PermitId::random());
    assert!(
        ask(&redis, &permits, acquire(held, 4))
            .await
            .decision
            .is_allowed()
    );
    // An unknown id, and an id that holds a permit.
    let revoked = ask(&redis, &permits, PermitOp::Revoke(unseen)).await;
    assert_eq!(
        (
            revoked.lasting()[0],
            revoked.decision.snapshot().remaining()
        ),
        (false, 6)
    );
    let revoked = ask(&redis, &permits, PermitOp::Revoke(held)).await;
    assert_eq!(
        (
            revoked.lasting()[0],
            revoked.decision.snapshot().remaining()
        ),
        (true, 10)
    );
    assert!(server.command(&["EXISTS", &format!("{NAME}pw")]) == redis::Value::Int(0));

    clock.advance(30 * SECOND - Duration::from_micros(1));
    for id in [unseen, held] {
        for op in [acquire(id, 1), acquire(id, 3), wait(id, 1)] {
            let late = ask(&redis, &permits, op).await;
            assert!(!late.decision.is_allowed());
            assert_eq!(late.decision.snapshot().remaining(), 10);
        }
        let renewed = ask(&redis, &permits, PermitOp::Renew(vec![id])).await;
        assert_eq!(renewed.lasting()[..], [false]);
        let released = ask(&redis, &permits, PermitOp::Release(id)).await;
        assert_eq!(released.lasting()[..], [false]);
    }
    assert!(server.command(&["EXISTS", &format!("{NAME}pq")]) == redis::Value::Int(0));
    // Other holders have all permits. The reported wait ends with a lease, with or without revoked ids.
    for weight in [3, 7] {
        let id = if weight == 3 {
            other
        } else {
            PermitId::random()
        };
        assert!(
            ask(&redis, &permits, acquire(id, weight))
                .await
                .decision
                .is_allowed()
        );
    }
    let full = ask(&redis, &permits, acquire(PermitId::random(), 4)).await;
    assert_eq!(
        full.decision.retry_after(),
        Some(tower_sluice::RetryAfter::In(30 * SECOND))
    );
    clock.advance(Duration::from_micros(1));
    assert!(
        ask(&redis, &permits, PermitOp::Release(other))
            .await
            .lasting()[0]
    );
    assert!(
        ask(&redis, &permits, acquire(unseen, 3))
            .await
            .decision
            .is_allowed()
    );
}

#[tokio::test]
async fn revoked_ids_are_bounded_and_end_with_their_key() {
    let server = RedisServer::start();
    let redis = RedisBackend::connect(server.url())
        .await
        .expect("the server runs");
    let redis = RedisSemaphore::new(&redis);
    let permits = SemaphorePolicy::new("exports", 2).with_lease(SECOND);
    for _ in 0..1_100 {
        let _ = ask(&redis, &permits, PermitOp::Revoke(PermitId::random())).await;
    }
    let holders = format!("{NAME}p");
    assert!(server.get::<usize>(&["ZCARD", &holders]) <= 1_024);
    let id = PermitId::random();
    let got = ask(&redis, &permits, PermitOp::Acquire { id, weight: 2 }).await;
    assert!(got.decision.is_allowed());
    let peek = ask(&redis, &permits, PermitOp::Peek).await;
    assert_eq!(peek.decision.snapshot().remaining(), 0);
    assert!(ask(&redis, &permits, PermitOp::Release(id)).await.lasting()[0]);
    let ttl: i64 = server.get(&["PTTL", &holders]);
    assert!((1..=2_000).contains(&ttl), "{ttl}");
}

/// A write never shortens the expiry of a key.
#[tokio::test]
async fn shorter_lease_keeps_ids_revoked_with_a_longer_lease() {
    let server = RedisServer::start();
    let redis = RedisBackend::connect(server.url())
        .await
        .expect("the server runs");
    let redis = RedisSemaphore::new(&redis);
    let long = SemaphorePolicy::new("exports", 2).with_lease(Duration::from_secs(3_600));
    let short = SemaphorePolicy::new("exports", 2).with_lease(SECOND);
    let late = PermitId::random();
    let _ = ask(&redis, &long, PermitOp::Revoke(late)).await;
    let id = PermitId::random();
    let got = ask(&redis, &short, PermitOp::Acquire { id, weight: 2 }).await;
    assert!(got.decision.is_allowed());
    let renewed = ask(&redis, &short, PermitOp::Renew([id].into_iter().collect())).await;
    assert_eq!(renewed.lasting()[..], [true]);
    let ttl: i64 = server.get(&["PTTL", &format!("{NAME}p")]);
    assert!(ttl > 3_000_000, "{ttl}");
}
