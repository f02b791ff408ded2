use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;

use super::release::{arrives_late, release, runtime};
use crate::backend::{Answer, BackendContext, PermitBackend, TaskError};
use crate::budget::{BudgetedOp, TimeBudget};
use crate::clock::Timestamp;
use crate::decision::{PermitId, PermitOp, PermitReply};
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// The weight and the times of a request for a permit.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) weight: u32,
    /// The start of the lease, if permits have one.
    pub(super) at: Timestamp,
    pub(super) waited: Duration,
}

/// A permit that was requested. Dropping it releases the permit, because the answer may still come.
pub(super) struct PendingPermit<'a, B: PermitBackend> {
    backend: &'a B,
    policy: &'a SemaphorePolicy,
    key: &'a Key,
    id: PermitId,
    /// The time budget of the request.
    budget: Option<&'a TimeBudget>,
    /// The operation in it.
    budgeted: Option<BudgetedOp>,
    /// The pending answer.
    reply: Option<Pin<Box<B::Future>>>,
    /// The runtime of the request.
    runtime: Option<Handle>,
    /// Whether the backend may know the id.
    is_known: bool,
    /// Whether a request may arrive later: its outcome is unknown, or it was sent more than once.
    may_arrive_late: bool,
    /// Whether the id may be in the backend's queue.
    has_place: bool,
}

impl<'a, B: PermitBackend> PendingPermit<'a, B> {
    pub(super) const fn new(
        backend: &'a B,
        policy: &'a SemaphorePolicy,
        key: &'a Key,
        id: PermitId,
        budget: Option<&'a TimeBudget>,
    ) -> Self {
        Self {
            backend,
            policy,
            key,
            id,
            budget,
            budgeted: None,
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

    /// Asks `op` of this id. `None` if the answer is not there at once.
    pub(super) fn ask_now(&mut self, op: PermitOp) -> Option<Result<PermitReply, B::Error>> {
        self.has_place |= matches!(op, PermitOp::Wait { .. });
        let (backend, policy, key) = (self.backend, self.policy, self.key);
        self.budgeted = self.budget.cloned().map(BudgetedOp::begin);
        let answer = match &self.budgeted {
            None => backend.ask(op, policy, key),
            Some(budget) => backend.ask_within(op, policy, key, budget.limit()),
        };
        match answer {
            // An immediate answer cannot be dropped. An immediate failure means that nothing was sent, unless the
            // backend blocks.
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

    /// Records what the answer to a sent request says about the id.
    fn learn(&mut self, reply: &Result<PermitReply, B::Error>) {
        self.may_arrive_late |= arrives_late(reply);
        let has_place = self.has_place;
        let may_stay = |reply: &PermitReply| reply.decision.is_allowed() || has_place;
        self.is_known = self.may_arrive_late || reply.as_ref().is_ok_and(may_stay);
    }

    /// Asks `op` of this id and waits for the answer.
    pub(super) async fn ask(&mut self, op: PermitOp) -> Result<PermitReply, B::Error> {
        match self.ask_now(op) {
            Some(reply) => reply,
            None => self.reply().await,
        }
    }

    /// Waits for the answer, after [`ask_now`](Self::ask_now) returned `None`.
    pub(super) async fn reply(&mut self) -> Result<PermitReply, B::Error> {
        let (is_known, runtime) = (&mut self.is_known, &mut self.runtime);
        let (under_way, may_arrive_late) = (&mut self.reply, &mut self.may_arrive_late);
        let reply = poll_fn(|cx| {
            // A request that was never polled has not been sent.
            *is_known = true;
            if runtime.is_none() {
                *runtime = super::release::runtime(None);
            }
            // The reply is taken out: if this poll panics, the drop must not poll it again.
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
        if let (Err(_), Some(budget)) = (&reply, self.budgeted.take()) {
            budget.failed();
        }
        reply
    }

    /// Marks the permit as acquired: from now on the `Permit` releases it.
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
            // Without an answer, the request may arrive after the release.
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
