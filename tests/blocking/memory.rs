//! In memory, without a runtime.

use std::error::Error;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tower_sluice::blocking::Limiter;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::limiter::Rejected;
use tower_sluice::{Key, MemoryBackend, Policy, Quota, RetryAfter};

use crate::shared_checks::{
    Awaited, HOUR, assert_waiters_leave_no_debt, every_operation, policies, runtime,
};

fn frozen() -> MemoryBackend<ManualClock> {
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    MemoryBackend::builder().clock(clock).build()
}

#[test]
fn waiters_that_leave_from_the_front_leave_no_debt() {
    assert_waiters_leave_no_debt(&MemoryBackend::new());
}

#[test]
fn every_operation_works_without_a_runtime() {
    assert!(Handle::try_current().is_err());
    let limiter = Limiter::new(
        Policy::new("api", Quota::per_hour(10)),
        MemoryBackend::new(),
    );
    let ann = Key::from("ann");
    let mut reply = limiter.check(&ann, 4).expect("memory");
    let receipt = reply.receipt.as_mut().expect("allowed");
    let left = limiter.refund(&ann, receipt, 3).expect("memory");
    assert_eq!(left.remaining(), 9);
    let left = limiter.penalize(&ann, 5).expect("memory");
    assert_eq!(left.remaining(), 4);
    let reply = limiter.reserve(&ann, 6, HOUR).expect("memory");
    assert!(reply.decision.is_allowed());
    assert!((Duration::from_secs(700)..HOUR).contains(&reply.wait));
    assert_eq!(limiter.peek(&ann).expect("memory").remaining(), 0);
    let reservation = reply.reservation.expect("a reservation");
    assert!(limiter.cancel(&ann, reservation).expect("memory"));
    assert_eq!(limiter.peek(&ann).expect("memory").remaining(), 4);
    let denied = limiter.check(&ann, 11).expect("memory").decision;
    assert_eq!(denied.retry_after(), Some(RetryAfter::Never));
    let left = limiter.reset(&ann).expect("memory");
    assert_eq!(left.remaining(), 10);
    assert!(limiter.backend().is_empty(), "the reply was not received");
}

#[test]
fn blocking_limiter_decides_like_the_async_limiter() {
    let (runtime, key) = (runtime(), Key::from("ann"));
    for policy in policies() {
        let limiter = Limiter::new(policy.clone(), frozen());
        let awaited = Awaited {
            runtime: &runtime,
            limiter: tower_sluice::Limiter::new(policy.clone(), frozen()),
        };
        let (reported, expected) = (
            every_operation(&[&limiter], &key),
            every_operation(&[&awaited], &key),
        );
        assert_eq!(reported, expected, "{policy:?}");
    }
}

#[test]
fn threads_and_tasks_share_their_buckets() {
    let (runtime, key) = (runtime(), Key::from("ann"));
    for policy in policies() {
        let shared = frozen();
        let limiter = Limiter::new(policy.clone(), shared.clone());
        let awaited = Awaited {
            runtime: &runtime,
            limiter: tower_sluice::Limiter::new(policy.clone(), shared),
        };
        let alone = every_operation(&[&Limiter::new(policy.clone(), frozen())], &key);
        // Each limiter refunds charges of the other one.
        let together = every_operation(&[&limiter, &awaited], &key);
        assert_eq!(together, alone, "{policy:?}");
        // A larger policy of the same name shares the state.
        let tier = limiter.with_policy(&policy);
        assert_eq!(
            limiter.peek(&key).expect("memory"),
            tier.peek(&key).expect("memory")
        );
    }
}

#[test]
fn any_number_of_threads_and_tasks_admit_exactly_the_limit() {
    const LIMIT: u64 = 5_000;
    let runtime = runtime();
    for quota in [
        Quota::per_day(1).burst(LIMIT),
        Quota::sliding_log(LIMIT, 24 * HOUR),
    ] {
        let shared = MemoryBackend::new();
        let policy = Policy::new("api", quota);
        let limiter = Limiter::new(policy.clone(), shared.clone());
        let key = Key::from("ann");
        let tasks: Vec<_> = (0..2)
            .map(|_| {
                let limiter = tower_sluice::Limiter::new(policy.clone(), shared.clone());
                let key = key.clone();
                runtime.spawn(async move {
                    let mut allowed = 0;
                    for _ in 0..LIMIT / 4 {
                        let reply = limiter.check(&key, 1).await.expect("memory");
                        allowed += u64::from(reply.decision.is_allowed());
                    }
                    allowed
                })
            })
            .collect();
        let admitted: u64 = thread::scope(|scope| {
            let check = || {
                let allowed = |_: &u64| {
                    let reply = limiter.check(&key, 1).expect("memory");
                    reply.decision.is_allowed()
                };
                u64::try_from((0..LIMIT / 4).filter(allowed).count()).expect("a small number")
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(check)).collect();
            let of_threads = threads.into_iter().map(|thread| thread.join());
            of_threads.map(|allowed| allowed.expect("no panic")).sum()
        });
        let of_tasks = tasks.into_iter().map(|task| runtime.block_on(task));
        let of_tasks: u64 = of_tasks.map(|allowed| allowed.expect("no panic")).sum();
        assert_eq!(admitted + of_tasks, LIMIT);
    }
}

#[test]
fn call_over_the_limit_is_not_made() {
    let limiter = Limiter::new(Policy::new("calls", Quota::per_hour(3)), frozen());
    let (key, mut calls) = (Key::from("ann"), 0);
    let mut call = |cost: u64| {
        limiter.limit(&key, cost, || {
            calls += 1;
            calls
        })
    };
    assert_eq!(call(1), Ok(1));
    assert_eq!(call(2), Ok(2));
    let denied = call(1).expect_err("no token is left");
    let Rejected::Denied(decision) = &denied else {
        panic!("{denied:?}");
    };
    assert!(!decision.is_allowed());
    assert_eq!(
        denied.to_string(),
        "rate limit exceeded, allowed after 1200s"
    );
    assert!(denied.source().is_none());
    let never = call(4).expect_err("the cost exceeds the limit");
    assert_eq!(
        never.to_string(),
        "the cost exceeds the limit of 3 and can never be allowed"
    );
    assert_eq!(calls, 2);
}
