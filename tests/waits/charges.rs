//! Charges that are settled when it is known what they should have been: once, whoever does it, and within bounds.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use tower_sluice::backend::Backend;
use tower_sluice::charge::{SettleError, Settlement};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::quota::Anchor;
use tower_sluice::{Charge, Cost, Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};

use crate::crowd::{Alarms, START, ms, secs, us};
use crate::queue::TestQueue;
use crate::wire::{Wire, settle};

/// A hundred tokens by every algorithm; a window ends after a hundred seconds.
fn a_hundred() -> [Policy; 5] {
    let span = secs(100);
    [
        Policy::new("bucket", Quota::token_bucket(100, 100, span)),
        Policy::new("ticks", Quota::interval_bucket(100, 1, secs(1))),
        Policy::new(
            "fixed",
            Quota::fixed_window(100, span).anchor(Anchor::FirstUse),
        ),
        Policy::new("counter", Quota::sliding_window(100, span)),
        Policy::new("log", Quota::sliding_log(100, span)),
    ]
}

/// What it came to: memory and errors are there at once.
fn outcome(mut settlement: Settlement) -> Result<Option<u64>, SettleError> {
    use futures_util::FutureExt;
    let outcome = (&mut settlement).now_or_never().expect("at once");
    outcome.map(|snapshot| snapshot.map(|snapshot| snapshot.remaining()))
}

fn is_settled(settlement: Settlement) -> bool {
    outcome(settlement).is_err_and(|error| error.is_settled())
}

fn acquire(queue: &mut TestQueue, cost: impl Into<Cost>) -> Charge {
    queue.at_once(cost, MaxWait::NONE).expect("it is there")
}

// -- What each of them charges

#[test]
fn each_settlement_method_charges_its_documented_total() {
    type Way = fn(&Charge) -> Settlement;
    let ways: [(Way, u64); 12] = [
        (|charge| charge.charge(0), 30),
        (|charge| charge.charge(1), 31),
        (|charge| charge.charge(70), 100),
        (|charge| charge.refund(0), 30),
        (|charge| charge.refund(29), 1),
        (|charge| charge.refund(30), 0),
        (|charge| charge.refund(31), 0),
        (|charge| charge.refund(u64::MAX), 0),
        (|charge| charge.settle(30), 30),
        (|charge| charge.settle(45), 45),
        (|charge| charge.settle(1), 1),
        (|charge| charge.cancel(), 0),
    ];
    for policy in a_hundred() {
        for (way, spent) in ways {
            let mut queue = TestQueue::of(&policy);
            acquire(&mut queue, 0);
            let charge = acquire(&mut queue, 30);
            assert_eq!(charge.estimate().map(|cost| cost.get(0)), Some(30));
            assert_eq!(charge.policy().as_ref(), Some(&policy));
            assert_eq!(queue.books().0, 70);
            let reported = outcome(way(&charge)).expect("the first");
            // If nothing has to be changed there is nothing to tell.
            assert_eq!(reported, (spent != 30).then_some(100 - spent), "{policy:?}");
            assert_eq!(queue.books().0, 100 - spent, "{policy:?}");
            assert_eq!(charge.estimate(), None);
            assert_eq!(charge.policy().as_ref(), Some(&policy));
            for again in [
                charge.charge(1),
                charge.refund(1),
                charge.settle(9),
                charge.cancel(),
            ] {
                assert!(is_settled(again));
            }
            assert_eq!(queue.books().0, 100 - spent);
        }
    }
}

#[test]
fn unsettled_charge_costs_the_estimate_and_sends_nothing() {
    for policy in a_hundred() {
        let mut queue = TestQueue::of(&policy);
        let charge = acquire(&mut queue, 30);
        let copy = charge.clone();
        drop(charge);
        drop(copy);
        drop(acquire(&mut queue, 5));
        assert_eq!((queue.books().0, queue.asks()), (65, 2));
    }
}

#[test]
fn charge_of_a_reservation_can_be_settled() {
    for cost in [0_u32, 2, 3, 5] {
        let mut queue = TestQueue::of(&Policy::new("bucket", Quota::per_second(5)));
        acquire(&mut queue, 5);
        queue.join(3, MaxWait::Unbounded);
        queue.crowd.until(ms(600));
        let charge = queue.crowd.ended.pop().expect("its turn").outcome;
        let charge = charge.expect("its turn");
        assert_eq!(charge.waited(), ms(600));
        // Five tokens less the three that came back meanwhile are owed without it.
        assert_eq!(queue.books(), (0, secs(1)));
        outcome(charge.settle(u64::from(cost))).expect("the first");
        assert_eq!(queue.books().1, ms(400) + ms(200) * cost);
        assert!(is_settled(charge.cancel()));
    }
}

