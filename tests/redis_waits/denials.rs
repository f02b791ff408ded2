//! Waiters of an exhausted key send few commands: the deny cache answers known denials.

use std::time::Duration;

use futures_util::future::join_all;
use tower_sluice::backend::Backend;
use tower_sluice::limiter::Rejected;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend, RetryAfter};

use crate::support::redis::RedisServer;

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

fn ann() -> Key {
    Key::from("ann")
}

/// Policies of ten tokens that do not refill during a test.
fn policies() -> Vec<Policy> {
    let bucket = Quota::per_hour(1).burst(10);
    vec![
        Policy::new("bucket", bucket),
        Policy::new("interval", Quota::interval_bucket(10, 1, HOUR)),
        Policy::new("both", bucket).and("daily", Quota::per_day(10)),
        Policy::new("fixed", Quota::fixed_window(10, 1_000 * HOUR)),
        Policy::new("sliding", Quota::sliding_window(10, 1_000 * HOUR)),
        Policy::new("log", Quota::sliding_log(10, 1_000 * HOUR)),
    ]
}

async fn connect(server: &RedisServer, deny_cache: Duration) -> RedisBackend {
    let builder = RedisBackend::builder()
        .time_limit(20 * SECOND)
        .deny_cache(deny_cache);
    builder
        .connect(server.url())
        .await
        .expect("the server runs")
}

async fn exhausted<B: Backend>(policy: Policy, backend: B) -> Limiter<B> {
    let limiter = Limiter::new(policy, backend);
    let all = limiter.check(&ann(), 10).await;
    assert!(all.is_ok_and(|reply| reply.decision.is_allowed()));
    limiter
}

/// The script calls. The first call of a script is denied and repeated with its text.
fn decisions(server: &RedisServer) -> u64 {
    server.calls("evalsha") + server.calls("eval")
}

