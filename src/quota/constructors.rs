use std::time::Duration;

use super::units::{MOST_GRAINS, Units};
use super::{
    FixedWindow, IntervalBucket, MOST_TOKENS, Quota, QuotaError, Rule, SlidingLog, SlidingWindow,
    TokenBucket,
};
use crate::clock::micros_up;

/// The largest number of requests in a sliding window log.
const LOG_MAX: u16 = u16::MAX;

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

    pub(super) const fn bucket_of_micros(
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
}

/// The constructors for literals panic with the error's own sentence: a start-up failure, or a compile error in a
/// `const`.
pub(super) const fn must(made: Result<Quota, QuotaError>) -> Quota {
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
