//! Promises that hold for every quota and all traffic, tried with random ones of both.
//!
//! Each property counts what it met, and fails if the interesting cases did not occur: a property of denials proves
//! nothing where nobody is denied. `PROPTEST_CASES` sets how many cases each one tries.

#[path = "support/property.rs"]
mod property;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult};
use tower_sluice::algorithm::{self, State};
use tower_sluice::backend::Reply;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::decision::{QuotaSnapshot, Receipt};
use tower_sluice::quota::Anchor;
use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Quota, Reservation, RetryAfter};

use crate::property::{Seen, try_all};

/// A time in the year 2027, µs.
const TODAY: u64 = 1_800_000_000_000_000;

/// The longest time to fill, and the longest window, µs.
const LONGEST: u64 = 1 << 52;

// -- Running a property

fn for_all<S>(strategy: S, property: impl Fn(S::Value, &Seen) -> TestCaseResult) -> Seen
where
    S: Strategy,
    S::Value: Debug,
{
    let seeds = "tests/properties.proptest-regressions";
    try_all(seeds, Config::default().cases, strategy, property)
}

// -- Quotas

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bucket,
    IntervalBucket,
    FixedWindow,
    SlidingWindow,
    SlidingLog,
}

const KINDS: [Kind; 5] = [
    Kind::Bucket,
    Kind::IntervalBucket,
    Kind::FixedWindow,
    Kind::SlidingWindow,
    Kind::SlidingLog,
];

/// The numbers of a quota, for models of their own.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kind: Kind,
    limit: u64,
    refill: u64,
    /// Period or window, µs.
    span: u64,
    initial: u64,
    anchor: Anchor,
}

impl Shape {
    fn try_quota(&self) -> Option<Quota> {
        let span = Duration::from_micros(self.span);
        let &Self {
            limit,
            refill,
            initial,
            anchor,
            ..
        } = self;
        match self.kind {
            Kind::Bucket => Quota::try_token_bucket(limit, refill, span)
                .map(|quota| quota.initial_tokens(initial)),
            Kind::IntervalBucket => Quota::try_interval_bucket(limit, refill, span)
                .map(|quota| quota.initial_tokens(initial).anchor(anchor)),
            Kind::FixedWindow => {
                Quota::try_fixed_window(limit, span).map(|quota| quota.anchor(anchor))
            }
            Kind::SlidingWindow => Quota::try_sliding_window(limit, span),
            Kind::SlidingLog => Quota::try_sliding_log(limit, span),
        }
        .ok()
    }

    fn quota(&self) -> Quota {
        self.try_quota()
            .expect("strategies yield valid shapes only")
    }

    /// Time to fill, or the window: µs.
    fn horizon(&self) -> u64 {
        match self.kind {
            Kind::Bucket => {
                let (per_micro, per_token) = self.quota().grains().expect("a bucket");
                (self.limit * per_token).div_ceil(per_micro)
            }
            Kind::IntervalBucket => self.limit.div_ceil(self.refill) * self.span,
            _ => self.span,
        }
    }

    /// The start of the epoch-aligned window, or interval, that holds `now`.
    fn aligned_start(&self, now: u64) -> i128 {
        let Anchor::Epoch { offset } = self.anchor else {
            panic!("not aligned")
        };
        let (now, span) = (i128::from(now), i128::from(self.span));
        let offset = i128::try_from(offset.as_micros()).expect("fits");
        (now - offset).div_euclid(span) * span + offset
    }

    /// Where each span after the first begins again: the epoch, unless an offset moves it.
    fn next_edge(&self, now: u64) -> u64 {
        let start = match self.anchor {
            Anchor::Epoch { .. }
                if matches!(self.kind, Kind::FixedWindow | Kind::IntervalBucket) =>
            {
                self.aligned_start(now)
            }
            _ => i128::from(now - now % self.span),
        };
        u64::try_from(start + i128::from(self.span)).expect("after the epoch")
    }
}

/// Fractions and edges occur with small odd numbers; some spans are days.
fn small_shape(kinds: &'static [Kind], full: bool) -> impl Strategy<Value = Shape> {
    let span = prop_oneof![
        2 => 1..=20_u64,
        3 => 1..=5_000_u64,
        1 => 1..=(3 * 86_400_000_000_u64),
    ];
    let offset = prop_oneof![1 => Just(None), 2 => (0..1_000_u64).prop_map(Some)];
    let parts = (
        proptest::sample::select(kinds),
        1..=20_u64,
        1..=20_u64,
        span,
        prop_oneof![Just(u64::MAX), 0..=20_u64],
        offset,
    );
    parts.prop_map(move |(kind, limit, refill, span, initial, offset)| Shape {
        kind,
        limit,
        refill,
        span,
        initial: if full { limit } else { initial.min(limit) },
        anchor: offset.map_or(Anchor::FirstUse, |part| Anchor::Epoch {
            offset: Duration::from_micros(span * part / 500),
        }),
    })
}

/// The most tokens of a quota.
const MOST: u64 = 1 << 40;