/// No more than a few commands: the cache trusts a denial for at most one second.
fn assert_few_commands(server: &RedisServer, before: u64, what: &str) {
    let asked = decisions(server) - before;
    assert!((1..=200).contains(&asked), "{what}: {asked} of 2000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_hopeless_reservations_send_few_commands() {
    let server = RedisServer::start();
    let backend = connect(&server, SECOND).await;
    for policy in policies() {
        let what = policy.name().to_owned();
        let limiter = exhausted(policy, backend.clone()).await;
        let before = decisions(&server);
        for _ in 0..1_000 {
            let reply = limiter
                .reserve(&ann(), 1, MILLI)
                .await
                .expect("the backend replies");
            assert!(!reply.decision.is_allowed() && reply.reservation.is_none());
            assert!(
                matches!(reply.decision.retry_after(), Some(RetryAfter::In(wait)) if wait > MILLI)
            );
        }
        for _ in 0..1_000 {
            let waited = limiter.acquire(&ann(), 1, MILLI).await;
            assert!(matches!(waited, Err(Rejected::Denied(_))), "{waited:?}");
        }
        assert_few_commands(&server, before, &what);
        // Checks use the cached denial too.
        let before = decisions(&server);
        for _ in 0..100 {
            assert!(limiter.acquire(&ann(), 1, MILLI).await.is_err());
            let reply = limiter.check(&ann(), 1).await.expect("the backend replies");
            assert!(!reply.decision.is_allowed());
        }
        let asked = decisions(&server) - before;
        assert!(asked <= 20, "{what}: {asked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hopeless_waiters_are_denied_by_the_deny_cache() {
    let server = RedisServer::start();
    let backend = connect(&server, SECOND).await;
    for policy in policies() {
        let what = policy.name().to_owned();
        let limiter = exhausted(policy, backend.clone()).await;
        assert!(limiter.acquire(&ann(), 1, MILLI).await.is_err());
        // One call answers many requests, and each one reads its key.
        let read = || server.calls("get") + server.calls("llen");
        let before = read();
        let key = ann();
        for _ in 0..5 {
            let waiters_of = (0..200).map(|_| limiter.acquire(&key, 1, MILLI));
            for waited in join_all(waiters_of).await {
                assert!(matches!(waited, Err(Rejected::Denied(_))), "{waited:?}");
            }
        }
        let asked = read() - before;
        // By then the cached denial may have expired once.
        assert!(asked <= 410, "{what}: {asked} of 1000");
    }
}

#[cfg(feature = "blocking")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hopeless_reservations_of_a_thread_send_few_commands() {
    use tower_sluice::blocking;
    let server = RedisServer::start();
    let url = server.url();
    let test = move || {
        let builder = blocking::RedisBackend::builder().time_limit(20 * SECOND);
        let backend = builder.connect_blocking(url).expect("the server runs");
        for policy in policies() {
            let what = policy.name().to_owned();
            let limiter = blocking::Limiter::new(policy, backend.clone());
            let all = limiter.check(&ann(), 10).expect("the backend replies");
            assert!(all.decision.is_allowed());
            let before = decisions(&server);
            for _ in 0..1_000 {
                let reply = limiter
                    .reserve(&ann(), 1, MILLI)
                    .expect("the backend replies");
                assert!(!reply.decision.is_allowed());
                let waited = limiter.acquire(&ann(), 1, MILLI);
                assert!(matches!(waited, Err(Rejected::Denied(_))), "{waited:?}");
            }
            assert_few_commands(&server, before, &what);
        }
    };
    tokio::task::spawn_blocking(test).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn possible_reservation_is_decided_by_redis() {
    let server = RedisServer::start();
    let backend = connect(&server, SECOND).await;
    let limiter = exhausted(Policy::new("api", Quota::per_second(5).burst(10)), backend).await;
    let denied = limiter
        .reserve(&ann(), 10, MILLI)
        .await
        .expect("the backend replies");
    assert!(!denied.decision.is_allowed());
    let granted = limiter.reserve(&ann(), 10, 10 * SECOND).await;
    let granted = granted.expect("the backend replies");
    assert!(granted.decision.is_allowed() && granted.wait > SECOND);
    // The wait behind it is longer than the cached wait.
    let denied = limiter
        .reserve(&ann(), 10, SECOND)
        .await
        .expect("the backend replies");
    let wait = denied.decision.retry_after();
    assert!(
        matches!(wait, Some(RetryAfter::In(wait)) if wait > 2 * SECOND),
        "{wait:?}"
    );
    // After the cancel the tokens are available again.
    let reservation = granted.reservation.expect("the time of a reservation");
    assert!(
        limiter
            .cancel(&ann(), reservation)
            .await
            .expect("the backend replies")
    );
    let again = limiter
        .reserve(&ann(), 10, 5 * SECOND)
        .await
        .expect("the backend replies");
    assert!(again.decision.is_allowed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_larger_cost_gets_its_own_wait() {
    let server = RedisServer::start();
    let (caching, uncached_builder) = (
        connect(&server, SECOND).await,
        connect(&server, Duration::ZERO).await,
    );
    for policy in policies() {
        let what = policy.name().to_owned();
        let is_bucket = what == "bucket";
        let limiter = exhausted(policy, caching.clone()).await;
        let beside = Limiter::new(limiter.policy().clone(), uncached_builder.clone());
        let denied = limiter.check(&ann(), 1).await.expect("the backend replies");
        assert!(!denied.decision.is_allowed());
        let before = decisions(&server);
        let reported = limiter.check(&ann(), 5).await.expect("the backend replies");
        let asked = decisions(&server) - before;
        // A denial is trusted for a second, which may have passed on a busy machine.
        assert!(
            if is_bucket { asked <= 1 } else { asked == 1 },
            "{what}: {asked}"
        );
        let right = beside.check(&ann(), 5).await.expect("the backend replies");
        match (
            reported.decision.retry_after(),
            right.decision.retry_after(),
        ) {
            (Some(RetryAfter::In(reported)), Some(RetryAfter::In(right))) => {
                assert!(reported >= right, "{what}: {reported:?} {right:?}");
                assert!(
                    reported - right < 2 * SECOND,
                    "{what}: {reported:?} {right:?}"
                );
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}
