use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::pending::{PendingRequest, RequestState, RequestStateOf, StateProj};
use crate::backend::Backend;
use crate::limiter::{HandleFailure, WaitFuture};
use crate::middleware::DONE;
use crate::response::Protocol;

pin_project! {
    /// The response future of a [`RateLimit`](super::RateLimit) service.
    ///
    /// # Cancel safety
    ///
    /// The charge of a dropped request stays. A memory backend charges in `call`, or in the first poll if the layer
    /// waits. A remote backend may charge a request although its future was dropped.
    ///
    /// With [`refund_on_disconnect`](super::RateLimitLayer::refund_on_disconnect) the charge is refunded if the inner
    /// service was not called. A future that is dropped during a wait cancels its reservation.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Protocol<Req, S::Response, S::Error>,
    {
        #[pin]
        pub(super) state: RequestState<
            PendingRequest<S, Req, K, B, C, F, R, P>,
            B::Future,
            WaitFuture<B::Error>,
            S::Future,
            R::InFlight,
            Result<R::Response, R::Error>,
        >,
    }
}

impl<S, Req, K, B, C, F, R, P> ResponseFuture<S, Req, K, B, C, F, R, P>
where
    S: Service<Req>,
    B: Backend,
    R: Protocol<Req, S::Response, S::Error>,
{
    #[inline]
    pub(super) fn new(state: RequestStateOf<S, Req, K, B, C, F, R, P>) -> Self {
        Self { state }
    }
}

impl<S, Req, K, B, C, F, R, P> Future for ResponseFuture<S, Req, K, B, C, F, R, P>
where
    S: Service<Req> + Clone,
    B: Backend,
    F: HandleFailure<B::Error>,
    R: Protocol<Req, S::Response, S::Error>,
{
    type Output = Result<R::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Deciding { reply, pending } => {
                    let Poll::Ready(reply) = reply.poll(cx) else {
                        pending.as_mut().expect(DONE).service.release();
                        return Poll::Pending;
                    };
                    pending.take().expect(DONE).decided(reply)
                }
                StateProj::Waiting { wait, pending } => match wait.as_mut().poll(cx) {
                    Poll::Ready(waited) => pending.take().expect(DONE).waited(waited),
                    Poll::Pending => {
                        pending.as_mut().expect(DONE).service.release();
                        return Poll::Pending;
                    }
                },
                StateProj::WaitingForService { pending } => {
                    let waiting = pending.as_mut().expect(DONE);
                    if let Err(error) = ready!(waiting.service.poll_ready(cx)) {
                        return Poll::Ready(Err(R::error(error)));
                    }
                    let admitted = waiting.admitted.take().expect(DONE);
                    pending.take().expect(DONE).serve(admitted)
                }
                StateProj::Settling {
                    settlement,
                    pending,
                } => {
                    let Poll::Ready(after) = Pin::new(settlement).poll(cx) else {
                        pending.as_mut().expect(DONE).service.release();
                        return Poll::Pending;
                    };
                    let mut pending = pending.take().expect(DONE);
                    let next = pending.next.take().expect(DONE);
                    pending.settled(after, next)
                }
                StateProj::Calling {
                    response,
                    in_flight,
                    unserved,
                } => {
                    if let Some(mut unserved) = unserved.take() {
                        unserved.served();
                    }
                    return Poll::Ready(match ready!(response.poll(cx)) {
                        Ok(response) => Ok(R::response(in_flight, response)),
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
    R: Protocol<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