#[test]
fn extra_cost_is_a_debt_of_up_to_twice_the_limit() {
    for policy in a_hundred() {
        for (way, other) in [(u64::MAX, 0), (201, 0), (171, 30), (u64::MAX, 70)] {
            let mut queue = TestQueue::of(&policy);
            let charge = acquire(&mut queue, 30);
            if other > 0 {
                acquire(&mut queue, other);
            }
            outcome(charge.settle(way)).expect("the first");
            let settled = queue.books();
            // As deep as anybody can be.
            let mut deepest = TestQueue::of(&policy);
            let charge = acquire(&mut deepest, 1);
            outcome(charge.charge(199)).expect("the first");
            assert_eq!(settled, deepest.books(), "{way} {other} {policy:?}");
            assert_eq!(settled.0, 0);
            assert!(settled.1 <= secs(200), "{settled:?}");
            queue.clock.jump(secs(200));
            assert_eq!(queue.books(), (100, Duration::ZERO), "{policy:?}");
        }
    }
}

#[test]
fn denial_reports_the_wait_after_a_debt() {
    let mut queue = TestQueue::of(&Policy::new("bucket", Quota::per_second(5)));
    let charge = acquire(&mut queue, 1);
    outcome(charge.charge(6)).expect("the first");
    let rejected = queue.at_once(1, MaxWait::NONE);
    assert_eq!(crate::crowd::retry_after(&rejected), ms(600));
}

#[test]
fn passed_windows_are_not_refunded() {
    for policy in &a_hundred()[2..] {
        // The counter remembers the window before for another one.
        let later = if policy.name() == "counter" { 200 } else { 100 };
        for cost in [0, 10] {
            let mut queue = TestQueue::of(policy);
            let charge = acquire(&mut queue, 30);
            queue.clock.jump(secs(later));
            acquire(&mut queue, 20);
            assert_eq!(queue.books().0, 80);
            outcome(charge.settle(cost)).expect("the first");
            assert_eq!(queue.books().0, 80, "{policy:?}");
        }
        // What is added is added now.
        let mut queue = TestQueue::of(policy);
        let charge = acquire(&mut queue, 30);
        queue.clock.jump(secs(later));
        outcome(charge.settle(40)).expect("the first");
        assert_eq!(queue.books().0, 90, "{policy:?}");
    }
    // A bucket gives back until it is full.
    let mut queue = TestQueue::of(&a_hundred()[0]);
    let charge = acquire(&mut queue, 30);
    queue.clock.jump(secs(20));
    outcome(charge.cancel()).expect("the first");
    assert_eq!(queue.books(), (100, Duration::ZERO));
}

#[test]
fn quotas_are_settled_independently() {
    let hour = secs(3_600);
    let policy = Policy::new("both", Quota::token_bucket(100, 100, hour))
        .and("bytes", Quota::fixed_window(1_000, hour))
        .and("more", Quota::sliding_log(1_000, hour));
    let cases = [
        (Cost::each([40, 100, 300]), [40, 100, 300]),
        (Cost::each([5, 600]), [5, 600, 600]),
        (Cost::each([40, 0, 300]), [40, 0, 300]),
        (Cost::each([0, 0, 1]), [0, 0, 1]),
        (Cost::new(7), [7, 7, 7]),
        (Cost::ZERO, [0, 0, 0]),
    ];
    for (cost, spent) in cases {
        let mut queue = TestQueue::of(&policy);
        let charge = acquire(&mut queue, Cost::each([10, 200, 300]));
        outcome(charge.settle(cost.clone())).expect("the first");
        let decision = queue.check(0).decision;
        let quotas = decision.snapshot().quotas();
        let left = quotas.iter().map(|quota| quota.limit() - quota.remaining());
        assert_eq!(left.collect::<Vec<_>>(), spent, "{cost:?}");
        // One question for what goes up, and one for what goes down.
        let asks = spent.iter().zip([10, 200, 300]);
        let (up, down) = asks.fold((0, 0), |(up, down), (now, then)| {
            (
                up | usize::from(*now > then),
                down | usize::from(*now < then),
            )
        });
        assert_eq!(queue.asks(), 1 + up + down, "{cost:?}");
    }
    // More of one and less of the other, relative to the estimate.
    let mut queue = TestQueue::of(&policy);
    let charge = acquire(&mut queue, Cost::each([10, 200, 300]));
    outcome(charge.refund(Cost::each([20, 50, 0]))).expect("the first");
    let decision = queue.check(0).decision;
    let quotas = decision.snapshot().quotas();
    let left: Vec<_> = quotas
        .iter()
        .map(|quota| quota.limit() - quota.remaining())
        .collect();
    assert_eq!(left, [0, 150, 300]);
}

