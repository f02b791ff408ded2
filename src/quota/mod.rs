//! Quotas: [`Quota`] with its algorithms, and the [`Cost`] of a request.
//!
//! Guide: [choose an algorithm](crate::_guide::algorithms).
//!
//! | algorithm | constructor | admits | memory a key |
//! |---|---|---|---|
//! | token bucket, continuous refill (GCRA) | [`Quota::per`], [`Quota::token_bucket`] | a burst of `capacity`, then the rate | constant |
//! | token bucket, interval refill | [`Quota::interval_bucket`] | a burst of `capacity`, then `refill` at each tick | constant |
//! | fixed window | [`Quota::fixed_window`] | `limit` in each window, up to twice that in a span across two windows | constant |
//! | calendar window | `Quota::calendar_window` (feature `calendar`) | `limit` in each day, week, month, quarter or year of a time zone | constant |
//! | sliding window, counter | [`Quota::sliding_window`] | an estimate that never exceeds `limit` | constant |
//! | total | [`Quota::total`] | `limit`, once | constant, and kept for ever |
//! | sliding window, log | [`Quota::sliding_log`] | `limit` in every span of one window | 16 bytes for each request admitted in the window |
//!
//! A number of tokens is 1 to 2^40. That is 1.1 TB if a token is a byte.
//!
//! The short constructors are `const` and meant for literals. They panic on an invalid value; in a constant that is a
//! compile error. For values from outside use the `try_` constructors, [`FromStr`](std::str::FromStr) or serde. They
//! return a [`QuotaError`] or a [`ParseQuotaError`] with the same message.
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

mod anchor;
mod bytes;
mod calendar;
mod constructors;
mod cost;
mod display;
mod error;
mod grammar;
mod parse;
mod parse_error;
mod repair;
mod rule;
#[cfg(feature = "serde")]
mod serde;
mod settings;
#[cfg(test)]
mod tests;
mod total;
mod unit;
mod units;

use std::time::Duration;

pub use self::anchor::Anchor;
pub(crate) use self::calendar::Calendar;
#[cfg(feature = "redis")]
pub(crate) use self::calendar::EDGES;
#[cfg(feature = "calendar")]
#[cfg_attr(docsrs, doc(cfg(feature = "calendar")))]
pub use self::calendar::Every;
pub use self::calendar::ZoneText;
pub use self::cost::Cost;
pub(crate) use self::cost::MAX_QUOTAS;
pub use self::error::QuotaError;
pub use self::parse_error::{ParseQuotaError, ParseQuotaErrorKind};
pub(crate) use self::rule::{
    CalendarWindow, FixedWindow, IntervalBucket, Origin, Rule, SlidingLog, SlidingWindow,
    TokenBucket, Total,
};
pub use self::unit::Unit;

/// The most tokens of a capacity, a refill or a limit.
pub(crate) const MOST_TOKENS: u64 = 1 << 40;

/// The tokens that one key may spend in a time, and the algorithm that counts them. The [module](self) has a table.
///
/// Guide: [choose an algorithm](crate::_guide::algorithms).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    pub(crate) rule: Rule,
    unit: Unit,
}

impl Quota {
    const fn from_rule(rule: Rule) -> Self {
        Self {
            rule,
            unit: Unit::Requests,
        }
    }

    /// Sets the unit of a token; requests by default. A quota with another unit is another limit with its own state.
    ///
    /// ```
    /// use tower_sluice::Quota;
    /// use tower_sluice::quota::Unit;
    ///
    /// let quota = Quota::per_day(10_000_000_000).with_unit(Unit::ContentBytes);
    /// assert_eq!(quota.to_string(), "10GB/day");
    /// ```
    #[must_use]
    pub const fn with_unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// Returns the capacity of a bucket, or the limit of a window or a total, in tokens.
    ///
    /// ```
    /// use tower_sluice::Quota;
    ///
    /// assert_eq!(Quota::per_second(5).burst(20).limit(), 20);
    /// ```
    #[must_use]
    #[inline]
    pub const fn limit(&self) -> u64 {
        match self.rule {
            Rule::TokenBucket(TokenBucket { capacity, .. })
            | Rule::IntervalBucket(IntervalBucket { capacity, .. }) => capacity,
            Rule::FixedWindow(FixedWindow { limit, .. })
            | Rule::SlidingWindow(SlidingWindow { limit, .. })
            | Rule::Total(Total { limit, .. })
            | Rule::CalendarWindow(CalendarWindow { limit, .. }) => limit,
            Rule::SlidingLog(SlidingLog { limit, .. }) => limit as u64,
        }
    }

    /// Returns the refill of a bucket: the tokens, and the period in which they come back. `None` for windows and totals.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    ///
    /// let quota = Quota::per_second(5).burst(20);
    /// assert_eq!((quota.limit(), quota.rate()), (20, Some((5, Duration::from_secs(1)))));
    /// ```
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

    /// Returns the exact rate of a bucket with continuous refill; `None` for the other algorithms.
    ///
    /// The rate is two integers in lowest terms: the grains that come back in a microsecond, and the grains of a token.
    #[must_use]
    pub const fn grains(&self) -> Option<(u64, u64)> {
        match self.rule {
            Rule::TokenBucket(TokenBucket { units, .. }) => {
                Some((units.per_micro.get(), units.per_token.get()))
            }
            _ => None,
        }
    }

    /// Returns the unit of a token.
    ///
    /// ```
    /// use tower_sluice::Quota;
    /// use tower_sluice::quota::Unit;
    ///
    /// assert_eq!(Quota::per_second(5).unit(), Unit::Requests);
    /// ```
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
            Rule::Total(_) => "total",
            Rule::CalendarWindow(_) => "calendar window",
        }
    }
}
