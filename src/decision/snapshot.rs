use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::micros_up;
use crate::quota::Cost;

/// How long to wait before the same request is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// The smallest wait after which the same request is allowed if nothing else happens: denied one microsecond
    /// sooner, allowed then. At least 1 µs.
    In(Duration),
    /// Waiting does not help: the cost is above the limit.
    Never,
}

/// What one quota says of a request; see [`Snapshot`] for a policy's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaSnapshot {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// 0 if allowed, [`NEVER`] if no wait helps; µs.
    pub(crate) retry_after: u64,
    /// µs
    pub(crate) reset_after: u64,
}

/// `retry_after` in µs of a cost above the limit.
pub(crate) const NEVER: u64 = u64::MAX;

impl QuotaSnapshot {
    /// An answer in numbers, for a backend that decides by itself: times are rounded up to whole µs, and a wait is at
    /// least 1 µs.
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

    /// Whether this quota alone would have allowed the request.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.retry_after == 0
    }

    /// The most a bucket holds or a window admits, in tokens.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// The largest cost that would be allowed now, after this answer, in tokens.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The wait that this quota asks for; `None` if it allowed the request.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self.retry_after {
            0 => None,
            NEVER => Some(RetryAfter::Never),
            micros => Some(RetryAfter::In(Duration::from_micros(micros))),
        }
    }

    /// Time until nothing is owed: buckets are full, windows count nothing. 0 if so now.
    #[must_use]
    pub const fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after)
    }
}

/// The numbers of one answer: those of the governing quota, and each quota's own.
///
/// The governing quota is the one that single-valued headers speak of: of those that deny, the longest wait; if all
/// allow, the least remaining, then the latest reset, then the order of declaration.
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

    /// Picks the governing quota; a policy has 1 to 8.
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

    /// The governing quota's place in its policy, from 0.
    #[must_use]
    pub fn governing(&self) -> usize {
        usize::from(self.governing)
    }

    /// Each quota's own answer, in order of declaration.
    #[must_use]
    pub fn quotas(&self) -> &[QuotaSnapshot] {
        &self.quotas
    }

    /// The governing quota's limit, in tokens.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.governor().limit
    }

    /// The governing quota's remaining tokens, after this answer.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.governor().remaining
    }

    /// Time until the governing quota owes nothing.
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.governor().reset_after()
    }

    /// What is left of a denial's waits and spans after `passed` µs, for a request of `cost`; what remained then is by
    /// now the least that remains. A cost above the limit never passes, whatever was waited for. It stays a denial: if
    /// all waits are over, of 1 µs.
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

    /// The waits of this denial, beside the numbers of `after`, which something has been given back before.
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
        // As bytes in one piece: derived, it would go quota by quota.
        Self {
            quotas: SmallVec::from_slice(&self.quotas),
            governing: self.governing,
        }
    }
}

/// Denials before permissions, the longest wait first; then the least remaining, then the latest reset.
fn rank(quota: &QuotaSnapshot) -> (u64, u64, u64) {
    if quota.retry_after > 0 {
        (quota.retry_after, 0, 0)
    } else {
        (0, u64::MAX - quota.remaining, quota.reset_after)
    }
}
