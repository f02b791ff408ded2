use std::time::Duration;

use super::constructors::{checked, must};
use super::units::MOST_GRAINS;
use super::{Quota, QuotaError, Rule, Total};
use crate::clock::micros_up;

impl Quota {
    /// Creates a total: `limit` tokens, 1 to 2^40, once. They come back only by a refund or a
    /// [reset](crate::Limiter::reset) of the key. A total is for trials, prepaid credit and invitations.
    ///
    /// No wait helps a request that a total denies ([`RetryAfter::Never`](crate::RetryAfter::Never)). The state is kept
    /// for ever unless [`forget_after`](Self::forget_after) is set: in Redis without expiry, in memory up to
    /// [`max_totals`](crate::backend::memory::MemoryBackendBuilder::max_totals) entries.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota, RetryAfter};
    ///
    /// let trial = Limiter::new(Policy::new("trial", Quota::total(1_000)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// assert!(trial.check_now(&ann, 1_000).decision.is_allowed());
    /// assert_eq!(trial.check_now(&ann, 1).decision.retry_after(), Some(RetryAfter::Never));
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if `limit` is 0 or above 2^40.
    #[must_use]
    pub const fn total(limit: u64) -> Self {
        must(Self::try_total(limit))
    }

    /// Creates a total: `limit` tokens, once. See [`total`](Self::total).
    ///
    /// # Errors
    ///
    /// Returns an error if `limit` is 0 or above 2^40.
    pub const fn try_total(limit: u64) -> Result<Self, QuotaError> {
        match checked("limit", limit) {
            Ok(()) => Ok(Self::from_rule(Rule::Total(Total {
                limit,
                forget_after: None,
            }))),
            Err(error) => Err(error),
        }
    }

    /// Sets how long the state of a total is kept after its last write: 1 µs to 142 years; for ever by default. After
    /// that the key is unused again. Clients are not told: a denial still reports that no wait helps.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::Quota;
    ///
    /// let year = Duration::from_secs(365 * 86_400);
    /// assert_eq!(Quota::total(3).forget_after(year).limit(), 3);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_forget_after`](Self::try_forget_after) would return an error, with the same message.
    #[must_use]
    pub const fn forget_after(self, span: Duration) -> Self {
        must(self.try_forget_after(span))
    }

    /// Sets how long the state of a total is kept after its last write.
    ///
    /// # Errors
    ///
    /// Returns an error if `span` is 0 or longer than 142 years, or if this quota is not a total.
    pub const fn try_forget_after(mut self, span: Duration) -> Result<Self, QuotaError> {
        let algorithm = self.algorithm();
        let Rule::Total(total) = &mut self.rule else {
            return Err(QuotaError::NotASettingOf {
                setting: "forget after",
                algorithm,
                of: "a total",
            });
        };
        match micros_up(span) {
            0 => Err(QuotaError::Zero {
                what: "forget after",
            }),
            micros @ 1..=MOST_GRAINS => {
                total.forget_after = Some(micros);
                Ok(self)
            }
            window_us => Err(QuotaError::WindowTooLong { window_us }),
        }
    }
}