#[test]
fn the_largest_costs_neither_wrap_nor_panic() {
    const MAX: u64 = 1 << 40;
    let policies = [
        Policy::new("bucket", Quota::token_bucket(MAX, MAX, secs(1_000))),
        Policy::new("ticks", Quota::interval_bucket(MAX, MAX, secs(1_000))),
        Policy::new("fixed", Quota::fixed_window(MAX, secs(1_000))),
        Policy::new("counter", Quota::sliding_window(MAX, secs(1_000))),
    ];
    for policy in policies {
        for estimate in [1, MAX - 5, MAX] {
            let mut queue = TestQueue::of(&policy);
            let charge = acquire(&mut queue, estimate);
            outcome(charge.charge(u64::MAX)).expect("the first");
            // No debt is above twice the limit.
            assert_eq!(queue.books().0, 0, "{policy:?}");
            let full = queue.books().1;
            let mut plain = TestQueue::of(&policy);
            outcome(acquire(&mut plain, MAX).charge(MAX)).expect("the first");
            assert_eq!(full, plain.books().1, "{policy:?}");
        }
        for other in [1, MAX] {
            let mut queue = TestQueue::of(&policy);
            let charge = acquire(&mut queue, MAX - other);
            acquire(&mut queue, other);
            outcome(charge.settle(u64::MAX)).expect("the first");
            // Twice the limit; a rate that is no fraction of small whole numbers is slower by less than 1 part in 2048.
            let rest = queue.books().1;
            assert!(rest <= secs(2_001), "{rest:?} {policy:?}");
            queue.clock.jump(rest);
            assert_eq!(queue.books(), (MAX, Duration::ZERO));
        }
        let mut queue = TestQueue::of(&policy);
        let charge = acquire(&mut queue, MAX);
        outcome(charge.refund(MAX)).expect("the first");
        assert_eq!(queue.books(), (MAX, Duration::ZERO));
    }
}

// -- Many at a time

/// Of many threads that settle one charge in different ways, one does, and the books are as that one says.
#[test]
fn one_of_many_threads_settles_a_charge() {
    const WAYS: usize = 8;
    let way = |number: usize, charge: &Charge| match number % 4 {
        0 => (charge.charge(number as u64 + 1), 30 + number as u64 + 1),
        1 => (charge.refund(number as u64 + 1), 30 - number as u64 - 1),
        2 => (charge.settle(number as u64 + 40), number as u64 + 40),
        _ => (charge.cancel(), 0),
    };
    let clock = ManualClock::at(Timestamp::from_micros(START));
    let backend = MemoryBackend::builder().clock(clock).build();
    let together = Arc::new(Barrier::new(WAYS));
    let mut winners = [0; WAYS];
    for policy in a_hundred() {
        let limiter = Limiter::new(policy, backend.clone());
        for round in 0..100_u64 {
            let ann = Key::from(round);
            let charge = {
                use futures_util::FutureExt;
                let admitted = limiter.try_acquire(&ann, 30).now_or_never();
                admitted.expect("at once").expect("it is there")
            };
            let spent = thread::scope(|scope| {
                // All handles of one charge, made in the threads too.
                let threads: Vec<_> = (0..WAYS)
                    .map(|number| {
                        let (together, charge) = (&together, &charge);
                        scope.spawn(move || {
                            together.wait();
                            let (settlement, spent) = way(number, &charge.clone());
                            match outcome(settlement) {
                                Ok(_) => Some((number, spent)),
                                Err(error) => {
                                    assert!(error.is_settled());
                                    None
                                }
                            }
                        })
                    })
                    .collect();
                let ended = threads
                    .into_iter()
                    .map(|thread| thread.join().expect("no panic"));
                let done: Vec<_> = ended.flatten().collect();
                let [(winner, spent)] = done[..] else {
                    panic!("{done:?}");
                };
                winners[winner] += 1;
                spent
            });
            let left = limiter.check_now(&ann, 0).decision.snapshot().remaining();
            assert_eq!(left, 100 - spent);
        }
    }
    assert!(
        winners.iter().filter(|wins| **wins > 0).count() > 1,
        "{winners:?}"
    );
}

// -- Through a wire