/// Numbers near the ends of their ranges.
fn huge_shape(kinds: &'static [Kind], full: bool) -> impl Strategy<Value = Shape> {
    let count = || {
        prop_oneof![
            Just(1),
            Just(MOST),
            (MOST - 9)..=MOST,
            65_530..=65_535_u64,
            1..=MOST
        ]
    };
    let span = prop_oneof![
        Just(1_u64),
        Just(LONGEST),
        (LONGEST - 9)..=LONGEST,
        (0..=52_u64).prop_map(|bits| 1 << bits),
        1..=LONGEST,
        Just(86_400_000_000)
    ];
    let parts = (
        proptest::sample::select(kinds),
        count(),
        count(),
        span,
        count(),
        any::<Option<u64>>(),
    );
    parts.prop_filter_map(
        "more than 142 years",
        move |(kind, limit, refill, span, initial, offset)| {
            let limit = if kind == Kind::SlidingLog {
                limit.min(65_535)
            } else {
                limit
            };
            let shape = Shape {
                kind,
                limit,
                refill,
                span,
                initial: if full { limit } else { initial.min(limit) },
                anchor: offset.map_or(Anchor::FirstUse, |offset| Anchor::Epoch {
                    offset: Duration::from_micros(offset % span),
                }),
            };
            shape.try_quota().map(|_| shape)
        },
    )
}

fn shape(kinds: &'static [Kind], full: bool) -> impl Strategy<Value = Shape> {
    prop_oneof![9 => small_shape(kinds, full), 1 => huge_shape(kinds, full)]
}

// -- Traffic

/// How far the clock moves on, in terms of the quota.
#[derive(Clone, Copy, Debug)]
enum Step {
    Micros(u64),
    /// So many thousandths of the horizon.
    Part(u64),
    /// The horizon, and a few µs.
    Horizon(i64),
    /// The next edge of a window or interval, and a few µs.
    Edge(i64),
}

#[derive(Clone, Copy, Debug)]
enum Spend {
    Tokens(u64),
    /// So many 255ths of the limit.
    Part(u64),
    /// More than the limit, if there is more.
    TooMuch(u64),
}

#[derive(Clone, Copy, Debug)]
struct Event {
    step: Step,
    spend: Spend,
    /// How far this one's clock lags behind, in 255ths of the reach.
    back: u64,
    penalty: bool,
}

impl Step {
    fn from(self, now: u64, shape: &Shape) -> u64 {
        let plus = |time: u64, few: i64| time.saturating_add_signed(few).max(now);
        match self {
            Self::Micros(micros) => now + micros,
            Self::Part(part) => {
                now + u64::try_from(u128::from(shape.horizon()) * u128::from(part) / 1_000)
                    .expect("fits")
            }
            Self::Horizon(few) => plus(now + shape.horizon(), few),
            Self::Edge(few) => plus(shape.next_edge(now), few),
        }
    }
}

impl Spend {
    fn of(self, limit: u64) -> u64 {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Part(part) => limit * part / 255,
            Self::TooMuch(tokens) => limit.saturating_add(tokens),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Micros(0)),
        3 => (1..=5_u64).prop_map(Step::Micros),
        6 => (0..=150_u64).prop_map(Step::Part),
        2 => (-1..=1_i64).prop_map(Step::Edge),
        1 => (-1..=1_i64).prop_map(Step::Horizon),
    ]
}

fn spend() -> impl Strategy<Value = Spend> {
    prop_oneof![
        8 => (0..=3_u64).prop_map(Spend::Tokens),
        8 => (0..=255_u64).prop_map(Spend::Part),
        1 => prop_oneof![1..=3_u64, Just(u64::MAX)].prop_map(Spend::TooMuch),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let back = prop_oneof![4 => Just(0_u64), 2 => 0..=255_u64, 1 => Just(255)];
    (step(), spend(), back, proptest::bool::weighted(0.08)).prop_map(
        |(step, spend, back, penalty)| Event {
            step,
            spend,
            back,
            penalty,
        },
    )
}

fn traffic() -> impl Strategy<Value = Vec<Event>> {
    vec(event(), 1..60)
}

fn start() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_000_u64, TODAY..(TODAY + 86_400_000_000)]
}

/// Something asked, at a time.
#[derive(Clone, Copy, Debug)]
struct Ask {
    now: u64,
    cost: u64,
    penalty: bool,
}

/// The traffic as times and costs; the clock lags by up to `reach` horizons behind the latest time there was.
fn asks(shape: &Shape, start: u64, traffic: &[Event], reach: u64) -> Vec<Ask> {
    let mut latest = start;
    let ask = |event: &Event| {
        latest = event
            .step
            .from(latest, shape)
            .min(Timestamp::MAX.as_micros());
        let lag = u128::from(shape.horizon()) * u128::from(reach * event.back) / 255;
        Ask {
            now: latest.saturating_sub(u64::try_from(lag).expect("fits")),
            cost: event.spend.of(shape.limit),
            penalty: event.penalty,
        }
    };
    traffic.iter().map(ask).collect()
}

// -- The core

#[derive(Clone)]
struct Core {
    policy: Policy,
    states: Vec<Option<State>>,
}

