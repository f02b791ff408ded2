//! How much is allowed: [`Quota`], its five algorithms, and the [`Cost`] of a request.
//!
//! | algorithm | constructor | admits | memory a key |
//! |---|---|---|---|
//! | token bucket, continuous refill (GCRA) | [`Quota::per`], [`Quota::token_bucket`] | a burst of `capacity`, then the rate | constant |
//! | token bucket, interval refill | [`Quota::interval_bucket`] | a burst of `capacity`, then `refill` at each tick | constant |
//! | fixed window | [`Quota::fixed_window`] | `limit` in each window, up to twice that across an edge | constant |
//! | sliding window, counter | [`Quota::sliding_window`] | an estimate that never exceeds `limit` | constant |
//! | sliding window, log | [`Quota::sliding_log`] | `limit` in every span of one window | 16 bytes for each request admitted in the window |
//!
//! Numbers of tokens are 1 to 2^40: 1.1 TB if a token is a byte.
//!
//! The short constructors are `const` and meant for literals: they panic on a value that cannot be, at compile time in
//! a constant. Values that come from outside go through the `try_` constructors, [`FromStr`](std::str::FromStr) or
//! serde, and get a [`QuotaError`] or a [`ParseQuotaError`] that says the same.
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::Quota;
//! use tower_sluice::quota::Unit;
//!
//! const SEARCH: Quota = Quota::per_second(10).burst(30);
//! assert_eq!("10/second burst 30".parse::<Quota>()?, SEARCH);
//! assert_eq!(Quota::fixed_window(1_000, Duration::from_secs(86_400)).to_string(), "fixed-window:1000/day");
//! assert_eq!("10GB/day".parse::<Quota>()?, Quota::per_day(10_000_000_000).with_unit(Unit::ContentBytes));
//!
//! let why = "5/s, burst 20".parse::<Quota>().unwrap_err().to_string();
//! assert!(why.ends_with(r#"use for example "5/s burst 20""#), "{why}");
//! # Ok::<(), tower_sluice::quota::ParseQuotaError>(())
//! ```
#![cfg_attr(feature = "serde", doc = include_str!("../docs/serde.md"))]

mod bytes;
mod cost;
mod display;
mod error;
mod meant;
mod parse;
mod parse_error;
mod rule;
#[cfg(feature = "serde")]
mod serde;
#[cfg(test)]
mod tests;
mod units;

use std::time::Duration;

use self::units::{MOST_GRAINS, Units};
use crate::clock::micros_up;

pub use self::cost::Cost;
pub(crate) use self::cost::MAX_QUOTAS;
pub use self::error::QuotaError;
pub use self::parse_error::{ParseQuotaError, ParseQuotaErrorKind};
pub(crate) use self::rule::{
    FixedWindow, IntervalBucket, Origin, Rule, SlidingLog, SlidingWindow, TokenBucket,
};

/// The largest number of requests in a sliding window log.
const LOG_MAX: u16 = u16::MAX;

/// The most tokens of a capacity, a refill or a limit: 2^40, 1.1 TB if a token is a byte.
pub(crate) const MOST_TOKENS: u64 = 1 << 40;

/// How much is allowed in how much time, and by which algorithm. See the [module](self) for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    pub(crate) rule: Rule,
    unit: Unit,
}

/// Where the intervals of a bucket, or the windows of a fixed window, begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Anchor {
    /// With the first charge: of a full bucket, or after the last window is over.
    FirstUse,
    /// At multiples of the period since the Unix epoch, plus `offset` (rounded up to whole µs).
    Epoch {
        /// Added to each multiple of the period.
        offset: Duration,
    },
}

impl Anchor {
    /// Multiples of the period since the Unix epoch, the default of fixed windows.
    pub const EPOCH: Self = Self::Epoch {
        offset: Duration::ZERO,
    };
}

/// What a token stands for, as clients are told (`qu` in the `RateLimit-Policy` field).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Requests, or an abstract cost of them.
    #[default]
    Requests,
    /// Bytes of content.
    ContentBytes,
}

