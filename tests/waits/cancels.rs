//! Cancelled reservations: a charge is refunded once only time has changed the state since, whatever the order of
//! cancels.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::Config;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tower_sluice::algorithm::{self, State};
use tower_sluice::clock::Timestamp;
use tower_sluice::decision::Receipt;
use tower_sluice::{Cost, MaxWait, Policy, Quota, Reservation, Snapshot};

use crate::executor::{START, ms, secs, us};
use crate::property::try_all;
use crate::queue::TestQueue;

/// Policies of buckets, all slower than the arrival of the waiters.
fn slow() -> [Policy; 3] {
    [
        Policy::new("steady", Quota::per_second(1)),
        Policy::new("ticks", Quota::interval_bucket(2, 3, secs(2))),
        Policy::new("both", Quota::per_second(1)).and("more", Quota::per_minute(30)),
    ]
}

fn fast() -> Policy {
    Policy::new("fast", Quota::per_second(5).burst(1))
}

/// `count` waiters, 5 ms apart.
fn executor(policy: &Policy, count: u64) -> (TestQueue, Vec<usize>) {
    let mut queue = TestQueue::of(policy);
    while queue.check(1).decision.is_allowed() {}
    let mut all = Vec::new();
    for number in 1..=count {
        queue.executor.until(ms(5 * number));
        all.push(queue.join(1, MaxWait::Unbounded));
    }
    assert!(all.iter().all(|waiter| queue.executor.waits(*waiter)));
    (queue, all)
}

/// The orders in which `all` are dropped.
fn orders(all: &[usize]) -> Vec<Vec<usize>> {
    let (first_first, mut last_first) = (all.to_vec(), all.to_vec());
    last_first.reverse();
    let random = (0..5).map(|seed| {
        let mut order = all.to_vec();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        order
    });
    [first_first, last_first]
        .into_iter()
        .chain(random)
        .collect()
}

#[test]
fn waiters_dropped_in_any_order_leave_only_the_debt_of_the_rest() {
    for policy in slow() {
        for stay in [0, 1, 4] {
            for order in 0..7 {
                let (mut queue, all) = executor(&policy, 100);
                let (without, _) = executor(&policy, stay as u64);
                let leave = &orders(&all[stay..])[order];
                for (step, waiter) in leave.iter().enumerate() {
                    // At different times, before the first remaining waiter is due.
                    queue.clock.jump(ms(500) + us(step as u64 + 1));
                    assert!(queue.executor.leave(*waiter));
                }
                without.clock.jump(queue.clock.passed());
                assert_eq!(queue.state(), without.state(), "{policy:?}, {order}");
                let decision = queue.check(0).decision;
                assert_eq!(decision, without.check(0).decision);
            }
        }
    }
}

#[test]
fn reservation_before_a_used_one_stays_charged() {
    let (mut queue, all) = executor(&fast(), 3);
    let models = queue.state();
    assert!(queue.executor.leave(all[0]));
    assert!(queue.executor.leave(all[1]));
    assert_eq!(queue.state(), models);
    queue.executor.until(ms(600));
    assert!(!queue.executor.waits(all[2]), "the reservation is due");
    let operation_count = queue.operation_count();
    // Both reservations were due: no cancel is repeated.
    let last = queue.join(1, MaxWait::Unbounded);
    assert!(queue.executor.leave(last));
    assert_eq!(queue.operation_count(), operation_count + 2);
    assert_eq!(queue.state(), (0, ms(200)));
}

#[test]
fn manual_cancel_is_also_repeated() {
    let policy = &fast();
    let queue = TestQueue::of(policy);
    let key = tower_sluice::Key::from("ann");
    let mut reservations: Vec<Reservation> = Vec::new();
    for _ in 0..4 {
        let reserved = queue.limiter.reserve(&key, 1, secs(9));
        let Ok(reply) = futures_util::FutureExt::now_or_never(reserved).expect("memory");
        reservations.push(reply.reservation.expect("the request waits"));
    }
    let cancel = |reservation| {
        let cancelled = queue.limiter.cancel(&key, reservation);
        let Ok(returned) = futures_util::FutureExt::now_or_never(cancelled).expect("memory");
        returned
    };
    let (last, third) = (
        reservations.pop().expect("four"),
        reservations.pop().expect("three"),
    );
    assert!(!cancel(third));
    assert_eq!(queue.state().1, ms(800));
    assert!(cancel(last));
    assert_eq!(queue.state().1, ms(400), "both waiters have left");
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Reserve {
        tier: usize,
        cost: u64,
        max_wait: u64,
    },
    Penalize {
        tier: usize,
        cost: u64,
    },
    /// Refunds a part of a used charge.
    Refund {
        tier: usize,
        which: Index,
        cost: u64,
    },
    /// A used reservation can be refunded.
    Use(Index),
    Cancel(Index),
    CancelLast,
}

