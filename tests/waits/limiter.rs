//! Work that is done if it is allowed, and what was chosen for failures, without Tower.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tower_sluice::backend::Backend;
use tower_sluice::clock::{Clock, SystemClock, Timestamp};
use tower_sluice::limiter::{Rejected, Resilient};
use tower_sluice::{
    AnyBackend, Deadline, Key, Limiter, MaxWait, MemoryBackend, OnBackendError, Policy, Quota,
};

use crate::crowd::{Alarms, ms, secs};
use crate::line::Line;
use crate::wire::{Cut, Wire};

/// Says when it is dropped.
struct Mark(Rc<Cell<bool>>);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn two_a_minute() -> Policy {
    Policy::new("work", Quota::per_minute(2))
}

#[test]
fn work_that_is_allowed_is_done_and_work_that_is_not_is_never_begun() {
    let line = Line::of(&two_a_minute());
    let ann = Key::from("ann");
    for number in 0..2 {
        let done = line.limiter.limit(&ann, 1, async { number });
        assert_eq!(done.now_or_never(), Some(Ok(number)));
    }
    for cost in [1, 3] {
        let (begun, gone) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (begins, mark) = (Rc::clone(&begun), Mark(Rc::clone(&gone)));
        let work = async move {
            let _mark = mark;
            begins.set(true);
        };
        let refused = line.limiter.limit(&ann, cost, work).now_or_never();
        let refused = refused.expect("at once").expect_err("nothing is left");
        assert_eq!(refused, Rejected::Denied(line.check(cost).decision));
        assert!(!begun.get() && gone.get());
    }
    // What is free is done.
    let free = line.limiter.limit(&ann, 0, async { 7 }).now_or_never();
    assert_eq!(free, Some(Ok(7)));
    assert_eq!(line.books().0, 0);
}

#[test]
fn work_that_is_dropped_under_way_stays_charged() {
    let line = Line::of(&two_a_minute());
    let ann = Key::from("ann");
    let gone = Rc::new(Cell::new(false));
    let mark = Mark(Rc::clone(&gone));
    let work = async move {
        let _mark = mark;
        std::future::pending::<()>().await;
    };
    // Before it is polled it has asked nothing.
    let never_polled = line.limiter.limit(&ann, 1, async {});
    drop(never_polled);
    assert_eq!(line.asks(), 0);
    assert!(line.limiter.limit(&ann, 1, work).now_or_never().is_none());
    assert!(gone.get());
    assert_eq!((line.books().0, line.asks()), (1, 1));
    assert_eq!(line.waiters(), 0);
}

#[tokio::test]
async fn work_that_nobody_could_be_asked_about_is_never_begun() {
    let wire = Wire::new(&Alarms::new());
    let limiter = Limiter::new(two_a_minute(), wire.clone());
    let ann = Key::from("ann");
    assert_eq!(limiter.limit(&ann, 1, async { 7 }).await, Ok(7));
    wire.cut();
    let work = async { panic!("it was begun") };
    let failed = limiter.limit(&ann, 1, work).await;
    assert_eq!(failed, Err(Rejected::Backend(Cut)));
    let failed = limiter.admit(&ann, 1).await.map(drop);
    assert_eq!(failed, Err(Rejected::Backend(Cut)));
    let told = failed.expect_err("it is cut").to_string();
    assert_eq!(told, "the wire is cut");
}

#[test]
fn to_admit_is_to_check_with_a_charge() {
    let mut line = Line::of(&two_a_minute());
    let ann = Key::from("ann");
    for left in [1, 0] {
        let charge = line.limiter.admit(&ann, 1).now_or_never();
        let charge = charge.expect("at once").expect("it is there");
        let decision = charge.decision().expect("it was counted");
        assert_eq!(decision.snapshot().remaining(), left);
        assert_eq!(charge.waited(), Duration::ZERO);
        assert!(charge.outer().is_none());
    }
    let refused = line.limiter.admit(&ann, 1).now_or_never();
    let refused = refused.expect("at once").expect_err("nothing is left");
    assert_eq!(refused, Rejected::Denied(line.check(1).decision));
    assert_eq!(
        refused.to_string(),
        "rate limit exceeded, allowed after 30s"
    );
    let never = line.at_once(3, MaxWait::NONE).expect_err("too much");
    assert_eq!(
        never.to_string(),
        "the cost is above the limit, no wait helps"
    );
    let asked = line.limiter.backend().asked();
    assert!(asked.iter().all(|asked| asked.what == "check"));
}

// -- How long

#[test]
fn the_shorter_of_two_waits_counts() {
    let second = MaxWait::of(secs(1));
    assert_eq!(MaxWait::from(secs(1)), second);
    assert_eq!(MaxWait::Unbounded.at_most(secs(1)), second);
    assert_eq!(second.at_most(secs(2)), second);
    assert_eq!(second.at_most(ms(3)), MaxWait::of(ms(3)));
    assert_eq!(MaxWait::NONE.at_most(secs(1)), MaxWait::NONE);
    assert_eq!(MaxWait::of(Duration::ZERO), MaxWait::NONE);
    assert_eq!(
        MaxWait::Unbounded.at_most(Duration::MAX),
        MaxWait::of(Duration::MAX)
    );
    assert_ne!(MaxWait::Unbounded, MaxWait::of(Duration::MAX));
}

