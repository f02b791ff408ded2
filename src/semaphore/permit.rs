use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::backend::{Answer, BackendContext, Lease, PermitBackend, TaskError};
use crate::decision::{Decision, PermitId, PermitOp};
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::telemetry;

/// The right to be in flight. It is given back once: when it is dropped, by whatever way (a return, a panic, a future
/// that is cancelled), or by [`release`](Self::release).
///
/// It may be moved anywhere, and lasts as long as it is kept: into a task, into the body of a response, beside a
/// connection.
///
/// From a backend that is remote it is given back in the background, by the runtime that drops it or else by the one it
/// was acquired in. If neither is there any more, it ends with its lease.
#[must_use = "a permit that is dropped is given back at once"]
pub struct Permit {
    lease: Arc<Lease>,
    /// None: it has been released.
    releaser: Option<Arc<dyn ReleasePermit>>,
    decision: Decision,
    waited: Duration,
}

impl Permit {
    pub(super) fn new(
        lease: Arc<Lease>,
        releaser: Arc<dyn ReleasePermit>,
        decision: Decision,
        waited: Duration,
    ) -> Self {
        let permit = Self {
            lease,
            releaser: Some(releaser),
            decision,
            waited,
        };
        let (policy, weight) = (permit.policy(), permit.weight());
        telemetry::permit_acquired(policy.label(), weight, waited);
        permit
    }

    /// What names it.
    #[must_use]
    pub fn id(&self) -> PermitId {
        self.lease.id
    }

    /// What it is one of.
    #[must_use]
    pub fn policy(&self) -> &SemaphorePolicy {
        &self.lease.policy
    }

    /// How many permits it counts for.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.lease.weight
    }

    /// The numbers when it was given.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }

    /// How long it was waited for; zero if it was there at once.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// Whether its lease was lost: somebody else may be in its place. It looks at the time, too, and so is right also
    /// where nothing else had a turn for a whole lease.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        if let Some(releaser) = &self.releaser {
            releaser.check_lease(&self.lease);
        }
        self.lease.is_lost()
    }

    /// Completes when its lease was lost; never, while it lasts or after it was given back. It lives by itself. What
    /// tells it is the task that renews.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn lost(&self) -> Lost {
        let lease = Arc::clone(&self.lease);
        Lost(Box::pin(async move { lease.lost().await }))
    }

    /// Gives it back, and tells whether it still lasted: `false` if its lease was over, or if a first answer was lost
    /// on the way and it had been given back already.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer. It is not asked again: if it has not released the permit, that ends with its
    /// lease.
    ///
    /// # Cancel safety
    ///
    /// It is given back by the first poll, or by the drop. Whoever waits for the answer may stop waiting.
    pub async fn release(mut self) -> Result<bool, ReleaseError> {
        let Some(releaser) = self.releaser.take() else {
            return Ok(false);
        };
        telemetry::permit_released(self.lease.policy.label(), self.lease.weight);
        match releaser.release(&self.lease) {
            ReleaseProgress::Done(released) => released.map_err(ReleaseError),
            ReleaseProgress::UnderWay(answer) => match answer.await {
                Ok(released) => released.map_err(ReleaseError),
                Err(_) => Err(ReleaseError(TaskError::RuntimeEnded)),
            },
        }
    }
}

#[cfg(feature = "blocking")]
impl Permit {
    /// Gives it back from a plain thread, and tells whether it still lasted; see [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub fn release_blocking(self) -> Result<bool, ReleaseError> {
        crate::park::block_on(self.release())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(releaser) = self.releaser.take() {
            telemetry::permit_released(self.lease.policy.label(), self.lease.weight);
            drop(releaser.release(&self.lease));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("policy", &self.lease.policy)
            .field("weight", &self.weight())
            .field("is_lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

/// Completes when a lease was lost; see [`Permit::lost`].
#[must_use = "futures do nothing unless polled"]
pub struct Lost(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Future for Lost {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lost(..)")
    }
}

/// Why it is not known whether a permit was given back. It ends with its lease.
#[derive(Debug)]
pub struct ReleaseError(TaskError);

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            TaskError::NoRuntime => f.write_str("there is no runtime to release the permit in"),
            TaskError::TimedOut | TaskError::TooMany => f.write_str("the release took too long"),
            TaskError::RuntimeEnded => {
                f.write_str("the runtime ended before the permit was released")
            }
            TaskError::Failed(error) => error.fmt(f),
        }
    }
}

