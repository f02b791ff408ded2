use std::hash::{DefaultHasher, Hash, Hasher};

use crate::quota::{Quota, Rule};

/// One quota of a policy, and the name that clients see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedQuota {
    pub(super) name: Box<str>,
    pub(crate) quota: Quota,
    pub(super) id: u64,
    mark: u32,
    /// The index of its scope, if the policy has several.
    scope: u8,
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
        let id = identity(policy, name, &quota);
        Self {
            name: name.into(),
            quota,
            id,
            mark: mark(id, 0),
            scope: 0,
            lingers,
            is_total: matches!(quota.rule, Rule::Total(_)),
        }
    }

    /// Returns the same quota as a member of this scope. Its mark differs from that of the same quota in another scope.
    pub(super) fn in_scope(&self, scope: u8) -> Self {
        Self {
            mark: mark(self.id, scope),
            scope,
            ..self.clone()
        }
    }

    /// The index of its scope in the policy.
    #[inline]
    pub(crate) fn scope(&self) -> usize {
        usize::from(self.scope)
    }

    /// Returns the name that clients see.
    ///
    /// See the example of [`Policy::quotas`](crate::Policy::quotas).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the quota.
    ///
    /// ```
    /// use tower_sluice::{Policy, Quota};
    ///
    /// let policy = Policy::new("api", Quota::per_second(5).burst(20));
    /// assert_eq!(policy.quotas()[0].quota().limit(), 20);
    /// ```
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

    /// Whether the quota is a total that is forgotten some time after its last write, which no reply shows.
    #[cfg(feature = "redis")]
    pub(crate) fn is_forgotten(&self) -> bool {
        matches!(self.quota.rule, Rule::Total(total) if total.forget_after.is_some())
    }

    /// A number that identifies the limit within this process, among the limits of one key.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The number that receipts contain: a part of the id, and the scope.
    #[inline]
    pub(crate) fn mark(&self) -> u32 {
        self.mark
    }
}

#[allow(clippy::cast_possible_truncation)] // the low half is enough
fn mark(id: u64, scope: u8) -> u32 {
    id as u32 ^ u32::from(scope)
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
        // A count stays while its window lasts by the calendar of now.
        Rule::CalendarWindow(_) => (6, 0, None),
    };
    hash_of((policy, name, shape, quota.unit()))
}