#[test]
fn a_deadline_is_a_time_of_the_systems_clock_or_of_another() {
    let (before, deadline) = (SystemClock::new().now(), Deadline::after(secs(5)));
    let left = deadline.time().micros_since(before);
    assert!((5_000_000..7_000_000).contains(&left), "{left}");
    let time = Timestamp::from_micros(7);
    assert_eq!(Deadline::at(time).time(), time);
    assert!(Deadline::at(time) < deadline);
}

/// In real time, and by a backend that is chosen when the program runs.
#[tokio::test]
async fn by_the_systems_clock_nobody_goes_early() {
    let policies = [
        Policy::new("turns", Quota::token_bucket(1, 1, ms(20))),
        Policy::new("window", Quota::sliding_log(1, ms(20))),
    ];
    for policy in policies {
        let backend = AnyBackend::from(MemoryBackend::new());
        let (limiter, ann) = (Limiter::new(policy, backend), Key::from("ann"));
        let start = Instant::now();
        for number in 0..4 {
            limiter.wait(&ann, 1, secs(1)).await.expect("it comes");
            assert!(start.elapsed() >= ms(20) * number);
        }
    }
}

// -- Failures as chosen

struct Choice {
    clock: Alarms,
    wire: Wire,
    limiter: Resilient<Wire>,
    ann: Key,
}

impl Choice {
    fn of(policy: Policy, choice: OnBackendError) -> Self {
        let clock = Alarms::new();
        let wire = Wire::new(&clock);
        Self {
            limiter: Resilient::new(Limiter::new(policy, wire.clone()), choice),
            clock,
            wire,
            ann: Key::from("ann"),
        }
    }
}

#[tokio::test]
async fn to_wait_at_a_backend_that_fails_ends_as_was_chosen() {
    for policy in [
        two_a_minute(),
        Policy::new("log", Quota::sliding_log(2, secs(60))),
    ] {
        for max_wait in [MaxWait::NONE, MaxWait::of(secs(9)), MaxWait::Unbounded] {
            let deny = Choice::of(policy.clone(), OnBackendError::Deny);
            let charge = deny.limiter.wait(&deny.ann, 1, max_wait).await;
            assert!(charge.expect("it is there").is_some());
            deny.wire.cut();
            let failed = deny.limiter.wait(&deny.ann, 1, max_wait).await;
            assert_eq!(failed.map(drop), Err(Rejected::Backend(Cut)));

            let allow = Choice::of(policy.clone(), OnBackendError::Allow);
            allow.wire.cut();
            for _ in 0..9 {
                let passes = allow.limiter.wait(&allow.ann, 1, max_wait).await;
                assert!(passes.expect("by choice").is_none());
            }
            // A refusal is no failure.
            allow.wire.mend();
            let refused = allow.limiter.wait(&allow.ann, 3, max_wait).await;
            assert!(matches!(refused, Err(Rejected::Denied(_))));
        }
    }
}

#[tokio::test]
async fn a_fallback_decides_by_its_own_books_and_is_paid_back_there() {
    let local = MemoryBackend::new();
    let choice = Choice::of(two_a_minute(), OnBackendError::Fallback(local.clone()));
    choice.wire.cut();
    let none = MaxWait::NONE;
    let charge = choice.limiter.wait(&choice.ann, 2, none).await;
    let charge = charge.expect("it is there").expect("counted");
    let refused = choice.limiter.wait(&choice.ann, 1, none).await;
    assert!(matches!(refused, Err(Rejected::Denied(_))));
    charge.cancel().await.expect("memory cannot fail");
    let again = choice.limiter.wait(&choice.ann, 2, none).await;
    assert!(again.expect("it went back").is_some());
    choice.wire.mend();
    let there = choice.wire.books(&two_a_minute(), &choice.ann);
    assert_eq!(there.0, 2, "nothing was charged at the other end");
    assert_eq!(local.lobby().waiters(), 0);
}

/// The fallback's clock is the system's, and it is real time that passes there.
#[tokio::test]
async fn at_a_fallback_it_waits_for_what_is_left() {
    let policy = Policy::new("work", Quota::token_bucket(1, 1, ms(60)));
    let choice = || {
        let fallback = OnBackendError::Fallback(MemoryBackend::new());
        let choice = Choice::of(policy.clone(), fallback);
        choice.wire.cut();
        choice
    };
    let hasty = choice();
    let first = hasty.limiter.wait(&hasty.ann, 1, MaxWait::NONE).await;
    assert!(first.is_ok());
    // The other end takes a second of the wait to fail.
    hasty.wire.hold();
    let wait = hasty.limiter.wait(&hasty.ann, 1, secs(1) + ms(5));
    let mut wait = std::pin::pin!(wait);
    assert!(wait.as_mut().now_or_never().is_none());
    hasty.clock.jump(secs(1));
    hasty.wire.release();
    let refused = wait.now_or_never().expect("it is in vain");
    assert!(matches!(refused, Err(Rejected::Denied(_))), "{refused:?}");

    let patient = choice();
    let first = patient.limiter.wait(&patient.ann, 1, MaxWait::NONE).await;
    assert!(first.is_ok());
    patient.wire.hold();
    let wait = patient.limiter.wait(&patient.ann, 1, secs(11));
    let mut wait = std::pin::pin!(wait);
    assert!(wait.as_mut().now_or_never().is_none());
    patient.clock.jump(secs(1));
    patient.wire.release();
    let start = Instant::now();
    let charge = wait.await.expect("10 s are left").expect("counted");
    assert!(charge.waited() > Duration::ZERO && charge.waited() <= start.elapsed());
}