impl Error for ReleaseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            // Shown in place of this one, so its causes are ours.
            TaskError::Failed(error) => error.source(),
            _ => None,
        }
    }
}

/// A backend, whichever its type.
pub(super) trait ReleasePermit: Send + Sync {
    /// Gives a permit back, in the background as soon as it takes time.
    fn release(&self, lease: &Lease) -> ReleaseProgress;

    /// Sees whether its lease is over.
    fn check_lease(&self, lease: &Lease);
}

pub(super) enum ReleaseProgress {
    Done(Result<bool, TaskError>),
    UnderWay(oneshot::Receiver<Result<bool, TaskError>>),
}

impl<B: PermitBackend> ReleasePermit for B {
    fn check_lease(&self, lease: &Lease) {
        if self.has_leases() {
            let context = self.context();
            context.leases().check_lease(lease.id, || context.now());
        }
    }

    fn release(&self, lease: &Lease) -> ReleaseProgress {
        let context = self.context();
        // First: what is given back is not renewed.
        if self.has_leases() {
            context.leases().forget(lease.id);
        }
        if lease.weight == 0 {
            return ReleaseProgress::Done(Ok(false));
        }
        let Lease {
            id, policy, key, ..
        } = lease;
        let release = release(*id, lease.may_arrive_late);
        match self.ask(release, policy, key) {
            Answer::Now(reply) => {
                context.permit_queues().released(policy, key);
                let released = reply
                    .map_err(|error| context.record_task_failure(TaskError::from_error(error)));
                ReleaseProgress::Done(released.map(|reply| reply.lasting.contains(&true)))
            }
            Answer::Later(reply) => {
                let backend = self.clone();
                let (policy, key) = (policy.clone(), key.clone());
                let release = async move {
                    // However many leave together, none is late because of the others.
                    let _slot = backend.context().background().acquire_slot().await;
                    let reply = reply.await;
                    backend.context().permit_queues().released(&policy, &key);
                    Ok(reply
                        .map_err(TaskError::from_error)?
                        .lasting
                        .contains(&true))
                };
                match context.spawn_on(runtime(lease.runtime.as_ref()), release) {
                    Ok(answer) => ReleaseProgress::UnderWay(answer),
                    Err(error) => ReleaseProgress::Done(Err(error)),
                }
            }
        }
    }
}

/// The runtime of the caller, or else this one.
pub(super) fn runtime(other: Option<&Handle>) -> Option<Handle> {
    Handle::try_current().ok().or_else(|| other.cloned())
}

/// Whether a request with this answer, or a copy of it, may still arrive.
fn arrives_late<E>(reply: &Result<super::PermitReply, E>) -> bool {
    reply.as_ref().map_or(true, |reply| reply.is_repeated)
}

/// What gives a permit back.
const fn release(id: PermitId, may_arrive_late: bool) -> PermitOp {
    if may_arrive_late {
        PermitOp::Revoke(id)
    } else {
        PermitOp::Release(id)
    }
}

/// A permit that is asked for. Dropped before it is there, it is given back: the answer may still come.
pub(super) struct PendingPermit<'a, B: PermitBackend> {
    backend: &'a B,
    policy: &'a SemaphorePolicy,
    key: &'a Key,
    id: PermitId,
    /// An answer under way.
    reply: Option<Pin<Box<B::Future>>>,
    /// Where it was asked for.
    runtime: Option<Handle>,
    /// Whether the backend may know of the id.
    is_known: bool,
    /// Whether a request may arrive later: its outcome is unknown, or it was sent more than once.
    may_arrive_late: bool,
    /// Whether it may stand among those who wait there.
    has_place: bool,
}

impl<'a, B: PermitBackend> PendingPermit<'a, B> {
    pub(super) fn new(backend: &'a B, policy: &'a SemaphorePolicy, key: &'a Key) -> Self {
        Self {
            backend,
            policy,
            key,
            id: backend.new_id(),
            reply: None,
            runtime: None,
            is_known: false,
            may_arrive_late: false,
            has_place: false,
        }
    }

    pub(super) const fn may_arrive_late(&self) -> bool {
        self.may_arrive_late
    }

