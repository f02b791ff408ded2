use std::error::Error;
use std::fmt;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::lease::Lease;
use super::leases::Leases;
use crate::backend::{Answer, PermitBackend, TaskError};
use crate::decision::{PermitId, PermitOp, PermitReply};

/// The error of a release whose effect is unknown. The permit ends with its lease at the latest.
#[derive(Debug)]
pub struct ReleaseError(pub(super) TaskError);

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
            // The message is the backend error's own, so its sources follow.
            TaskError::Failed(error) => error.source(),
            _ => None,
        }
    }
}

/// A backend of any type, as permits use it.
pub(super) trait ReleasePermit: Send + Sync {
    /// Releases a permit, in the background if the backend does not answer at once.
    fn release(&self, lease: &Lease) -> ReleaseProgress;

    /// Checks whether the lease has ended.
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
            Leases::in_context(context).check_lease(lease.id, || context.now());
        }
    }

    fn release(&self, lease: &Lease) -> ReleaseProgress {
        let context = self.context();
        // This comes first, so that a released permit is not renewed.
        if self.has_leases() {
            Leases::in_context(context).forget(lease.id);
        }
        if lease.weight == 0 {
            return ReleaseProgress::Done(Ok(false));
        }
        let Lease {
            id, policy, key, ..
        } = lease;
        if let Some(released) = self.release_now(*id, policy, key) {
            context.permit_queues().released(policy, key);
            return ReleaseProgress::Done(Ok(released));
        }
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
                    // The slot bounds concurrent releases, so that none of them times out because of the others.
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

/// The runtime of the caller, otherwise `other`.
pub(super) fn runtime(other: Option<&Handle>) -> Option<Handle> {
    Handle::try_current().ok().or_else(|| other.cloned())
}

/// Whether this request, or a copy of it, may still arrive.
pub(super) fn arrives_late<E>(reply: &Result<PermitReply, E>) -> bool {
    reply.as_ref().map_or(true, |reply| reply.is_repeated)
}

/// The operation that releases a permit.
pub(super) const fn release(id: PermitId, may_arrive_late: bool) -> PermitOp {
    if may_arrive_late {
        PermitOp::Revoke(id)
    } else {
        PermitOp::Release(id)
    }
}
