//! Futures that run only if they are allowed, and failure policies, without Tower.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tower_sluice::backend::{Backend, LocalBackend};
use tower_sluice::clock::{Clock, SystemClock, Timestamp};
use tower_sluice::limiter::{CheckOutcome, Failure, HandleFailure, Rejected, WithFailurePolicy};
use tower_sluice::{
    AnyBackend, Cost, Deadline, FailurePolicy, Key, Limiter, MaxWait, MemoryBackend, Policy, Quota,
};

use crate::executor::{AlarmClock, ms, secs};
use crate::queue::TestQueue;
use crate::wire::{Cut, Wire};

/// Records its drop.
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
fn allowed_future_runs_and_denied_future_never_starts() {
    let queue = TestQueue::of(&two_a_minute());
    let ann = Key::from("ann");
    for number in 0..2 {
        let done = queue.limiter.limit(&ann, 1, async { number });
        assert_eq!(done.now_or_never(), Some(Ok(number)));
    }
    for cost in [1, 3] {
        let (begun, dropped) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (begins, mark) = (Rc::clone(&begun), Mark(Rc::clone(&dropped)));
        let work = async move {
            let _mark = mark;
            begins.set(true);
        };
        let rejected = queue.limiter.limit(&ann, cost, work).now_or_never();
        let rejected = rejected.expect("at once").expect_err("no token is left");
        assert_eq!(rejected, Rejected::Denied(queue.check(cost).decision));
        assert!(!begun.get() && dropped.get());
    }
    // A future of zero cost runs.
    let free = queue.limiter.limit(&ann, 0, async { 7 }).now_or_never();
    assert_eq!(free, Some(Ok(7)));
    assert_eq!(queue.state().0, 0);
}

#[test]
fn future_dropped_while_running_stays_charged() {
    let queue = TestQueue::of(&two_a_minute());
    let ann = Key::from("ann");
    let dropped = Rc::new(Cell::new(false));
    let mark = Mark(Rc::clone(&dropped));
    let work = async move {
        let _mark = mark;
        std::future::pending::<()>().await;
    };
    // A future that was never polled has checked nothing.
    let never_polled = queue.limiter.limit(&ann, 1, async {});
    drop(never_polled);
    assert_eq!(queue.operation_count(), 0);
    assert!(queue.limiter.limit(&ann, 1, work).now_or_never().is_none());
    assert!(dropped.get());
    assert_eq!((queue.state().0, queue.operation_count()), (1, 1));
    assert_eq!(queue.waiting(), 0);
}

#[tokio::test]
async fn future_without_a_decision_never_starts() {
    let wire = Wire::new(&AlarmClock::new());
    let limiter = Limiter::new(two_a_minute(), wire.clone());
    let ann = Key::from("ann");
    assert_eq!(limiter.limit(&ann, 1, async { 7 }).await, Ok(7));
    wire.cut();
    let work = async { panic!("the future was started") };
    let failed = limiter.limit(&ann, 1, work).await;
    assert_eq!(failed, Err(Rejected::Backend(Cut)));
    let failed = limiter.try_acquire(&ann, 1).await.map(drop);
    assert_eq!(failed, Err(Rejected::Backend(Cut)));
    let reported = failed.expect_err("the wire is cut").to_string();
    assert_eq!(reported, "the wire is cut");
}

#[test]
fn try_acquire_is_a_check_with_a_charge() {
    let mut queue = TestQueue::of(&two_a_minute());
    let ann = Key::from("ann");
    for left in [1, 0] {
        let charge = queue.limiter.try_acquire(&ann, 1).now_or_never();
        let charge = charge.expect("at once").expect("it must exist");
        let decision = charge.decision().expect("the request was counted");
        assert_eq!(decision.snapshot().remaining(), left);
        assert_eq!(charge.waited(), Duration::ZERO);
        assert!(charge.outer().is_none());
    }
    let rejected = queue.limiter.try_acquire(&ann, 1).now_or_never();
    let rejected = rejected.expect("at once").expect_err("no token is left");
    assert_eq!(rejected, Rejected::Denied(queue.check(1).decision));
    assert_eq!(
        rejected.to_string(),
        "rate limit exceeded, allowed after 30s"
    );
    let never = queue.at_once(3, MaxWait::NONE).expect_err("too much");
    assert_eq!(
        never.to_string(),
        "the cost exceeds the limit of 2 and can never be allowed"
    );
    let asked = queue.limiter.backend().operations();
    assert!(asked.iter().all(|asked| asked.what == "check"));
}

