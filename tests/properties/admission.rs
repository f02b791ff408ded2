//! How much each algorithm admits in a span of time.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tower_sluice::quota::Anchor;

use crate::for_all;
use crate::model::Core;
#[cfg(feature = "calendar")]
use crate::model::{micros, one};
use crate::property::Coverage;
use crate::shapes::{Kind, Shape, shape};
use crate::traffic::{Event, Operation, operations, start, traffic};

/// The admitted tokens, and the time at which they took effect.
struct Charge {
    at: u64,
    cost: u128,
}

/// Runs the traffic without penalties. If the clock lags, a charge takes effect at the latest time so far.
fn charges(
    shape: &Shape,
    start: u64,
    traffic: &[Event],
    reach: u64,
    coverage: &Coverage,
) -> Vec<Charge> {
    let (mut core, mut charges, mut latest) = (Core::of(&[*shape]), Vec::new(), 0);
    for Operation { now, cost, .. } in operations(shape, start, traffic, reach) {
        if core.check(now, cost).decision.is_allowed() {
            if cost > 0 {
                latest = now.max(latest);
                charges.push(Charge {
                    at: latest,
                    cost: cost.into(),
                });
            }
        } else {
            coverage.note("denied");
        }
    }
    charges
}

/// Every span from one charge to another, both included: its ends, and the tokens charged in it.
fn spans(charges: &[Charge]) -> impl Iterator<Item = (&Charge, &Charge, u128)> {
    charges.iter().enumerate().flat_map(move |(index, first)| {
        let mut sum = 0;
        charges[index..].iter().map(move |last| {
            sum += last.cost;
            (first, last, sum)
        })
    })
}

