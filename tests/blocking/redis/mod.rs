//! Blocking limiters over Redis.

mod agreement;
mod connect;
mod connections;
mod distance;
mod failures;
mod scripts;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::blocking::{Limiter, RedisBackend};
use tower_sluice::{Key, Policy, Quota};

use crate::support::redis::RedisServer;

/// The time limit of a check unless a test sets another.
pub(crate) const LIMIT: Duration = Duration::from_millis(250);

/// The delay that a busy machine may add to any documented time.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

pub(crate) type Redis = Limiter<RedisBackend>;

/// Without a deny cache: Redis decides each check.
pub(crate) fn uncached_builder() -> RedisBuilder {
    RedisBackend::builder().deny_cache(Duration::ZERO)
}

/// A bucket of `limit` tokens that does not refill during a test.
pub(crate) fn tokens(limit: u64) -> Policy {
    Policy::new("api", Quota::per_day(1).burst(limit))
}

pub(crate) fn connect(server: &RedisServer, limit: u64) -> Redis {
    let backend = uncached_builder()
        .connect_blocking(server.url())
        .expect("the server runs");
    Limiter::new(tokens(limit), backend)
}

/// The spent tokens that an allowed check reports.
pub(crate) fn check(limiter: &Redis, key: &Key) -> Result<u64, BackendErrorKind> {
    let reply = limiter.check(key, 1);
    let reply = reply.map_err(|why| why.kind().clone())?;
    assert_eq!(reply.decision.is_allowed(), reply.receipt.is_some());
    let snapshot = reply.decision.snapshot();
    Ok(snapshot.limit() - snapshot.remaining())
}

/// The error of a check, which must arrive in time.
pub(crate) fn check_error(limiter: &Redis, key: &Key) -> BackendErrorKind {
    let asked = Instant::now();
    let why = check(limiter, key).expect_err("Redis cannot answer");
    let took = asked.elapsed();
    assert!(took < LIMIT + SLACK, "{why:?} after {took:?}");
    why
}

pub(crate) fn is_unsent(why: &BackendErrorKind) -> bool {
    matches!(
        why,
        BackendErrorKind::CircuitOpen | BackendErrorKind::Unreachable
    )
}

/// Checks until Redis decides again, after an outage of length `outage`. The circuit probes after one second, then
/// after twice as long each time.
pub(crate) fn wait_for_recovery(limiter: &Redis, key: &Key, outage: Duration) {
    let second = Duration::from_secs(1);
    let most = 2 * outage.max(second) + SLACK;
    let back = Instant::now();
    while let Err(why) = limiter.check(key, 1) {
        let took = back.elapsed();
        assert!(took <= most, "{why:?} {took:?} after {outage:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Opens this many connections: all threads start together.
pub(crate) fn open(limiter: &Redis, count: u64) {
    let all = Barrier::new(usize::try_from(count).expect("a small number"));
    thread::scope(|scope| {
        for thread in 0..count {
            let all = &all;
            scope.spawn(move || {
                all.wait();
                for _ in 0..50 {
                    limiter.peek(&Key::from(thread)).expect("Redis");
                }
            });
        }
    });
}
