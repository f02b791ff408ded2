use std::hash::{DefaultHasher, Hash, Hasher};

use crate::quota::{Quota, Rule};

/// One quota of a policy, and the name that clients see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedQuota {
    pub(super) name: Box<str>,
    pub(crate) quota: Quota,
    pub(super) id: u64,
    lingers: bool,
    is_total: bool,
}

impl NamedQuota {
    pub(super) fn new(policy: &str, name: &str, quota: Quota) -> Self {
        let lingers = match quota.rule {
            Rule::TokenBucket(bucket) => bucket.initial < bucket.capacity,
            Rule::IntervalBucket(bucket) => bucket.initial < bucket.capacity,
            _ => false,
        };
        Self {
            name: name.into(),
            quota,
            id: identity(policy, name, &quota),
            lingers,
            is_total: matches!(quota.rule, Rule::Total(_)),
        }
    }

    /// Returns the name that clients see.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the quota.
    #[must_use]
    #[inline]
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Whether the quota is a bucket that starts below its capacity, so that no state differs from a full bucket. Such
    /// a state is kept for some time after the bucket has filled.
    #[inline]
    pub(crate) fn lingers(&self) -> bool {
        self.lingers
    }

    /// Whether the quota is a total, whose state never becomes obsolete by itself.
    #[inline]
    pub(crate) fn is_total(&self) -> bool {
        self.is_total
    }

    /// A number that identifies the limit within this process, among the limits of one key.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The part of the id that receipts contain.
    #[allow(clippy::cast_possible_truncation)]
    #[inline]
    pub(crate) fn mark(&self) -> u32 {
        self.id as u32
    }
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The identity of a limit: its policy, name, algorithm, window, anchor and unit. The numbers of a bucket may change.
pub(super) fn identity(policy: &str, name: &str, quota: &Quota) -> u64 {
    let shape = match quota.rule {
        Rule::TokenBucket(_) => (0, 0, None),
        Rule::IntervalBucket(bucket) => (1, 0, Some(bucket.origin)),
        Rule::FixedWindow(fixed) => (2, fixed.window, Some(fixed.origin)),
        Rule::SlidingWindow(sliding) => (3, sliding.window, None),
        Rule::SlidingLog(log) => (4, log.window, None),
        Rule::Total(_) => (5, 0, None),
    };
    hash_of((policy, name, shape, quota.unit()))
}
