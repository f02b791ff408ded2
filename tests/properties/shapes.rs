//! Random quotas.

use std::fmt::Debug;
use std::time::Duration;

use proptest::prelude::*;
use tower_sluice::Quota;
use tower_sluice::quota::Anchor;

/// The longest time to fill, and the longest window, µs.
pub(crate) const LONGEST: u64 = 1 << 52;

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

/// The kinds that owe nothing after some time.
pub(crate) const KINDS: &[Kind] = &[
    Kind::Bucket,
    Kind::IntervalBucket,
    Kind::FixedWindow,
    Kind::SlidingWindow,
    Kind::SlidingLog,
    #[cfg(feature = "calendar")]
    Kind::Calendar,
];

pub(crate) const WITH_TOTALS: &[Kind] = &[
    Kind::Bucket,
    Kind::IntervalBucket,
    Kind::FixedWindow,
    Kind::SlidingWindow,
    Kind::SlidingLog,
    Kind::Total,
    #[cfg(feature = "calendar")]
    Kind::Calendar,
];

/// The numbers of a quota, for independent models.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) limit: u64,
    pub(crate) refill: u64,
    /// Period or window, µs.
    pub(crate) span: u64,
    pub(crate) initial: u64,
    pub(crate) anchor: Anchor,
}

impl Shape {
    pub(crate) fn try_quota(&self) -> Option<Quota> {
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
            Kind::Total => Quota::try_total(limit),
            #[cfg(feature = "calendar")]
            Kind::Calendar => calendar_window(limit, self.span),
        }
        .ok()
    }

    pub(crate) fn quota(&self) -> Quota {
        self.try_quota()
            .expect("strategies yield valid shapes only")
    }

    /// Time to fill, or the window: µs.
    pub(crate) fn horizon(&self) -> u64 {
        match self.kind {
            Kind::Bucket => {
                let (per_micro, per_token) = self.quota().grains().expect("a bucket");
                (self.limit * per_token).div_ceil(per_micro)
            }
            Kind::IntervalBucket => self.limit.div_ceil(self.refill) * self.span,
            // The shortest window of the kind: clocks jump, and Samoa has a week of six days.
            #[cfg(feature = "calendar")]
            Kind::Calendar => match self.span % 3 {
                0 => 22 * HOUR,
                1 => 142 * HOUR,
                _ => 670 * HOUR,
            },
            _ => self.span,
        }
    }

    /// The start of the epoch-aligned window, or interval, that holds `now`.
    pub(crate) fn aligned_start(&self, now: u64) -> i128 {
        let Anchor::Epoch { offset } = self.anchor else {
            panic!("not aligned")
        };
        let (now, span) = (i128::from(now), i128::from(self.span));
        let offset = i128::try_from(offset.as_micros()).expect("fits");
        (now - offset).div_euclid(span) * span + offset
    }

    /// The start of each span after the first: a multiple of the span since the epoch, unless an offset moves it.
    pub(crate) fn next_edge(&self, now: u64) -> u64 {
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

#[cfg(feature = "calendar")]
const HOUR: u64 = 3_600_000_000;

#[cfg(feature = "calendar")]
fn calendar_window(limit: u64, span: u64) -> Result<Quota, tower_sluice::quota::QuotaError> {
    use tower_sluice::quota::Every;
    let one_of = |number: u64, most: u8| u8::try_from(number % u64::from(most)).expect("small") + 1;
    let every = match span % 3 {
        0 => Every::Day,
        1 => Every::Week {
            weekday: one_of(span, 7),
        },
        _ => Every::Month {
            day: one_of(span, 31),
        },
    };
    let zones = ["UTC", "Europe/Zurich", "America/St_Johns", "Pacific/Apia"];
    let zone = zones[usize::from(one_of(span / 3, 4)) - 1];
    Quota::try_calendar_window(limit, every, zone)
}

/// Small odd numbers produce fractions and edges. Some spans are days.
pub(crate) fn small_shape(kinds: &'static [Kind], full: bool) -> impl Strategy<Value = Shape> {
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
pub(crate) const MOST: u64 = 1 << 40;

/// Numbers near the ends of their ranges.
pub(crate) fn huge_shape(kinds: &'static [Kind], full: bool) -> impl Strategy<Value = Shape> {
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

pub(crate) fn shape(kinds: &'static [Kind], full: bool) -> impl Strategy<Value = Shape> {
    prop_oneof![9 => small_shape(kinds, full), 1 => huge_shape(kinds, full)]
}
