//! Refunds, penalties, resets and reservations.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tower_sluice::algorithm;
use tower_sluice::clock::Timestamp;
use tower_sluice::decision::Receipt;
use tower_sluice::{Cost, Policy, Quota, Reservation, RetryAfter};

use crate::for_all;
use crate::model::{Core, one};
use crate::shapes::{WITH_TOTALS, shape};
use crate::traffic::{TODAY, operations, spend, start, traffic};

#[test]
fn immediate_refund_restores_the_state() {
    let coverage = for_all(
        (
            shape(WITH_TOTALS, false),
            start(),
            traffic(),
            spend(),
            0..=3_u64,
        ),
        |(shape, start, traffic, spend, reach), coverage| {
            let mut core = Core::of(&[shape]);
            for operation in operations(&shape, start, &traffic, reach) {
                let _ = core.act(operation);
                let before = core.peek(operation.now);
                if let Some(mut receipt) = core.check(operation.now, spend.of(shape.limit)).receipt
                {
                    let taken = receipt.take(Cost::new(u64::MAX));
                    prop_assert_eq!(
                        (taken.tokens(), receipt.tokens()),
                        (spend.of(shape.limit), 0)
                    );
                    prop_assert_eq!(core.refund(operation.now, &taken), before);
                    prop_assert_eq!(core.peek(operation.now), before);
                    coverage.note("refunded");
                }
            }
            Ok(())
        },
    );
    coverage.at_least(500, &["refunded"]);
}