fn step(span: u64) -> impl Strategy<Value = Step> {
    let tier = || 0..3_usize;
    let cost = || 1..=6_u64;
    prop_oneof![
        4 => (0..=span).prop_map(Step::Pass),
        8 => (tier(), cost(), 0..=20 * span)
            .prop_map(|(tier, cost, max_wait)| Step::Reserve { tier, cost, max_wait }),
        1 => (tier(), cost()).prop_map(|(tier, cost)| Step::Penalize { tier, cost }),
        1 => (tier(), any::<Index>(), cost())
            .prop_map(|(tier, which, cost)| Step::Refund { tier, which, cost }),
        1 => any::<Index>().prop_map(Step::Use),
        4 => any::<Index>().prop_map(Step::Cancel),
        6 => Just(Step::CancelLast),
    ]
}

/// A reservation, its policy, and the state of the key before it.
struct Reserved {
    tier: usize,
    reservation: Reservation,
    before: [Option<State>; 1],
}

fn look(policy: &Policy, states: &[Option<State>; 1], at: u64) -> Snapshot {
    let (mut states, now) = (states.clone(), Timestamp::from_micros(at));
    let decision = algorithm::check(policy, &mut states, now, Cost::ZERO).decision;
    decision.snapshot().clone()
}

/// Other operations of any policy happen in between. A cancel returns exactly the charge of its reservation.
#[test]
fn refunded_reservation_restores_the_state() {
    let case = (
        1..=6_u64,
        1..=6_u64,
        1..=200_u64,
        any::<bool>(),
        any::<bool>(),
    );
    let case = case.prop_flat_map(|parts| (Just(parts), vec(step(parts.2), 1..80)));
    let seeds = "tests/waits.proptest-regressions";
    let seen = try_all(
        seeds,
        Config::default().cases,
        case,
        |(parts, steps), seen| {
            let (capacity, refill, period, ticks, has_tiers) = parts;
            // Policies of other sizes, and with another grain.
            let tiers = [
                (capacity, refill),
                (capacity + 1, refill),
                (2 * capacity, refill + 1),
            ];
            let tiers = tiers.map(|(capacity, refill)| {
                let span = Duration::from_micros(period);
                let quota = match ticks {
                    true => Quota::interval_bucket(capacity, refill, span),
                    false => Quota::token_bucket(capacity, refill, span),
                };
                Policy::new("tiers", quota)
            });
            let tier = |tier: usize| if has_tiers { tier } else { 0 };
            let (mut states, mut now) = ([None], START);
            let mut reserved: Vec<Reserved> = Vec::new();
            let mut receipts: Vec<Receipt> = Vec::new();
            for step in steps {
                let at = Timestamp::from_micros(now);
                let which = match &step {
                    Step::Cancel(index) | Step::Use(index) if !reserved.is_empty() => {
                        index.index(reserved.len())
                    }
                    _ => reserved.len().saturating_sub(1),
                };
                match step {
                    Step::Pass(span) => now += span,
                    Step::Reserve {
                        tier: of,
                        cost,
                        max_wait,
                    } => {
                        let (before, tier) = (states.clone(), tier(of));
                        let max_wait = us(max_wait);
                        let cost = Cost::new(cost);
                        let reply =
                            algorithm::reserve(&tiers[tier], &mut states, at, cost, max_wait);
                        reserved.extend(reply.reservation.map(|reservation| Reserved {
                            tier,
                            reservation,
                            before,
                        }));
                    }
                    Step::Penalize { tier: of, cost } => {
                        let _ =
                            algorithm::penalize(&tiers[tier(of)], &mut states, at, Cost::new(cost));
                    }
                    Step::Refund {
                        tier: of,
                        which,
                        cost,
                    } if !receipts.is_empty() => {
                        let place = which.index(receipts.len());
                        let receipt = receipts[place].take(Cost::new(cost));
                        let _ = algorithm::refund(&tiers[tier(of)], &mut states, at, &receipt);
                        seen.note("refunded");
                    }
                    Step::Use(_) if !reserved.is_empty() => {
                        receipts.extend(reserved.remove(which).reservation.into_receipt());
                    }
                    Step::Cancel(_) | Step::CancelLast if !reserved.is_empty() => {
                        let Reserved {
                            tier,
                            reservation,
                            before,
                        } = &reserved[which];
                        let policy = &tiers[*tier];
                        let reply = algorithm::cancel(policy, &mut states, at, reservation);
                        if !reply.returned {
                            seen.note("stays charged");
                            continue;
                        }
                        seen.note(if which + 1 < reserved.len() {
                            "out of order"
                        } else {
                            "returned"
                        });
                        for later in [now, now + 1, now + period / 2, now + 3 * period] {
                            let (actual, expected) =
                                (look(policy, &states, later), look(policy, before, later));
                            prop_assert_eq!(actual, expected);
                        }
                        reserved.remove(which);
                    }
                    _ => {}
                }
            }
            Ok(())
        },
    );
    seen.at_least(200, &["returned", "stays charged"]);
    seen.at_least(50, &["refunded"]);
}
