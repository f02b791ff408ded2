use std::sync::Arc;

use pin_project_lite::pin_project;
use tower_service::Service;

use super::admission::{Admission, Admitted, CheckRequest, RefundUnlessServed, SharedLayer};
use crate::backend::{Answer, Backend};
use crate::budget::BudgetedOp;
use crate::decision::{Decision, Op, Reply, Snapshot};
use crate::limiter::charge::{SettleError, Settlement};
use crate::limiter::{self, Acquired, HandleFailure, Rejected, WaitFuture};
use crate::middleware::{self, DONE, Output, ReservedService};
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::{AllowedContext, Protocol, Rejection};
use crate::telemetry;
use crate::wait::Bound;

pin_project! {
    #[project = StateProj]
    pub(super) enum RequestState<PendingRequest, Reply, WaitFuture, Inner, InFlight, Output> {
        /// A remote backend decides. Only then the request is moved into a box.
        Deciding { #[pin] reply: Reply, pending: Option<Box<PendingRequest>> },
        /// The request waits for tokens, or for a reply whose charge is refunded on drop.
        Waiting { wait: WaitFuture, pending: Option<Box<PendingRequest>> },
        /// The request is allowed, and waits until the inner service is ready.
        WaitingForService { pending: Option<Box<PendingRequest>> },
        /// The charge of an outer layer is being changed.
        Settling { settlement: Settlement, pending: Option<Box<PendingRequest>> },
        /// The inner service has been called.
        Calling { #[pin] response: Inner, in_flight: InFlight, unserved: Option<RefundUnlessServed> },
        /// The request was rejected.
        Done { result: Option<Output> },
    }
}

/// The step after a charge was changed.
pub(super) enum AfterSettlement {
    /// The request continues.
    Allow,
    /// The missing part was denied and the joined charge was refunded, so the whole cost is checked.
    CheckAgain(Rejection),
    /// The request is rejected.
    Reject(Rejection),
}

/// A request without a decision, with the inner service that is ready.
pub(super) struct PendingRequest<S, Req, K, B, C, F, R, P> {
    pub(super) shared: Arc<SharedLayer<K, B, C, F, R, P>>,
    pub(super) service: ReservedService<S>,
    pub(super) request: Req,
    pub(super) policy: Policy,
    pub(super) check: CheckRequest,
    /// Refunds the charge of an outer layer if the request is dropped.
    pub(super) unserved: Option<RefundUnlessServed>,
    /// The admission, while the inner service is not ready.
    pub(super) admitted: Option<Admitted>,
    /// The step after a charge was changed.
    pub(super) next: Option<AfterSettlement>,
    /// The start and the bounds of the wait.
    pub(super) bound: Option<Bound>,
}

/// The state of a request for the service `S`.
pub(super) type RequestStateOf<S, Req, K, B, C, F, R, P> = RequestState<
    PendingRequest<S, Req, K, B, C, F, R, P>,
    <B as Backend>::Future,
    WaitFuture<<B as Backend>::Error>,
    <S as Service<Req>>::Future,
    <R as Protocol<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::InFlight,
    Output<S, Req, R>,
>;

/// A boxed request without a decision.
pub(super) type PendingRequestOf<S, Req, K, B, C, F, R, P> =
    Box<PendingRequest<S, Req, K, B, C, F, R, P>>;

/// Calls a service that is ready.
#[inline(always)] // a call would move large values once more
pub(super) fn serve<S, Req, K, B, C, F, R, P>(
    service: &mut S,
    mut request: Req,
    protocol: &R,
    allowed: AllowedContext<'_>,
    unserved: Option<RefundUnlessServed>,
) -> RequestStateOf<S, Req, K, B, C, F, R, P>
where
    S: Service<Req>,
    B: Backend,
    R: Protocol<Req, S::Response, S::Error>,
{
    let in_flight = protocol.allow(&mut request, allowed);
    let response = service.call(request);
    RequestState::Calling {
        response,
        in_flight,
        unserved,
    }
}

impl<S, Req, K, B, C, F, R, P> PendingRequest<S, Req, K, B, C, F, R, P>
where
    S: Service<Req> + Clone,
    B: Backend,
    F: HandleFailure<B::Error>,
    R: Protocol<Req, S::Response, S::Error>,
{
    /// Continues with the reply of a remote backend.
    pub(super) fn decide_later(
        self: Box<Self>,
        reply: B::Future,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        let layer = &self.shared.layer;
        if layer.refund_unserved {
            let wait =
                limiter::refund_on_drop(reply, &layer.backend, &self.policy, &self.check.key);
            let pending = Some(self);
            return RequestState::Waiting { wait, pending };
        }
        let pending = Some(self);
        RequestState::Deciding { reply, pending }
    }

    /// Continues after the reply of the backend.
    pub(super) fn decided(
        mut self: Box<Self>,
        reply: Result<Reply, B::Error>,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        let Self {
            shared,
            policy,
            check,
            ..
        } = &mut *self;
        let admission = shared.admission(reply, policy, check);
        self.proceed(admission)
    }

    /// Continues after a wait.
    pub(super) fn waited(
        mut self: Box<Self>,
        waited: Result<Acquired, Rejected<B::Error>>,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        let Self {
            shared,
            policy,
            check,
            bound,
            ..
        } = &mut *self;
        let admission = match waited {
            Ok(acquired) => shared.allow(acquired, policy, check),
            Err(Rejected::Denied(decision)) => shared.deny(decision, policy, check),
            Err(Rejected::Backend(error)) => {
                if let (Some(bound), Some(local)) = (*bound, shared.layer.on_error.fallback()) {
                    telemetry::backend_failed(&error, policy.labels());
                    check.use_fallback(policy);
                    let left = bound.left(shared.layer.backend.context().now());
                    let wait =
                        limiter::acquire_local(local, policy, &check.key, &check.missing, left);
                    let pending = Some(self);
                    return RequestState::Waiting { wait, pending };
                }
                shared.admission(Err(error), policy, check)
            }
        };
        self.proceed(admission)
    }

    /// Continues after the decision.
    pub(super) fn proceed(
        mut self: Box<Self>,
        admission: Admission,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        if !self.shared.layer.refund_unserved {
            // The reservation is due. From now on a dropped request stays charged.
            self.keep_charge();
        }
        match admission {
            Admission::Allow(admitted) => {
                self.shared.observe_shadow::<S, Req>(
                    &self.request,
                    &self.policy,
                    &self.check,
                    &admitted,
                );
                self.call_when_ready(admitted)
            }
            Admission::Settle(settlement) => self.settle(settlement, AfterSettlement::Allow),
            Admission::Reject(rejection) => self.reject(rejection),
        }
    }

    /// Calls the inner service when it is ready. It is ready unless its readiness was released.
    fn call_when_ready(
        mut self: Box<Self>,
        admitted: Admitted,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        if !self.service.is_ready() {
            self.admitted = Some(admitted);
            return RequestState::WaitingForService {
                pending: Some(self),
            };
        }
        self.serve(admitted)
    }

    /// Calls the inner service, which is ready.
    pub(super) fn serve(
        mut self,
        mut admitted: Admitted,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        self.keep_charge();
        let shared = &*self.shared;
        let unserved = admitted.unserved.take();
        let allowed = shared.allowed_by(&mut admitted, &self.policy, self.check.partition_key);
        let (mut service, protocol) = (self.service.into_inner(), &shared.layer.protocol);
        serve(&mut service, self.request, protocol, allowed, unserved)
    }

    /// Rejects the request, after the charge of an outer layer was refunded.
    fn reject(
        mut self: Box<Self>,
        rejection: Rejection,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        let Some(charge) = self.check.joined.take() else {
            return self.respond(rejection);
        };
        self.service.release();
        // A refund in another backend does not change the numbers of the response, so it is not awaited.
        let matters = !self.check.elsewhere;
        if matters
            && self.must_check_again()
            && let Some(settlement) = charge.lower(&Cost::ZERO)
        {
            self.check.joined = Some(charge);
            return self.settle(settlement, AfterSettlement::CheckAgain(rejection));
        }
        let settlement = charge.reject();
        if matters {
            return self.settle(settlement, AfterSettlement::Reject(rejection));
        }
        self.respond(rejection)
    }

    /// Returns whether the wait for the missing part can differ from the wait for the whole cost.
    fn must_check_again(&self) -> bool {
        self.check.missing != self.check.cost && !self.policy.has_waits_that_add_up()
    }

    /// Waits for a settlement before the next step.
    fn settle(
        mut self: Box<Self>,
        settlement: Settlement,
        next: AfterSettlement,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        self.next = Some(next);
        RequestState::Settling {
            settlement,
            pending: Some(self),
        }
    }

    /// Continues after a settlement, with the numbers after it.
    pub(super) fn settled(
        mut self: Box<Self>,
        after: Result<Option<Snapshot>, SettleError>,
        next: AfterSettlement,
    ) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        let is_refunded = after.is_ok();
        let after = after.ok().flatten();
        match next {
            AfterSettlement::Allow => {
                let charge = self.check.joined.take().expect(DONE);
                if let Some(after) = after {
                    charge.set_decision(Decision::Allow(after));
                }
                let decision = charge.decision();
                let admitted = self.shared.join(charge, decision);
                self.call_when_ready(admitted)
            }
            AfterSettlement::CheckAgain(_) if is_refunded => self.check_again(),
            AfterSettlement::CheckAgain(rejection) => {
                if let Some(charge) = self.check.joined.take() {
                    drop(charge.reject());
                }
                self.respond(rejection)
            }
            AfterSettlement::Reject(mut rejection) => {
                if let (Rejection::Limited { decision, .. }, Some(after)) = (&mut rejection, &after)
                {
                    *decision =
                        Decision::from_snapshot(decision.snapshot().with_numbers_from(after));
                }
                self.respond(rejection)
            }
        }
    }

    /// Checks the whole cost, after the missing part was denied.
    fn check_again(mut self: Box<Self>) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        let Self {
            shared,
            policy,
            check,
            ..
        } = &mut *self;
        check.missing = check.cost.clone();
        let layer = &shared.layer;
        if let Some(local) = layer.on_error.fallback().filter(|_| check.by_fallback) {
            let reply = local.check(policy, &check.key, check.cost.clone());
            return self.decided(Ok(reply));
        }
        check.budget = check.budget.as_ref().map(BudgetedOp::again);
        let (op, budget) = (Op::Check(check.cost.clone()), check.budget.as_ref());
        match limiter::ask(&layer.backend, op, policy, &check.key, budget) {
            Answer::Now(reply) => self.decided(reply),
            Answer::Later(reply) => self.decide_later(reply),
        }
    }

    /// Rejects the request.
    fn respond(self, rejection: Rejection) -> RequestStateOf<S, Req, K, B, C, F, R, P> {
        let layer = &self.shared.layer;
        let context = layer.backend.context();
        let partition_key = self.check.partition_key;
        let result = middleware::reject(
            &layer.protocol,
            &self.request,
            Some(&self.check.key),
            rejection,
            partition_key,
            context,
        );
        RequestState::Done {
            result: Some(result),
        }
    }

    /// Keeps the charge of an outer layer if the request is dropped.
    fn keep_charge(&mut self) {
        if let Some(mut unserved) = self.unserved.take() {
            unserved.served();
        }
    }
}
