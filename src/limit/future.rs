use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::{RateLimitLayer, trace};
use crate::backend::{Backend, HandlesFailure};
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
        #[pin]
        pub(super) state: State<
            Parked<S, Req, K, B, C, F, R, P>,
            B::Future,
            S::Future,
            R::Pass,
            Result<R::Response, R::Error>,
        >,
    }
}

pin_project! {
    #[project = StateProj]
    pub(super) enum State<Parked, Reply, Inner, Pass, Output> {
        /// The backend answers later; only then anything is put aside.
        Deciding { #[pin] reply: Reply, parked: Option<Box<Parked>> },
        /// The inner service has been called.
        Calling { #[pin] response: Inner, pass: Option<Pass> },
        /// The request was refused.
        Done { result: Option<Output> },
    }
}

/// What waits for the decision, the service that is ready included.
pub(super) struct Parked<S, Req, K, B, C, F, R, P> {
    pub(super) layer: Arc<RateLimitLayer<K, B, C, F, R, P>>,
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
{
    type Output = Result<R::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Deciding { reply, parked } => {
                    let reply = ready!(reply.poll(cx));
                    let Parked {
                        layer,
                        mut service,
                        mut request,
                        policy,
                        key,
                        cost,
                    } = *parked.take().expect(DONE);
                    match layer.settle(reply, &policy, &key, cost) {
                        Ok(decision) => {
                            let granted = decision.as_ref().map(|decision| (&policy, decision));
                            let pass = Some(layer.reject.admit(&mut request, granted));
                            let response = service.call(request);
                            State::Calling { response, pass }
                        }
                        Err(refusal) => {
                            drop(service); // and with it the readiness it held
                            trace::refused(&refusal);
                            return Poll::Ready(layer.reject.refuse(&request, refusal));
                        }
                    }
                }
                StateProj::Calling { response, pass } => {
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