impl Core {
    fn of(shapes: &[Shape]) -> Self {
        let named = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| (format!("quota {index}"), shape.quota()));
        Self {
            policy: Policy::try_from_quotas("properties", named).expect("1 to 8 quotas"),
            states: vec![None; shapes.len()],
        }
    }

    fn check(&mut self, now: u64, cost: impl Into<Cost>) -> Reply {
        algorithm::check(
            &self.policy,
            &mut self.states,
            Timestamp::from_micros(now),
            cost.into(),
        )
    }

    fn penalize(&mut self, now: u64, cost: u64) -> Reply {
        let now = Timestamp::from_micros(now);
        algorithm::penalize(&self.policy, &mut self.states, now, Cost::new(cost))
    }

    fn refund(&mut self, now: u64, receipt: &Receipt) -> QuotaSnapshot {
        let now = Timestamp::from_micros(now);
        one(&algorithm::refund(
            &self.policy,
            &mut self.states,
            now,
            receipt,
        ))
    }

    fn reset(&mut self, now: u64) -> QuotaSnapshot {
        let now = Timestamp::from_micros(now);
        one(&algorithm::reset(&self.policy, &mut self.states, now))
    }

    fn act(&mut self, ask: Ask) -> Reply {
        if ask.penalty {
            self.penalize(ask.now, ask.cost)
        } else {
            self.check(ask.now, ask.cost)
        }
    }

    /// What the same request would be answered, without asking it.
    fn would(&self, now: u64, cost: impl Into<Cost>) -> Reply {
        self.clone().check(now, cost)
    }

    fn peek(&self, now: u64) -> QuotaSnapshot {
        one(&self.would(now, 0))
    }
}

fn one(reply: &Reply) -> QuotaSnapshot {
    reply.decision.snapshot().quotas()[0]
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("fits")
}

// -- The properties

#[test]
fn denied_request_is_allowed_at_exactly_retry_after() {
    let seen = for_all(
        (shape(&KINDS, false), start(), traffic(), 0..=3_u64),
        |(shape, start, traffic, reach), seen| {
            let mut core = Core::of(&[shape]);
            for ask in asks(&shape, start, &traffic, reach) {
                let before = core.clone();
                let reply = core.act(ask);
                let Ask { now, cost, penalty } = ask;
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
                    None => seen.note("allowed"),
                    Some(RetryAfter::Never) => seen.note("never"),
                    Some(RetryAfter::In(wait)) => {
                        prop_assert_ne!(cost, 0);
                        prop_assert!(wait >= Duration::from_micros(1));
                        let then = now + micros(wait);
                        if then <= Timestamp::MAX.as_micros() {
                            prop_assert!(
                                !core.would(then - 1, cost).decision.is_allowed(),
                                "1 µs before {:?}",
                                wait
                            );
                            prop_assert!(
                                core.would(then, cost).decision.is_allowed(),
                                "after {:?}",
                                wait
                            );
                            seen.note(format!("{:?}", shape.kind));
                        }
                        if reach > 1 && core.states != before.states {
                            seen.note("written down by a refusal");
                        }
                    }
                }
            }
            Ok(())
        },
    );
    seen.at_least(
        50,
        &[
            "Bucket",
            "IntervalBucket",
            "FixedWindow",
            "SlidingWindow",
            "SlidingLog",
        ],
    );
    seen.at_least(5, &["allowed", "never", "written down by a refusal"]);
}

#[test]
fn denied_checks_change_nothing() {
    let seen = for_all(
        // A bucket that starts below its capacity is created by its first check, even a denied one.
        (shape(&KINDS, true), start(), traffic(), 0..=1_u64),
        |(shape, start, traffic, reach), seen| {
            let (mut all, mut allowed_only) = (Core::of(&[shape]), Core::of(&[shape]));
            for ask in asks(&shape, start, &traffic, reach) {
                let before = all.states.clone();
                let reply = all.act(ask);
                if reply.decision.is_allowed() {
                    prop_assert_eq!(reply, allowed_only.act(ask));
                } else {
                    prop_assert_eq!(&all.states, &before);
                    seen.note("refused");
                }
                prop_assert_eq!(all.peek(ask.now), allowed_only.peek(ask.now));
            }
            prop_assert_eq!(all.states, allowed_only.states);
            Ok(())
        },
    );
    seen.at_least(500, &["refused"]);
}

/// What was admitted, and when it took effect.
struct Charge {
    at: u64,
    cost: u128,
}

/// Runs the traffic without penalties. Where the clock lags, a charge takes effect at the time of the latest one.
fn charges(shape: &Shape, start: u64, traffic: &[Event], reach: u64, seen: &Seen) -> Vec<Charge> {
    let (mut core, mut charges, mut latest) = (Core::of(&[*shape]), Vec::new(), 0);
    for Ask { now, cost, .. } in asks(shape, start, traffic, reach) {
        if core.check(now, cost).decision.is_allowed() {
            if cost > 0 {
                latest = now.max(latest);
                charges.push(Charge {
                    at: latest,
                    cost: cost.into(),
                });
            }
        } else {
            seen.note("refused");
        }
    }
    charges
}

/// Every span from one charge to another, both included: its ends and what was charged in it.
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
    let seen = for_all(
        (shape(&[Kind::Bucket], false), start(), traffic(), 0..=1_u64),
        |(shape, start, traffic, reach), seen| {
            for (first, last, sum) in spans(&charges(&shape, start, &traffic, reach, seen)) {
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
                    seen.note("more than a burst");
                }
            }
            Ok(())
        },
    );
    seen.at_least(100, &["refused", "more than a burst"]);
}

