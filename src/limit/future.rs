use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::service::Next;
use super::{PolicyOf, RateLimitLayer};
use crate::backend::{Backend, HandlesFailure};
use crate::decision::Decision;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::Reject;

pin_project! {
    /// The answer of a [`RateLimit`](super::RateLimit).
    ///
    /// # Cancel safety
    ///
    /// Dropped before its first poll or after, a charge that the backend has made stays: the request was admitted. In memory it
    /// is made by `call`; a backend that answers later may make it although nobody waits for the answer.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Reject<Req, S::Response, S::Error>,
    {
        pub(super) shared: Arc<RateLimitLayer<K, B, C, F, R, P>>,
        #[pin]
        pub(super) state: State<S, Req, B::Future, R::Response, R::Error>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(super) enum State<S: Service<Req>, Req, Fut, Res, Err> {
        /// The backend answers later.
        Deciding { #[pin] reply: Fut, parked: Option<Parked<S, Req>> },
        /// The inner service has been called; the policy is there if it is not the layer's own.
        Calling { #[pin] response: S::Future, granted: Option<(Option<Policy>, Decision)> },
        /// The request was refused.
        Done { result: Option<Result<Res, Err>> },
    }
}

/// What waits for the decision, the service that is ready included.
pub(super) struct Parked<S, Req> {
    pub(super) service: S,
    pub(super) request: Req,
    pub(super) policy: Policy,
    pub(super) key: Key,
    pub(super) cost: Cost,
}

/// A future is not polled after it has completed.
const DONE: &str = "`ResponseFuture` polled after completion";

impl<S, Req, K, B, C, F, R, P> Future for ResponseFuture<S, Req, K, B, C, F, R, P>
where
    S: Service<Req>,
    B: Backend,
    F: HandlesFailure<B::Error>,
    R: Reject<Req, S::Response, S::Error>,
    P: PolicyOf<Req>,
{
    type Output = Result<R::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let layer = &**this.shared;
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Deciding { reply, parked } => {
                    let reply = ready!(reply.poll(cx));
                    let Parked {
                        mut service,
                        mut request,
                        policy,
                        key,
                        cost,
                    } = parked.take().expect(DONE);
                    match layer.next(reply, &policy, &key, cost) {
                        Next::Go(decision) => {
                            if let Some(decision) = &decision {
                                layer.reject.admit(&mut request, decision);
                            }
                            let granted = decision.map(|decision| (Some(policy), decision));
                            State::Calling {
                                response: service.call(request),
                                granted,
                            }
                        }
                        Next::Refuse(refusal) => {
                            drop(service); // and with it the readiness it held
                            return Poll::Ready(layer.reject.refuse(&request, refusal));
                        }
                    }
                }
                StateProj::Calling { response, granted } => {
                    return Poll::Ready(match ready!(response.poll(cx)) {
                        Ok(response) => {
                            let decided = granted.as_ref().and_then(|(picked, decision)| {
                                Some((picked.as_ref().or_else(|| layer.policy.fixed())?, decision))
                            });
                            Ok(layer.reject.pass(decided, response))
                        }
                        Err(error) => Err(layer.reject.inner_error(error)),
                    });
                }
                StateProj::Done { result } => return Poll::Ready(result.take().expect(DONE)),
            };
            this.state.set(next);
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