impl Quota {
    /// A token bucket of `tokens` that refills in one second. [`burst`](Self::burst) sets another capacity.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0 or above 2^40.
    #[must_use]
    pub const fn per_second(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(1))
    }

    /// A token bucket of `tokens` that refills in one minute.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0 or above 2^40.
    #[must_use]
    pub const fn per_minute(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(60))
    }

    /// A token bucket of `tokens` that refills in one hour.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0 or above 2^40.
    #[must_use]
    pub const fn per_hour(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(3_600))
    }

    /// A token bucket of `tokens` that refills in one day of 24 hours.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0 or above 2^40.
    #[must_use]
    pub const fn per_day(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(86_400))
    }

    /// A token bucket of `tokens` that refills in `period`.
    ///
    /// # Panics
    ///
    /// Where [`try_per`](Self::try_per) errs, with the same sentence.
    #[must_use]
    pub const fn per(tokens: u64, period: Duration) -> Self {
        must(Self::try_per(tokens, period))
    }

    /// A token bucket of `tokens` that refills in `period`.
    ///
    /// # Errors
    ///
    /// If either is 0, `tokens` is above 2^40, or refilling takes more than 142 years.
    pub const fn try_per(tokens: u64, period: Duration) -> Result<Self, QuotaError> {
        match checked("count", tokens) {
            Ok(()) => Self::try_token_bucket(tokens, tokens, period),
            Err(error) => Err(error),
        }
    }

    /// A token bucket that holds `capacity` tokens and gets `refill` of them back in each `period`, evenly.
    ///
    /// # Panics
    ///
    /// Where [`try_token_bucket`](Self::try_token_bucket) errs, with the same sentence.
    #[must_use]
    pub const fn token_bucket(capacity: u64, refill: u64, period: Duration) -> Self {
        must(Self::try_token_bucket(capacity, refill, period))
    }

    /// A token bucket that holds `capacity` tokens and gets `refill` of them back in each `period`, evenly.
    ///
    /// Refill is exact: a rate that does not fit into 2^52 parts of the capacity is slower by less than 5e-4 in
    /// proportion (usually 1e-13), never faster.
    ///
    /// # Errors
    ///
    /// If a number is 0, one of tokens is above 2^40, or filling takes more than 142 years.
    pub const fn try_token_bucket(
        capacity: u64,
        refill: u64,
        period: Duration,
    ) -> Result<Self, QuotaError> {
        Self::bucket_of_micros(capacity, refill, micros_up(period), capacity)
    }

    const fn bucket_of_micros(
        capacity: u64,
        refill: u64,
        period: u64,
        initial: u64,
    ) -> Result<Self, QuotaError> {
        if let Err(error) = positive(capacity, refill, period) {
            return Err(error);
        }
        match Units::new(capacity, refill, period) {
            // A period that does not fit would be shorter than asked for, and so the rate faster.
            Some(_) if period == u64::MAX => Err(QuotaError::TooSlow {
                capacity,
                refill,
                period_us: period,
            }),
            None => Err(QuotaError::TooSlow {
                capacity,
                refill,
                period_us: period,
            }),
            Some(units) => Ok(Self::from_rule(Rule::TokenBucket(TokenBucket {
                capacity,
                refill,
                period,
                initial,
                units,
            }))),
        }
    }

    /// A token bucket that holds `capacity` tokens and gets `refill` at once at the end of each `period`.
    ///
    /// # Panics
    ///
    /// Where [`try_interval_bucket`](Self::try_interval_bucket) errs, with the same sentence.
    #[must_use]
    pub const fn interval_bucket(capacity: u64, refill: u64, period: Duration) -> Self {
        must(Self::try_interval_bucket(capacity, refill, period))
    }

    /// A token bucket that holds `capacity` tokens and gets `refill` at once at the end of each `period`.
    ///
    /// A full bucket has no clock: the first charge starts it, or [`anchor`](Self::anchor) ties it to the epoch.
    ///
    /// # Errors
    ///
    /// If a number is 0, one of tokens is above 2^40, or filling takes more than 142 years.
    pub const fn try_interval_bucket(
        capacity: u64,
        refill: u64,
        period: Duration,
    ) -> Result<Self, QuotaError> {
        let period = micros_up(period);
        if let Err(error) = positive(capacity, refill, period) {
            return Err(error);
        }
        match capacity.div_ceil(refill).checked_mul(period) {
            Some(0..=MOST_GRAINS) => {
                let (initial, origin) = (capacity, None);
                Ok(Self::from_rule(Rule::IntervalBucket(IntervalBucket {
                    capacity,
                    refill,
                    period,
                    initial,
                    origin,
                })))
            }
            _ => Err(QuotaError::TooSlow {
                capacity,
                refill,
                period_us: period,
            }),
        }
    }

    /// At most `limit` in each `window`, windows aligned to the epoch ([`anchor`](Self::anchor) sets another start).
    ///
    /// Two windows touch: up to `2 × limit` can pass in a span of one window's length.
    ///
    /// # Panics
    ///
    /// Where [`try_fixed_window`](Self::try_fixed_window) errs, with the same sentence.
    #[must_use]
    pub const fn fixed_window(limit: u64, window: Duration) -> Self {
        must(Self::try_fixed_window(limit, window))
    }

    /// At most `limit` in each `window`, windows aligned to the epoch.
    ///
    /// # Errors
    ///
    /// If a number is 0, the limit is above 2^40, or the window is longer than 142 years.
    pub const fn try_fixed_window(limit: u64, window: Duration) -> Result<Self, QuotaError> {
        match checked_window(limit, micros_up(window)) {
            Ok(window) => Ok(Self::from_rule(Rule::FixedWindow(FixedWindow {
                limit,
                window,
                origin: Some(0),
            }))),
            Err(error) => Err(error),
        }
    }

    /// At most `limit` in a sliding `window`, by a counter: the last window's count weighs with the part of it that
    /// still counts. Constant memory; for steady traffic within a few percent of [`sliding_log`](Self::sliding_log).
    ///
    /// # Panics
    ///
    /// Where [`try_sliding_window`](Self::try_sliding_window) errs, with the same sentence.
    #[must_use]
    pub const fn sliding_window(limit: u64, window: Duration) -> Self {
        must(Self::try_sliding_window(limit, window))
    }

    /// At most `limit` in a sliding `window`, by a counter.
    ///
    /// # Errors
    ///
    /// If a number is 0, the limit is above 2^40, or the window is longer than 142 years.
    pub const fn try_sliding_window(limit: u64, window: Duration) -> Result<Self, QuotaError> {
        match checked_window(limit, micros_up(window)) {
            Ok(window) => {
                // At least 1 µs; more where limit × window passes 2^51. The quotient is at most 2^41.
                #[allow(clippy::cast_possible_truncation)]
                let tick = (limit as u128 * window as u128).div_ceil(1 << 51) as u64;
                let ticks = window.div_ceil(tick);
                Ok(Self::from_rule(Rule::SlidingWindow(SlidingWindow {
                    limit,
                    window,
                    tick,
                    ticks,
                })))
            }
            Err(error) => Err(error),
        }
    }

    /// At most `limit` (up to 65535) in **every** span of `window`, by a log of all charges: exact, at 16 bytes for
    /// each request admitted in the window. [`sliding_window`](Self::sliding_window) does with constant memory.
    ///
    /// # Panics
    ///
    /// Where [`try_sliding_log`](Self::try_sliding_log) errs, with the same sentence.
    #[must_use]
    pub const fn sliding_log(limit: u64, window: Duration) -> Self {
        must(Self::try_sliding_log(limit, window))
    }

    /// At most `limit` (up to 65535) in every span of `window`, by a log of all charges.
    ///
    /// # Errors
    ///
    /// If a number is 0, the limit is above 65535, or the window is longer than 142 years.
    pub const fn try_sliding_log(limit: u64, window: Duration) -> Result<Self, QuotaError> {
        if limit > LOG_MAX as u64 {
            return Err(QuotaError::TooLarge {
                what: "limit of a log",
                value: limit,
                max: LOG_MAX as u64,
            });
        }
        match checked_window(limit, micros_up(window)) {
            Ok(window) => {
                // Checked above: at most 65535.
                #[allow(clippy::cast_possible_truncation)]
                let limit = limit as u32;
                Ok(Self::from_rule(Rule::SlidingLog(SlidingLog {
                    limit,
                    window,
                })))
            }
            Err(error) => Err(error),
        }
    }

    const fn from_rule(rule: Rule) -> Self {
        Self {
            rule,
            unit: Unit::Requests,
        }
    }

    /// The most tokens that a bucket holds, and so the largest burst; the rate stays. It starts full, unless it was
    /// told to start with less.
    ///
    /// # Panics
    ///
    /// Where [`try_burst`](Self::try_burst) errs, with the same sentence.
    #[must_use]
    pub const fn burst(self, capacity: u64) -> Self {
        must(self.try_burst(capacity))
    }

    /// The most tokens that a bucket holds, and so the largest burst; the rate stays. It starts full, unless it was
    /// told to start with less.
    ///
    /// # Errors
    ///
    /// If `capacity` is 0, above 2^40, below the initial tokens, or takes more than 142 years to fill, or this is no
    /// bucket.
    pub const fn try_burst(self, capacity: u64) -> Result<Self, QuotaError> {
        let made = match self.rule {
            Rule::TokenBucket(bucket) => {
                let initial = kept(bucket.initial, bucket.capacity, capacity);
                match Self::bucket_of_micros(capacity, bucket.refill, bucket.period, capacity) {
                    Ok(quota) => quota.try_initial_tokens(initial),
                    Err(error) => Err(error),
                }
            }
            Rule::IntervalBucket(bucket) => {
                match Self::try_interval_bucket(
                    capacity,
                    bucket.refill,
                    Duration::from_micros(bucket.period),
                ) {
                    Ok(quota) => match quota.try_anchor(Anchor::from_origin(bucket.origin)) {
                        Ok(quota) => quota.try_initial_tokens(kept(
                            bucket.initial,
                            bucket.capacity,
                            capacity,
                        )),
                        Err(error) => Err(error),
                    },
                    Err(error) => Err(error),
                }
            }
            _ => Err(QuotaError::NotASettingOf {
                setting: "burst",
                algorithm: self.algorithm(),
                of: error::BUCKETS,
            }),
        };
        match made {
            Ok(quota) => Ok(quota.with_unit(self.unit)),
            Err(error) => Err(error),
        }
    }

    /// The tokens in a bucket that was never used, 0 to its capacity; a full one by default.
    ///
    /// # Panics
    ///
    /// Where [`try_initial_tokens`](Self::try_initial_tokens) errs, with the same sentence.
    #[must_use]
    pub const fn initial_tokens(self, initial: u64) -> Self {
        must(self.try_initial_tokens(initial))
    }

    /// The tokens in a bucket that was never used, 0 to its capacity; a full one by default.
    ///
    /// # Errors
    ///
    /// If `initial` is above the capacity, or this is no bucket.
    pub const fn try_initial_tokens(mut self, initial: u64) -> Result<Self, QuotaError> {
        let capacity = self.limit();
        match &mut self.rule {
            Rule::TokenBucket(bucket) => bucket.initial = initial,
            Rule::IntervalBucket(bucket) => bucket.initial = initial,
            _ => {
                return Err(QuotaError::NotASettingOf {
                    setting: "initial tokens",
                    algorithm: self.algorithm(),
                    of: error::BUCKETS,
                });
            }
        }
        if initial > capacity {
            Err(QuotaError::InitialAboveCapacity { initial, capacity })
        } else {
            Ok(self)
        }
    }

    /// Where intervals or fixed windows begin: an interval bucket's by default with its first charge, a fixed window's
    /// at multiples of the window.
    ///
    /// # Panics
    ///
    /// Where [`try_anchor`](Self::try_anchor) errs, with the same sentence.
    #[must_use]
    pub const fn anchor(self, anchor: Anchor) -> Self {
        must(self.try_anchor(anchor))
    }

    /// Where intervals or fixed windows begin.
    ///
    /// # Errors
    ///
    /// If this is neither an interval bucket nor a fixed window.
    pub const fn try_anchor(mut self, anchor: Anchor) -> Result<Self, QuotaError> {
        match &mut self.rule {
            Rule::IntervalBucket(bucket) => bucket.origin = anchor.origin(),
            Rule::FixedWindow(fixed) => fixed.origin = anchor.origin(),
            _ => {
                return Err(QuotaError::NotASettingOf {
                    setting: "anchor",
                    algorithm: self.algorithm(),
                    of: "an interval bucket or a fixed window",
                });
            }
        }
        Ok(self)
    }

    /// What a token stands for; requests by default. A quota of another unit is another limit, with its own state.
    #[must_use]
    pub const fn with_unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// The capacity of a bucket or the limit of a window, in tokens.
    #[must_use]
    #[inline]
    pub const fn limit(&self) -> u64 {
        match self.rule {
            Rule::TokenBucket(TokenBucket { capacity, .. })
            | Rule::IntervalBucket(IntervalBucket { capacity, .. }) => capacity,
            Rule::FixedWindow(FixedWindow { limit, .. })
            | Rule::SlidingWindow(SlidingWindow { limit, .. }) => limit,
            Rule::SlidingLog(SlidingLog { limit, .. }) => limit as u64,
        }
    }

    /// A bucket's refill: so many tokens in so much time. `None` for windows.
    #[must_use]
    pub const fn rate(&self) -> Option<(u64, Duration)> {
        match self.rule {
            Rule::TokenBucket(TokenBucket { refill, period, .. })
            | Rule::IntervalBucket(IntervalBucket { refill, period, .. }) => {
                Some((refill, Duration::from_micros(period)))
            }
            _ => None,
        }
    }

    /// The rate of a bucket with continuous refill as two integers, in lowest terms: the grains that a microsecond
    /// brings, and the grains of a token. `None` for the other algorithms.
    #[must_use]
    pub const fn grains(&self) -> Option<(u64, u64)> {
        match self.rule {
            Rule::TokenBucket(TokenBucket { units, .. }) => {
                Some((units.per_micro.get(), units.per_token.get()))
            }
            _ => None,
        }
    }

    /// What a token stands for.
    #[must_use]
    pub const fn unit(&self) -> Unit {
        self.unit
    }

    pub(crate) const fn algorithm(&self) -> &'static str {
        match self.rule {
            Rule::TokenBucket(_) => "token bucket",
            Rule::IntervalBucket(_) => "interval bucket",
            Rule::FixedWindow(_) => "fixed window",
            Rule::SlidingWindow(_) => "sliding window",
            Rule::SlidingLog(_) => "sliding log",
        }
    }
}

