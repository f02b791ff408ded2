//! Shared by all tests: servers, backends without a deny cache, and time limits.

use std::future::Future;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tower_sluice::backend::Backend;
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::clock::{Clock, SystemClock};
use tower_sluice::quota::Anchor;
use tower_sluice::{Charge, Key, Limiter, Policy, Quota, RedisBackend};

use crate::support::redis::RedisServer;

pub(crate) type Redis = Limiter<RedisBackend>;

/// The longest time of a test. A test that hangs fails.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The time limit of an operation unless a test sets another.
pub(crate) const LIMIT: Duration = Duration::from_millis(250);

/// The delay that a busy machine may add to any documented time.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

/// Panics outside of tests, in the background tasks of the backend.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a test, which must neither hang nor cause a panic.
pub(crate) async fn guarded<F: Future<Output = ()>>(test: F) {
    watch_for_panics();
    timeout(TIMEOUT, test).await.expect("nothing hangs");
    assert_no_panic();
}

pub(crate) fn watch_for_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_test = |at: &std::panic::Location<'_>| at.file().starts_with("tests/");
            if !info.location().is_some_and(is_test) {
                let mut panics = PANICS.lock().unwrap_or_else(|lock| lock.into_inner());
                panics.push(info.to_string());
            }
            usual(info);
        }));
    });
}

pub(crate) fn assert_no_panic() {
    let panics = PANICS.lock().unwrap_or_else(|lock| lock.into_inner());
    assert!(panics.is_empty(), "{panics:#?}");
}

/// A backend without a deny cache.
pub(crate) fn uncached_builder() -> RedisBuilder {
    RedisBackend::builder().deny_cache(Duration::ZERO)
}

/// The same, with a time limit for a busy machine.
pub(crate) fn long_limit_builder() -> RedisBuilder {
    uncached_builder().time_limit(Duration::from_secs(20))
}

pub(crate) async fn limiter(builder: RedisBuilder, server: &RedisServer, policy: &Policy) -> Redis {
    let backend = builder
        .connect(server.url())
        .await
        .expect("the server runs");
    Limiter::new(policy.clone(), backend)
}

/// `quota`, with a second quota that reveals the server time: a bucket without other charges is full at a known time.
pub(crate) fn timed(name: &str, quota: Quota) -> Policy {
    let clock = Quota::interval_bucket(1 << 40, 1 << 40, us(EACH_HOUR)).anchor(Anchor::EPOCH);
    Policy::new(name, quota).and("clock", clock)
}

/// One token in this many µs.
const EACH_HOUR: u64 = 3_600_000_000;

/// The time of the server at the decision on a charge of a [`timed`] policy, in µs since the epoch.
pub(crate) fn decided(charge: &Charge) -> u64 {
    let decision = charge.decision().expect("the request was counted");
    let rest = micros(decision.snapshot().quotas()[1].reset_after());
    let about = SystemClock::new().now().as_micros() + rest;
    // The nearest full hour: no test takes half an hour.
    (about + EACH_HOUR / 2) / EACH_HOUR * EACH_HOUR - rest
}

/// The µs from the decision until the bucket of a [`timed`] policy owes nothing.
pub(crate) fn to_fill(charge: &Charge) -> u64 {
    let decision = charge.decision().expect("the request was counted");
    micros(decision.snapshot().quotas()[0].reset_after())
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).expect("soon")
}

pub(crate) fn ann() -> Key {
    Key::from("ann")
}

/// Waiters, running background tasks, and failed background tasks.
pub(crate) fn context<B: Backend>(limiter: &Limiter<B>) -> (usize, usize, usize) {
    let context = limiter.backend().context();
    (
        context.stats().waiting,
        context.stats().background_tasks,
        context.stats().failed_background_tasks,
    )
}

/// Polls the condition until it holds.
pub(crate) async fn until(what: &str, most: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < most, "not within {most:?}: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
