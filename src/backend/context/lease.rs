use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::decision::PermitId;
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::telemetry;

/// What the holder of a permit and the renewal of its lease share.
pub(crate) struct Lease {
    pub(crate) id: PermitId,
    pub(crate) weight: u32,
    pub(crate) policy: SemaphorePolicy,
    pub(crate) key: Key,
    /// Where it was acquired; None if it is given back at once.
    pub(crate) runtime: Option<Handle>,
    /// Whether a copy of the request for it may arrive after it was released.
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

    /// Whether the lease was lost.
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
        // Listens first: it may be lost between the look and the listening.
        let mut lost = pin!(self.lost.notified());
        lost.as_mut().enable();
        if !self.is_lost.load(SeqCst) {
            lost.await;
        }
    }
}