#[test]
fn an_interval_bucket_admits_at_most_its_capacity_and_what_ticks_brought_in_every_span() {
    let seen = for_all(
        (shape(&[Kind::IntervalBucket], true), start(), traffic()),
        |(shape, start, traffic), seen| {
            // Ticks are counted beside the bucket: its clock starts when a charge leaves full.
            let (mut core, mut charges) = (Core::of(&[shape]), Vec::<(u64, Charge)>::new());
            let (mut ticks, mut running_since) = (0_u64, None::<i128>);
            for Ask { now, cost, .. } in asks(&shape, start, &traffic, 0) {
                if let Some(since) = &mut running_since {
                    let ended = (i128::from(now) - *since).div_euclid(i128::from(shape.span));
                    ticks += u64::try_from(ended).expect("time goes on");
                    *since += ended * i128::from(shape.span);
                }
                let full = core.peek(now).reset_after().is_zero();
                if !core.check(now, cost).decision.is_allowed() {
                    seen.note("refused");
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
                        seen.note("more than a burst");
                    }
                }
            }
            Ok(())
        },
    );
    seen.at_least(100, &["refused", "more than a burst"]);
}

#[test]
fn fixed_window_admits_exactly_its_limit_per_window() {
    let seen = for_all(
        (shape(&[Kind::FixedWindow], true), start(), traffic()),
        |(shape, start, traffic), seen| {
            let (mut core, mut window, mut used) = (Core::of(&[shape]), i128::MIN, 0);
            for Ask { now, cost, .. } in asks(&shape, start, &traffic, 0) {
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
                seen.note(if fits { "allowed" } else { "refused" });
            }
            Ok(())
        },
    );
    seen.at_least(500, &["allowed", "refused"]);
}

#[test]
fn sliding_log_admits_at_most_its_limit_in_every_window() {
    let seen = for_all(
        (
            shape(&[Kind::SlidingLog], true),
            start(),
            traffic(),
            0..=1_u64,
        ),
        |(shape, start, traffic, reach), seen| {
            for (first, last, sum) in spans(&charges(&shape, start, &traffic, reach, seen)) {
                let within = last.at - first.at < shape.span;
                prop_assert!(
                    !within || sum <= shape.limit.into(),
                    "{} from {} to {}",
                    sum,
                    first.at,
                    last.at
                );
                if within && sum == shape.limit.into() {
                    seen.note("a full window");
                }
            }
            Ok(())
        },
    );
    seen.at_least(100, &["refused", "a full window"]);
}

