//! Random quotas and policies.

use std::fmt::Debug;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tower_sluice::quota::{Anchor, Unit};
use tower_sluice::{Policy, Quota};

/// A time in the year 2027, µs.
pub(crate) const TODAY: u64 = 1_800_000_000_000_000;

/// The end of all times, µs.
pub(crate) const END: u64 = 1 << 53;

/// The latest tested time. In the last µs the entries of a log, numbered from their time, would exceed the end.
pub(crate) const LATEST: u64 = END - 1_000;

/// The longest time to fill, and the longest window, µs.
pub(crate) const LONGEST: u64 = 1 << 52;

/// Longer than any clock here advances.
pub(crate) const LONGER_THAN_ANY_TEST: Duration = Duration::from_micros(END);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bucket,
    IntervalBucket,
    FixedWindow,
    SlidingWindow,
    SlidingLog,
    Total,
    #[cfg(feature = "calendar")]
    Calendar,
}

pub(crate) const BUCKETS: &[Kind] = &[Kind::Bucket, Kind::IntervalBucket];

pub(crate) const STRINGS: &[Kind] = &[
    Kind::Bucket,
    Kind::IntervalBucket,
    Kind::FixedWindow,
    Kind::SlidingWindow,
    Kind::Total,
    #[cfg(feature = "calendar")]
    Kind::Calendar,
];

pub(crate) const ALL: &[Kind] = &[
    Kind::Bucket,
    Kind::IntervalBucket,
    Kind::FixedWindow,
    Kind::SlidingWindow,
    Kind::SlidingLog,
    Kind::Total,
    #[cfg(feature = "calendar")]
    Kind::Calendar,
];

/// The identity of a quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    /// Period or window, µs.
    pub(crate) span: u64,
    /// In thousandths of a span.
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: bool,
    /// Whether the bucket starts full. This is not part of its identity. A full bucket that owes nothing may be
    /// forgotten, which a bucket with initial tokens would notice.
    pub(crate) full: bool,
}

/// The numbers of a quota that may change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) limit: u64,
    pub(crate) refill: u64,
    pub(crate) initial: u64,
}

/// A quota, and its time spans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) quota: Quota,
    pub(crate) kind: Kind,
    pub(crate) span: u64,
    /// Time to fill, or the window: µs.
    pub(crate) horizon: u64,
}

impl Limit {
    pub(crate) fn of(shape: Shape, counts: Counts) -> Option<Self> {
        let Shape { kind, span, .. } = shape;
        let time = Duration::from_micros(span);
        let Counts { limit, refill, .. } = counts;
        let initial = if shape.full {
            limit
        } else {
            counts.initial % limit
        };
        let anchor = match shape.offset {
            None => Anchor::FirstUse,
            Some(part) => {
                let offset = u128::from(span) * u128::from(part) / 1_000;
                let offset = Duration::from_micros(u64::try_from(offset).expect("a part"));
                Anchor::Epoch { offset }
            }
        };
        let quota = match kind {
            Kind::Bucket => Quota::try_token_bucket(limit, refill, time)
                .map(|quota| quota.initial_tokens(initial)),
            Kind::IntervalBucket => Quota::try_interval_bucket(limit, refill, time)
                .map(|quota| quota.initial_tokens(initial).anchor(anchor)),
            Kind::FixedWindow => {
                Quota::try_fixed_window(limit, time).map(|quota| quota.anchor(anchor))
            }
            Kind::SlidingWindow => Quota::try_sliding_window(limit, time),
            Kind::SlidingLog => Quota::try_sliding_log(limit.min(65_535), time),
            Kind::Total => Quota::try_total(limit).map(|quota| match shape.offset {
                None => quota,
                Some(_) => quota.forget_after(time),
            }),
            #[cfg(feature = "calendar")]
            Kind::Calendar => calendar_window(limit, span, refill),
        };
        let quota = quota.ok()?;
        let horizon = match quota.grains() {
            Some((per_micro, per_token)) => (limit * per_token).div_ceil(per_micro),
            None if kind == Kind::IntervalBucket => limit.div_ceil(refill) * span,
            #[cfg(feature = "calendar")]
            None if kind == Kind::Calendar => MONTH,
            None => span,
        };
        let span = match kind {
            #[cfg(feature = "calendar")]
            Kind::Calendar => DAY,
            _ => span,
        };
        Some(Self {
            quota: if shape.bytes {
                quota.with_unit(Unit::ContentBytes)
            } else {
                quota
            },
            kind,
            span,
            horizon,
        })
    }
}

