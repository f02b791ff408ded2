//! Charges are settled once, by their actual cost, within bounds.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use tower_sluice::charge::{SettleError, Settlement};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::quota::Anchor;
use tower_sluice::{Charge, Cost, Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};

use crate::executor::{START, ms, secs, us};
use crate::queue::TestQueue;

/// A hundred tokens by every algorithm. A window ends after a hundred seconds.
pub(crate) fn hundred_tokens() -> [Policy; 5] {
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

/// The outcome: memory and errors settle at once.
pub(crate) fn outcome(mut settlement: Settlement) -> Result<Option<u64>, SettleError> {
    use futures_util::FutureExt;
    let outcome = (&mut settlement).now_or_never().expect("at once");
    outcome.map(|snapshot| snapshot.map(|snapshot| snapshot.remaining()))
}

pub(crate) fn is_settled(settlement: Settlement) -> bool {
    outcome(settlement).is_err_and(|error| error.is_settled())
}

pub(crate) fn acquire(queue: &mut TestQueue, cost: impl Into<Cost>) -> Charge {
    queue.at_once(cost, MaxWait::NONE).expect("it must exist")
}

#[test]
fn each_settlement_method_charges_its_documented_total() {
    type SettleMethod = fn(&Charge) -> Settlement;
    let ways: [(SettleMethod, u64); 12] = [
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
    for policy in hundred_tokens() {
        for (way, spent) in ways {
            let mut queue = TestQueue::of(&policy);
            acquire(&mut queue, 0);
            let charge = acquire(&mut queue, 30);
            assert_eq!(charge.estimate().map(|cost| cost.get(0)), Some(30));
            assert_eq!(charge.policy().as_ref(), Some(&policy));
            assert_eq!(queue.state().0, 70);
            let reported = outcome(way(&charge)).expect("the first");
            // A settlement without a change reports nothing.
            assert_eq!(reported, (spent != 30).then_some(100 - spent), "{policy:?}");
            assert_eq!(queue.state().0, 100 - spent, "{policy:?}");
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
            assert_eq!(queue.state().0, 100 - spent);
        }
    }
}

#[test]
fn unsettled_charge_costs_the_estimate_and_sends_nothing() {
    for policy in hundred_tokens() {
        let mut queue = TestQueue::of(&policy);
        let charge = acquire(&mut queue, 30);
        let copy = charge.clone();
        drop(charge);
        drop(copy);
        drop(acquire(&mut queue, 5));
        assert_eq!((queue.state().0, queue.operation_count()), (65, 2));
    }
}

#[test]
fn charge_of_a_reservation_can_be_settled() {
    for cost in [0_u32, 2, 3, 5] {
        let mut queue = TestQueue::of(&Policy::new("bucket", Quota::per_second(5)));
        acquire(&mut queue, 5);
        queue.join(3, MaxWait::Unbounded);
        queue.executor.until(ms(600));
        let charge = queue
            .executor
            .ended
            .pop()
            .expect("the reservation is due")
            .outcome;
        let charge = charge.expect("the reservation is due");
        assert_eq!(charge.waited(), ms(600));
        // The debt is five tokens, without the three that were refilled meanwhile.
        assert_eq!(queue.state(), (0, secs(1)));
        outcome(charge.settle(u64::from(cost))).expect("the first");
        assert_eq!(queue.state().1, ms(400) + ms(200) * cost);
        assert!(is_settled(charge.cancel()));
    }
}

#[test]
fn extra_cost_is_a_debt_of_up_to_twice_the_limit() {
    for policy in hundred_tokens() {
        for (way, other) in [(u64::MAX, 0), (201, 0), (171, 30), (u64::MAX, 70)] {
            let mut queue = TestQueue::of(&policy);
            let charge = acquire(&mut queue, 30);
            if other > 0 {
                acquire(&mut queue, other);
            }
            outcome(charge.settle(way)).expect("the first");
            let settled = queue.state();
            // The deepest possible debt.
            let mut deepest = TestQueue::of(&policy);
            let charge = acquire(&mut deepest, 1);
            outcome(charge.charge(199)).expect("the first");
            assert_eq!(settled, deepest.state(), "{way} {other} {policy:?}");
            assert_eq!(settled.0, 0);
            assert!(settled.1 <= secs(200), "{settled:?}");
            queue.clock.jump(secs(200));
            assert_eq!(queue.state(), (100, Duration::ZERO), "{policy:?}");
        }
    }
}

#[test]
fn denial_reports_the_wait_after_a_debt() {
    let mut queue = TestQueue::of(&Policy::new("bucket", Quota::per_second(5)));
    let charge = acquire(&mut queue, 1);
    outcome(charge.charge(6)).expect("the first");
    let rejected = queue.at_once(1, MaxWait::NONE);
    assert_eq!(crate::executor::retry_after(&rejected), ms(600));
}

#[test]
fn passed_windows_are_not_refunded() {
    for policy in &hundred_tokens()[2..] {
        // The counter keeps the previous window for one more window.
        let later = if policy.name() == "counter" { 200 } else { 100 };
        for cost in [0, 10] {
            let mut queue = TestQueue::of(policy);
            let charge = acquire(&mut queue, 30);
            queue.clock.jump(secs(later));
            acquire(&mut queue, 20);
            assert_eq!(queue.state().0, 80);
            outcome(charge.settle(cost)).expect("the first");
            assert_eq!(queue.state().0, 80, "{policy:?}");
        }
        // Extra cost is charged at the time of the settlement.
        let mut queue = TestQueue::of(policy);
        let charge = acquire(&mut queue, 30);
        queue.clock.jump(secs(later));
        outcome(charge.settle(40)).expect("the first");
        assert_eq!(queue.state().0, 90, "{policy:?}");
    }
    // A bucket is refunded until it is full.
    let mut queue = TestQueue::of(&hundred_tokens()[0]);
    let charge = acquire(&mut queue, 30);
    queue.clock.jump(secs(20));
    outcome(charge.cancel()).expect("the first");
    assert_eq!(queue.state(), (100, Duration::ZERO));
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
        // One operation for higher costs, and one for lower costs.
        let operation_count = spent.iter().zip([10, 200, 300]);
        let (up, down) = operation_count.fold((0, 0), |(up, down), (now, then)| {
            (
                up | usize::from(*now > then),
                down | usize::from(*now < then),
            )
        });
        assert_eq!(queue.operation_count(), 1 + up + down, "{cost:?}");
    }
    // A higher cost of one quota and a lower cost of the other, compared to the estimate.
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
            // No debt exceeds twice the limit.
            assert_eq!(queue.state().0, 0, "{policy:?}");
            let full = queue.state().1;
            let mut plain = TestQueue::of(&policy);
            outcome(acquire(&mut plain, MAX).charge(MAX)).expect("the first");
            assert_eq!(full, plain.state().1, "{policy:?}");
        }
        for other in [1, MAX] {
            let mut queue = TestQueue::of(&policy);
            let charge = acquire(&mut queue, MAX - other);
            acquire(&mut queue, other);
            outcome(charge.settle(u64::MAX)).expect("the first");
            // Twice the limit. A rate that is no fraction of small integers is slower by less than 1 part in 2048.
            let rest = queue.state().1;
            assert!(rest <= secs(2_001), "{rest:?} {policy:?}");
            queue.clock.jump(rest);
            assert_eq!(queue.state(), (MAX, Duration::ZERO));
        }
        let mut queue = TestQueue::of(&policy);
        let charge = acquire(&mut queue, MAX);
        outcome(charge.refund(MAX)).expect("the first");
        assert_eq!(queue.state(), (MAX, Duration::ZERO));
    }
}

