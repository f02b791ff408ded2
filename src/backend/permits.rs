use std::time::Duration;

use super::{Answer, BackendContext};
use crate::decision::{PermitId, PermitOp, PermitReply, QuotaSnapshot};
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// Keeps the permits of keys. Clones share the state.
///
/// Operations on one key take effect one at a time, across all processes that share the state.
///
/// [`PermitOp`] may get more variants, so a `match` on it needs a wildcard arm. Return [`Error`](Self::Error) from it:
/// the failure policy then applies.
pub trait PermitBackend: Clone + Send + Sync + 'static {
    /// The error of a failed operation; [`Infallible`](std::convert::Infallible) if no operation can fail.
    type Error: std::error::Error + Send + Sync + 'static;
    /// The future in [`Answer::Later`]. It must have no effect before its first poll.
    type Future: Future<Output = Result<PermitReply, Self::Error>> + Send + 'static;

    /// Applies `op` to the permits of `key`.
    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, Self::Error>, Self::Future>;

    /// Acquires a permit as [`PermitOp::Acquire`] does, for a backend that always answers at once and has no leases.
    ///
    /// It returns the numbers after the decision. A `retry_after` of 0 grants the permit. `None`, the default, leaves
    /// the request to [`ask`](Self::ask), which builds and moves larger values.
    fn acquire_now(
        &self,
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Option<QuotaSnapshot> {
        let _ = (id, weight, policy, key);
        None
    }

    /// Releases a permit as [`PermitOp::Release`] does, and returns whether it existed. `None`, the default, leaves the
    /// release to [`ask`](Self::ask).
    fn release_now(&self, id: PermitId, policy: &SemaphorePolicy, key: &Key) -> Option<bool> {
        let _ = (id, policy, key);
        None
    }

    /// Returns the context. All clones return the same one, and no other backend returns it.
    fn context(&self) -> &BackendContext;

    /// Returns whether permits expire with their lease, so that they must be renewed.
    fn has_leases(&self) -> bool;

    /// Returns the time after which a denied waiter asks again without a release in this process. `None` if only this
    /// process can release permits.
    ///
    /// `reply` is the denial. `waiters` is the number of waiters for the same key in this process, at least 1.
    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration>;

    /// Returns whether the limits of this backend are on; `true` by default. While it returns `false`, layers and
    /// semaphores do not ask it, as with a [`Switch`](crate::Switch) that is off.
    #[inline]
    fn is_enabled(&self) -> bool {
        true
    }

    /// Returns the longest time of an operation, if the backend bounds it; `None` by default.
    ///
    /// It is the [`TimeBudget`](crate::TimeBudget) of a request whose first remote backend this is.
    #[inline]
    fn time_limit(&self) -> Option<Duration> {
        None
    }

    /// Like [`ask`](Self::ask), and fails after `limit` without an answer. With a limit of zero it sends nothing.
    ///
    /// Layers call it if [`time_limit`](Self::time_limit) returns a value. The default ignores `limit`.
    fn ask_within(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
        limit: Duration,
    ) -> Answer<Result<PermitReply, Self::Error>, Self::Future> {
        let _ = limit;
        self.ask(op, policy, key)
    }

    /// Returns whether [`ask`](Self::ask) blocks the calling thread. Tasks do not call a backend that blocks, and a
    /// separate thread renews its permits. `false` by default.
    fn blocks(&self) -> bool {
        false
    }

    /// Creates an id for a new permit: [`PermitId::random`] by default. A backend whose ids never leave the process may
    /// return guessable ones.
    fn new_id(&self) -> PermitId {
        PermitId::random()
    }
}