#[cfg(feature = "calendar")]
const DAY: u64 = 86_400_000_000;
#[cfg(feature = "calendar")]
const MONTH: u64 = 31 * DAY;

/// The calendar is chosen by the numbers, and its length by those that may change.
#[cfg(feature = "calendar")]
fn calendar_window(
    limit: u64,
    span: u64,
    refill: u64,
) -> Result<Quota, tower_sluice::quota::QuotaError> {
    use tower_sluice::quota::Every;
    let one_of = |number: u64, most: u8| u8::try_from(number % u64::from(most)).expect("small") + 1;
    let (day, month) = (one_of(span, 31), one_of(span, 12));
    let every = match refill % 8 {
        0 => Every::Week {
            weekday: one_of(span, 7),
        },
        1 => Every::Quarter { day },
        2 => Every::Year { month, day },
        3 | 4 => Every::Month { day },
        _ => Every::Day,
    };
    let zones = ["UTC", "Europe/Zurich", "America/Havana", "Pacific/Apia"];
    let zone = zones[usize::from(one_of(span / 7, 4)) - 1];
    Quota::try_calendar_window(limit, every, zone)
}

/// The most tokens of a quota.
pub(crate) const MOST: u64 = 1 << 40;

/// Small odd numbers produce fractions and edges. Some numbers are at the ends of their ranges.
pub(crate) fn counts() -> impl Strategy<Value = Counts> {
    let small = || 1..=20_u64;
    let huge = || {
        prop_oneof![
            Just(1),
            Just(MOST),
            (MOST - 9)..=MOST,
            65_530..=65_540_u64,
            1..=MOST
        ]
    };
    prop_oneof![
        8 => (small(), small(), small()),
        1 => (huge(), huge(), small()),
        1 => (huge(), huge(), huge()),
    ]
    .prop_map(|(limit, refill, initial)| Counts {
        limit,
        refill,
        initial,
    })
}

pub(crate) fn shape(kinds: &'static [Kind]) -> impl Strategy<Value = Shape> {
    let span = prop_oneof![
        4 => 1..=20_u64,
        8 => 1..=5_000_u64,
        3 => 1..=(3 * 86_400_000_000_u64),
        1 => (0..=52_u64).prop_map(|bits| 1 << bits),
        1 => (LONGEST - 9)..=LONGEST,
    ];
    let offset = prop_oneof![1 => Just(None), 2 => (0..1_000_u64).prop_map(Some)];
    let kind = proptest::sample::select(kinds);
    let (bytes, full) = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.7));
    (kind, span, offset, bytes, full).prop_map(|(kind, span, offset, bytes, full)| Shape {
        kind,
        span,
        offset,
        bytes,
        full,
    })
}

/// A policy, and the same policy with other numbers: spent tokens stay spent.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) limits: Vec<[Limit; 2]>,
    pub(crate) policies: [Policy; 2],
}

pub(crate) fn setting(kinds: &'static [Kind], most: usize) -> impl Strategy<Value = Setting> {
    let limit = (shape(kinds), counts(), counts(), any::<bool>()).prop_filter_map(
        "more than 142 years",
        |(shape, counts, mut others, same_time)| {
            // In one case only the limit grows, like a plan that is upgraded.
            if same_time {
                others.refill = counts.refill;
                others.initial = counts.initial;
            }
            Some([Limit::of(shape, counts)?, Limit::of(shape, others)?])
        },
    );
    vec(limit, 1..=most).prop_map(|limits| {
        let policy = |which: usize| {
            let named = limits
                .iter()
                .enumerate()
                .map(|(index, limit)| (format!("quota {index}"), limit[which].quota));
            Policy::try_from_quotas("properties", named).expect("1 to 4 quotas")
        };
        let policies = [policy(0), policy(1)];
        Setting { limits, policies }
    })
}

/// Leaves out totals, whose state outlives its reset.
pub(crate) fn expires(setting: &Setting) -> bool {
    setting
        .limits
        .iter()
        .all(|[limit, _]| limit.kind != Kind::Total)
}

pub(crate) fn settings() -> impl Strategy<Value = Setting> {
    prop_oneof![
        3 => setting(ALL, 1),
        3 => setting(ALL, 4),
        2 => setting(BUCKETS, 3),
        1 => setting(STRINGS, 4),
    ]
}

/// The algorithms that work without scripts.
pub(crate) fn settings_of_strings() -> impl Strategy<Value = Setting> {
    prop_oneof![
        2 => setting(STRINGS, 1),
        2 => setting(STRINGS, 4),
        1 => setting(BUCKETS, 3),
    ]
}