/// Many threads settle one charge by different methods. One settlement takes effect, and the state matches it.
#[test]
fn one_of_many_threads_settles_a_charge() {
    const METHODS: usize = 8;
    let way = |number: usize, charge: &Charge| match number % 4 {
        0 => (charge.charge(number as u64 + 1), 30 + number as u64 + 1),
        1 => (charge.refund(number as u64 + 1), 30 - number as u64 - 1),
        2 => (charge.settle(number as u64 + 40), number as u64 + 40),
        _ => (charge.cancel(), 0),
    };
    let clock = ManualClock::at(Timestamp::from_micros(START));
    let backend = MemoryBackend::builder().clock(clock).build();
    let together = Arc::new(Barrier::new(METHODS));
    let mut winners = [0; METHODS];
    for policy in hundred_tokens() {
        let limiter = Limiter::new(policy, backend.clone());
        for round in 0..100_u64 {
            let ann = Key::from(round);
            let charge = {
                use futures_util::FutureExt;
                let admitted = limiter.try_acquire(&ann, 30).now_or_never();
                admitted.expect("at once").expect("it must exist")
            };
            let spent = thread::scope(|scope| {
                // All handles of one charge, some of them cloned in the threads.
                let threads: Vec<_> = (0..METHODS)
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

#[test]
fn debug_of_a_charge_shows_no_key() {
    let mut queue = TestQueue::of(&hundred_tokens()[0]);
    let charge = queue.wait_for(&Key::from("bob-the-client"), 30, us(1));
    let charge = queue.executor.at_once(charge).expect("it must exist");
    let shown = format!("{charge:?}");
    assert!(
        shown.contains("bucket") && !shown.contains("bob"),
        "{shown}"
    );
}
