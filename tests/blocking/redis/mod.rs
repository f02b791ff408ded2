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

/// How long a check may take unless a test says otherwise.
pub(crate) const LIMIT: Duration = Duration::from_millis(250);

/// What a busy machine may add to any time that is promised.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

pub(crate) type Redis = Limiter<RedisBackend>;

/// Without a cache: each check is one that Redis answers, or nobody.
pub(crate) fn asking() -> RedisBuilder {
    RedisBackend::builder().deny_cache(Duration::ZERO)
}

/// A bucket of so many tokens; none comes back while a test runs.
pub(crate) fn tokens(limit: u64) -> Policy {
    Policy::new("api", Quota::per_day(1).burst(limit))
}

pub(crate) fn connect(server: &RedisServer, limit: u64) -> Redis {
    let backend = asking()
        .connect_blocking(server.url())
        .expect("the server runs");
    Limiter::new(tokens(limit), backend)
}

/// What a check that succeeds says is spent.
pub(crate) fn check(limiter: &Redis, key: &Key) -> Result<u64, BackendErrorKind> {
    let reply = limiter.check(key, 1);
    let reply = reply.map_err(|why| why.kind().clone())?;
    assert_eq!(reply.decision.is_allowed(), reply.receipt.is_some());
    let snapshot = reply.decision.snapshot();
    Ok(snapshot.limit() - snapshot.remaining())
}

/// Why a check got no answer, which it must learn in time.
pub(crate) fn fails(limiter: &Redis, key: &Key) -> BackendErrorKind {
    let asked = Instant::now();
    let why = check(limiter, key).expect_err("Redis cannot answer");
    let took = asked.elapsed();
    assert!(took < LIMIT + SLACK, "{why:?} after {took:?}");
    why
}

pub(crate) fn is_unasked(why: &BackendErrorKind) -> bool {
    matches!(
        why,
        BackendErrorKind::CircuitOpen | BackendErrorKind::Unreachable
    )
}

/// Checks until Redis decides again, after an outage as long as `outage`: the circuit probes after one second, then
/// after twice as long each time.
pub(crate) fn recovers(limiter: &Redis, key: &Key, outage: Duration) {
    let second = Duration::from_secs(1);
    let most = 2 * outage.max(second) + SLACK;
    let back = Instant::now();
    while let Err(why) = limiter.check(key, 1) {
        let took = back.elapsed();
        assert!(took <= most, "{why:?} {took:?} after {outage:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Opens so many connections: none is given back before all are there.
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
