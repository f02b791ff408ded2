//! Which checks are allowed, and the times that a denial reports.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tower_sluice::clock::Timestamp;
use tower_sluice::{Cost, RetryAfter};

use crate::for_all;
use crate::model::{Core, micros, one};
use crate::shapes::{KINDS, WITH_TOTALS, shape};
use crate::traffic::{Operation, operations, spend, start, step, traffic};

#[test]
fn denied_request_is_allowed_at_exactly_retry_after() {
    let coverage = for_all(
        (shape(KINDS, false), start(), traffic(), 0..=3_u64),
        |(shape, start, traffic, reach), coverage| {
            let mut core = Core::of(&[shape]);
            for operation in operations(&shape, start, &traffic, reach) {
                let before = core.clone();
                let reply = core.act(operation);
                let Operation { now, cost, penalty } = operation;
                prop_assert!(!penalty || reply.decision.is_allowed());
                if penalty {
                    continue;
                }
                prop_assert_eq!(reply.receipt.is_some(), reply.decision.is_allowed());
                let never = reply.decision.retry_after() == Some(RetryAfter::Never);
                prop_assert_eq!(never, cost > shape.limit);
                if never || cost == 0 {
                    prop_assert_eq!(&core.states, &before.states);
                }
                match reply.decision.retry_after() {
                    None => coverage.note("allowed"),
                    Some(RetryAfter::Never) => coverage.note("never"),
                    Some(RetryAfter::In(wait)) => {
                        prop_assert_ne!(cost, 0);
                        prop_assert!(wait >= Duration::from_micros(1));
                        let then = now + micros(wait);
                        if then <= Timestamp::MAX.as_micros() {
                            prop_assert!(
                                !core.check_result(then - 1, cost).decision.is_allowed(),
                                "1 µs before {:?}",
                                wait
                            );
                            prop_assert!(
                                core.check_result(then, cost).decision.is_allowed(),
                                "after {:?}",
                                wait
                            );
                            coverage.note(format!("{:?}", shape.kind));
                        }
                        if reach > 1 && core.states != before.states {
                            coverage.note("written by a denial");
                        }
                    }
                }
            }
            Ok(())
        },
    );
    coverage.at_least(
        50,
        &[
            "Bucket",
            "IntervalBucket",
            "FixedWindow",
            "SlidingWindow",
            "SlidingLog",
        ],
    );
    coverage.at_least(5, &["allowed", "never", "written by a denial"]);
}

#[test]
fn denied_checks_change_nothing() {
    let coverage = for_all(
        // The first check creates a bucket that starts below its capacity, even if it is denied.
        (shape(WITH_TOTALS, true), start(), traffic(), 0..=1_u64),
        |(shape, start, traffic, reach), coverage| {
            let (mut all, mut allowed_only) = (Core::of(&[shape]), Core::of(&[shape]));
            for operation in operations(&shape, start, &traffic, reach) {
                let before = all.states.clone();
                let reply = all.act(operation);
                if reply.decision.is_allowed() {
                    prop_assert_eq!(reply, allowed_only.act(operation));
                } else {
                    prop_assert_eq!(&all.states, &before);
                    coverage.note("denied");
                }
                prop_assert_eq!(all.peek(operation.now), allowed_only.peek(operation.now));
            }
            prop_assert_eq!(all.states, allowed_only.states);
            Ok(())
        },
    );
    coverage.at_least(500, &["denied"]);
}

#[test]
fn forgetting_a_key_after_its_reset_changes_no_decision() {
    let coverage = for_all(
        (shape(KINDS, true), start(), traffic()),
        |(shape, start, traffic), coverage| {
            let (mut kept, mut forgotten) = (Core::of(&[shape]), Core::of(&[shape]));
            let mut fresh_from = u64::MAX;
            for operation in operations(&shape, start, &traffic, 0) {
                if operation.now >= fresh_from && forgotten.states[0].take().is_some() {
                    coverage.note(format!("{:?} forgotten", shape.kind));
                }
                let reply = kept.act(operation);
                prop_assert_eq!(&reply.decision, &forgotten.act(operation).decision);
                fresh_from = operation.now + micros(one(&reply).reset_after());
            }
            Ok(())
        },
    );
    for kind in KINDS {
        coverage.at_least(10, &[&format!("{kind:?} forgotten")]);
    }
}