#[test]
fn shorter_of_two_max_waits_applies() {
    let second = MaxWait::within(secs(1));
    assert_eq!(MaxWait::from(secs(1)), second);
    assert_eq!(MaxWait::Unbounded.at_most(secs(1)), second);
    assert_eq!(second.at_most(secs(2)), second);
    assert_eq!(second.at_most(ms(3)), MaxWait::within(ms(3)));
    assert_eq!(MaxWait::NONE.at_most(secs(1)), MaxWait::NONE);
    assert_eq!(MaxWait::within(Duration::ZERO), MaxWait::NONE);
    assert_eq!(
        MaxWait::Unbounded.at_most(Duration::MAX),
        MaxWait::within(Duration::MAX)
    );
    assert_ne!(MaxWait::Unbounded, MaxWait::within(Duration::MAX));
}

#[test]
fn deadline_uses_the_system_clock_or_a_given_clock() {
    let (before, deadline) = (SystemClock::new().now(), Deadline::after(secs(5)));
    let left = deadline.time().micros_since(before);
    assert!((5_000_000..7_000_000).contains(&left), "{left}");
    let time = Timestamp::from_micros(7);
    assert_eq!(Deadline::at(time).time(), time);
    assert!(Deadline::at(time) < deadline);
}

/// In real time, with a backend that is chosen at run time.
#[tokio::test]
async fn no_waiter_proceeds_early_by_the_system_clock() {
    let policies = [
        Policy::new("turns", Quota::token_bucket(1, 1, ms(20))),
        Policy::new("window", Quota::sliding_log(1, ms(20))),
    ];
    for policy in policies {
        let backend = AnyBackend::from(MemoryBackend::new());
        let (limiter, ann) = (Limiter::new(policy, backend), Key::from("ann"));
        let start = Instant::now();
        for number in 0..4 {
            limiter
                .acquire(&ann, 1, secs(1))
                .await
                .expect("the reply arrives");
            assert!(start.elapsed() >= ms(20) * number);
        }
    }
}

struct Choice {
    clock: AlarmClock,
    wire: Wire,
    limiter: WithFailurePolicy<Limiter<Wire>>,
    ann: Key,
}

impl Choice {
    fn of(policy: Policy, choice: FailurePolicy) -> Self {
        let clock = AlarmClock::new();
        let wire = Wire::new(&clock);
        Self {
            limiter: WithFailurePolicy::new(Limiter::new(policy, wire.clone()), choice),
            clock,
            wire,
            ann: Key::from("ann"),
        }
    }
}

#[tokio::test]
async fn failure_policy_applies_to_acquire() {
    for policy in [
        two_a_minute(),
        Policy::new("log", Quota::sliding_log(2, secs(60))),
    ] {
        for max_wait in [MaxWait::NONE, MaxWait::within(secs(9)), MaxWait::Unbounded] {
            let deny = Choice::of(policy.clone(), FailurePolicy::FailClosed);
            let charge = deny.limiter.acquire(&deny.ann, 1, max_wait).await;
            assert!(charge.expect("it must exist").is_some());
            deny.wire.cut();
            let failed = deny.limiter.acquire(&deny.ann, 1, max_wait).await;
            assert_eq!(failed.map(drop), Err(Rejected::Backend(Cut)));

            let allow = Choice::of(policy.clone(), FailurePolicy::FailOpen);
            allow.wire.cut();
            for _ in 0..9 {
                let passes = allow.limiter.acquire(&allow.ann, 1, max_wait).await;
                assert!(passes.expect("by the failure policy").is_none());
            }
            // A denial is not a failure.
            allow.wire.mend();
            let rejected = allow.limiter.acquire(&allow.ann, 3, max_wait).await;
            assert!(matches!(rejected, Err(Rejected::Denied(_))));
        }
    }
}