#[test]
fn sliding_log_denies_only_above_its_limit() {
    for_all(
        (shape(&[Kind::SlidingLog], true), start(), traffic()),
        |(shape, start, traffic), _| {
            let (mut core, mut charges) = (Core::of(&[shape]), Vec::<(u64, u64)>::new());
            for Ask { now, cost, .. } in asks(&shape, start, &traffic, 0) {
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
    let seen = for_all(
        (shape(&[Kind::SlidingWindow], true), start(), traffic()),
        |(shape, start, traffic), seen| {
            let (mut core, mut counts) = (Core::of(&[shape]), BTreeMap::<u64, u128>::new());
            let (span, limit) = (u128::from(shape.span), u128::from(shape.limit));
            for Ask { now, cost, .. } in asks(&shape, start, &traffic, 0) {
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
                    seen.note("refused");
                }
                if before > 0 && allowed && cost > 0 {
                    seen.note("allowed beside a carried count");
                }
            }
            Ok(())
        },
    );
    seen.at_least(100, &["refused", "allowed beside a carried count"]);
}

#[test]
fn forgetting_a_key_when_its_reset_has_passed_changes_no_later_answer() {
    let seen = for_all(
        (shape(&KINDS, true), start(), traffic()),
        |(shape, start, traffic), seen| {
            let (mut kept, mut forgotten) = (Core::of(&[shape]), Core::of(&[shape]));
            let mut fresh_from = u64::MAX;
            for ask in asks(&shape, start, &traffic, 0) {
                if ask.now >= fresh_from && forgotten.states[0].take().is_some() {
                    seen.note(format!("{:?} forgotten", shape.kind));
                }
                let reply = kept.act(ask);
                prop_assert_eq!(&reply.decision, &forgotten.act(ask).decision);
                fresh_from = ask.now + micros(one(&reply).reset_after());
            }
            Ok(())
        },
    );
    for kind in KINDS {
        seen.at_least(10, &[&format!("{kind:?} forgotten")]);
    }
}

/// The generic cell rate algorithm: nothing is kept but the time at which the next cell is due. Times and costs are in
/// fractions of `1 / refill` µs, in which the emission interval is `period`.
struct Gcra {
    due: i128,
    interval: i128,
    refill: i128,
    capacity: i128,
}

impl Gcra {
    fn of(shape: &Shape) -> Self {
        Self {
            due: 0,
            interval: shape.span.into(),
            refill: shape.refill.into(),
            capacity: shape.limit.into(),
        }
    }

    /// Allowed, remaining, retry after and reset after in µs.
    fn ask(&mut self, ask: Ask) -> (bool, i128, Option<Option<i128>>, i128) {
        let (now, cost) = (i128::from(ask.now) * self.refill, i128::from(ask.cost));
        let up = |time: i128| {
            time.div_euclid(self.refill) + i128::from(time.rem_euclid(self.refill) > 0)
        };
        let tolerance = self.capacity * self.interval;
        let due = self.due.max(now);
        let after = due + cost * self.interval;
        let mut retry_after = None;
        if cost == 0 {
        } else if ask.penalty {
            self.due = due.max(after.min(now + 2 * tolerance));
        } else if cost > self.capacity {
            retry_after = Some(None);
        } else if after - now > tolerance {
            retry_after = Some(Some(up(after - now - tolerance)));
        } else {
            self.due = after;
        }
        let owed = self.due.max(now) - now;
        let remaining = (tolerance - owed).max(0) / self.interval;
        (retry_after.is_none(), remaining, retry_after, up(owed))
    }
}

#[test]
fn a_token_bucket_is_gcra() {
    let seen = for_all(
        (small_shape(&[Kind::Bucket], true), start(), traffic()),
        |(shape, start, traffic), seen| {
            let (mut core, mut gcra) = (Core::of(&[shape]), Gcra::of(&shape));
            for ask in asks(&shape, start, &traffic, 0) {
                let reply = core.act(ask);
                let own = one(&reply);
                let retry_after = reply.decision.retry_after().map(|retry| match retry {
                    RetryAfter::In(wait) => Some(i128::from(micros(wait))),
                    RetryAfter::Never => None,
                });
                let bucket = (
                    reply.decision.is_allowed(),
                    i128::from(own.remaining()),
                    retry_after,
                    i128::from(micros(own.reset_after())),
                );
                prop_assert_eq!(bucket, gcra.ask(ask));
                seen.note(if bucket.0 { "allowed" } else { "refused" });
            }
            Ok(())
        },
    );
    seen.at_least(500, &["allowed", "refused"]);
}

#[test]
fn remaining_tokens_are_allowed_and_one_more_is_denied() {
    let seen = for_all(
        (shape(&KINDS, false), start(), traffic(), 0..=3_u64),
        |(shape, start, traffic, reach), seen| {
            let mut core = Core::of(&[shape]);
            for ask in asks(&shape, start, &traffic, reach) {
                let reply = core.act(ask);
                let remaining = one(&reply).remaining();
                prop_assert!(remaining <= shape.limit);
                prop_assert!(core.would(ask.now, remaining).decision.is_allowed());
                if let Some(more) = remaining.checked_add(1) {
                    prop_assert!(
                        !core.would(ask.now, more).decision.is_allowed(),
                        "{} are allowed",
                        more
                    );
                }
                if remaining > 0 && !reply.decision.is_allowed() {
                    seen.note("refused with some remaining");
                }
            }
            Ok(())
        },
    );
    seen.at_least(100, &["refused with some remaining"]);
}

#[test]
fn allowed_cost_stays_allowed_later() {
    let seen = for_all(
        (shape(&KINDS, false), start(), traffic(), vec(step(), 40)),
        |(shape, start, traffic, later), seen| {
            let mut core = Core::of(&[shape]);
            let mut now = start;
            for ask in asks(&shape, start, &traffic, 0) {
                let _ = core.act(ask);
                now = ask.now;
            }
            let mut allowed = core.peek(now).remaining();
            for step in later {
                now = step.from(now, &shape).min(Timestamp::MAX.as_micros());
                prop_assert!(
                    core.would(now, allowed).decision.is_allowed(),
                    "{} after all",
                    allowed
                );
                let remaining = core.peek(now).remaining();
                if remaining > allowed {
                    seen.note("recovered");
                }
                allowed = remaining;
            }
            Ok(())
        },
    );
    seen.at_least(100, &["recovered"]);
}

#[test]
fn quotas_of_one_policy_are_charged_all_or_none() {
    let asked = (
        any::<prop::sample::Index>(),
        step(),
        [spend(), spend(), spend()],
    );
    let seen = for_all(
        (vec(shape(&KINDS, true), 2..=3), start(), vec(asked, 1..50)),
        |(shapes, start, traffic), seen| {
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
                    .map(|(core, cost)| core.would(now, cost).decision)
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
                        seen.note("refused by another");
                        prop_assert_eq!(*own, core.peek(now));
                    } else {
                        prop_assert_eq!(own, &alone.snapshot().quotas()[0]);
                    }
                }
                if allowed {
                    seen.note("allowed");
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
    seen.at_least(100, &["allowed", "refused by another"]);
}

#[test]
fn immediate_refund_restores_the_state() {
    let seen = for_all(
        (shape(&KINDS, false), start(), traffic(), spend(), 0..=3_u64),
        |(shape, start, traffic, spend, reach), seen| {
            let mut core = Core::of(&[shape]);
            for ask in asks(&shape, start, &traffic, reach) {
                let _ = core.act(ask);
                let before = core.peek(ask.now);
                if let Some(mut receipt) = core.check(ask.now, spend.of(shape.limit)).receipt {
                    let taken = receipt.take(Cost::new(u64::MAX));
                    prop_assert_eq!(
                        (taken.tokens(), receipt.tokens()),
                        (spend.of(shape.limit), 0)
                    );
                    prop_assert_eq!(core.refund(ask.now, &taken), before);
                    prop_assert_eq!(core.peek(ask.now), before);
                    seen.note("refunded");
                }
            }
            Ok(())
        },
    );
    seen.at_least(500, &["refunded"]);
}

#[test]
fn refunds_return_at_most_the_charge_once() {
    let refund = (any::<prop::sample::Index>(), 0..=5_u64);
    let seen = for_all(
        (shape(&KINDS, false), start(), traffic(), vec(refund, 60)),
        |(shape, start, traffic, refunds), seen| {
            let (mut core, mut receipts) = (Core::of(&[shape]), Vec::new());
            for (ask, (index, tokens)) in asks(&shape, start, &traffic, 3).into_iter().zip(refunds)
            {
                receipts.extend(core.act(ask).receipt);
                if receipts.is_empty() {
                    continue;
                }
                let receipt: &mut Receipt = index.get_mut(&mut receipts);
                let (before, worth) = (core.peek(ask.now), receipt.tokens());
                let taken = receipt.take(Cost::new(tokens));
                prop_assert_eq!(taken.tokens(), tokens.min(worth));
                prop_assert_eq!(receipt.tokens(), worth - taken.tokens());
                let unseen = core.states[0].is_none();
                let after = core.refund(ask.now, &taken);
                prop_assert_eq!(unseen, core.states[0].is_none());
                prop_assert!(after.remaining() <= shape.limit);
                prop_assert!(after.remaining() >= before.remaining());
                // A fraction that the clock has paid counts for less than a token.
                prop_assert!(after.remaining() <= before.remaining() + taken.tokens() + 1);
                if after.remaining() > before.remaining() {
                    seen.note("given back");
                }
                if worth > 0 && receipt.tokens() == 0 {
                    let spent = core.clone();
                    let nothing = receipt.take(Cost::new(u64::MAX));
                    prop_assert_eq!(nothing.tokens(), 0);
                    core.refund(ask.now, &nothing);
                    prop_assert_eq!(&core.states, &spent.states);
                    seen.note("asked twice");
                }
            }
            Ok(())
        },
    );
    seen.at_least(100, &["given back", "asked twice"]);
}

#[test]
fn penalties_are_capped_at_twice_the_limit() {
    let seen = for_all(
        (shape(&KINDS, false), start(), traffic()),
        |(shape, start, traffic), seen| {
            let mut core = Core::of(&[shape]);
            for ask in asks(&shape, start, &traffic, 0) {
                let before = core.peek(ask.now);
                let after = one(&core.penalize(ask.now, ask.cost));
                prop_assert!(after.remaining() <= before.remaining());
                prop_assert!(after.reset_after() >= before.reset_after());
                let bound = 2 * u128::from(shape.horizon());
                if let Some(RetryAfter::In(wait)) =
                    core.would(ask.now, shape.limit).decision.retry_after()
                {
                    prop_assert!(wait.as_micros() <= bound, "{:?}", wait);
                    if wait.as_micros() > bound / 2 {
                        seen.note("more than once the time to recover");
                    }
                }
            }
            Ok(())
        },
    );
    seen.at_least(50, &["more than once the time to recover"]);
}

#[test]
fn reset_forgets_a_key() {
    for_all(
        (shape(&KINDS, false), start(), traffic(), traffic()),
        |(shape, start, traffic, more), _| {
            let mut core = Core::of(&[shape]);
            let mut now = start;
            for ask in asks(&shape, start, &traffic, 3) {
                let _ = core.act(ask);
                now = ask.now;
            }
            let mut unseen = Core::of(&[shape]);
            prop_assert_eq!(core.reset(now), unseen.peek(now));
            for ask in asks(&shape, now, &more, 3) {
                prop_assert_eq!(core.act(ask), unseen.act(ask));
            }
            prop_assert_eq!(core.states, unseen.states);
            Ok(())
        },
    );
}

/// Reservations are charged ahead of their time: the bound holds at the moments at which they go, whatever is given up.
#[test]
fn reservations_keep_the_rate_and_the_order_of_requests() {
    let step = (
        0..=40_u64,
        1..=6_u64,
        0..=2_000_u64,
        0..10_u8,
        any::<prop::sample::Index>(),
    );
    let seen = for_all(
        (
            1..=6_u64,
            1..=6_u64,
            1..=200_u64,
            any::<bool>(),
            vec(step, 1..80),
        ),
        |(capacity, refill, period, ticks, steps), seen| {
            let span = Duration::from_micros(period);
            let quota = match ticks {
                true => Quota::interval_bucket(capacity, refill, span),
                false => Quota::token_bucket(capacity, refill, span),
            };
            let (policy, mut states, mut now) = (Policy::new("turns", quota), [None], TODAY);
            // (moment, cost, turn), in the order of asking; what was given back is taken out.
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
                        continue; // it has gone ahead
                    }
                    let Some(reservation) = granted[place].2.take() else {
                        continue;
                    };
                    let reply = algorithm::cancel(&policy, &mut states, at, &reservation);
                    let last = place + 1 == granted.len();
                    prop_assert!(last || !reply.returned, "only the last turn goes back");
                    if reply.returned {
                        seen.note("given back");
                        granted.remove(place);
                    } else {
                        seen.note("passes unused");
                        // Another attempt may come when those behind are gone.
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
                    seen.note(if wait > 0 { "waits" } else { "goes at once" });
                    granted.push((now + wait, cost, reply.reservation));
                }
            }
            prop_assert!(granted.is_sorted_by_key(|(moment, ..)| *moment));
            for (index, (from, ..)) in granted.iter().enumerate() {
                let mut sum = 0;
                for (to, cost, _) in &granted[index..] {
                    sum += u128::from(*cost);
                    let beyond = sum.saturating_sub(capacity.into());
                    // Moments are rounded up to whole µs, each by less than one.
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
    seen.at_least(100, &["waits", "goes at once", "given back"]);
    seen.at_least(40, &["passes unused"]);
}

// -- The memory backend

#[derive(Clone, Copy, Debug)]
enum Op {
    Check,
    Penalize,
    Refund(prop::sample::Index),
    Reset,
}

#[derive(Clone, Debug)]
struct Asked {
    key: usize,
    event: Event,
    op: Op,
    /// Other numbers for the quota, of the same identity.
    numbers: Option<(u64, u64, u64)>,
}

fn asked(keys: usize) -> impl Strategy<Value = Asked> {
    let op = prop_oneof![
        12 => Just(Op::Check),
        2 => Just(Op::Penalize),
        4 => any::<prop::sample::Index>().prop_map(Op::Refund),
        1 => Just(Op::Reset),
    ];
    let numbers = proptest::option::weighted(0.15, (1..=20_u64, 1..=20_u64, 1..=5_000_u64));
    (0..keys, event(), op, numbers).prop_map(|(key, event, op, numbers)| Asked {
        key,
        event,
        op,
        numbers,
    })
}

/// The memory backend and, for each key, a core of its own; every answer is asked of both.
struct Twins {
    clock: ManualClock,
    limiter: Limiter<MemoryBackend<ManualClock>>,
    cores: Vec<(Core, Vec<[Receipt; 2]>)>,
    shape: Shape,
}

impl Twins {
    fn of(shape: Shape, keys: usize, start: u64) -> Self {
        let clock = ManualClock::at(Timestamp::from_micros(start));
        let backend = MemoryBackend::builder().clock(clock.clone()).build();
        let core = Core::of(&[shape]);
        Self {
            limiter: Limiter::new(core.policy.clone(), backend),
            cores: (0..keys).map(|_| (core.clone(), Vec::new())).collect(),
            clock,
            shape,
        }
    }

    fn reconfigure(&mut self, (limit, refill, span): (u64, u64, u64)) {
        // Full stays full: what a bucket without initial tokens has left is forgotten when it owes nothing, and to one
        // with initial tokens that is a difference.
        let full = self.shape.initial == self.shape.limit;
        self.shape.limit = limit;
        self.shape.initial = if full {
            limit
        } else {
            self.shape.initial.min(limit)
        };
        // The window of a window makes it another limit.
        match self.shape.kind {
            Kind::Bucket | Kind::IntervalBucket => {
                (self.shape.refill, self.shape.span) = (refill, span);
            }
            _ => self.shape.refill = refill,
        }
        let policy = Core::of(&[self.shape]).policy;
        self.limiter = self.limiter.with_policy(&policy);
        for (core, _) in &mut self.cores {
            core.policy = policy.clone();
        }
    }

    fn ask(&mut self, asked: &Asked, now: u64, seen: &Seen) -> TestCaseResult {
        self.clock.set(Timestamp::from_micros(now));
        let cost = asked.event.spend.of(self.shape.limit);
        let key = Key::from(u64::try_from(asked.key).expect("fits"));
        let (core, receipts) = &mut self.cores[asked.key];
        let at_once = "memory answers at once";
        let (memory, own) = match asked.op {
            Op::Check => {
                let Ok(memory) = self
                    .limiter
                    .check(&key, cost)
                    .now_or_never()
                    .expect(at_once);
                let own = core.check(now, cost);
                prop_assert_eq!(&memory.decision, &own.decision);
                seen.note(if own.decision.is_allowed() {
                    "allowed"
                } else {
                    "refused"
                });
                receipts.extend(memory.receipt.zip(own.receipt).map(<[_; 2]>::from));
                return Ok(());
            }
            Op::Penalize => {
                let Ok(memory) = self
                    .limiter
                    .penalize(&key, cost)
                    .now_or_never()
                    .expect(at_once);
                (memory, one(&core.penalize(now, cost)))
            }
            Op::Refund(_) if receipts.is_empty() => return Ok(()),
            Op::Refund(index) => {
                let [memory, own] = index.get_mut(receipts);
                let refund = self.limiter.refund(&key, memory, cost);
                let Ok(refunded) = refund.now_or_never().expect(at_once);
                let taken = own.take(Cost::new(cost));
                prop_assert_eq!(memory.tokens(), own.tokens());
                seen.note("refunded");
                (refunded, core.refund(now, &taken))
            }
            Op::Reset => {
                let Ok(memory) = self.limiter.reset(&key).now_or_never().expect(at_once);
                (memory, core.reset(now))
            }
        };
        prop_assert_eq!(memory.quotas(), &[own]);
        Ok(())
    }
}

/// A key that is alone is never swept: it answers the same even when it is reconfigured and its clock goes back.
#[test]
fn memory_decides_as_the_core_for_every_operation() {
    let seen = for_all(
        (small_shape(&KINDS, true), start(), vec(asked(1), 1..100)),
        |(mut shape, start, traffic), seen| {
            shape.span = shape.span.min(5_000);
            let (mut twins, mut latest) = (Twins::of(shape, 1, start), start);
            for asked in traffic {
                if let Some(numbers) = asked.numbers {
                    twins.reconfigure(numbers);
                    seen.note("reconfigured");
                }
                latest = asked
                    .event
                    .step
                    .from(latest, &twins.shape)
                    .min(Timestamp::MAX.as_micros());
                let lag = twins.shape.horizon() * 2 * asked.event.back / 255;
                twins.ask(&asked, latest.saturating_sub(lag), seen)?;
            }
            Ok(())
        },
    );
    seen.at_least(100, &["allowed", "refused", "refunded", "reconfigured"]);
}

/// Keys that owe nothing are swept meanwhile, which no answer shows.
#[test]
fn memory_decides_as_the_core_while_it_sweeps() {
    const KEYS: usize = 40;
    let seen = for_all(
        (
            small_shape(&KINDS, true),
            start(),
            vec(asked(KEYS), 20..100),
        ),
        |(mut shape, start, traffic), seen| {
            shape.span = shape.span.max(50_000);
            let (mut twins, mut now) = (Twins::of(shape, KEYS, start), start);
            for asked in &traffic {
                now = asked
                    .event
                    .step
                    .from(now, &shape)
                    .min(Timestamp::MAX.as_micros());
                twins.ask(asked, now, seen)?;
            }
            let known = twins
                .cores
                .iter()
                .filter(|(core, _)| core.states[0].is_some())
                .count();
            let kept = twins.limiter.backend().len();
            prop_assert!(kept <= known, "{} kept of {}", kept, known);
            if kept < known {
                seen.note("swept");
            }
            Ok(())
        },
    );
    seen.at_least(5, &["swept"]);
    seen.at_least(100, &["allowed", "refused", "refunded"]);
}

#[test]
fn peek_does_not_extend_expiry() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let clock = ManualClock::at(Timestamp::from_micros(TODAY));
    let backend = MemoryBackend::builder().clock(clock.clone()).idle_ttl(HOUR);
    let policy = Policy::new("idle", Quota::per_second(10).initial_tokens(2));
    let (limiter, key) = (Limiter::new(policy, backend.build()), Key::from("ann"));
    assert!(limiter.check_now(&key, 1).decision.is_allowed());
    for _ in 0..2 {
        clock.advance(HOUR / 2);
        let _ = limiter.check_now(&key, 0);
        assert!(!limiter.check_now(&key, 11).decision.is_allowed());
    }
    clock.advance(HOUR / 2);
    // It has expired, and is created anew with 2 tokens by its first check, even a denied one.
    assert!(!limiter.check_now(&key, 10).decision.is_allowed());
    clock.advance(Duration::from_millis(800));
    assert!(limiter.check_now(&key, 10).decision.is_allowed());
}

#[test]
fn peek_by_another_tier_does_not_shorten_expiry() {
    let clock = ManualClock::at(Timestamp::from_micros(TODAY));
    // One shard, so that every new key sweeps past the old one.
    let backend = MemoryBackend::builder().max_keys(NonZeroUsize::new(100).expect("not 0"));
    let backend = backend.clock(clock.clone()).build();
    let limiter = Limiter::new(Policy::new("tiers", Quota::per_hour(10)), backend);
    let faster = limiter.with_policy(&Policy::new("tiers", Quota::per_second(1_000)));
    let key = Key::from("ann");
    assert!(limiter.check_now(&key, 10).decision.is_allowed());
    assert!(faster.check_now(&key, 0).decision.is_allowed());
    assert!(!faster.check_now(&key, 1_001).decision.is_allowed());
    clock.advance(Duration::from_secs(1));
    for other in 0..10 {
        let _ = limiter.check_now(&Key::from(other), 1);
    }
    assert!(!limiter.check_now(&key, 1).decision.is_allowed());
}

// -- The ends of all ranges

#[test]
fn no_number_panics() {
    let last = Timestamp::MAX.as_micros();
    let time = prop_oneof![
        Just(0),
        Just(1),
        Just(TODAY),
        Just(last),
        (last - 9)..=last,
        Just((1 << 53) - 1),
        0..=last,
        Just(u64::MAX)
    ];
    let cost = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        (u64::MAX - 9)..=u64::MAX,
        any::<u64>()
    ];
    let op = prop_oneof![
        8 => Just(Op::Check),
        4 => Just(Op::Penalize),
        2 => any::<prop::sample::Index>().prop_map(Op::Refund),
        1 => Just(Op::Reset),
    ];
    let shapes = || prop_oneof![3 => huge_shape(&KINDS, false), 1 => small_shape(&KINDS, false)];
    let seen = for_all(
        (
            shapes(),
            vec(
                (
                    time,
                    cost,
                    spend(),
                    op,
                    proptest::option::weighted(0.1, shapes()),
                ),
                1..60,
            ),
        ),
        |(mut shape, traffic), seen| {
            let (mut core, mut receipts) = (Core::of(&[shape]), Vec::<Receipt>::new());
            for (time, cost, spend, op, other) in traffic {
                if let Some(other) = other {
                    // Backends keep other algorithms and windows apart; the core must stand even a mistake of theirs.
                    shape = other;
                    core.policy = Core::of(&[shape]).policy;
                }
                let now = Timestamp::from_micros(time).as_micros();
                let cost = if cost % 3 == 0 {
                    spend.of(shape.limit)
                } else {
                    cost
                };
                let own = match op {
                    Op::Check => {
                        let reply = core.check(now, cost);
                        prop_assert_eq!(
                            reply.decision.retry_after() == Some(RetryAfter::Never),
                            cost > shape.limit
                        );
                        if let Some(RetryAfter::In(wait)) = reply.decision.retry_after() {
                            prop_assert!(!wait.is_zero());
                            seen.note("refused");
                        }
                        let own = one(&reply);
                        receipts.extend(reply.receipt);
                        own
                    }
                    Op::Penalize => one(&core.penalize(now, cost)),
                    Op::Refund(index) if !receipts.is_empty() => {
                        let taken = index.get_mut(&mut receipts).take(Cost::new(cost));
                        core.refund(now, &taken)
                    }
                    Op::Refund(_) | Op::Reset => core.reset(now),
                };
                prop_assert_eq!(own.limit(), shape.limit);
                prop_assert!(own.remaining() <= own.limit());
                seen.note(format!("{:?}", shape.kind));
            }
            Ok(())
        },
    );
    seen.at_least(
        100,
        &[
            "refused",
            "Bucket",
            "IntervalBucket",
            "FixedWindow",
            "SlidingWindow",
            "SlidingLog",
        ],
    );
}
