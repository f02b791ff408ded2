use std::time::Duration;

use super::BackendContext;
use crate::decision::{Op, PermitId, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::policy::{Policy, SemaphorePolicy};

/// Keeps the state of keys and decides requests on the calling thread. Clones share the state.
///
/// Operations on one key take effect one at a time, across all threads and processes that share the state.
pub trait BlockingBackend: Clone + Send + Sync + 'static {
    /// The error of a failed operation; [`Infallible`](std::convert::Infallible) if no operation can fail.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Applies `op` to the state of `key` under `policy`, and blocks until it is done.
    ///
    /// # Errors
    ///
    /// Returns an error if the operation failed. A charge may have been made.
    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Result<Reply, Self::Error>;

    /// Returns the context. All clones return the same one, and no other backend returns it.
    fn context(&self) -> &BackendContext;
}

/// Keeps the permits of keys and decides requests on the calling thread. Clones share the state.
pub trait BlockingPermitBackend: Clone + Send + Sync + 'static {
    /// The error of a failed operation; [`Infallible`](std::convert::Infallible) if no operation can fail.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Applies `op` to the permits of `key`, and blocks until it is done.
    ///
    /// # Errors
    ///
    /// Returns an error if the operation failed. A charge may have been made.
    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Result<PermitReply, Self::Error>;

    /// Like [`PermitBackend::context`](super::PermitBackend::context).
    fn context(&self) -> &BackendContext;

    /// Like [`PermitBackend::has_leases`](super::PermitBackend::has_leases).
    fn has_leases(&self) -> bool;

    /// Like [`PermitBackend::next_attempt`](super::PermitBackend::next_attempt).
    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration>;

    /// Like [`PermitBackend::new_id`](super::PermitBackend::new_id).
    fn new_id(&self) -> PermitId {
        PermitId::random()
    }
}
