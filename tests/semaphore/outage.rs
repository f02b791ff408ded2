//! Redis is down, stalls, loses its state, or loses a reply.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::semaphore::{AcquireError, PermitBackend, WithFailurePolicy};
use tower_sluice::{
    FailurePolicy, Key, MemoryBackend, RedisBackend, RedisSemaphore, Semaphore, SemaphorePolicy,
};

use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;

const LEASE: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);

async fn connect(url: &str, capacity: u32) -> Semaphore<RedisSemaphore> {
    let redis = RedisBackend::connect(url).await.expect("the server runs");
    let permits = SemaphorePolicy::new("exports", capacity).with_lease(LEASE);
    Semaphore::new(permits, RedisSemaphore::new(&redis))
}

fn ann() -> Key {
    Key::from("ann")
}

async fn remaining(semaphore: &Semaphore<RedisSemaphore>) -> u64 {
    let snapshot = semaphore.peek(&ann()).await.expect("the backend replies");
    snapshot.remaining()
}

/// Waits until the circuit permits the next attempt, for a second or two.
async fn wait_for_recovery(semaphore: &Semaphore<RedisSemaphore>) {
    let since = Instant::now();
    while semaphore.peek(&ann()).await.is_err() {
        assert!(since.elapsed() < 10 * SECOND);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_policy_applies_during_an_outage_and_redis_counts_afterwards() {
    let mut server = RedisServer::start();
    let semaphore = connect(&server.url(), 2).await;
    let with = |choice| WithFailurePolicy::new(semaphore.clone(), choice);
    let (allow, deny) = (
        with(FailurePolicy::FailOpen),
        with(FailurePolicy::FailClosed),
    );
    let fallback = with(FailurePolicy::Fallback(MemoryBackend::new()));
    let held = allow.try_acquire(&ann(), 2).await.expect("free");
    assert!(held.is_some());
    for choice in [&allow, &deny, &fallback] {
        let full = choice.try_acquire(&ann(), 1).await;
        assert!(matches!(full, Err(AcquireError::Denied(_))), "{full:?}");
    }

    server.kill9();
    for round in 0..20 {
        let asked = Instant::now();
        let let_in = allow.try_acquire(&ann(), 1).await;
        assert!(matches!(let_in, Ok(None)), "{let_in:?}");
        assert_eq!(semaphore.backend().context().stats().unpermitted, round + 1);
        let denied = deny.try_acquire(&ann(), 1).await;
        assert!(
            matches!(denied, Err(AcquireError::Backend(_))),
            "{denied:?}"
        );
        // The local semaphore has two permits of its own.
        let local = fallback
            .try_acquire(&ann(), 2)
            .await
            .expect("a permit of the fallback");
        let full = fallback.try_acquire(&ann(), 1).await;
        assert!(matches!(full, Err(AcquireError::Denied(_))), "{full:?}");
        assert!(
            local
                .expect("a permit of the fallback")
                .release()
                .await
                .expect("memory")
        );
        assert!(asked.elapsed() < 2 * SECOND, "{:?}", asked.elapsed());
    }
    // A waiter sees the failure and continues to wait in this process.
    let local = fallback
        .try_acquire(&ann(), 2)
        .await
        .expect("a permit of the fallback");
    let key = ann();
    let (waited, ()) = tokio::join!(fallback.acquire(&key, 1, SECOND), async {
        sleep(SECOND / 10).await;
        drop(local);
    });
    assert!(waited.is_ok_and(|permit| permit.is_some()));

    server.restart();
    wait_for_recovery(&semaphore).await;
    let held = deny
        .try_acquire(&ann(), 2)
        .await
        .expect("the server has no state");
    let full = fallback.try_acquire(&ann(), 1).await;
    assert!(matches!(full, Err(AcquireError::Denied(_))), "{full:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timed_out_acquires_hold_no_permit_later() {
    let server = RedisServer::start();
    let semaphore = connect(&server.url(), 5).await;
    assert!(semaphore.try_acquire(&ann(), 1).await.is_ok());
    server.pause();
    let keys = ann();
    let all = join_all((0..4).map(|_| semaphore.try_acquire(&keys, 1))).await;
    for outcome in all {
        assert!(
            matches!(outcome, Err(AcquireError::Backend(_))),
            "{outcome:?}"
        );
    }
    server.resume();
    let since = Instant::now();
    wait_for_recovery(&semaphore).await;
    while remaining(&semaphore).await < 5 {
        assert!(since.elapsed() < LEASE + SECOND);
        sleep(Duration::from_millis(10)).await;
    }
    println!("all are free {:.2?} after Redis went on", since.elapsed());
}

/// Documented: a Redis that loses its state has no holders. The earlier holders see the loss within a third of the
/// lease. Until then more permits may be held than the capacity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_learn_that_a_restart_lost_their_permits() {
    let mut server = RedisServer::start();
    let semaphore = connect(&server.url(), 2).await;
    let old = semaphore.try_acquire(&ann(), 2).await.expect("free");
    assert!(semaphore.try_acquire(&ann(), 1).await.is_err());
    server.kill9();
    server.restart();
    let back = Instant::now();
    wait_for_recovery(&semaphore).await;
    let new = semaphore
        .try_acquire(&ann(), 2)
        .await
        .expect("the server knows no holder");
    assert!(
        !old.is_lost(),
        "the loss is not visible yet: both hold permits"
    );
    tokio::time::timeout(LEASE, old.lost())
        .await
        .expect("the loss is reported");
    println!("reported {:.2?} after the restart", back.elapsed());
    assert!(
        !old.release().await.expect("the backend replies"),
        "nothing to release"
    );
    assert_eq!(
        remaining(&semaphore).await,
        0,
        "the permits of the new holder stay"
    );
    assert!(!new.is_lost());
    assert_eq!(semaphore.backend().context().stats().lost_permits, 1);
    assert!(new.release().await.expect("the backend replies"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acquire_with_a_lost_reply_is_repeated_and_takes_one_permit() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port()).await;
    let semaphore = connect(&proxy.url(), 5).await;
    let first = semaphore.try_acquire(&ann(), 1).await.expect("free");
    assert!(first.release().await.expect("the backend replies"));
    for round in 0..10 {
        proxy.set(Mode::CutAfterRequest(1)).await;
        let permit = semaphore.try_acquire(&ann(), 2).await;
        let permit = permit.unwrap_or_else(|error| panic!("{round}: {error:?}"));
        assert_eq!(remaining(&semaphore).await, 3, "one, and not two");
        proxy.set(Mode::CutAfterRequest(1)).await;
        let _ = permit.release().await.expect("the command was repeated");
        assert_eq!(remaining(&semaphore).await, 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_value_fails_only_its_key_and_stays_unchanged() {
    let server = RedisServer::start();
    let semaphore = connect(&server.url(), 5).await;
    let _ = server.command(&["SET", "{sluice:exports:rann}:p", "mine"]);
    let keys: Vec<_> = (0..64).map(Key::from).chain([ann()]).collect();
    let mut all = join_all(keys.iter().map(|key| semaphore.try_acquire(key, 2))).await;
    let corrupt = all
        .pop()
        .expect("the last")
        .expect_err("the key holds a foreign value");
    let AcquireError::Backend(error) = corrupt else {
        panic!("{corrupt:?}");
    };
    assert_eq!(error.kind(), &BackendErrorKind::Corrupt);
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(
        server.get::<String>(&["GET", "{sluice:exports:rann}:p"]),
        "mine"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permit_keys_expire_a_second_after_the_last_lease() {
    let server = RedisServer::start();
    let semaphore = connect(&server.url(), 5).await;
    let permit = semaphore.try_acquire(&ann(), 2).await.expect("free");
    let waiter = {
        let semaphore = semaphore.clone();
        tokio::spawn(async move { semaphore.acquire(&ann(), 5, 20 * SECOND).await })
    };
    sleep(SECOND / 10).await;
    let keys = server.keys();
    assert_eq!(keys.len(), 3, "holders, weights and queue: {keys:?}");
    for key in keys {
        let ttl: i64 = server.get(&["PTTL", &key]);
        assert!((1..=3_000).contains(&ttl), "{key} lasts {ttl} ms");
    }
    waiter.abort();
    drop(permit);
}

/// The documented commands are exactly those that are used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_with_the_documented_rights_can_hold_permits() {
    let server = RedisServer::start();
    let commands = "+evalsha +eval +time +ping +get +mget +set +del +zadd +zrem +zcard +zcount +zscore +zrange +zrevrange +zrangebyscore +hget \
                    +hset +hdel +hgetall +hincrby +pexpire +pttl";
    let mut user = vec!["ACL", "SETUSER", "holder", "on", ">pass", "~{sluice:*"];
    user.extend(commands.split_whitespace());
    let _ = server.command(&user);
    let semaphore = connect(&server.url_of("holder", "pass"), 5).await;
    let one = semaphore.try_acquire(&ann(), 2).await.expect("free");
    let two = semaphore.acquire(&ann(), 1, SECOND).await.expect("free");
    assert!(semaphore.acquire(&ann(), 4, SECOND / 10).await.is_err());
    assert_eq!(remaining(&semaphore).await, 2);
    // The permit is renewed once, and then released.
    sleep(LEASE).await;
    let again = Semaphore::new(semaphore.policy().clone(), semaphore.backend().clone());
    let _ = server.command(&["ZADD", "{sluice:exports:rann}:p", "5", "somebody else"]);
    let _ = server.command(&["ZADD", "{sluice:exports:rann}:p", "9e15", "from the future"]);
    let third = again.try_acquire(&ann(), 1).await.expect("free");
    assert!(third.release().await.expect("the command is permitted"));
    assert_eq!(remaining(&semaphore).await, 1);
    assert!(one.release().await.expect("the command is permitted"));
    assert!(two.release().await.expect("the command is permitted"));
    assert_eq!(
        semaphore
            .backend()
            .context()
            .stats()
            .failed_background_tasks,
        0
    );
}

/// Redis works, but renewals of all permits in one command would time out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permits_of_twenty_thousand_keys_are_all_renewed() {
    let server = RedisServer::start();
    let redis = RedisBackend::connect(server.url())
        .await
        .expect("the server runs");
    let permits = SemaphorePolicy::new("exports", 1).with_lease(24 * SECOND);
    let semaphore = Semaphore::new(permits, RedisSemaphore::new(&redis));
    let keys: Vec<_> = (0..20_000).map(Key::from).collect();
    let mut held = Vec::new();
    // On a loaded machine some requests time out. Their permits are released, and the requests are repeated.
    let acquire = async |key| {
        loop {
            match semaphore.try_acquire(key, 1).await {
                Ok(permit) => return permit,
                Err(_) => sleep(SECOND / 10).await,
            }
        }
    };
    for some in keys.chunks(100) {
        held.extend(join_all(some.iter().map(acquire)).await);
    }
    let context = semaphore.backend().context();
    // Longer than a lease.
    for _ in 0..27 {
        sleep(SECOND).await;
        assert_eq!(context.stats().lost_permits, 0);
    }
    assert_eq!(context.stats().held_permits, 20_000);
    // Also by the clock of Redis.
    let look = semaphore
        .peek(&keys[19_999])
        .await
        .expect("the backend replies");
    assert_eq!(look.remaining(), 0);
}

/// All keys of a permit are in one slot. The keys of a batch are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_stores_permits_like_a_single_server() {
    let server = RedisServer::options().line("cluster-enabled yes").start();
    server.add_slots(0..16_384);
    let since = Instant::now();
    while !server
        .get::<String>(&["CLUSTER", "INFO"])
        .contains("cluster_state:ok")
    {
        assert!(since.elapsed() < 10 * SECOND);
        sleep(SECOND / 50).await;
    }
    let builder = RedisBackend::builder().time_limit(10 * SECOND);
    let redis = builder
        .connect(server.url())
        .await
        .expect("the server runs");
    let permits = SemaphorePolicy::new("exports", 3).with_lease(LEASE);
    let semaphore = Semaphore::new(permits, RedisSemaphore::new(&redis));
    let keys: Vec<_> = (0..64).map(Key::from).collect();
    let held = join_all(keys.iter().map(|key| semaphore.try_acquire(key, 2))).await;
    let held: Vec<_> = held.into_iter().map(|got| got.expect("free")).collect();
    let waits = keys
        .iter()
        .map(|key| semaphore.acquire(key, 2, SECOND / 10));
    let waits = join_all(waits).await;
    assert!(
        waits
            .iter()
            .all(|got| matches!(got, Err(AcquireError::Denied(_))))
    );
    sleep(LEASE).await;
    assert!(held.iter().all(|permit| !permit.is_lost()));
    let given = join_all(held.into_iter().map(|permit| permit.release())).await;
    assert!(
        given
            .into_iter()
            .all(|given| given.expect("the backend replies"))
    );
    let since = Instant::now();
    while !server.keys().is_empty() {
        assert!(since.elapsed() < 5 * SECOND, "{:?}", server.keys());
        sleep(SECOND / 50).await;
    }
}

#[tokio::test]
async fn permits_need_scripts() {
    let redis = RedisBackend::builder().atomicity(Atomicity::Optimistic);
    let redis = redis.connect_lazy("redis://127.0.0.1:1/").expect("a URL");
    let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 1), redis);
    let why = semaphore
        .try_acquire(&ann(), 1)
        .await
        .expect_err("the server must reject it");
    assert_eq!(
        why.to_string(),
        "permits need scripts; use `Atomicity::Script`"
    );
}

/// An open circuit probes less and less often. A lease does not wait for the next probe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_outlasts_an_outage_that_ends_well_before_its_lease_does() {
    let server = RedisServer::start();
    let redis = RedisBackend::connect(server.url())
        .await
        .expect("the server runs");
    let permits = SemaphorePolicy::new("exports", 1).with_lease(7 * SECOND);
    let semaphore = Semaphore::new(permits, RedisSemaphore::new(&redis));
    // Requests whose failures keep the circuit open.
    let requests = {
        let semaphore = semaphore.clone();
        tokio::spawn(async move {
            loop {
                let bob = Key::from("bob");
                let _ = join_all((0..8).map(|_| semaphore.peek(&bob))).await;
                sleep(SECOND / 50).await;
            }
        })
    };
    let held = semaphore.try_acquire(&ann(), 1).await.expect("free");
    server.pause();
    // The next probe is about 4 s from now, and the probe after it 4 s later.
    sleep(5 * SECOND).await;
    server.resume();
    let lost = tokio::time::timeout(5 * SECOND, held.lost()).await;
    assert!(lost.is_err(), "the permit was lost");
    requests.abort();
    wait_for_recovery(&semaphore).await;
    assert!(held.release().await.expect("the backend replies"));
}