#[test]
fn token_bucket_admits_at_most_capacity_plus_rate_in_every_span() {
    let coverage = for_all(
        (shape(&[Kind::Bucket], false), start(), traffic(), 0..=1_u64),
        |(shape, start, traffic, reach), coverage| {
            for (first, last, sum) in spans(&charges(&shape, start, &traffic, reach, coverage)) {
                // sum <= capacity + refill / period × span, without a fraction
                let beyond = sum.saturating_sub(shape.limit.into()) * u128::from(shape.span);
                let refilled = u128::from(shape.refill) * u128::from(last.at - first.at);
                prop_assert!(
                    beyond <= refilled,
                    "{} from {} to {}",
                    sum,
                    first.at,
                    last.at
                );
                if beyond > 0 {
                    coverage.note("more than a burst");
                }
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["denied", "more than a burst"]);
}

#[test]
fn interval_bucket_admits_at_most_capacity_plus_ticks_in_every_span() {
    let coverage = for_all(
        (shape(&[Kind::IntervalBucket], true), start(), traffic()),
        |(shape, start, traffic), coverage| {
            // Ticks are counted beside the bucket: its clock starts when a charge takes it below its capacity.
            let (mut core, mut charges) = (Core::of(&[shape]), Vec::<(u64, Charge)>::new());
            let (mut ticks, mut running_since) = (0_u64, None::<i128>);
            for Operation { now, cost, .. } in operations(&shape, start, &traffic, 0) {
                if let Some(since) = &mut running_since {
                    let ended = (i128::from(now) - *since).div_euclid(i128::from(shape.span));
                    ticks += u64::try_from(ended).expect("the clock advances");
                    *since += ended * i128::from(shape.span);
                }
                let full = core.peek(now).reset_after().is_zero();
                if !core.check(now, cost).decision.is_allowed() {
                    coverage.note("denied");
                } else if cost > 0 {
                    if full {
                        running_since = Some(match shape.anchor {
                            Anchor::FirstUse => now.into(),
                            _ => shape.aligned_start(now),
                        });
                    }
                    charges.push((
                        ticks,
                        Charge {
                            at: now,
                            cost: cost.into(),
                        },
                    ));
                }
            }
            for (index, (ticks_before, first)) in charges.iter().enumerate() {
                let mut sum = 0;
                for (ticks, last) in &charges[index..] {
                    sum += last.cost;
                    let most = u128::from(shape.limit)
                        + u128::from(shape.refill) * u128::from(ticks - ticks_before);
                    prop_assert!(
                        sum <= most,
                        "{} of {} from {} to {}",
                        sum,
                        most,
                        first.at,
                        last.at
                    );
                    if sum > shape.limit.into() {
                        coverage.note("more than a burst");
                    }
                }
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["denied", "more than a burst"]);
}

#[test]
fn fixed_window_admits_exactly_its_limit_per_window() {
    let coverage = for_all(
        (shape(&[Kind::FixedWindow], true), start(), traffic()),
        |(shape, start, traffic), coverage| {
            let (mut core, mut window, mut used) = (Core::of(&[shape]), i128::MIN, 0);
            for Operation { now, cost, .. } in operations(&shape, start, &traffic, 0) {
                let began = match shape.anchor {
                    Anchor::FirstUse
                        if used > 0 && i128::from(now) < window + i128::from(shape.span) =>
                    {
                        window
                    }
                    Anchor::FirstUse => now.into(),
                    _ => shape.aligned_start(now),
                };
                if began != window {
                    (window, used) = (began, 0);
                }
                let fits = u128::from(cost) + used <= shape.limit.into();
                prop_assert_eq!(
                    core.check(now, cost).decision.is_allowed(),
                    fits || cost == 0
                );
                used += if fits { cost.into() } else { 0 };
                coverage.note(if fits { "allowed" } else { "denied" });
            }
            Ok(())
        },
    );
    coverage.at_least(500, &["allowed", "denied"]);
}

/// The end of a window is what its first charge reports.
#[cfg(feature = "calendar")]
#[test]
fn calendar_window_admits_exactly_its_limit_per_window() {
    let coverage = for_all(
        (shape(&[Kind::Calendar], true), start(), traffic()),
        |(shape, start, traffic), coverage| {
            let (mut core, mut end, mut used) = (Core::of(&[shape]), 0, 0);
            for Operation { now, cost, .. } in operations(&shape, start, &traffic, 0) {
                if now >= end {
                    used = 0;
                }
                let fits = cost.saturating_add(used) <= shape.limit;
                let reply = core.check(now, cost);
                prop_assert_eq!(reply.decision.is_allowed(), fits || cost == 0);
                if fits && cost > 0 {
                    used += cost;
                    let ends = now + micros(one(&reply).reset_after());
                    prop_assert!(
                        now >= end || ends == end,
                        "the end moved by {}",
                        ends.abs_diff(end)
                    );
                    prop_assert!(ends > now && ends - now <= 33 * 86_400_000_000);
                    coverage.note(if now >= end {
                        "a new window"
                    } else {
                        "the same window"
                    });
                    end = ends;
                }
                coverage.note(if fits { "allowed" } else { "denied" });
            }
            Ok(())
        },
    );
    coverage.at_least(
        200,
        &["allowed", "denied", "a new window", "the same window"],
    );
}

#[test]
fn sliding_log_admits_at_most_its_limit_in_every_window() {
    let coverage = for_all(
        (
            shape(&[Kind::SlidingLog], true),
            start(),
            traffic(),
            0..=1_u64,
        ),
        |(shape, start, traffic, reach), coverage| {
            for (first, last, sum) in spans(&charges(&shape, start, &traffic, reach, coverage)) {
                let within = last.at - first.at < shape.span;
                prop_assert!(
                    !within || sum <= shape.limit.into(),
                    "{} from {} to {}",
                    sum,
                    first.at,
                    last.at
                );
                if within && sum == shape.limit.into() {
                    coverage.note("a full window");
                }
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["denied", "a full window"]);
}

#[test]
fn sliding_log_denies_only_above_its_limit() {
    for_all(
        (shape(&[Kind::SlidingLog], true), start(), traffic()),
        |(shape, start, traffic), _| {
            let (mut core, mut charges) = (Core::of(&[shape]), Vec::<(u64, u64)>::new());
            for Operation { now, cost, .. } in operations(&shape, start, &traffic, 0) {
                let counting = charges.iter().filter(|(at, _)| now - at < shape.span);
                let sum = counting
                    .map(|(_, cost)| cost)
                    .sum::<u64>()
                    .saturating_add(cost);
                let fits = cost == 0 || sum <= shape.limit;
                prop_assert_eq!(core.check(now, cost).decision.is_allowed(), fits);
                if fits {
                    charges.push((now, cost));
                }
            }
            Ok(())
        },
    );
}

#[test]
fn the_estimate_of_a_counter_never_exceeds_its_limit() {
    let coverage = for_all(
        (shape(&[Kind::SlidingWindow], true), start(), traffic()),
        |(shape, start, traffic), coverage| {
            let (mut core, mut counts) = (Core::of(&[shape]), BTreeMap::<u64, u128>::new());
            let (span, limit) = (u128::from(shape.span), u128::from(shape.limit));
            for Operation { now, cost, .. } in operations(&shape, start, &traffic, 0) {
                let (window, into) = (now / shape.span, u128::from(now % shape.span));
                let count = |window: u64| counts.get(&window).copied().unwrap_or(0);
                let before = window.checked_sub(1).map_or(0, count);
                // The estimate times the window, with this request.
                let estimate = before * (span - into) + (count(window) + u128::from(cost)) * span;
                let fits = estimate <= limit * span;
                let allowed = core.check(now, cost).decision.is_allowed();
                prop_assert!(
                    !allowed || fits || cost == 0,
                    "an estimate of {}",
                    estimate / span
                );
                // A weight that falls in steps of more than 1 µs admits less.
                if limit * span <= 1 << 51 {
                    prop_assert_eq!(allowed, fits || cost == 0);
                }
                if allowed {
                    *counts.entry(window).or_default() += u128::from(cost);
                } else {
                    coverage.note("denied");
                }
                if before > 0 && allowed && cost > 0 {
                    coverage.note("allowed beside a carried count");
                }
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["denied", "allowed beside a carried count"]);
}
