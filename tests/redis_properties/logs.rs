//! Refunds from a sliding log.

use std::time::Duration;

use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::clock::Timestamp;
use tower_sluice::{Limiter, Policy, Quota};

use crate::backends::Fixture;
use crate::shapes::TODAY;

#[test]
fn refund_rebases_a_log_in_the_future() {
    let fixture = Fixture::new();
    let policy = Policy::new("log", Quota::sliding_log(6, Duration::from_micros(7)));
    let (key, redis) = (fixture.fresh_key(), Fixture::builder());
    let redis = Limiter::new(
        policy.clone(),
        redis.from_transport(RedisConnection::new(fixture.frozen())),
    );
    let memory = Limiter::new(policy, fixture.memory());
    let at = |micros: u64| fixture.clock.set(Timestamp::from_micros(TODAY + micros));
    let check = || {
        let reply = fixture
            .runtime
            .block_on(redis.check(&key, 1))
            .expect("Redis");
        (
            memory.check_now(&key, 1).receipt.expect("allowed"),
            reply.receipt.expect("allowed"),
        )
    };
    at(13);
    let _first = check();
    at(18);
    let (mut from_memory, mut from_redis) = check();
    // More than a window back: both charges move to this time, and then the second one is refunded.
    at(10);
    let reported = fixture.runtime.block_on(async {
        (
            memory
                .refund(&key, &mut from_memory, 1)
                .await
                .expect("memory"),
            redis.refund(&key, &mut from_redis, 1).await.expect("Redis"),
        )
    });
    assert_eq!(reported.0.reset_after(), Duration::from_micros(7));
    assert_eq!(reported.0, reported.1);
    at(17);
    let left = fixture.runtime.block_on(redis.peek(&key)).expect("Redis");
    assert_eq!(left.remaining(), 6);
}

/// Charges at each position of a log, refunded in part and in whole. The later counts agree until the log is empty.
#[test]
fn refund_from_a_log_keeps_the_other_entries() {
    const CHARGES: u64 = 9;
    let fixture = Fixture::new();
    let policy = Policy::new("log", Quota::sliding_log(30, Duration::from_micros(100)));
    let redis = Limiter::new(
        policy.clone(),
        Fixture::builder().from_transport(RedisConnection::new(fixture.frozen())),
    );
    let at = |micros: u64| fixture.clock.set(Timestamp::from_micros(TODAY + micros));
    for (place, back) in (0..CHARGES).flat_map(|place| [(place, 1), (place, 3)]) {
        let memory = Limiter::new(policy.clone(), fixture.memory());
        let key = fixture.fresh_key();
        let mut receipts = Vec::new();
        for charge in 0..CHARGES {
            at(10 * charge);
            let from_redis = fixture
                .runtime
                .block_on(redis.check(&key, 3))
                .expect("Redis");
            let from_memory = memory.check_now(&key, 3).receipt.expect("allowed");
            receipts.push((from_memory, from_redis.receipt.expect("allowed")));
        }
        let (mut from_memory, mut from_redis) = receipts.swap_remove(place as usize);
        let reported = fixture.runtime.block_on(async {
            (
                memory
                    .refund(&key, &mut from_memory, back)
                    .await
                    .expect("memory"),
                redis
                    .refund(&key, &mut from_redis, back)
                    .await
                    .expect("Redis"),
            )
        });
        assert_eq!(reported.0, reported.1, "{back} of charge {place}");
        for later in 80..=190 {
            at(later);
            let from_memory = memory.check_now(&key, 0).decision;
            let from_redis = fixture
                .runtime
                .block_on(redis.check(&key, 0))
                .expect("Redis");
            assert_eq!(
                from_memory, from_redis.decision,
                "{back} of charge {place}, at {later}"
            );
        }
    }
}
