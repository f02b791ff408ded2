//! Real threads on one key: the allowed total stays within the quota, however long each thread is descheduled.
//!
//! Each combination of threads and horizon runs for one second. `SLUICE_CONTENTION_SECONDS=10` makes it ten.

use std::fmt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::limiter::{CheckOutcome, WithFailurePolicy};
use tower_sluice::{FailurePolicy, Key, Limiter, MemoryBackend, Policy, Quota};

const LIMIT: u64 = 50;

fn quotas(horizon: Duration) -> [(&'static str, Quota); 5] {
    [
        ("token_bucket", Quota::token_bucket(LIMIT, LIMIT, horizon)),
        (
            "interval_bucket",
            Quota::interval_bucket(LIMIT, LIMIT, horizon),
        ),
        ("fixed_window", Quota::fixed_window(LIMIT, horizon)),
        ("sliding_window", Quota::sliding_window(LIMIT, horizon)),
        ("sliding_log", Quota::sliding_log(LIMIT, horizon)),
    ]
}

/// A backend that always fails, so that its fallback decides.
#[derive(Clone, Default)]
struct Failing(std::sync::Arc<BackendContext>);

impl Backend for Failing {
    type Error = fmt::Error;
    type Future = std::future::Ready<Result<Reply, fmt::Error>>;

    fn ask(&self, _: Op, _: &Policy, _: &Key) -> Answer<Result<Reply, fmt::Error>, Self::Future> {
        Answer::Now(Err(fmt::Error))
    }

    fn context(&self) -> &BackendContext {
        &self.0
    }
}

/// An access to the same state, by the number of a thread.
fn checks(number: usize, policy: &Policy, memory: &MemoryBackend) -> Box<dyn Fn(&Key) -> bool> {
    let limiter = Limiter::new(policy.clone(), memory.clone());
    match number % 3 {
        #[cfg(feature = "blocking")]
        1 => {
            let limiter = tower_sluice::blocking::Limiter::new(policy.clone(), memory.clone());
            Box::new(move |key| {
                let reply = limiter.check(key, 1).expect("memory cannot fail");
                reply.decision.is_allowed()
            })
        }
        2 => {
            let limiter = Limiter::new(policy.clone(), Failing::default());
            let limiter = WithFailurePolicy::new(limiter, FailurePolicy::Fallback(memory.clone()));
            Box::new(move |key| match limiter.check(key, 1).now_or_never() {
                Some(CheckOutcome::Decided(reply)) => reply.decision.is_allowed(),
                other => unreachable!("the fallback decides: {other:?}"),
            })
        }
        _ => Box::new(move |key| limiter.check_now(key, 1).decision.is_allowed()),
    }
}

/// The allowed total of each algorithm, and the longest time that it took.
fn measure_allowed(threads: usize, horizon: Duration, length: Duration) -> ([u64; 5], Duration) {
    let memory = MemoryBackend::new();
    let policies = quotas(horizon).map(|(name, quota)| Policy::new(name, quota));
    let allowed: [AtomicU64; 5] = std::array::from_fn(|_| AtomicU64::new(0));
    let ready = Barrier::new(threads + 1);
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..threads {
            let (memory, policies, allowed, ready) = (&memory, &policies, &allowed, &ready);
            scope.spawn(move || {
                let checks = policies
                    .each_ref()
                    .map(|policy| checks(number, policy, memory));
                let key = Key::from("ann");
                ready.wait();
                while start.elapsed() < length {
                    for _ in 0..100 {
                        for (check, allowed) in checks.iter().zip(allowed) {
                            allowed.fetch_add(check(&key).into(), Relaxed);
                        }
                    }
                }
            });
        }
        ready.wait();
    });
    (allowed.map(AtomicU64::into_inner), start.elapsed())
}

#[test]
fn threads_never_exceed_the_quota() {
    let seconds = std::env::var("SLUICE_CONTENTION_SECONDS");
    let seconds = seconds.map_or(1, |seconds| seconds.parse().expect("a number of seconds"));
    let mut above = Vec::new();
    for horizon in [5, 50, 250, 1_000].map(Duration::from_millis) {
        for threads in [2, 64, 200] {
            let (allowed, took) = measure_allowed(threads, horizon, Duration::from_secs(seconds));
            // The system clock may run a few millionths faster than `Instant` while it corrects itself.
            let took = took + took / 10_000 + Duration::from_micros(2);
            let (took, horizon) = (took.as_micros(), horizon.as_micros());
            let limit = u128::from(LIMIT);
            let bucket = limit + limit * took / horizon;
            // A span of several windows touches one more at each end.
            let windows = limit * (took / horizon + 2);
            let most = [bucket, bucket, windows, windows, windows];
            for (index, (name, _)) in quotas(Duration::from_secs(1)).into_iter().enumerate() {
                let (allowed, most) = (u128::from(allowed[index]), most[index]);
                if allowed > most {
                    above.push(format!(
                        "{name}: {allowed} of {most}, {threads} threads, {horizon} µs"
                    ));
                }
            }
        }
    }
    assert!(
        above.is_empty(),
        "more than the quota:\n{}",
        above.join("\n")
    );
}
