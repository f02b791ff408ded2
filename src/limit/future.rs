use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::RateLimitLayer;
use super::service::{Asked, Grant, Shared, Verdict};
use crate::backend::{Answer, Backend};
use crate::charge::{Admitted, Charge, SettleError, Settlement};
use crate::decision::{Decision, Op, Reply, Snapshot};
use crate::limiter::{HandlesFailure, Rejected};
use crate::partition::PartitionKey;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::report;
use crate::response::{Granted, Refusal, Refused, Reject};
use crate::wait::{self, Bound, Wait};

pin_project! {
    /// The answer of a [`RateLimit`](super::RateLimit).
    ///
    /// # Cancel safety
    ///
    /// Dropped before its first poll or after, a charge that the backend has made stays: the request was admitted. In memory it
    /// is made by `call`, or by the first poll if the layer waits; a backend that answers later may make it although nobody waits
    /// for the answer. With
    /// [`refund_on_disconnect`](super::RateLimitLayer::refund_on_disconnect) it goes back if the inner service has not begun.
    /// Dropped while it waits for its turn, it gives the turn up.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Reject<Req, S::Response, S::Error>,
    {
        #[pin]
        pub(super) state: State<
            Parked<S, Req, K, B, C, F, R, P>,
            B::Future,
            Wait<B::Error>,
            S::Future,
            R::Pass,
            Result<R::Response, R::Error>,
        >,
    }
}

