use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::micros_up;
use crate::quota::Cost;

/// The wait after which the same request is allowed.
///
/// There is no third case, so a `match` needs no wildcard arm.
///
/// Guide: [what clients see](crate::_guide::clients).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// The smallest wait after which the same request is allowed, if no other request is made meanwhile. One
    /// microsecond sooner the request would still be denied. At least 1 µs.
    In(Duration),
    /// No wait helps: the cost exceeds the limit, or a [total](crate::Quota::total) is used up.
    Never,
}

/// The reason of a denial; see [`Decision::denial_reason`](super::Decision::denial_reason).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialReason {
    /// At least one quota denied the cost.
    #[default]
    Quota,
    /// The key is blocked ([`Limiter::block`](crate::Limiter::block)).
    Blocked,
    /// A memory backend keeps as many totals as it may
    /// ([`max_totals`](crate::backend::memory::MemoryBackendBuilder::max_totals)), and the key has none yet. A layer
    /// rejects the request as if the backend had failed.
    TooManyTotals,
}

impl RetryAfter {
    /// Returns the wait in whole seconds, rounded up, so at least 1. `None` if no wait helps.
    ///
    /// That is the value of the header field `Retry-After`. Rounded down, a client would come back too early.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::RetryAfter;
    ///
    /// let wait = RetryAfter::In(Duration::from_micros(1_000_001));
    /// assert_eq!((wait.as_secs_ceil(), wait.as_millis_ceil()), (Some(2), Some(1_001)));
    /// assert_eq!(RetryAfter::Never.as_secs_ceil(), None);
    /// ```
    #[must_use]
    pub const fn as_secs_ceil(self) -> Option<u64> {
        self.ceil(1_000_000)
    }

    /// Returns the wait in whole milliseconds, rounded up, so at least 1. `None` if no wait helps.
    ///
    /// A client that sleeps for this time is not too early.
    ///
    /// See the example of [`as_secs_ceil`](Self::as_secs_ceil).
    #[must_use]
    pub const fn as_millis_ceil(self) -> Option<u64> {
        self.ceil(1_000)
    }

    const fn ceil(self, micros: u64) -> Option<u64> {
        match self {
            // A wait of a custom backend may be zero.
            Self::In(wait) => match micros_up(wait).div_ceil(micros) {
                0 => Some(1),
                units => Some(units),
            },
            Self::Never => None,
        }
    }
}

/// The answer of one quota. [`Snapshot`] is the answer of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaSnapshot {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// In µs; 0 if allowed, [`NEVER`] if no wait helps.
    pub(crate) retry_after: u64,
    /// In µs; [`NEVER`] for a total that is in use.
    pub(crate) reset_after: u64,
}

/// The `retry_after` if no wait helps, and the `reset_after` of a total in use.
pub(crate) const NEVER: u64 = u64::MAX;

impl QuotaSnapshot {
    /// Creates an answer from its numbers, for a backend that decides by itself.
    ///
    /// Times are rounded up to whole microseconds. A wait is at least 1 µs. A reset after [`Duration::MAX`] never comes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::RetryAfter;
    /// use tower_sluice::decision::QuotaSnapshot;
    ///
    /// let wait = RetryAfter::In(Duration::from_secs(6));
    /// let denied = QuotaSnapshot::new(10, 0, Some(wait), Duration::from_secs(60));
    /// assert!(!denied.is_allowed());
    /// assert_eq!((denied.limit(), denied.remaining()), (10, 0));
    /// assert_eq!((denied.retry_after(), denied.reset_after()), (Some(wait), Duration::from_secs(60)));
    /// ```
    #[must_use]
    pub fn new(
        limit: u64,
        remaining: u64,
        retry_after: Option<RetryAfter>,
        reset_after: Duration,
    ) -> Self {
        let retry_after = match retry_after {
            None => 0,
            Some(RetryAfter::In(wait)) => micros_up(wait).clamp(1, NEVER - 1),
            Some(RetryAfter::Never) => NEVER,
        };
        Self {
            limit,
            remaining,
            retry_after,
            reset_after: micros_up(reset_after),
        }
    }

    /// Returns whether this quota alone would have allowed the request.
    ///
    /// See the example of [`new`](Self::new).
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.retry_after == 0
    }

    /// Returns the most tokens that a bucket holds or a window admits.
    ///
    /// See the example of [`new`](Self::new).
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the largest cost in tokens that would be allowed after this answer.
    ///
    /// See the example of [`new`](Self::new).
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Returns the wait after which this quota allows the request; `None` if it allowed the request.
    ///
    /// See the example of [`new`](Self::new).
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self.retry_after {
            0 => None,
            NEVER => Some(RetryAfter::Never),
            micros => Some(RetryAfter::In(Duration::from_micros(micros))),
        }
    }

    /// Returns the time until nothing is owed: a bucket is full, a window counts nothing. 0 if nothing is owed now, and
    /// [`Duration::MAX`] for a total in use, which never resets by itself.
    ///
    /// See the example of [`new`](Self::new).
    #[must_use]
    pub const fn reset_after(&self) -> Duration {
        match self.reset_after {
            NEVER => Duration::MAX,
            micros => Duration::from_micros(micros),
        }
    }
}

