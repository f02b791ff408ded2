use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::decision::{Decision, PermitId};
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::telemetry;

/// The lease of one permit, shared by the holder and the task that renews it.
// It also has what only the holder reads, so that moving a permit moves two pointers.
pub(super) struct Lease {
    pub(super) id: PermitId,
    pub(super) weight: u32,
    pub(super) policy: SemaphorePolicy,
    pub(super) key: Key,
    /// The runtime in which the permit was acquired. `None` outside of a runtime, or if permits have no lease.
    pub(super) runtime: Option<Handle>,
    /// Whether a copy of the request may arrive after the release.
    pub(super) may_arrive_late: bool,
    /// The decision that granted the permit.
    pub(super) decision: Decision,
    /// How long the request waited for the permit.
    pub(super) waited: Duration,
    is_lost: AtomicBool,
    lost: Notify,
}

impl Lease {
    /// Creates a lease of a permit that a request acquired without waiting, and that does not have to be renewed.
    pub(super) fn new(
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
        decision: Decision,
    ) -> Self {
        Self {
            id,
            weight,
            policy: policy.clone(),
            key: key.clone(),
            runtime: None,
            may_arrive_late: false,
            decision,
            waited: Duration::ZERO,
            is_lost: AtomicBool::new(false),
            lost: Notify::new(),
        }
    }

    /// Returns whether the lease was lost.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(SeqCst)
    }

    /// Marks the lease as lost and wakes its holder.
    pub(super) fn lose(&self) {
        self.is_lost.store(true, SeqCst);
        telemetry::permit_lost(self.policy.label());
        self.lost.notify_waiters();
    }

    pub(super) async fn lost(&self) {
        // Listens before it checks, because the lease may be lost between the two.
        let mut lost = pin!(self.lost.notified());
        lost.as_mut().enable();
        if !self.is_lost.load(SeqCst) {
            lost.await;
        }
    }
}
