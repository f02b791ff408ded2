use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::micros_up;
use crate::quota::Cost;

/// The wait after which the same request is allowed.
///
/// There is no third case, so a `match` needs no wildcard arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// The smallest wait after which the same request is allowed, if no other request is made meanwhile. One
    /// microsecond sooner the request would still be denied. At least 1 µs.
    In(Duration),
    /// The cost exceeds the limit and can never be allowed.
    Never,
}

/// The answer of one quota. [`Snapshot`] is the answer of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaSnapshot {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// In µs; 0 if allowed, [`NEVER`] if the cost exceeds the limit.
    pub(crate) retry_after: u64,
    /// In µs.
    pub(crate) reset_after: u64,
}

/// The `retry_after` of a cost above the limit.
pub(crate) const NEVER: u64 = u64::MAX;

impl QuotaSnapshot {
    /// Creates an answer from its numbers, for a backend that decides by itself.
    ///
    /// Times are rounded up to whole microseconds. A wait is at least 1 µs.
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
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.retry_after == 0
    }

    /// Returns the most tokens that a bucket holds or a window admits.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the largest cost in tokens that would be allowed after this answer.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Returns the wait after which this quota allows the request; `None` if it allowed the request.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self.retry_after {
            0 => None,
            NEVER => Some(RetryAfter::Never),
            micros => Some(RetryAfter::In(Duration::from_micros(micros))),
        }
    }

    /// Returns the time until nothing is owed: a bucket is full, a window counts nothing. 0 if nothing is owed now.
    #[must_use]
    pub const fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after)
    }
}

/// The numbers of one answer: each quota's own, and those of the governing quota.
///
/// The governing quota is the one that header fields with a single value show:
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
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub(crate) quotas: SmallVec<[QuotaSnapshot; 2]>,
    pub(crate) governing: u8,
}

impl Snapshot {
    #[inline]
    pub(crate) fn single(quota: QuotaSnapshot) -> Self {
        Self {
            quotas: SmallVec::from_buf_and_len([quota; 2], 1),
            governing: 0,
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
            governing: u8::try_from(governing).unwrap_or(0),
            quotas,
        }
    }

    /// Returns the index of the governing quota in its policy, from 0.
    #[must_use]
    pub fn governing(&self) -> usize {
        usize::from(self.governing)
    }

    /// Returns each quota's own answer, in the order of the policy.
    #[must_use]
    pub fn quotas(&self) -> &[QuotaSnapshot] {
        &self.quotas
    }

    /// Returns the governing quota's limit, in tokens.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.governor().limit
    }

    /// Returns the governing quota's remaining tokens after this answer.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.governor().remaining
    }

    /// Returns the time until the governing quota owes nothing.
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.governor().reset_after()
    }

    /// Returns this denial as it is after `passed` µs, for a request of `cost`. The remaining tokens stay, as a lower
    /// bound. A cost above the limit stays [`NEVER`]. The result stays a denial: if all waits have passed, its wait is
    /// 1 µs.
    pub(crate) fn aged(&self, cost: &Cost, passed: u64) -> Self {
        let left = |(index, quota): (usize, &QuotaSnapshot)| QuotaSnapshot {
            retry_after: match quota.retry_after {
                _ if cost.get(index) > quota.limit => NEVER,
                wait => wait.saturating_sub(passed),
            },
            reset_after: quota.reset_after.saturating_sub(passed),
            ..*quota
        };
        let mut left: SmallVec<[_; 2]> = self.quotas.iter().enumerate().map(left).collect();
        if left.iter().all(QuotaSnapshot::is_allowed) {
            left[usize::from(self.governing)].retry_after = 1;
        }
        Self::new(left)
    }

    /// Returns the waits of this denial with the numbers of `after`, a later answer that follows a refund.
    pub(crate) fn with_numbers_from(&self, after: &Self) -> Self {
        let both = self.quotas.iter().zip(&after.quotas);
        let merged = |(denied, after): (&QuotaSnapshot, &QuotaSnapshot)| QuotaSnapshot {
            retry_after: denied.retry_after,
            ..*after
        };
        Self::new(both.map(merged).collect())
    }

    #[inline]
    pub(crate) fn governor(&self) -> &QuotaSnapshot {
        &self.quotas[usize::from(self.governing)]
    }
}

impl Clone for Snapshot {
    #[inline]
    fn clone(&self) -> Self {
        // Copies all quotas at once. The derived clone copies one by one and is slower.
        Self {
            quotas: SmallVec::from_slice(&self.quotas),
            governing: self.governing,
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