/// The numbers of one answer: each quota's own, and those of the governing quota.
///
/// The governing quota is the one that the numbers of this value are from:
///
/// - If quotas deny: the denying quota with the longest wait.
/// - If all allow: the quota with the least remaining, then with the latest reset, then the first in the policy.
///
/// ```
/// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
///
/// let policy = Policy::new("api", Quota::per_second(10)).and("daily", Quota::per_day(1_000));
/// let limiter = Limiter::new(policy, MemoryBackend::new());
/// let decision = limiter.check_now(&Key::from("ann"), 4).decision;
/// let snapshot = decision.snapshot();
/// assert_eq!((snapshot.governing(), snapshot.limit(), snapshot.remaining()), (0, 10, 6));
/// assert_eq!(snapshot.quotas()[1].remaining(), 996);
/// ```
///
/// Guide: [what clients see](crate::_guide::clients).
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub(crate) quotas: SmallVec<[QuotaSnapshot; 2]>,
    /// The index of the governing quota in the low six bits, and the reason of a denial in the others. Two fields
    /// would cost the path of an allowed request more instructions.
    marks: u8,
}

/// The bits of an index: up to eight scopes have at most eight quotas each.
const INDEX: u8 = 63;

impl Snapshot {
    #[inline]
    pub(crate) fn single(quota: QuotaSnapshot) -> Self {
        Self {
            quotas: SmallVec::from_buf_and_len([quota; 2], 1),
            marks: 0,
        }
    }

    /// Finds the governing quota of 1 to 8.
    pub(crate) fn new(quotas: SmallVec<[QuotaSnapshot; 2]>) -> Self {
        let mut governing = 0;
        for index in 1..quotas.len() {
            if rank(&quotas[index]) > rank(&quotas[governing]) {
                governing = index;
            }
        }
        Self {
            marks: u8::try_from(governing).unwrap_or(0),
            quotas,
        }
    }

    /// Sets the reason of a denial.
    pub(crate) fn denied_by(mut self, reason: DenialReason) -> Self {
        self.marks = self.marks & INDEX | (reason as u8) << INDEX.count_ones();
        self
    }

    pub(super) const fn reason(&self) -> DenialReason {
        match self.marks >> INDEX.count_ones() {
            0 => DenialReason::Quota,
            1 => DenialReason::Blocked,
            _ => DenialReason::TooManyTotals,
        }
    }

    /// Returns the index of the governing quota in its policy, from 0.
    ///
    /// See the example of [`Snapshot`].
    #[must_use]
    #[inline]
    pub fn governing(&self) -> usize {
        usize::from(self.marks & INDEX)
    }

    /// Returns each quota's own answer, in the order of the policy.
    ///
    /// See the example of [`Snapshot`].
    #[must_use]
    pub fn quotas(&self) -> &[QuotaSnapshot] {
        &self.quotas
    }

    /// Returns the governing quota's limit, in tokens.
    ///
    /// See the example of [`Snapshot`].
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.governor().limit
    }

    /// Returns the governing quota's remaining tokens after this answer.
    ///
    /// See the example of [`Snapshot`].
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.governor().remaining
    }

    /// Returns the time until the governing quota owes nothing; [`Duration::MAX`] for a total in use.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_minute(60)), MemoryBackend::new());
    /// let decision = limiter.check_now("ann", 5).decision;
    /// assert_eq!(decision.snapshot().reset_after(), Duration::from_secs(5)); // a token a second
    /// ```
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.governor().reset_after()
    }

    /// Returns this denial as it is after `passed` µs, for a request of `cost`. The remaining tokens stay, as a lower
    /// bound. A wait of [`NEVER`] stays. The result stays a denial: if all waits have passed, its wait is
    /// 1 µs.
    pub(crate) fn aged(&self, cost: &Cost, passed: u64) -> Self {
        let left = |span: u64| match span {
            NEVER => NEVER,
            span => span.saturating_sub(passed),
        };
        let aged = |(index, quota): (usize, &QuotaSnapshot)| QuotaSnapshot {
            retry_after: match quota.retry_after {
                _ if cost.get(index) > quota.limit => NEVER,
                wait => left(wait),
            },
            reset_after: left(quota.reset_after),
            ..*quota
        };
        let mut aged: SmallVec<[_; 2]> = self.quotas.iter().enumerate().map(aged).collect();
        if aged.iter().all(QuotaSnapshot::is_allowed) {
            aged[self.governing()].retry_after = 1;
        }
        Self::new(aged).denied_by(self.reason())
    }

    /// Returns the waits of this denial with the numbers of `after`, a later answer that follows a refund.
    pub(crate) fn with_numbers_from(&self, after: &Self) -> Self {
        let both = self.quotas.iter().zip(&after.quotas);
        let merged = |(denied, after): (&QuotaSnapshot, &QuotaSnapshot)| QuotaSnapshot {
            retry_after: denied.retry_after,
            ..*after
        };
        Self::new(both.map(merged).collect()).denied_by(self.reason())
    }

    /// Returns whether it denies a blocked key.
    #[cfg(feature = "redis")]
    pub(crate) fn is_of_block(&self) -> bool {
        self.reason() == DenialReason::Blocked
    }

    /// Returns whether a wait can end a denial: quotas alone deny.
    pub(crate) fn can_wait(&self) -> bool {
        self.reason() == DenialReason::Quota
    }

    #[inline]
    pub(crate) fn governor(&self) -> &QuotaSnapshot {
        &self.quotas[self.governing()]
    }
}

impl Clone for Snapshot {
    #[inline]
    fn clone(&self) -> Self {
        // Copies all quotas at once. The derived clone copies one by one and is slower.
        Self {
            quotas: SmallVec::from_slice(&self.quotas),
            marks: self.marks,
        }
    }
}

/// The largest rank governs: denials before permissions, then the longest wait, the least remaining, the latest reset.
fn rank(quota: &QuotaSnapshot) -> (u64, u64, u64) {
    if quota.retry_after > 0 {
        (quota.retry_after, 0, 0)
    } else {
        (0, u64::MAX - quota.remaining, quota.reset_after)
    }
}
