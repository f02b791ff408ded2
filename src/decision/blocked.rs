//! The denial of a blocked key.

use smallvec::SmallVec;

use super::Reply;
use super::snapshot::{DenialReason, NEVER, QuotaSnapshot, Snapshot};
use crate::policy::Policy;
use crate::quota::Cost;

impl Reply {
    /// Denies a request with blocked scopes. `rests` has the rest of the block of each scope in µs, 0 for none.
    ///
    /// Each quota of a blocked scope denies the request for the rest. `numbers` are the answers of all quotas without a
    /// charge, which the quotas of the other scopes keep. It may be empty if there are no other scopes.
    #[cold]
    pub(crate) fn of_blocked_scopes(
        policy: &Policy,
        cost: &Cost,
        rests: &[u64],
        numbers: &[QuotaSnapshot],
    ) -> Self {
        let quotas = policy.quotas().iter().enumerate().map(|(index, named)| {
            let limit = named.quota().limit();
            let rest = rests.get(named.scope()).copied().unwrap_or(0);
            if let (0, Some(own)) = (rest, numbers.get(index)) {
                return *own;
            }
            let rest = rest.clamp(1, NEVER - 1);
            QuotaSnapshot {
                limit,
                remaining: 0,
                retry_after: if cost.get(index) > limit { NEVER } else { rest },
                reset_after: rest,
            }
        });
        let quotas: SmallVec<[_; 2]> = quotas.collect();
        let snapshot = Snapshot::new(quotas).denied_by(DenialReason::Blocked);
        Self::to_check(snapshot, SmallVec::new)
    }
}