/// Initial tokens after a change of the capacity: full stays full, less stays what it was.
const fn kept(initial: u64, old: u64, new: u64) -> u64 {
    if initial == old { new } else { initial }
}

impl Anchor {
    const fn origin(self) -> Origin {
        match self {
            Self::FirstUse => None,
            Self::Epoch { offset } => Some(micros_up(offset)),
        }
    }

    const fn from_origin(origin: Origin) -> Self {
        match origin {
            None => Self::FirstUse,
            Some(offset) => Self::Epoch {
                offset: Duration::from_micros(offset),
            },
        }
    }
}

/// The constructors for literals panic with the error's own sentence: a start-up failure, or a compile error in a
/// `const`.
const fn must(made: Result<Quota, QuotaError>) -> Quota {
    match made {
        Ok(quota) => quota,
        Err(error) => panic!("{}", error.sentence().as_str()),
    }
}

/// Accepts 1 to 2^40 tokens.
const fn checked(what: &'static str, value: u64) -> Result<(), QuotaError> {
    match value {
        0 => Err(QuotaError::Zero { what }),
        1..=MOST_TOKENS => Ok(()),
        _ => Err(QuotaError::TooLarge {
            what,
            value,
            max: MOST_TOKENS,
        }),
    }
}

const fn positive(capacity: u64, refill: u64, period: u64) -> Result<(), QuotaError> {
    if let Err(error) = checked("capacity", capacity) {
        return Err(error);
    }
    if let Err(error) = checked("refill", refill) {
        return Err(error);
    }
    if period == 0 {
        return Err(QuotaError::Zero { what: "period" });
    }
    Ok(())
}

const fn checked_window(limit: u64, window: u64) -> Result<u64, QuotaError> {
    if let Err(error) = checked("limit", limit) {
        return Err(error);
    }
    if window == 0 {
        return Err(QuotaError::Zero { what: "window" });
    }
    if window > MOST_GRAINS {
        return Err(QuotaError::WindowTooLong { window_us: window });
    }
    Ok(window)
}
