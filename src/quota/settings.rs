use std::time::Duration;

use super::constructors::must;
use super::error::BUCKETS;
use super::{Anchor, Quota, QuotaError, Rule};

impl Quota {
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
                of: BUCKETS,
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
}

/// Initial tokens after a change of the capacity: full stays full, less stays what it was.
const fn kept(initial: u64, old: u64, new: u64) -> u64 {
    if initial == old { new } else { initial }
}
