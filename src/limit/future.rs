use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::service::{Asked, Grant, Shared, Verdict};
use super::trace;
use crate::backend::{Backend, HandlesFailure};
use crate::charge::{Admitted, Charge, Settlement};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::limiter::Rejected;
use crate::policy::Policy;
use crate::response::{Granted, Refusal, Reject};
use crate::wait::{self, MaxWait, Wait};

pin_project! {
    /// The answer of a [`RateLimit`](super::RateLimit).
    ///
    /// # Cancel safety
    ///
    /// Dropped before its first poll or after, a charge that the backend has made stays: the request was admitted. In memory it
    /// is made by `call`; a backend that answers later may make it although nobody waits for the answer. With
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
        Readying { parked: Option<Box<Parked>>, grant: Option<Grant> },
        /// The charge of a layer around this one is being changed; then the request goes on, or is refused.
        Settling { settlement: Settlement, parked: Option<Box<Parked>>, refusal: Option<Refusal> },
        /// The inner service has been called.
        Calling { #[pin] response: Inner, pass: Option<Pass>, unserved: Option<Unserved> },
        /// The request was refused.
        Done { result: Option<Output> },
    }
}

/// What waits for the decision, the service that is ready included.
pub(super) struct Parked<S, Req, K, B, C, F, R, P> {
    pub(super) shared: Arc<Shared<K, B, C, F, R, P>>,
    pub(super) service: S,
    pub(super) request: Req,
    pub(super) policy: Policy,
    pub(super) asked: Asked,
    /// Since when the request may wait, and for how long.
    pub(super) began: Option<(Timestamp, MaxWait)>,
    /// Whether it waits at the backend in this process, for want of the other one.
    pub(super) by_fallback: bool,
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
    reject: &R,
    policy: &Policy,
    grant: Grant,
) -> StateOf<S, Req, K, B, C, F, R, P>
where
    S: Service<Req>,
    B: Backend,
    R: Reject<Req, S::Response, S::Error>,
{
    let answer = grant.decision.as_ref().map(|decision| (policy, decision));
    let granted = Granted {
        answer,
        charge: grant.charge,
        joined: grant.joined,
    };
    let pass = Some(reject.admit(&mut request, granted));
    let response = service.call(request);
    State::Calling {
        response,
        pass,
        unserved: grant.unserved,
    }
}

impl<S, Req, K, B, C, F, R, P> Parked<S, Req, K, B, C, F, R, P>
where
    S: Service<Req>,
    B: Backend,
    R: Reject<Req, S::Response, S::Error>,
{
    /// Goes on to the service, which is ready.
    fn serve(mut self, grant: Grant) -> StateOf<S, Req, K, B, C, F, R, P> {
        let reject = &self.shared.layer.reject;
        serve(&mut self.service, self.request, reject, &self.policy, grant)
    }

    /// Answers in place of the service, after a charge of a layer around this one has gone back.
    pub(super) fn refuse(
        mut self: Box<Self>,
        refusal: Refusal,
    ) -> StateOf<S, Req, K, B, C, F, R, P> {
        match self.asked.joined.take() {
            Some(charge) => State::Settling {
                settlement: charge.refuse(),
                parked: Some(self),
                refusal: Some(refusal),
            },
            None => {
                let result = Some(self.answer(refusal));
                State::Done { result }
            }
        }
    }

    fn answer(self, refusal: Refusal) -> OutputOf<S, Req, R> {
        let Self {
            shared,
            service,
            request,
            ..
        } = self;
        drop(service); // and with it the readiness it held
        trace::refused(&refusal);
        shared.layer.reject.refuse(&request, refusal)
    }
}

