//! Permits in Redis: [`RedisSemaphore`], on the connections of a [`RedisBackend`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Answer, BackendContext, BackendError, BackendErrorKind, PermitBackend};
use super::atomicity::Atomicity;
use super::backend::{RedisBackend, RedisInner, Route, within};
use super::breaker::Breaker;
use super::permit_request::PermitRequest;
use super::request::ScriptRequest as _;
use crate::decision::{PermitOp, PermitReply};
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// Keeps permits in Redis, for all processes that use the same prefix and policy names. Clones share everything.
///
/// Guide: [limit what is in flight](crate::_guide::concurrency).
///
/// It uses the connections, the prefix, the time limit and the circuit of a [`RedisBackend`]. See
/// [`semaphore`](crate::semaphore).
///
/// # Examples
///
/// ```no_run
/// use tower_sluice::{Key, RedisBackend, RedisSemaphore, Semaphore, SemaphorePolicy};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = RedisBackend::connect("redis://127.0.0.1/").await?;
/// let exports = Semaphore::new(SemaphorePolicy::new("exports", 5), RedisSemaphore::new(&redis));
/// let permit = exports.try_acquire(&Key::from("ann"), 1).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisSemaphore(Arc<RedisInner>);

impl RedisSemaphore {
    /// Creates a backend for permits that shares everything with `backend`.
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

/// The interval between attempts of a waiter. It is divided by the number of waiters here, because only the first one
/// attempts.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);
/// The bounds of the interval. A waiter that has not attempted for a second loses its place in the queue.
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
        self.ask_within(op, policy, key, self.0.route.time_limit())
    }

    fn time_limit(&self) -> Option<Duration> {
        Some(self.0.route.time_limit())
    }

    fn ask_within(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
        limit: Duration,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        let inner = &self.0;
        if inner.atomicity != Atomicity::Script {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::Unsupported(
                "permits need scripts; use `Atomicity::Script`",
            ))));
        }
        let request = PermitRequest::new(op, policy, &inner.preparer.naming, key);
        let rejects = |breaker: &Breaker| is_open_for(breaker, &request);
        let is_open = match &inner.route {
            Route::Single { permit_queue, .. } => rejects(&permit_queue.client().breaker),
            #[cfg(feature = "cluster")]
            Route::Cluster(router) => router.is_open_for(&request, rejects),
        };
        if is_open {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::CircuitOpen)));
        }
        if limit.is_zero() {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::OutOfTime)));
        }
        let usual = inner.route.time_limit();
        match &inner.route {
            Route::Single { permit_queue, .. } => {
                let answer = Arc::clone(permit_queue).send(request);
                Answer::Later(Box::pin(within(limit, usual, answer)))
            }
            #[cfg(feature = "cluster")]
            Route::Cluster(router) => {
                let answer = Arc::clone(router).send(request);
                Answer::Later(Box::pin(within(limit, usual, answer)))
            }
        }
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

/// Returns whether the circuit rejects `request`. It permits a renewal earlier, because a lease does not wait.
fn is_open_for(breaker: &Breaker, request: &PermitRequest) -> bool {
    if request.is_renewal() {
        breaker.rejects_renewal()
    } else {
        breaker.rejects()
    }
}

/// Returns the time until the next attempt.
pub(super) fn next_attempt(
    policy: &SemaphorePolicy,
    reply: &PermitReply,
    waiters: usize,
) -> Duration {
    let waiters = u32::try_from(waiters).unwrap_or(u32::MAX).max(1);
    // The waiters in front take all permits this many times.
    let rounds = 1 + reply.in_front / policy.capacity();
    let interval = (ATTEMPT_INTERVAL / waiters)
        .max(MIN_ATTEMPT_INTERVAL)
        .saturating_mul(rounds);
    interval.min(MAX_ATTEMPT_INTERVAL)
}

/// As [`RedisSemaphore`], which shares the permits.
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

    fn time_limit(&self) -> Option<Duration> {
        Some(self.0.route.time_limit())
    }

    fn ask_within(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
        limit: Duration,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        RedisSemaphore::new(self).ask_within(op, policy, key, limit)
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

/// Shows neither a key nor a password.
impl fmt::Debug for RedisSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSemaphore")
            .field("naming", &self.0.preparer.naming)
            .finish_non_exhaustive()
    }
}