#[tokio::test]
async fn fallback_decides_and_refunds_in_its_own_state() {
    let local = MemoryBackend::new();
    let choice = Choice::of(two_a_minute(), FailurePolicy::Fallback(local.clone()));
    choice.wire.cut();
    let none = MaxWait::NONE;
    let charge = choice.limiter.acquire(&choice.ann, 2, none).await;
    let charge = charge.expect("it must exist").expect("counted");
    let rejected = choice.limiter.acquire(&choice.ann, 1, none).await;
    assert!(matches!(rejected, Err(Rejected::Denied(_))));
    charge.cancel().await.expect("memory cannot fail");
    let again = choice.limiter.acquire(&choice.ann, 2, none).await;
    assert!(again.expect("the charge was refunded").is_some());
    choice.wire.mend();
    let there = choice.wire.state(&two_a_minute(), &choice.ann);
    assert_eq!(there.0, 2, "the remote memory was charged");
    assert_eq!(local.context().stats().waiting, 0);
}

/// A failure policy that decides by the error.
#[derive(Clone)]
struct ByError {
    opens: bool,
    local: LocalBackend,
}

impl HandleFailure<Cut> for ByError {
    fn handle(&self, error: Cut, policy: &Policy, key: &Key, cost: Cost) -> CheckOutcome {
        match self.on_failure(&error) {
            Failure::FailOpen => CheckOutcome::Uncounted,
            _ => CheckOutcome::Decided(
                Limiter::new(policy.clone(), self.local.clone())
                    .check(key, cost)
                    .now_or_never()
                    .expect("at once")
                    .expect("memory cannot fail"),
            ),
        }
    }

    fn on_failure(&self, Cut: &Cut) -> Failure<'_> {
        if self.opens {
            Failure::FailOpen
        } else {
            Failure::Fallback(&self.local)
        }
    }
}

#[tokio::test]
async fn a_custom_handler_decides_after_a_failure() {
    for opens in [true, false] {
        let local = LocalBackend::from(MemoryBackend::new());
        let choice = Choice::of(two_a_minute(), FailurePolicy::FailClosed);
        let limiter = choice.limiter.limiter().clone();
        let limiter = WithFailurePolicy::new(limiter, ByError { opens, local });
        choice.wire.cut();
        let charge = limiter.acquire(&choice.ann, 1, MaxWait::NONE).await;
        assert_eq!(charge.expect("allowed").is_none(), opens);
        let uncounted = matches!(limiter.check(&choice.ann, 1).await, CheckOutcome::Uncounted);
        assert_eq!(uncounted, opens);
        let third = limiter.acquire(&choice.ann, 1, MaxWait::NONE).await;
        assert_eq!(third.is_ok(), opens, "the fallback has counted two");
    }
}

/// The fallback uses the system clock, so its wait takes real time.
#[tokio::test]
async fn fallback_waits_for_the_rest_of_max_wait() {
    let policy = Policy::new("work", Quota::token_bucket(1, 1, ms(60)));
    let choice = || {
        let fallback = FailurePolicy::Fallback(MemoryBackend::new());
        let choice = Choice::of(policy.clone(), fallback);
        choice.wire.cut();
        choice
    };
    let hasty = choice();
    let first = hasty.limiter.acquire(&hasty.ann, 1, MaxWait::NONE).await;
    assert!(first.is_ok());
    // The remote backend fails after one second of the wait.
    hasty.wire.hold();
    let wait = hasty.limiter.acquire(&hasty.ann, 1, secs(1) + ms(5));
    let mut wait = std::pin::pin!(wait);
    assert!(wait.as_mut().now_or_never().is_none());
    hasty.clock.jump(secs(1));
    hasty.wire.release();
    let rejected = wait.now_or_never().expect("the wait is too long");
    assert!(matches!(rejected, Err(Rejected::Denied(_))), "{rejected:?}");

    let patient = choice();
    let first = patient
        .limiter
        .acquire(&patient.ann, 1, MaxWait::NONE)
        .await;
    assert!(first.is_ok());
    patient.wire.hold();
    let wait = patient.limiter.acquire(&patient.ann, 1, secs(11));
    let mut wait = std::pin::pin!(wait);
    assert!(wait.as_mut().now_or_never().is_none());
    patient.clock.jump(secs(1));
    patient.wire.release();
    let start = Instant::now();
    let charge = wait.await.expect("10 s remain").expect("counted");
    assert!(charge.waited() > Duration::ZERO && charge.waited() <= start.elapsed());
}
