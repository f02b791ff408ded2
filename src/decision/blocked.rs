//! The denial of a blocked key.

use smallvec::SmallVec;

use super::Reply;
use super::snapshot::{DenialReason, NEVER, QuotaSnapshot, Snapshot};
use crate::policy::Policy;
use crate::quota::Cost;

impl Reply {
    /// Denies a request of a blocked key. Every quota denies it for the `rest` of the block, in µs.
    #[cold]
    pub(crate) fn of_blocked_key(policy: &Policy, cost: &Cost, rest: u64) -> Self {
        let rest = rest.clamp(1, NEVER - 1);
        let denied = |(index, limit): (usize, u64)| QuotaSnapshot {
            limit,
            remaining: 0,
            retry_after: if cost.get(index) > limit { NEVER } else { rest },
            reset_after: rest,
        };
        let limits = policy.quotas().iter().map(|named| named.quota().limit());
        let quotas: SmallVec<[_; 2]> = limits.enumerate().map(denied).collect();
        let snapshot = Snapshot::new(quotas).denied_by(DenialReason::Blocked);
        Self::to_check(snapshot, SmallVec::new)
    }
}
