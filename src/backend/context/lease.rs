use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::decision::PermitId;
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::telemetry;

/// The lease of one permit, shared by the holder and the task that renews it.
pub(crate) struct Lease {
    pub(crate) id: PermitId,
    pub(crate) weight: u32,
    pub(crate) policy: SemaphorePolicy,
    pub(crate) key: Key,
    /// The runtime in which the permit was acquired. `None` outside of a runtime, or if permits have no lease.
    pub(crate) runtime: Option<Handle>,
    /// Whether a copy of the request may arrive after the release.
    pub(crate) may_arrive_late: bool,
    is_lost: AtomicBool,
    lost: Notify,
}

impl Lease {
    pub(crate) fn new(
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
        runtime: Option<Handle>,
        may_arrive_late: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            weight,
            policy: policy.clone(),
            key: key.clone(),
            runtime,
            may_arrive_late,
            is_lost: AtomicBool::new(false),
            lost: Notify::new(),
        })
    }

    /// Returns whether the lease was lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(SeqCst)
    }

    /// Marks the lease as lost and wakes its holder.
    pub(crate) fn lose(&self) {
        self.is_lost.store(true, SeqCst);
        telemetry::permit_lost(self.policy.label());
        self.lost.notify_waiters();
    }

    pub(crate) async fn lost(&self) {
        // Listens before it checks, because the lease may be lost between the two.
        let mut lost = pin!(self.lost.notified());
        lost.as_mut().enable();
        if !self.is_lost.load(SeqCst) {
            lost.await;
        }
    }
}
