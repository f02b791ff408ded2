use std::time::Duration;

use super::constructors::must;
use super::error::BUCKETS;
use super::{Anchor, Quota, QuotaError, Rule};

impl Quota {
    /// Sets the capacity of a bucket, and so the largest burst. The rate stays. The bucket starts full unless
    /// [`initial_tokens`](Self::initial_tokens) is set.
    ///
    /// ```
    /// use tower_sluice::Quota;
    ///
    /// let quota = Quota::per_second(10).burst(30);
    /// assert_eq!(quota.limit(), 30);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_burst`](Self::try_burst) would return an error, with the same message.
    #[must_use]
    pub const fn burst(self, capacity: u64) -> Self {
        must(self.try_burst(capacity))
    }

    /// Sets the capacity of a bucket, and so the largest burst. The rate stays. The bucket starts full unless
    /// [`initial_tokens`](Self::initial_tokens) is set.
    ///
    /// ```
    /// use tower_sluice::Quota;
    ///
    /// assert_eq!(Quota::per_second(5).try_burst(20)?.limit(), 20);
    /// assert!(Quota::per_second(5).try_burst(0).is_err());
    /// # Ok::<(), tower_sluice::quota::QuotaError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error in these cases:
    ///
    /// - This quota is not a bucket.
    /// - `capacity` is 0, above 2^40, or below the initial tokens.
    /// - The bucket takes more than 142 years to fill.
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
                of: BUCKETS,
            }),
        };
        match made {
            Ok(quota) => Ok(quota.with_unit(self.unit)),
            Err(error) => Err(error),
        }
    }

    /// Sets the tokens in an unused bucket, from 0 to its capacity; the capacity by default.
    ///
    /// ```
    /// use tower_sluice::Quota;
    ///
    /// let quota = Quota::per_minute(60).initial_tokens(0);
    /// assert_eq!(quota.to_string(), "60/minute (initially 0)");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_initial_tokens`](Self::try_initial_tokens) would return an error, with the same message.
    #[must_use]
    pub const fn initial_tokens(self, initial: u64) -> Self {
        must(self.try_initial_tokens(initial))
    }

    /// Sets the tokens in an unused bucket, from 0 to its capacity; the capacity by default.
    ///
    /// ```
    /// use tower_sluice::Quota;
    ///
    /// assert!(Quota::per_second(5).try_initial_tokens(5).is_ok());
    /// assert!(Quota::per_second(5).try_initial_tokens(6).is_err()); // above the capacity
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if `initial` is above the capacity, or if this quota is not a bucket.
    pub const fn try_initial_tokens(mut self, initial: u64) -> Result<Self, QuotaError> {
        let capacity = self.limit();
        match &mut self.rule {
            Rule::TokenBucket(bucket) => bucket.initial = initial,
            Rule::IntervalBucket(bucket) => bucket.initial = initial,
            _ => {
                return Err(QuotaError::NotASettingOf {
                    setting: "initial tokens",
                    algorithm: self.algorithm(),
                    of: BUCKETS,
                });
            }
        }
        if initial > capacity {
            Err(QuotaError::InitialAboveCapacity { initial, capacity })
        } else {
            Ok(self)
        }
    }

    /// Sets the start of the intervals of a bucket or of fixed windows. By default, intervals start with the first
    /// charge, and windows at multiples of their length since the Unix epoch.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    /// use tower_sluice::quota::Anchor;
    ///
    /// let day = Duration::from_secs(86_400);
    /// let offset = Duration::from_secs(4 * 3_600); // days start at 4:00 UTC
    /// let quota = Quota::fixed_window(1_000, day).anchor(Anchor::Epoch { offset });
    /// assert_eq!(quota.limit(), 1_000);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_anchor`](Self::try_anchor) would return an error, with the same message.
    #[must_use]
    pub const fn anchor(self, anchor: Anchor) -> Self {
        must(self.try_anchor(anchor))
    }

    /// Sets the start of the intervals of a bucket or of fixed windows.
    ///
    /// # Errors
    ///
    /// Returns an error if this quota is neither an interval bucket nor a fixed window.
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
}

/// Returns the initial tokens after a change of the capacity. A full bucket stays full; a lower number stays.
const fn kept(initial: u64, old: u64, new: u64) -> u64 {
    if initial == old { new } else { initial }
}
