use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::pending::{AcquireFuture, PendingAcquire, PermitRequestState, StateProj};
use crate::backend::PermitBackend;
use crate::key::KeyExtractor;
use crate::limiter::HandleFailure;
use crate::middleware::DONE;
use crate::response::PermitProtocol;

pin_project! {
    /// The response future of a [`SemaphoreService`](super::SemaphoreService).
    ///
    /// # Cancel safety
    ///
    /// A dropped future releases its permit, and a permit that the backend may have granted it. A memory backend grants
    /// a permit in `call`, unless the layer waits. Other backends are asked from the first poll on.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<I, Req, K, S, W, F, R, P>
    where
        I: Service<Req>,
        S: PermitBackend,
        R: PermitProtocol<Req, I::Response, I::Error>,
    {
        #[pin]
        pub(super) state: PermitRequestState<
            PendingAcquire<I, Req, K, S, W, F, R, P>,
            AcquireFuture<S::Error>,
            I::Future,
            R::PermitHolder,
            Result<R::Response, R::Error>,
        >,
    }
}

impl<I, Req, K, S, W, F, R, P> Future for ResponseFuture<I, Req, K, S, W, F, R, P>
where
    I: Service<Req> + Clone,
    K: KeyExtractor<Req>,
    S: PermitBackend,
    F: HandleFailure<S::Error>,
    R: PermitProtocol<Req, I::Response, I::Error>,
{
    type Output = Result<R::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Acquiring { acquiring, pending } => match acquiring.as_mut().poll(cx) {
                    Poll::Ready(acquired) => pending.take().expect(DONE).acquired(acquired),
                    Poll::Pending => {
                        pending.as_mut().expect(DONE).service.release();
                        return Poll::Pending;
                    }
                },
                StateProj::WaitingForService { pending } => {
                    let waiting = pending.as_mut().expect(DONE);
                    if let Err(error) = ready!(waiting.service.poll_ready(cx)) {
                        drop(pending.take());
                        return Poll::Ready(Err(R::error(error)));
                    }
                    pending.take().expect(DONE).serve()
                }
                StateProj::Calling { response, holder } => {
                    return Poll::Ready(match ready!(response.poll(cx)) {
                        Ok(response) => {
                            Ok(R::permit_response(holder.take().expect(DONE), response))
                        }
                        Err(error) => {
                            drop(holder.take());
                            Err(R::error(error))
                        }
                    });
                }
                StateProj::Done { result } => return Poll::Ready(result.take().expect(DONE)),
            };
            state.set(next);
        }
    }
}

impl<I, Req, K, S, W, F, R, P> fmt::Debug for ResponseFuture<I, Req, K, S, W, F, R, P>
where
    I: Service<Req>,
    S: PermitBackend,
    R: PermitProtocol<Req, I::Response, I::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
