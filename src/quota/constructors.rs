use std::time::Duration;

use super::units::{MOST_GRAINS, Units};
use super::{
    FixedWindow, IntervalBucket, MOST_TOKENS, Quota, QuotaError, Rule, SlidingLog, SlidingWindow,
    TokenBucket,
};
use crate::clock::micros_up;

/// The largest limit of a sliding log.
pub(super) const LOG_MAX: u16 = u16::MAX;

impl Quota {
    /// Creates a token bucket of `tokens` that refills in one second: `per_second(5)` means five in each second.
    /// [`burst`](Self::burst) sets another capacity.
    ///
    /// ```
    /// use tower_sluice::Quota;
    ///
    /// assert_eq!(Quota::per_second(5).to_string(), "5/second");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if `tokens` is 0 or above 2^40.
    #[must_use]
    pub const fn per_second(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(1))
    }

    /// Creates a token bucket of `tokens` that refills in one minute.
    ///
    /// # Panics
    ///
    /// Panics if `tokens` is 0 or above 2^40.
    #[must_use]
    pub const fn per_minute(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(60))
    }

    /// Creates a token bucket of `tokens` that refills in one hour.
    ///
    /// # Panics
    ///
    /// Panics if `tokens` is 0 or above 2^40.
    #[must_use]
    pub const fn per_hour(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(3_600))
    }

    /// Creates a token bucket of `tokens` that refills in one day of 24 hours.
    ///
    /// # Panics
    ///
    /// Panics if `tokens` is 0 or above 2^40.
    #[must_use]
    pub const fn per_day(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(86_400))
    }

    /// Creates a token bucket of `tokens` that refills in `period`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    ///
    /// assert_eq!(Quota::per(5, Duration::from_secs(600)).to_string(), "5/10 minutes");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_per`](Self::try_per) would return an error, with the same message.
    #[must_use]
    pub const fn per(tokens: u64, period: Duration) -> Self {
        must(Self::try_per(tokens, period))
    }

    /// Creates a token bucket of `tokens` that refills in `period`.
    ///
    /// # Errors
    ///
    /// Returns an error if either is 0, `tokens` is above 2^40, or the refill takes more than 142 years.
    pub const fn try_per(tokens: u64, period: Duration) -> Result<Self, QuotaError> {
        match checked("count", tokens) {
            Ok(()) => Self::try_token_bucket(tokens, tokens, period),
            Err(error) => Err(error),
        }
    }

    /// Creates a token bucket that holds `capacity` tokens and refills `refill` tokens in each `period`, evenly.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    ///
    /// let quota = Quota::token_bucket(20, 5, Duration::from_secs(1));
    /// assert_eq!(quota, Quota::per_second(5).burst(20));
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_token_bucket`](Self::try_token_bucket) would return an error, with the same message.
    #[must_use]
    pub const fn token_bucket(capacity: u64, refill: u64, period: Duration) -> Self {
        must(Self::try_token_bucket(capacity, refill, period))
    }

    /// Creates a token bucket that holds `capacity` tokens and refills `refill` tokens in each `period`, evenly.
    ///
    /// The refill is exact if the rate fits into 2^52 parts of the capacity. Otherwise it is slower by less than the
    /// factor 5e-4 (usually 1e-13), and never faster.
    ///
    /// # Errors
    ///
    /// Returns an error if a number is 0, `capacity` or `refill` is above 2^40, or filling takes more than 142 years.
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
            // The period was cut to the largest number, so that the rate would be too fast.
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

    /// Creates a token bucket that holds `capacity` tokens and refills `refill` tokens at the end of each `period`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    ///
    /// let quota = Quota::interval_bucket(20, 5, Duration::from_secs(1));
    /// assert_eq!(quota.to_string(), "interval:5/second burst 20");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_interval_bucket`](Self::try_interval_bucket) would return an error, with the same message.
    #[must_use]
    pub const fn interval_bucket(capacity: u64, refill: u64, period: Duration) -> Self {
        must(Self::try_interval_bucket(capacity, refill, period))
    }

    /// Creates a token bucket that holds `capacity` tokens and refills `refill` tokens at the end of each `period`.
    ///
    /// The first charge of a full bucket starts a period. [`anchor`](Self::anchor) aligns periods to the Unix epoch
    /// instead.
    ///
    /// # Errors
    ///
    /// Returns an error if a number is 0, `capacity` or `refill` is above 2^40, or filling takes more than 142 years.
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

    /// Creates a fixed window: at most `limit` tokens in each `window`. Windows are aligned to the Unix epoch unless
    /// [`anchor`](Self::anchor) sets another start.
    ///
    /// Up to `2 × limit` tokens can be spent in a span of one window's length, across the border of two windows.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    ///
    /// let quota = Quota::fixed_window(1_000, Duration::from_secs(86_400));
    /// assert_eq!(quota.to_string(), "fixed-window:1000/day");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_fixed_window`](Self::try_fixed_window) would return an error, with the same message.
    #[must_use]
    pub const fn fixed_window(limit: u64, window: Duration) -> Self {
        must(Self::try_fixed_window(limit, window))
    }

    /// Creates a fixed window: at most `limit` tokens in each `window`. Windows are aligned to the Unix epoch.
    ///
    /// # Errors
    ///
    /// Returns an error if a number is 0, the limit is above 2^40, or the window is longer than 142 years.
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

    /// Creates a sliding window by counters: at most `limit` tokens in a sliding `window`. The count of the last window
    /// is weighted by the part that the sliding window still covers.
    ///
    /// It takes constant memory. For steady traffic it is within a few percent of [`sliding_log`](Self::sliding_log).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    ///
    /// let quota = Quota::sliding_window(100, Duration::from_secs(60));
    /// assert_eq!(quota.to_string(), "sliding-window:100/minute");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_sliding_window`](Self::try_sliding_window) would return an error, with the same message.
    #[must_use]
    pub const fn sliding_window(limit: u64, window: Duration) -> Self {
        must(Self::try_sliding_window(limit, window))
    }

    /// Creates a sliding window by counters: at most `limit` tokens in a sliding `window`.
    ///
    /// # Errors
    ///
    /// Returns an error if a number is 0, the limit is above 2^40, or the window is longer than 142 years.
    pub const fn try_sliding_window(limit: u64, window: Duration) -> Result<Self, QuotaError> {
        match checked_window(limit, micros_up(window)) {
            Ok(window) => {
                // A tick is 1 µs, or more if limit × window exceeds 2^51. The quotient is at most 2^41.
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

    /// Creates a sliding window by a log: at most `limit` tokens, up to 65,535, in **every** span of `window`.
    ///
    /// It is exact, and takes 16 bytes for each request admitted in the window.
    /// [`sliding_window`](Self::sliding_window) takes constant memory.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    ///
    /// let quota = Quota::sliding_log(100, Duration::from_secs(60));
    /// assert_eq!(quota.to_string(), "sliding-log:100/minute");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_sliding_log`](Self::try_sliding_log) would return an error, with the same message.
    #[must_use]
    pub const fn sliding_log(limit: u64, window: Duration) -> Self {
        must(Self::try_sliding_log(limit, window))
    }

    /// Creates a sliding window by a log: at most `limit` tokens, up to 65,535, in every span of `window`.
    ///
    /// # Errors
    ///
    /// Returns an error if a number is 0, the limit is above 65,535, or the window is longer than 142 years.
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

/// Panics with the message of the error: at start-up, or as a compile error in a `const`.
pub(super) const fn must(made: Result<Quota, QuotaError>) -> Quota {
    match made {
        Ok(quota) => quota,
        Err(error) => panic!("{}", error.sentence().as_str()),
    }
}

/// Returns an error unless `value` is 1 to 2^40 tokens.
pub(super) const fn checked(what: &'static str, value: u64) -> Result<(), QuotaError> {
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
