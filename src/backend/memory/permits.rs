use std::convert::Infallible;
use std::future::Ready;
use std::time::Duration;

use super::MemoryBackend;
use crate::backend::{Answer, BackendContext, PermitBackend};
use crate::clock::Clock;
use crate::decision::{PermitId, PermitOp, PermitReply, QuotaSnapshot};
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// Permits are kept beside the buckets and have no bound on keys, because only keys with holders are kept.
impl<C: Clock> PermitBackend for MemoryBackend<C> {
    type Error = Infallible;
    type Future = Ready<Result<PermitReply, Infallible>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, Infallible>, Self::Future> {
        PermitBackend::ask(&self.0.semaphore, op, policy, key)
    }

    fn acquire_now(
        &self,
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Option<QuotaSnapshot> {
        self.0.semaphore.acquire_now(id, weight, policy, key)
    }

    fn release_now(&self, id: PermitId, policy: &SemaphorePolicy, key: &Key) -> Option<bool> {
        self.0.semaphore.release_now(id, policy, key)
    }

    fn context(&self) -> &BackendContext {
        PermitBackend::context(&self.0.semaphore)
    }

    fn has_leases(&self) -> bool {
        PermitBackend::has_leases(&self.0.semaphore)
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        PermitBackend::next_attempt(&self.0.semaphore, policy, reply, waiters)
    }

    fn new_id(&self) -> PermitId {
        PermitBackend::new_id(&self.0.semaphore)
    }
}
