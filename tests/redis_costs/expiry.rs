//! The expiry of the keys that a decision writes.

use std::time::Duration;

use tower_sluice::backend::redis::Atomicity;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::support::redis::RedisServer;
use crate::{AGE, DAY, builder, connect};

/// The expiry of a key with this debt, by SEMANTICS.
fn millis(reset_after: Duration) -> u64 {
    let micros = u64::try_from(reset_after.as_micros()).expect("fits");
    micros.div_ceil(1_000) + 1_000
}

fn ttl(server: &RedisServer) -> i64 {
    let keys = server.keys();
    assert_eq!(keys.len(), 1, "{keys:?}");
    server.get(&["PTTL", &keys[0]])
}

/// Little time has passed since the first write of the key.
fn assert_ttl(server: &RedisServer, expected: u64, what: &str) {
    assert_ttl_within(server, expected, 0, what);
}

/// The key is kept for as long as it is needed, and for at most `more` ms longer.
fn assert_ttl_within(server: &RedisServer, expected: u64, more: i64, what: &str) {
    let (left, expected) = (ttl(server), i64::try_from(expected).expect("fits"));
    assert!(left > 0, "{what}: it never expires: {left}");
    // The server counts expiry in ms, from the start of the command.
    assert!(
        (expected - 700..=expected + more + 100).contains(&left),
        "{what}: {left} of {expected}"
    );
}

async fn expires_as_it_should(
    server: &RedisServer,
    backend: RedisBackend,
    floor: u64,
    quotas: &[Quota],
) {
    for quota in quotas {
        let limiter = Limiter::new(Policy::new("api", *quota), backend.clone());
        let ann = Key::from("ann");
        let expected = |reset_after| millis(reset_after).max(floor);
        let mut reply = limiter.check(&ann, 3).await.expect("Redis");
        let after = reply.decision.snapshot().reset_after();
        assert_ttl(server, expected(after), &format!("{quota}, charged"));
        let after = limiter
            .penalize(&ann, 20)
            .await
            .expect("Redis")
            .reset_after();
        assert_ttl(server, expected(after), &format!("{quota}, penalized"));
        let before = ttl(server);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let denied = limiter.check(&ann, 1).await.expect("Redis");
        assert!(!denied.decision.is_allowed());
        let _ = limiter.peek(&ann).await.expect("Redis");
        assert!(
            ttl(server) <= before - 25,
            "{quota}: a denial or a peek extended the expiry"
        );
        // No refund shortens an earlier expiry.
        let mut longest = after;
        let receipt = reply.receipt.as_mut().expect("of a charge");
        let after = limiter.refund(&ann, receipt, 2).await.expect("Redis");
        assert!(after.reset_after() <= longest);
        assert_ttl(server, expected(longest), &format!("{quota}, refunded"));
        let reservation = limiter.reserve(&ann, 1, 99 * DAY).await.expect("Redis");
        longest = longest.max(reservation.decision.snapshot().reset_after());
        if let Some(reservation) = reservation.reservation {
            // A charge of a known key sets an expiry that is up to a second later.
            let longest = expected(longest);
            assert_ttl_within(server, longest, 1_000, &format!("{quota}, reserved"));
            assert!(limiter.cancel(&ann, reservation).await.expect("Redis"));
            assert_ttl_within(server, longest, 1_000, &format!("{quota}, cancelled"));
        }
        let _ = limiter.reset(&ann).await.expect("Redis");
        assert!(server.keys().is_empty());
        // Nothing is owed, and the key keeps its earlier expiry.
        let mut reply = limiter.check(&ann, 3).await.expect("Redis");
        let charged = reply.decision.snapshot().reset_after();
        let receipt = reply.receipt.as_mut().expect("of a charge");
        let _ = limiter.refund(&ann, receipt, 3).await.expect("Redis");
        if !server.keys().is_empty() {
            let what = format!("{quota}, all refunded");
            assert_ttl(server, expected(charged), &what);
        }
        let _ = limiter.reset(&ann).await.expect("Redis");
    }
}

/// Minutes and days. The last algorithm is the only one that needs scripts.
fn ten() -> [Quota; 5] {
    [
        Quota::per_minute(10),
        Quota::interval_bucket(10, 1, DAY),
        Quota::fixed_window(10, AGE),
        Quota::sliding_window(10, AGE),
        Quota::sliding_log(10, AGE),
    ]
}

#[tokio::test]
async fn every_key_expires_a_second_after_nothing_is_owed() {
    let server = RedisServer::start();
    let backend = connect(&server, builder()).await;
    expires_as_it_should(&server, backend, 0, &ten()).await;
    let optimistic = builder()
        .atomicity(Atomicity::Optimistic)
        .connect(server.url())
        .await;
    expires_as_it_should(&server, optimistic.expect("a server"), 0, &ten()[..4]).await;
}

#[tokio::test]
async fn idle_ttl_lengthens_expiry_and_never_shortens_it() {
    let server = RedisServer::start();
    for hours in [1, 30] {
        let floor = Duration::from_secs(hours * 3_600);
        let backend = connect(&server, builder().idle_ttl(floor)).await;
        let millis = hours * 3_600_000;
        expires_as_it_should(&server, backend, millis, &ten()).await;
        let optimistic = builder().idle_ttl(floor).atomicity(Atomicity::Optimistic);
        let optimistic = optimistic.connect(server.url()).await.expect("a server");
        expires_as_it_should(&server, optimistic, millis, &ten()[..4]).await;
    }
}

#[tokio::test]
async fn bucket_below_capacity_at_start_is_kept_for_the_idle_ttl() {
    let server = RedisServer::start();
    let ann = Key::from("ann");
    let hour = Duration::from_secs(3_600);
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        for (idle, millis) in [(None, 86_400_000), (Some(hour), 3_600_000)] {
            let mut builder = builder().atomicity(atomicity);
            if let Some(idle) = idle {
                builder = builder.idle_ttl(idle);
            }
            let backend = builder.connect(server.url()).await.expect("a server");
            for quota in [Quota::per_minute(10), Quota::interval_bucket(10, 1, DAY)] {
                let policy = Policy::new("api", quota.initial_tokens(2));
                let limiter = Limiter::new(policy, backend.clone());
                let reply = limiter.check(&ann, 2).await.expect("Redis");
                let filled = self::millis(reply.decision.snapshot().reset_after());
                assert_ttl(&server, filled + millis, &format!("{quota}, {atomicity:?}"));
                let _ = limiter.reset(&ann).await.expect("Redis");
                // Its first check creates it, even if it is denied.
                let reply = limiter.check(&ann, 5).await.expect("Redis");
                assert!(!reply.decision.is_allowed());
                let filled = self::millis(reply.decision.snapshot().reset_after());
                assert_ttl(
                    &server,
                    filled + millis,
                    &format!("{quota}, {atomicity:?}, denied"),
                );
                let _ = limiter.reset(&ann).await.expect("Redis");
            }
        }
    }
}
