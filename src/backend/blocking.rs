use std::time::Duration;

use super::BackendContext;
use crate::decision::{Op, PermitId, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::policy::{Policy, SemaphorePolicy};

/// Decides and keeps what keys have spent, on the thread that asks. Clones share their state.
///
/// Operations on one key take effect one at a time, in every thread and process that shares the state.
pub trait BlockingBackend: Clone + Send + Sync + 'static {
    /// Why there is no answer; [`Infallible`](std::convert::Infallible) if there always is.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Does `op` to the state of `key` under `policy`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Result<Reply, Self::Error>;

    /// Where those wait who use it: the same one for all clones, and for no other backend.
    fn context(&self) -> &BackendContext;
}

/// Keeps who holds which permit, asked on the thread that wants to know. Clones share their state.
pub trait BlockingPermitBackend: Clone + Send + Sync + 'static {
    /// Why there is no answer; [`Infallible`](std::convert::Infallible) if there always is.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Does `op` to the permits of `key`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Result<PermitReply, Self::Error>;

    /// As [`PermitBackend::context`](super::PermitBackend::context).
    fn context(&self) -> &BackendContext;

    /// As [`PermitBackend::has_leases`](super::PermitBackend::has_leases).
    fn has_leases(&self) -> bool;

    /// As [`PermitBackend::next_attempt`](super::PermitBackend::next_attempt).
    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration>;

    /// As [`PermitBackend::new_id`](super::PermitBackend::new_id).
    fn new_id(&self) -> PermitId {
        PermitId::random()
    }
}
