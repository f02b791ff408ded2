use std::time::Duration;

use super::{Answer, BackendContext};
use crate::decision::{PermitId, PermitOp, PermitReply};
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// Keeps who holds which permit. Clones share their state.
///
/// Operations on one key take effect one at a time, in every process that shares the state.
pub trait PermitBackend: Clone + Send + Sync + 'static {
    /// Why there is no answer; [`Infallible`](std::convert::Infallible) if there always is.
    type Error: std::error::Error + Send + Sync + 'static;
    /// What [`Answer::Later`] holds.
    type Future: Future<Output = Result<PermitReply, Self::Error>> + Send + 'static;

    /// Does `op` to the permits of `key`.
    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, Self::Error>, Self::Future>;

    /// Where those wait who use it, and what renews their permits: the same one for all clones, and for no other
    /// backend.
    fn context(&self) -> &BackendContext;

    /// Whether permits end with their lease, and so have to be renewed.
    fn has_leases(&self) -> bool;

    /// When one who waits should ask again although nobody in this process has released anything; `None` if nobody else
    /// can. `reply` is the denial, and `waiters` how many wait here for the same key, he included.
    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration>;

    /// Whether it blocks the thread that asks: then it is not asked by tasks, and a thread of its own renews permits.
    fn blocks(&self) -> bool {
        false
    }

    /// An id for a new permit; one that nobody can guess, unless it stays in the process.
    fn new_id(&self) -> PermitId {
        PermitId::random()
    }
}