struct Far {
    wire: Wire,
    limiter: Limiter<Wire>,
    ann: Key,
}

impl Far {
    fn of(policy: &Policy) -> Self {
        let wire = Wire::new(&Alarms::new());
        Self {
            limiter: Limiter::new(policy.clone(), wire.clone()),
            wire,
            ann: Key::from("ann"),
        }
    }

    async fn acquire(&self, cost: impl Into<Cost>) -> Charge {
        let admitted = self.limiter.try_acquire(&self.ann, cost).await;
        admitted.expect("it is there")
    }

    fn left(&self) -> u64 {
        self.wire.books(self.limiter.policy(), &self.ann).0
    }

    fn background_tasks(&self) -> (usize, usize) {
        let context = self.wire.context();
        (
            context.background_tasks(),
            context.failed_background_tasks(),
        )
    }
}

#[tokio::test]
async fn settlement_completes_without_being_awaited() {
    for policy in a_hundred() {
        let far = Far::of(&policy);
        let charge = far.acquire(30).await;
        far.wire.hold();
        drop(charge.settle(45));
        drop(charge);
        assert_eq!(far.background_tasks(), (1, 0));
        settle().await;
        assert_eq!((far.left(), far.background_tasks()), (55, (1, 0)));
        far.wire.release();
        settle().await;
        assert_eq!((far.left(), far.background_tasks()), (55, (0, 0)));

        let charge = far.acquire(30).await;
        let settlement = charge.settle(5);
        let snapshot = settlement.await.expect("the wire holds").expect("a change");
        assert_eq!((snapshot.remaining(), far.left()), (50, 50));
        assert_eq!(far.wire.sent(), ["check", "penalty", "check", "refund"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_concurrent_remote_settlements_takes_effect() {
    let far = Far::of(&a_hundred()[0]);
    for _ in 0..200 {
        let charge = far.acquire(30).await;
        far.wire.sent();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8_u64 {
            let charge = charge.clone();
            tasks.spawn(async move {
                let (settlement, spent) = match number % 4 {
                    0 => (charge.charge(3 + number), 33 + number),
                    1 => (charge.refund(3 + number), 27 - number),
                    2 => (charge.settle(50 + number), 50 + number),
                    _ => (charge.cancel(), 0),
                };
                match settlement.await {
                    Ok(_) => Some(spent),
                    Err(error) => {
                        assert!(error.is_settled());
                        None
                    }
                }
            });
        }
        let ended = tasks.join_all().await;
        let done: Vec<_> = ended.into_iter().flatten().collect();
        assert_eq!((done.len(), far.wire.sent().len()), (1, 1), "{done:?}");
        assert_eq!(far.left(), 100 - done[0]);
        far.limiter.reset(&far.ann).await.expect("the wire holds");
    }
    assert_eq!(far.background_tasks(), (0, 0));
}

#[tokio::test]
async fn unsettled_charge_sends_no_command() {
    let far = Far::of(&a_hundred()[0]);
    let charge = far.acquire(30).await;
    drop(charge.clone());
    drop(charge);
    settle().await;
    assert_eq!(
        (far.wire.sent(), far.background_tasks()),
        (vec!["check"], (0, 0))
    );
    // Nor does one that was right.
    let right = far.acquire(30).await.settle(30).await.expect("the first");
    assert_eq!(right, None);
    assert_eq!(far.wire.sent(), ["check"]);
}

#[tokio::test]
async fn one_quota_up_and_another_down_are_two_steps_of_one_settlement() {
    let policy = Policy::new("both", Quota::per_day(100)).and("bytes", Quota::per_day(1_000));
    let far = Far::of(&policy);
    let charge = far.acquire(Cost::each([10, 500])).await;
    let after = charge.settle(Cost::each([30, 100])).await;
    let after = after.expect("the wire holds").expect("a change");
    let left: Vec<_> = after
        .quotas()
        .iter()
        .map(|quota| quota.remaining())
        .collect();
    assert_eq!(left, [70, 900]);
    assert_eq!(far.wire.sent(), ["check", "refund", "penalty"]);
    assert_eq!(far.background_tasks(), (0, 0));
    // If the first step fails, the second is not taken.
    let charge = far.acquire(Cost::each([10, 500])).await;
    far.wire.sent();
    far.wire.cut();
    let error = charge
        .settle(Cost::each([30, 100]))
        .await
        .expect_err("it is cut");
    assert!(!error.is_settled());
    assert_eq!(
        (far.wire.sent(), far.background_tasks()),
        (vec!["refund"], (0, 1))
    );
}

#[tokio::test]
async fn failed_settlement_reports_its_cause_and_is_counted() {
    use std::error::Error;
    let far = Far::of(&a_hundred()[0]);
    let charge = far.acquire(30).await;
    far.wire.cut();
    let error = charge.settle(45).await.expect_err("it is cut");
    assert!(!error.is_settled());
    assert_eq!(error.to_string(), "the backend failed to settle the charge");
    let source = error.source().expect("the backend's");
    assert_eq!(source.to_string(), "the wire is cut");
    assert_eq!(far.background_tasks(), (0, 1));
    // It was the one: nobody knows whether it was done.
    far.wire.mend();
    let error = charge.cancel().await.expect_err("it has been settled");
    assert!(error.is_settled());
    assert_eq!(error.to_string(), "the charge was already settled");
    assert_eq!((far.left(), far.background_tasks()), (70, (0, 1)));
}

#[tokio::test]
async fn settlement_that_cannot_start_returns_an_error_and_is_counted() {
    let far = Far::of(&a_hundred()[0]);
    let charge = far.acquire(30).await;
    far.wire.open_circuit();
    let error = outcome(charge.settle(45)).expect_err("it is known");
    assert!(!error.is_settled());
    assert_eq!(error.to_string(), "the backend failed to settle the charge");
    assert_eq!(
        (far.background_tasks(), far.wire.sent()),
        ((0, 1), vec!["check"])
    );
}

#[tokio::test]
async fn settlements_above_1024_fail_and_are_counted() {
    let far = Far::of(&Policy::new("bucket", Quota::per_day(10_000)));
    let mut charges = Vec::new();
    for _ in 0..1_030 {
        charges.push(far.acquire(1).await);
    }
    far.wire.hold();
    let settlements: Vec<_> = charges.iter().map(Charge::cancel).collect();
    assert_eq!(far.background_tasks(), (1_024, 6));
    settle().await;
    far.wire.release();
    let (mut done, mut crowded) = (0, 0);
    for settlement in settlements {
        match settlement.await {
            Ok(snapshot) => done += u64::from(snapshot.is_some()),
            Err(error) => {
                assert!(!error.is_settled());
                assert_eq!(error.to_string(), "too many settlements are running");
                crowded += 1;
            }
        }
    }
    assert_eq!((done, crowded, far.background_tasks()), (1_024, 6, (0, 6)));
    // The others stay charged as they were estimated.
    assert_eq!(far.left(), 10_000 - 6);
    let charge = far.acquire(1).await;
    charge.cancel().await.expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn slow_settlement_times_out_and_is_counted() {
    let far = Far::of(&a_hundred()[0]);
    let charge = far.acquire(30).await;
    far.wire.hold();
    let error = charge.settle(45).await.expect_err("no answer comes");
    assert!(!error.is_settled());
    assert_eq!(error.to_string(), "the settlement timed out");
    assert_eq!(far.background_tasks(), (0, 1));
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

#[test]
fn settlement_without_a_runtime_returns_an_error() {
    let far = Far::of(&a_hundred()[0]);
    let charge = runtime().block_on(far.acquire(30));
    let error = outcome(charge.settle(45)).expect_err("there is none");
    assert!(!error.is_settled());
    assert_eq!(
        error.to_string(),
        "a remote backend needs a Tokio runtime to settle a charge; call it within one"
    );
    assert_eq!((far.background_tasks(), far.left()), ((0, 1), 70));
    assert_eq!(far.wire.sent(), ["check"]);
}

#[test]
fn settlement_whose_runtime_ends_returns_an_error() {
    let far = Far::of(&a_hundred()[0]);
    let runtime = runtime();
    let charge = runtime.block_on(far.acquire(30));
    far.wire.hold();
    let entered = runtime.enter();
    let settlement = charge.settle(45);
    drop(entered);
    runtime.block_on(settle());
    drop(runtime);
    let error = outcome(settlement).expect_err("it has ended");
    assert!(!error.is_settled());
    assert_eq!(
        error.to_string(),
        "the runtime ended before the settlement was complete"
    );
    assert_eq!(far.background_tasks(), (0, 1));
}

#[test]
fn debug_of_a_charge_shows_no_key() {
    let mut queue = TestQueue::of(&a_hundred()[0]);
    let charge = queue.wait_for(&Key::from("bob-the-client"), 30, us(1));
    let charge = queue.crowd.at_once(charge).expect("it is there");
    let shown = format!("{charge:?}");
    assert!(
        shown.contains("bucket") && !shown.contains("bob"),
        "{shown}"
    );
}