#[test]
fn refunds_return_at_most_the_charge_once() {
    let refund = (any::<prop::sample::Index>(), 0..=5_u64);
    let coverage = for_all(
        (
            shape(WITH_TOTALS, false),
            start(),
            traffic(),
            vec(refund, 60),
        ),
        |(shape, start, traffic, refunds), coverage| {
            let (mut core, mut receipts) = (Core::of(&[shape]), Vec::new());
            for (operation, (index, tokens)) in operations(&shape, start, &traffic, 3)
                .into_iter()
                .zip(refunds)
            {
                receipts.extend(core.act(operation).receipt);
                if receipts.is_empty() {
                    continue;
                }
                let receipt: &mut Receipt = index.get_mut(&mut receipts);
                let (before, worth) = (core.peek(operation.now), receipt.tokens());
                let taken = receipt.take(Cost::new(tokens));
                prop_assert_eq!(taken.tokens(), tokens.min(worth));
                prop_assert_eq!(receipt.tokens(), worth - taken.tokens());
                let unseen = core.states[0].is_none();
                let after = core.refund(operation.now, &taken);
                prop_assert_eq!(unseen, core.states[0].is_none());
                prop_assert!(after.remaining() <= shape.limit);
                prop_assert!(after.remaining() >= before.remaining());
                // A fraction of a token that was refilled counts as none.
                prop_assert!(after.remaining() <= before.remaining() + taken.tokens() + 1);
                if after.remaining() > before.remaining() {
                    coverage.note("refunded");
                }
                if worth > 0 && receipt.tokens() == 0 {
                    let spent = core.clone();
                    let nothing = receipt.take(Cost::new(u64::MAX));
                    prop_assert_eq!(nothing.tokens(), 0);
                    core.refund(operation.now, &nothing);
                    prop_assert_eq!(&core.states, &spent.states);
                    coverage.note("asked twice");
                }
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["refunded", "asked twice"]);
}

#[test]
fn penalties_are_capped_at_twice_the_limit() {
    let coverage = for_all(
        (shape(WITH_TOTALS, false), start(), traffic()),
        |(shape, start, traffic), coverage| {
            let mut core = Core::of(&[shape]);
            for operation in operations(&shape, start, &traffic, 0) {
                let before = core.peek(operation.now);
                let after = one(&core.penalize(operation.now, operation.cost));
                prop_assert!(after.remaining() <= before.remaining());
                prop_assert!(after.reset_after() >= before.reset_after());
                let bound = 2 * u128::from(shape.horizon());
                if let Some(RetryAfter::In(wait)) = core
                    .check_result(operation.now, shape.limit)
                    .decision
                    .retry_after()
                {
                    prop_assert!(wait.as_micros() <= bound, "{:?}", wait);
                    if wait.as_micros() > bound / 2 {
                        coverage.note("more than once the time to recover");
                    }
                }
            }
            Ok(())
        },
    );
    coverage.at_least(50, &["more than once the time to recover"]);
}

#[test]
fn reset_forgets_a_key() {
    for_all(
        (shape(WITH_TOTALS, false), start(), traffic(), traffic()),
        |(shape, start, traffic, more), _| {
            let mut core = Core::of(&[shape]);
            let mut now = start;
            for operation in operations(&shape, start, &traffic, 3) {
                let _ = core.act(operation);
                now = operation.now;
            }
            let mut unseen = Core::of(&[shape]);
            prop_assert_eq!(core.reset(now), unseen.peek(now));
            for operation in operations(&shape, now, &more, 3) {
                prop_assert_eq!(core.act(operation), unseen.act(operation));
            }
            prop_assert_eq!(core.states, unseen.states);
            Ok(())
        },
    );
}

/// Reservations are charged ahead of their time. The bound holds at the times at which requests proceed, whatever is
/// cancelled.
#[test]
fn reservations_keep_the_rate_and_the_order_of_requests() {
    let step = (
        0..=40_u64,
        1..=6_u64,
        0..=2_000_u64,
        0..10_u8,
        any::<prop::sample::Index>(),
    );
    let coverage = for_all(
        (
            1..=6_u64,
            1..=6_u64,
            1..=200_u64,
            any::<bool>(),
            vec(step, 1..80),
        ),
        |(capacity, refill, period, ticks, steps), coverage| {
            let span = Duration::from_micros(period);
            let quota = match ticks {
                true => Quota::interval_bucket(capacity, refill, span),
                false => Quota::token_bucket(capacity, refill, span),
            };
            let (policy, mut states, mut now) = (Policy::new("turns", quota), [None], TODAY);
            // (time, cost, reservation), in order of arrival, without refunded reservations.
            let mut granted: Vec<(u64, u64, Option<Reservation>)> = Vec::new();
            for (pause, cost, max_wait, what, index) in steps {
                now += pause;
                let at = Timestamp::from_micros(now);
                if what < 3 && !granted.is_empty() {
                    let place = match what {
                        0 => index.index(granted.len()),
                        _ => granted.len() - 1,
                    };
                    if granted[place].0 <= now {
                        continue; // it has proceeded
                    }
                    let Some(reservation) = granted[place].2.take() else {
                        continue;
                    };
                    let reply = algorithm::cancel(&policy, &mut states, at, &reservation);
                    let last = place + 1 == granted.len();
                    prop_assert!(
                        last || !reply.returned,
                        "only the last reservation is refunded"
                    );
                    if reply.returned {
                        coverage.note("refunded");
                        granted.remove(place);
                    } else {
                        coverage.note("stays charged");
                        // Another cancel may succeed when the later reservations are gone.
                        granted[place].2 = Some(reservation);
                    }
                    continue;
                }
                let max_wait = Duration::from_micros(max_wait);
                let reply = algorithm::reserve(&policy, &mut states, at, Cost::new(cost), max_wait);
                prop_assert!(reply.wait <= max_wait);
                let rightly = match reply.decision.retry_after() {
                    None => true,
                    Some(RetryAfter::Never) => cost > capacity,
                    Some(RetryAfter::In(wait)) => wait > max_wait,
                };
                prop_assert!(rightly, "{:?}", reply.decision);
                if reply.decision.is_allowed() {
                    let wait = u64::try_from(reply.wait.as_micros()).expect("fits");
                    coverage.note(if wait > 0 {
                        "waits"
                    } else {
                        "is allowed at once"
                    });
                    granted.push((now + wait, cost, reply.reservation));
                }
            }
            prop_assert!(granted.is_sorted_by_key(|(moment, ..)| *moment));
            for (index, (from, ..)) in granted.iter().enumerate() {
                let mut sum = 0;
                for (to, cost, _) in &granted[index..] {
                    sum += u128::from(*cost);
                    let beyond = sum.saturating_sub(capacity.into());
                    // Times are rounded up to whole µs, each by less than one.
                    let span = u128::from(to - from) + 1;
                    let refilled = match ticks {
                        true => span.div_ceil(u128::from(period)) * u128::from(refill),
                        false => (span * u128::from(refill)).div_ceil(u128::from(period)),
                    };
                    prop_assert!(beyond <= refilled, "{} from {} to {}", sum, from, to);
                }
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["waits", "is allowed at once", "refunded"]);
    coverage.at_least(40, &["stays charged"]);
}
