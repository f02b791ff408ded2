//! Permits in Redis: [`RedisSemaphore`], on the connections of a [`RedisBackend`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Answer, BackendContext, BackendError, BackendErrorKind, PermitBackend};
use super::atomicity::Atomicity;
use super::backend::{RedisBackend, RedisInner};
use super::breaker::Breaker;
use super::permit_request::PermitRequest;
use crate::decision::{PermitOp, PermitReply};
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// Keeps permits in Redis, for all processes that use the same prefix and names. Clones share everything.
///
/// It is made from a [`RedisBackend`], whose connections, names, time limit and circuit it shares, with the rate limits
/// and with all others that were made from it. See [`semaphore`](crate::semaphore).
#[derive(Clone)]
pub struct RedisSemaphore(Arc<RedisInner>);

impl RedisSemaphore {
    /// Permits beside the buckets of `backend`.
    #[must_use]
    pub fn new(backend: &RedisBackend) -> Self {
        Self(Arc::clone(&backend.0))
    }
}

impl From<RedisBackend> for RedisSemaphore {
    fn from(backend: RedisBackend) -> Self {
        Self(backend.0)
    }
}

/// Who waits looks again after so long, divided by how many wait here, for only the first one does.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);
/// The first one looks no more often, and no more seldom: who has not asked for a second has lost his place.
const MIN_ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);
const MAX_ATTEMPT_INTERVAL: Duration = Duration::from_millis(250);

impl PermitBackend for RedisSemaphore {
    type Error = BackendError;
    type Future = Pin<Box<dyn Future<Output = Result<PermitReply, BackendError>> + Send>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        let inner = &self.0;
        if inner.atomicity != Atomicity::Script {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::Unsupported(
                "permits cannot be kept without scripts: use `Atomicity::Script`",
            ))));
        }
        if is_open_for(&inner.permit_queue.client().breaker, &op) {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::CircuitOpen)));
        }
        let request = PermitRequest::new(op, policy, &inner.preparer.naming, key);
        Answer::Later(Box::pin(Arc::clone(&inner.permit_queue).send(request)))
    }

    fn context(&self) -> &BackendContext {
        &self.0.preparer.context
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        Some(next_attempt(policy, reply, waiters))
    }
}

/// Whether it is of no use to ask now. A renewal may be, before a request is: its lease does not wait.
pub(super) fn is_open_for(breaker: &Breaker, op: &PermitOp) -> bool {
    match op {
        PermitOp::Renew(_) => breaker.rejects_renewal(),
        _ => breaker.rejects(),
    }
}

/// When to look again.
pub(super) fn next_attempt(
    policy: &SemaphorePolicy,
    reply: &PermitReply,
    waiters: usize,
) -> Duration {
    let waiters = u32::try_from(waiters).unwrap_or(u32::MAX).max(1);
    // Behind so many others that all permits would be theirs, so many times it takes.
    let rounds = 1 + reply.in_front / policy.capacity();
    let interval = (ATTEMPT_INTERVAL / waiters)
        .max(MIN_ATTEMPT_INTERVAL)
        .saturating_mul(rounds);
    interval.min(MAX_ATTEMPT_INTERVAL)
}

/// Its permits are those of a [`RedisSemaphore`] that is made from it.
impl PermitBackend for RedisBackend {
    type Error = BackendError;
    type Future = <RedisSemaphore as PermitBackend>::Future;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        RedisSemaphore::new(self).ask(op, policy, key)
    }

    fn context(&self) -> &BackendContext {
        &self.0.preparer.context
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        Some(next_attempt(policy, reply, waiters))
    }
}

/// Shows no key and no password.
impl fmt::Debug for RedisSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSemaphore")
            .field("naming", &self.0.preparer.naming)
            .finish_non_exhaustive()
    }
}