pin_project! {
    #[project = StateProj]
    pub(super) enum State<Parked, Reply, Wait, Inner, Pass, Output> {
        /// The backend answers later; only then anything is put aside.
        Deciding { #[pin] reply: Reply, parked: Option<Box<Parked>> },
        /// The request waits to be allowed, or for an answer that must not be lost.
        Waiting { wait: Wait, parked: Option<Box<Parked>> },
        /// It may go on, and the inner service has to be ready.
        Readying { parked: Option<Box<Parked>> },
        /// The charge of a layer around this one is being changed.
        Settling { settlement: Settlement, parked: Option<Box<Parked>> },
        /// The inner service has been called.
        Calling { #[pin] response: Inner, pass: Option<Pass>, unserved: Option<Unserved> },
        /// The request was refused.
        Done { result: Option<Output> },
    }
}

/// What comes after a charge has been changed.
pub(super) enum Next {
    /// The request goes on.
    Go,
    /// It was refused a part of its cost, and the rest has gone back: it is asked for as a whole.
    AskAgain(Refusal),
    Refuse(Refusal),
}

/// What waits for the decision, the service that is ready included.
pub(super) struct Parked<S, Req, K, B, C, F, R, P> {
    pub(super) shared: Arc<Shared<K, B, C, F, R, P>>,
    pub(super) service: S,
    pub(super) request: Req,
    pub(super) policy: Policy,
    pub(super) asked: Asked,
    /// What gives the charge of a layer around this one back, if the request is given up.
    pub(super) unserved: Option<Unserved>,
    /// What it goes on with, when the service is ready.
    pub(super) grant: Option<Grant>,
    /// What comes when a charge has been changed.
    pub(super) next: Option<Next>,
    /// Since when the request may wait, and for how long.
    pub(super) bound: Option<Bound>,
    /// Whether the service's readiness has been given back.
    pub(super) has_given_way: bool,
}

/// Gives a charge back unless the inner service begins with its request.
pub(super) struct Unserved(Option<Box<Charge>>);

impl Unserved {
    pub(super) fn new(charge: Charge) -> Self {
        Self(Some(Box::new(charge)))
    }

    fn served(&mut self) {
        self.0 = None;
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        if let Some(charge) = self.0.take() {
            drop(charge.cancel());
        }
    }
}

/// A future is not polled after it has completed.
const DONE: &str = "`ResponseFuture` polled after completion";

/// The state of the future of `S`.
type StateOf<S, Req, K, B, C, F, R, P> = State<
    Parked<S, Req, K, B, C, F, R, P>,
    <B as Backend>::Future,
    Wait<<B as Backend>::Error>,
    <S as Service<Req>>::Future,
    <R as Reject<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Pass,
    OutputOf<S, Req, R>,
>;

/// A request that is put aside.
pub(super) type ParkedOf<S, Req, K, B, C, F, R, P> = Box<Parked<S, Req, K, B, C, F, R, P>>;

/// What a limited service answers.
pub(super) type OutputOf<S, Req, R> = Result<
    <R as Reject<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Response,
    <R as Reject<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Error,
>;

/// Passes a request on to a service that is ready.
#[inline]
pub(super) fn serve<S, Req, K, B, C, F, R, P>(
    service: &mut S,
    mut request: Req,
    layer: &RateLimitLayer<K, B, C, F, R, P>,
    policy: &Policy,
    partition_key: Option<PartitionKey>,
    grant: Grant,
) -> StateOf<S, Req, K, B, C, F, R, P>
where
    S: Service<Req>,
    B: Backend,
    R: Reject<Req, S::Response, S::Error>,
{
    let granted = Granted {
        answer: grant.decision.map(|decision| (policy, decision)),
        offer: grant.offer,
        joined: grant.joined,
        partition_key,
        lobby: layer.backend.lobby(),
    };
    let pass = Some(layer.reject.admit(&mut request, granted));
    let response = service.call(request);
    State::Calling {
        response,
        pass,
        unserved: grant.unserved,
    }
}

impl<S, Req, K, B, C, F, R, P> Parked<S, Req, K, B, C, F, R, P>
where
    S: Service<Req> + Clone,
    B: Backend,
    F: HandlesFailure<B::Error>,
    R: Reject<Req, S::Response, S::Error>,
{
    /// The backend answers later.
    pub(super) fn decide_later(
        self: Box<Self>,
        reply: B::Future,
    ) -> StateOf<S, Req, K, B, C, F, R, P> {
        let layer = &self.shared.layer;
        if layer.refund_unserved {
            let wait = wait::kept(reply, &layer.backend, &self.policy, &self.asked.key);
            let parked = Some(self);
            return State::Waiting { wait, parked };
        }
        let parked = Some(self);
        State::Deciding { reply, parked }
    }

    /// What comes after the backend's answer.
    fn decided(
        mut self: Box<Self>,
        reply: Result<Reply, B::Error>,
    ) -> StateOf<S, Req, K, B, C, F, R, P> {
        let Self {
            shared,
            policy,
            asked,
            ..
        } = &mut *self;
        let verdict = shared.judge(reply, policy, asked);
        self.follow(verdict)
    }

    /// What comes after a wait.
    fn waited(
        mut self: Box<Self>,
        waited: Result<Admitted, Rejected<B::Error>>,
    ) -> StateOf<S, Req, K, B, C, F, R, P> {
        let Self {
            shared,
            policy,
            asked,
            bound,
            ..
        } = &mut *self;
        let verdict = match waited {
            Ok(admitted) => shared.grant(admitted, policy, asked),
            Err(Rejected::Denied(decision)) => shared.deny(decision, policy, asked),
            Err(Rejected::Backend(error)) => {
                if let (Some(bound), Some(local)) = (*bound, shared.layer.on_error.fallback()) {
                    report::failed(&error, policy);
                    asked.fall_back(policy);
                    let left = bound.left(shared.layer.backend.lobby());
                    let wait = wait::begin_local(local, policy, &asked.key, &asked.missing, left);
                    let parked = Some(self);
                    return State::Waiting { wait, parked };
                }
                shared.judge(Err(error), policy, asked)
            }
        };
        self.follow(verdict)
    }

    pub(super) fn follow(
        mut self: Box<Self>,
        verdict: Verdict,
    ) -> StateOf<S, Req, K, B, C, F, R, P> {
        if !self.shared.layer.refund_unserved {
            // Its turn has come: from now on nothing is given up.
            self.keep_charge();
        }
        match verdict {
            Verdict::Go(grant) => self.go(grant),
            Verdict::Settle(settlement) => self.settle(settlement, Next::Go),
            Verdict::Refuse(refusal) => self.refuse(refusal),
        }
    }

    /// Goes on as soon as the service is ready; it is if its readiness was kept.
    fn go(mut self: Box<Self>, grant: Grant) -> StateOf<S, Req, K, B, C, F, R, P> {
        if self.has_given_way {
            self.grant = Some(grant);
            return State::Readying { parked: Some(self) };
        }
        self.serve(grant)
    }

    /// Goes on to the service, which is ready.
    fn serve(mut self, grant: Grant) -> StateOf<S, Req, K, B, C, F, R, P> {
        self.keep_charge();
        let Self {
            shared,
            mut service,
            request,
            policy,
            asked,
            ..
        } = self;
        let (layer, partition_key) = (&shared.layer, asked.partition_key);
        serve(&mut service, request, layer, &policy, partition_key, grant)
    }

    /// Answers in place of the service, after a charge of a layer around this one has gone back.
    fn refuse(mut self: Box<Self>, refusal: Refusal) -> StateOf<S, Req, K, B, C, F, R, P> {
        let Some(charge) = self.asked.joined.take() else {
            return self.answer(refusal);
        };
        self.give_way();
        // Else what goes back does not change the answer, and nobody waits for it.
        let matters = !self.asked.elsewhere;
        if matters
            && self.must_ask_again()
            && let Some(settlement) = charge.lower(&Cost::ZERO)
        {
            self.asked.joined = Some(charge);
            return self.settle(settlement, Next::AskAgain(refusal));
        }
        let settlement = charge.refuse();
        if matters {
            return self.settle(settlement, Next::Refuse(refusal));
        }
        self.answer(refusal)
    }

    /// Whether the wait for what was missing is not the one for the whole cost.
    fn must_ask_again(&self) -> bool {
        self.asked.missing != self.asked.cost && !self.policy.has_waits_that_add_up()
    }

    pub(super) fn settle(
        mut self: Box<Self>,
        settlement: Settlement,
        next: Next,
    ) -> StateOf<S, Req, K, B, C, F, R, P> {
        self.next = Some(next);
        State::Settling {
            settlement,
            parked: Some(self),
        }
    }

    /// What comes after a charge has been changed, and what its numbers are by then.
    fn settled(
        mut self: Box<Self>,
        after: Result<Option<Snapshot>, SettleError>,
        next: Next,
    ) -> StateOf<S, Req, K, B, C, F, R, P> {
        let gone_back = after.is_ok();
        let after = after.ok().flatten();
        match next {
            Next::Go => {
                let charge = self.asked.joined.take().expect(DONE);
                if let Some(after) = after {
                    charge.set_decision(Decision::Allow(after));
                }
                let decision = charge.decision();
                let grant = self.shared.join(charge, decision);
                self.go(grant)
            }
            Next::AskAgain(_) if gone_back => self.ask_again(),
            Next::AskAgain(refusal) => {
                if let Some(charge) = self.asked.joined.take() {
                    drop(charge.refuse());
                }
                self.answer(refusal)
            }
            Next::Refuse(mut refusal) => {
                if let (Refusal::Limited { decision, .. }, Some(after)) = (&mut refusal, &after) {
                    *decision = Decision::of(decision.snapshot().with_numbers_of(after));
                }
                self.answer(refusal)
            }
        }
    }

    /// Asks for the whole cost, where a part of it was refused.
    fn ask_again(mut self: Box<Self>) -> StateOf<S, Req, K, B, C, F, R, P> {
        let Self {
            shared,
            policy,
            asked,
            ..
        } = &mut *self;
        asked.missing = asked.cost.clone();
        let layer = &shared.layer;
        if let Some(local) = layer.on_error.fallback().filter(|_| asked.by_fallback) {
            let reply = local.check(policy, &asked.key, asked.cost.clone());
            return self.decided(Ok(reply));
        }
        match layer
            .backend
            .ask(Op::Check(asked.cost.clone()), policy, &asked.key)
        {
            Answer::Now(reply) => self.decided(reply),
            Answer::Later(reply) => self.decide_later(reply),
        }
    }

    fn answer(self, refusal: Refusal) -> StateOf<S, Req, K, B, C, F, R, P> {
        report::refused(&refusal);
        let layer = &self.shared.layer;
        let refused = Refused {
            refusal,
            partition_key: self.asked.partition_key,
            lobby: layer.backend.lobby(),
        };
        let result = layer.reject.refuse(&self.request, refused);
        let result = Some(result);
        State::Done { result }
    }

    /// Gives the service's readiness back, a slot of an inner `ConcurrencyLimit` say: a clone is not ready.
    fn give_way(&mut self) {
        if !self.has_given_way {
            self.service = self.service.clone();
            self.has_given_way = true;
        }
    }

    fn keep_charge(&mut self) {
        if let Some(mut unserved) = self.unserved.take() {
            unserved.served();
        }
    }
}

impl<S, Req, K, B, C, F, R, P> Future for ResponseFuture<S, Req, K, B, C, F, R, P>
where
    S: Service<Req> + Clone,
    B: Backend,
    F: HandlesFailure<B::Error>,
    R: Reject<Req, S::Response, S::Error>,
{
    type Output = Result<R::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Deciding { reply, parked } => {
                    let Poll::Ready(reply) = reply.poll(cx) else {
                        parked.as_mut().expect(DONE).give_way();
                        return Poll::Pending;
                    };
                    parked.take().expect(DONE).decided(reply)
                }
                StateProj::Waiting { wait, parked } => match wait.as_mut().poll(cx) {
                    Poll::Ready(waited) => parked.take().expect(DONE).waited(waited),
                    Poll::Pending => {
                        parked.as_mut().expect(DONE).give_way();
                        return Poll::Pending;
                    }
                },
                StateProj::Readying { parked } => {
                    let waiting = parked.as_mut().expect(DONE);
                    if let Err(error) = ready!(waiting.service.poll_ready(cx)) {
                        return Poll::Ready(Err(R::error(error)));
                    }
                    let grant = waiting.grant.take().expect(DONE);
                    parked.take().expect(DONE).serve(grant)
                }
                StateProj::Settling { settlement, parked } => {
                    let Poll::Ready(after) = Pin::new(settlement).poll(cx) else {
                        parked.as_mut().expect(DONE).give_way();
                        return Poll::Pending;
                    };
                    let mut parked = parked.take().expect(DONE);
                    let next = parked.next.take().expect(DONE);
                    parked.settled(after, next)
                }
                StateProj::Calling {
                    response,
                    pass,
                    unserved,
                } => {
                    if let Some(mut unserved) = unserved.take() {
                        unserved.served();
                    }
                    return Poll::Ready(match ready!(response.poll(cx)) {
                        Ok(response) => Ok(R::response(pass.take().expect(DONE), response)),
                        Err(error) => Err(R::error(error)),
                    });
                }
                StateProj::Done { result } => return Poll::Ready(result.take().expect(DONE)),
            };
            state.set(next);
        }
    }
}

impl<S, Req, K, B, C, F, R, P> fmt::Debug for ResponseFuture<S, Req, K, B, C, F, R, P>
where
    S: Service<Req>,
    B: Backend,
    R: Reject<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