impl<S, Req, K, B, C, F, R, P> Parked<S, Req, K, B, C, F, R, P>
where
    S: Service<Req> + Clone,
    B: Backend,
    F: HandlesFailure<B::Error>,
    R: Reject<Req, S::Response, S::Error>,
{
    /// What comes after a wait.
    fn after(
        mut self: Box<Self>,
        waited: Result<Admitted, Rejected<B::Error>>,
    ) -> StateOf<S, Req, K, B, C, F, R, P> {
        let Self {
            shared,
            policy,
            asked,
            began,
            by_fallback,
            ..
        } = &mut *self;
        let verdict = match waited {
            Ok(waited) => {
                let by_fallback = *by_fallback;
                Verdict::Go(shared.waited::<Req, S::Response, S::Error>(
                    waited,
                    by_fallback,
                    policy,
                    asked,
                ))
            }
            Err(Rejected::Denied(decision)) => {
                Verdict::Refuse(shared.limited(decision, policy, asked))
            }
            Err(Rejected::Backend(error)) => {
                if let (Some((began, max_wait)), Some(local)) =
                    (*began, shared.layer.on_error.fallback())
                {
                    trace::failed(&error, policy);
                    let now = shared.layer.backend.lobby().now();
                    let left = max_wait.left(began, now);
                    let wait = wait::begin_local(local, policy, &asked.key, asked.missing, left);
                    *by_fallback = true;
                    return State::Waiting {
                        wait,
                        parked: Some(self),
                    };
                }
                shared.judge::<Req, S::Response, S::Error>(Err(error), policy, asked)
            }
        };
        match verdict {
            Verdict::Go(grant) if self.began.is_some() => State::Readying {
                parked: Some(self),
                grant: Some(grant),
            },
            Verdict::Go(grant) => self.serve(grant),
            Verdict::Refuse(refusal) => self.refuse(refusal),
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
                    let reply = ready!(reply.poll(cx));
                    let mut parked = parked.take().expect(DONE);
                    let Parked {
                        shared,
                        policy,
                        asked,
                        ..
                    } = &mut *parked;
                    match shared.judge::<Req, S::Response, S::Error>(reply, policy, asked) {
                        Verdict::Go(grant) => parked.serve(grant),
                        Verdict::Refuse(refusal) => parked.refuse(refusal),
                    }
                }
                StateProj::Waiting { wait, parked } => match wait.as_mut().poll(cx) {
                    Poll::Ready(waited) => parked.take().expect(DONE).after(waited),
                    Poll::Pending => {
                        let parked = parked.as_mut().expect(DONE);
                        if let (Some(_), false) = (parked.began, parked.has_given_way) {
                            // A clone is not ready: the slot of an inner `ConcurrencyLimit` is free for others meanwhile.
                            parked.service = parked.service.clone();
                            parked.has_given_way = true;
                        }
                        return Poll::Pending;
                    }
                },
                StateProj::Readying { parked, grant } => {
                    let waiting = parked.as_mut().expect(DONE);
                    if waiting.has_given_way
                        && let Err(error) = ready!(waiting.service.poll_ready(cx))
                    {
                        return Poll::Ready(Err(R::error(error)));
                    }
                    let grant = grant.take().expect(DONE);
                    parked.take().expect(DONE).serve(grant)
                }
                StateProj::Settling {
                    settlement,
                    parked,
                    refusal,
                } => {
                    let after = ready!(Pin::new(settlement).poll(cx)).ok().flatten();
                    let mut parked = parked.take().expect(DONE);
                    match refusal.take() {
                        Some(mut refusal) => {
                            if let (Refusal::Limited { decision, .. }, Some(after)) =
                                (&mut refusal, &after)
                            {
                                *decision =
                                    Decision::of(decision.snapshot().with_numbers_of(after));
                            }
                            return Poll::Ready(parked.answer(refusal));
                        }
                        None => {
                            let charge = parked.asked.joined.take().expect(DONE);
                            let decision = after.map(Decision::Allow);
                            if let Some(decision) = &decision {
                                charge.set_decision(decision.clone());
                            }
                            let grant = parked.shared.join(charge, decision);
                            parked.serve(grant)
                        }
                    }
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