    pub(super) const fn id(&self) -> PermitId {
        self.id
    }

    pub(super) const fn policy(&self) -> &SemaphorePolicy {
        self.policy
    }

    pub(super) const fn key(&self) -> &Key {
        self.key
    }

    /// Asks `op`, which is of this id, and has the answer if it is there at once.
    pub(super) fn ask_now(&mut self, op: PermitOp) -> Option<Result<super::PermitReply, B::Error>> {
        self.has_place |= matches!(op, PermitOp::Wait { .. });
        match self.backend.ask(op, self.policy, self.key) {
            // There and then, so nobody can have gone meanwhile. Without an answer nothing was asked, unless by
            // blocking.
            Answer::Now(reply) => {
                if self.backend.blocks() {
                    self.learn(&reply);
                }
                Some(reply)
            }
            Answer::Later(reply) => {
                self.reply = Some(Box::pin(reply));
                None
            }
        }
    }

    /// Notes what an answer to a request that was sent says of the id.
    fn learn(&mut self, reply: &Result<super::PermitReply, B::Error>) {
        self.may_arrive_late |= arrives_late(reply);
        let has_place = self.has_place;
        let may_stay = |reply: &super::PermitReply| reply.decision.is_allowed() || has_place;
        self.is_known = self.may_arrive_late || reply.as_ref().is_ok_and(may_stay);
    }

    /// Asks `op`, which is of this id.
    pub(super) async fn ask(&mut self, op: PermitOp) -> Result<super::PermitReply, B::Error> {
        if let Some(reply) = self.ask_now(op) {
            return reply;
        }
        let (is_known, runtime) = (&mut self.is_known, &mut self.runtime);
        let (under_way, may_arrive_late) = (&mut self.reply, &mut self.may_arrive_late);
        let reply = poll_fn(|cx| {
            // What was never polled has not been sent.
            *is_known = true;
            if runtime.is_none() {
                *runtime = self::runtime(None);
            }
            // Taken out: if this poll panics, the drop must not poll it again.
            let Some(mut reply) = under_way.take() else {
                return Poll::Pending;
            };
            let was_late = std::mem::replace(may_arrive_late, true);
            let polled = reply.as_mut().poll(cx);
            *may_arrive_late = was_late;
            if polled.is_pending() {
                *under_way = Some(reply);
            }
            polled
        })
        .await;
        self.learn(&reply);
        reply
    }

    /// It is there: from now on somebody else gives it back.
    pub(super) fn done(mut self) {
        self.is_known = false;
    }
}

impl<B: PermitBackend> Drop for PendingPermit<'_, B> {
    fn drop(&mut self) {
        if !self.is_known {
            return;
        }
        let context: &BackendContext = self.backend.context();
        let runtime = runtime(self.runtime.as_ref());
        let (id, may_arrive_late) = (self.id, self.may_arrive_late);
        let Some(reply) = self.reply.take() else {
            let release = release(id, may_arrive_late);
            match self.backend.ask(release, self.policy, self.key) {
                Answer::Now(Ok(_)) => context.permit_queues().released(self.policy, self.key),
                Answer::Now(Err(error)) => {
                    drop(context.record_task_failure(TaskError::from_error(error)))
                }
                Answer::Later(done) => {
                    let backend = self.backend.clone();
                    let (policy, key) = (self.policy.clone(), self.key.clone());
                    let release = async move {
                        let _slot = backend.context().background().acquire_slot().await;
                        let done = done.await;
                        backend.context().permit_queues().released(&policy, &key);
                        done.map_err(TaskError::from_error).map(drop)
                    };
                    drop(context.spawn_on(runtime, release));
                }
            }
            return;
        };
        let (backend, policy, key) = (self.backend.clone(), self.policy.clone(), self.key.clone());
        let release = async move {
            // Without an answer the request may arrive after its release.
            let may_arrive_late = arrives_late(&reply.await) || may_arrive_late;
            let release = release(id, may_arrive_late);
            let _slot = backend.context().background().acquire_slot().await;
            let done = match backend.ask(release, &policy, &key) {
                Answer::Now(done) => done,
                Answer::Later(done) => done.await,
            };
            backend.context().permit_queues().released(&policy, &key);
            done.map_err(TaskError::from_error).map(drop)
        };
        drop(context.spawn_on(runtime, release));
    }
}
