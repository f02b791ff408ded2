//! The script, when the server clock moves back, memory is full, or another program changes the keys.

use std::time::Duration;

use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::{Answer, BackendError};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::semaphore::{MemorySemaphore, PermitBackend, PermitId, PermitOp, PermitReply};
use tower_sluice::{Key, RedisBackend, RedisSemaphore, Semaphore, SemaphorePolicy};

use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

const SECOND: Duration = Duration::from_secs(1);

fn ann() -> Key {
    Key::from("ann")
}

async fn try_ask(
    redis: &RedisSemaphore,
    permits: &SemaphorePolicy,
    op: PermitOp,
) -> Result<PermitReply, BackendError> {
    match redis.ask(op, permits, &ann()) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    }
}

async fn ask(redis: &RedisSemaphore, permits: &SemaphorePolicy, op: PermitOp) -> PermitReply {
    try_ask(redis, permits, op)
        .await
        .expect("the backend replies")
}

/// A waiter that has waited for `waited`.
fn wait(id: PermitId, waited: Duration) -> PermitOp {
    PermitOp::Wait {
        id,
        weight: 1,
        waited,
    }
}

#[tokio::test]
async fn clock_step_back_keeps_the_order_of_waiters() {
    let server = RedisServer::start();
    let hour = Timestamp::from_micros(1_800_000_000_000_000);
    let clock = ManualClock::at(hour.after(3_600 * SECOND));
    let connection = Frozen::connect(&server.url(), &clock).await;
    let builder = RedisBackend::builder().time_limit(20 * SECOND);
    let redis = RedisSemaphore::new(&builder.from_transport(RedisConnection::new(connection)));
    let permits = SemaphorePolicy::new("exports", 1);
    let [held, first, second] = [(); 3].map(|()| PermitId::random());
    let acquire = PermitOp::Acquire {
        id: held,
        weight: 1,
    };
    assert!(ask(&redis, &permits, acquire).await.decision.is_allowed());
    let denied = ask(&redis, &permits, wait(first, 3 * SECOND)).await;
    assert!(!denied.decision.is_allowed() && denied.in_front == 0);
    let denied = ask(&redis, &permits, wait(second, 2 * SECOND)).await;
    assert!(!denied.decision.is_allowed() && denied.in_front == 1);

    clock.set(hour);
    let denied = ask(&redis, &permits, wait(first, 3 * SECOND)).await;
    assert!(!denied.decision.is_allowed() && denied.in_front == 0);
    let denied = ask(&redis, &permits, wait(second, 2 * SECOND)).await;
    assert_eq!(denied.in_front, 1, "the first one stays the first");
    assert!(
        ask(&redis, &permits, PermitOp::Release(held))
            .await
            .lasting()[0]
    );
    let newcomer = wait(PermitId::random(), Duration::ZERO);
    let newcomer = ask(&redis, &permits, newcomer).await;
    assert!(!newcomer.decision.is_allowed() && newcomer.in_front == 2);
    let got = ask(&redis, &permits, wait(first, 3 * SECOND)).await;
    assert!(got.decision.is_allowed());
}

#[tokio::test]
async fn full_server_still_renews_and_releases_permits() {
    let server = RedisServer::start();
    let redis = RedisBackend::connect(server.url())
        .await
        .expect("the server runs");
    let redis = RedisSemaphore::new(&redis);
    let permits = SemaphorePolicy::new("exports", 5);
    let semaphore = Semaphore::new(permits.clone(), redis.clone());
    let one = semaphore.try_acquire(&ann(), 2).await.expect("free");
    let two = semaphore.try_acquire(&ann(), 3).await.expect("free");
    let _ = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let renewed = ask(&redis, &permits, PermitOp::Renew(vec![one.id(), two.id()])).await;
    assert_eq!(renewed.lasting()[..], [true, true]);
    let full = semaphore.try_acquire(&ann(), 1).await;
    assert!(full.expect_err("full").retry_after().is_some());
    assert!(one.release().await.expect("the command is permitted"));
    let free = PermitOp::Acquire {
        id: PermitId::random(),
        weight: 1,
    };
    let why = try_ask(&redis, &permits, free)
        .await
        .expect_err("no memory");
    assert!(why.to_string().contains("OOM"), "{why}");
    assert!(two.release().await.expect("the command is permitted"));
    assert!(server.keys().is_empty(), "{:?}", server.keys());
}

#[tokio::test]
async fn deleted_holders_leave_no_weight() {
    let server = RedisServer::start();
    let redis = RedisBackend::connect(server.url())
        .await
        .expect("the server runs");
    let redis = RedisSemaphore::new(&redis);
    let permits = SemaphorePolicy::new("exports", 5);
    let semaphore = Semaphore::new(permits.clone(), redis.clone());
    let lost = semaphore.try_acquire(&ann(), 4).await.expect("free");
    let _ = server.command(&["DEL", "{sluice:exports:rann}:p"]);
    let look = semaphore.peek(&ann()).await.expect("the backend replies");
    assert_eq!(look.remaining(), 5);
    let all = semaphore
        .try_acquire(&ann(), 5)
        .await
        .expect("all are free");
    let renewed = ask(&redis, &permits, PermitOp::Renew(vec![lost.id(), all.id()])).await;
    assert_eq!(renewed.lasting()[..], [false, true]);
    assert!(!lost.release().await.expect("the backend replies"));
    let look = semaphore.peek(&ann()).await.expect("the backend replies");
    assert_eq!(look.remaining(), 0);
    assert!(all.release().await.expect("the backend replies"));
    assert!(server.keys().is_empty(), "{:?}", server.keys());
}

/// More holders than the script reads in one call.
#[tokio::test]
async fn redis_and_memory_agree_on_the_wait_for_hundreds_of_holders() {
    let server = RedisServer::start();
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let connection = Frozen::connect(&server.url(), &clock).await;
    let builder = RedisBackend::builder().time_limit(20 * SECOND);
    let redis = RedisSemaphore::new(&builder.from_transport(RedisConnection::new(connection)));
    let memory = MemorySemaphore::builder().clock(clock.clone()).leases_end();
    let memory = memory.build();
    let in_memory = |op: PermitOp, permits: &SemaphorePolicy| match memory.ask(op, permits, &ann())
    {
        Answer::Now(Ok(reply)) => reply,
        _ => unreachable!("memory answers at once"),
    };
    for weights in [1, 3] {
        let permits = SemaphorePolicy::new(&format!("weights-{weights}"), 1_000);
        let mut held = 0;
        for number in 0..350 {
            let weight = 1 + number % weights;
            let id = PermitId::random();
            let op = PermitOp::Acquire { id, weight };
            let expected = in_memory(op.clone(), &permits);
            assert_eq!(ask(&redis, &permits, op).await, expected);
            held += weight;
            clock.advance(SECOND / 100);
        }
        for missing in [1, 2, 99, 100, 101, 199, 200, 201, 349, 350] {
            let (id, weight) = (PermitId::random(), 1_000 - held + missing);
            let op = PermitOp::Acquire { id, weight };
            let expected = in_memory(op.clone(), &permits);
            assert!(!expected.decision.is_allowed());
            assert_eq!(ask(&redis, &permits, op).await, expected, "{missing}");
        }
    }
}
