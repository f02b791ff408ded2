//! The replies while a limit is off: the numbers of a key that owes nothing.

use std::time::Duration;

use smallvec::SmallVec;

use super::{Decision, PermitReply, QuotaSnapshot, Reply, Snapshot};
use crate::policy::{Policy, SemaphorePolicy};

impl Reply {
    /// Allows a request without a charge.
    #[inline(never)]
    pub(crate) fn of_unused_key(policy: &Policy) -> Self {
        let quotas = policy.quotas().iter();
        let quotas: SmallVec<[_; 2]> = quotas.map(|named| unused(named.quota().limit())).collect();
        Self::from_quotas(&quotas)
    }
}

impl PermitReply {
    /// Allows a request without a permit.
    #[inline(never)]
    pub(crate) fn of_unused_key(policy: &SemaphorePolicy) -> Self {
        Self::from_snapshot(unused(policy.capacity().into()))
    }
}

impl Decision {
    /// Returns the numbers without the decision.
    pub(crate) fn into_snapshot(self) -> Snapshot {
        match self {
            Self::Allow(snapshot) | Self::Deny(snapshot, _) => snapshot,
        }
    }
}

fn unused(limit: u64) -> QuotaSnapshot {
    QuotaSnapshot::new(limit, limit, None, Duration::ZERO)
}