#[test]
fn remaining_tokens_are_allowed_and_one_more_is_denied() {
    let coverage = for_all(
        (shape(WITH_TOTALS, false), start(), traffic(), 0..=3_u64),
        |(shape, start, traffic, reach), coverage| {
            let mut core = Core::of(&[shape]);
            for operation in operations(&shape, start, &traffic, reach) {
                let reply = core.act(operation);
                let remaining = one(&reply).remaining();
                prop_assert!(remaining <= shape.limit);
                prop_assert!(
                    core.check_result(operation.now, remaining)
                        .decision
                        .is_allowed()
                );
                if let Some(more) = remaining.checked_add(1) {
                    prop_assert!(
                        !core.check_result(operation.now, more).decision.is_allowed(),
                        "{} are allowed",
                        more
                    );
                }
                if remaining > 0 && !reply.decision.is_allowed() {
                    coverage.note("denied with some remaining");
                }
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["denied with some remaining"]);
}

#[test]
fn allowed_cost_stays_allowed_later() {
    let coverage = for_all(
        (
            shape(WITH_TOTALS, false),
            start(),
            traffic(),
            vec(step(), 40),
        ),
        |(shape, start, traffic, later), coverage| {
            let mut core = Core::of(&[shape]);
            let mut now = start;
            for operation in operations(&shape, start, &traffic, 0) {
                let _ = core.act(operation);
                now = operation.now;
            }
            let mut allowed = core.peek(now).remaining();
            for step in later {
                now = step.from(now, &shape).min(Timestamp::MAX.as_micros());
                prop_assert!(
                    core.check_result(now, allowed).decision.is_allowed(),
                    "{} in the end",
                    allowed
                );
                let remaining = core.peek(now).remaining();
                if remaining > allowed {
                    coverage.note("recovered");
                }
                allowed = remaining;
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["recovered"]);
}

#[test]
fn quotas_of_one_policy_are_charged_all_or_none() {
    let request = (
        any::<prop::sample::Index>(),
        step(),
        [spend(), spend(), spend()],
    );
    let coverage = for_all(
        (
            vec(shape(WITH_TOTALS, true), 2..=3),
            start(),
            vec(request, 1..50),
        ),
        |(shapes, start, traffic), coverage| {
            let mut together = Core::of(&shapes);
            let mut each: Vec<_> = shapes.iter().map(|shape| Core::of(&[*shape])).collect();
            let mut now = start;
            for (index, step, spends) in traffic {
                now = step
                    .from(now, index.get(&shapes))
                    .min(Timestamp::MAX.as_micros());
                let mut costs = [0; 3];
                for ((cost, spend), shape) in costs.iter_mut().zip(spends).zip(&shapes) {
                    *cost = spend.of(shape.limit);
                }
                let alone: Vec<_> = each
                    .iter()
                    .zip(costs)
                    .map(|(core, cost)| core.check_result(now, cost).decision)
                    .collect();
                let decision = together.check(now, Cost::each(costs)).decision;
                let allowed = alone.iter().all(|decision| decision.is_allowed());
                prop_assert_eq!(decision.is_allowed(), allowed);
                // `Never` is longer than any wait.
                let wait = |retry_after| match retry_after {
                    Some(RetryAfter::Never) => Some(Duration::MAX),
                    Some(RetryAfter::In(wait)) => Some(wait),
                    None => None,
                };
                prop_assert_eq!(
                    wait(decision.retry_after()),
                    alone
                        .iter()
                        .map(|decision| wait(decision.retry_after()))
                        .max()
                        .flatten()
                );
                for ((own, alone), core) in decision
                    .snapshot()
                    .quotas()
                    .iter()
                    .zip(&alone)
                    .zip(&mut each)
                {
                    prop_assert_eq!(own.retry_after(), alone.retry_after());
                    if alone.is_allowed() && !allowed {
                        coverage.note("denied by another");
                        prop_assert_eq!(*own, core.peek(now));
                    } else {
                        prop_assert_eq!(own, &alone.snapshot().quotas()[0]);
                    }
                }
                if allowed {
                    coverage.note("allowed");
                    for (core, cost) in each.iter_mut().zip(costs) {
                        prop_assert!(core.check(now, cost).decision.is_allowed());
                    }
                }
                let states: Vec<_> = each.iter().map(|core| core.states[0].clone()).collect();
                prop_assert_eq!(&together.states, &states);
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["allowed", "denied by another"]);
}
