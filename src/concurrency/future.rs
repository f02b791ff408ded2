use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::SemaphoreLayer;
use crate::backend::PermitBackend;
use crate::decision::RetryAfter;
use crate::key::{Key, KeyExtractor};
use crate::limiter::{HandlesFailure, NoAnswer};
use crate::policy::Permits;
use crate::report::{self, Outcome};
use crate::response::{CarryPermit, Entered, Refusal, Refused};
use crate::semaphore::{NoPermit, Permit, Semaphore};
use crate::wait::{Bound, MaxWait};

pin_project! {
    /// The answer of a [`SemaphoreService`](super::SemaphoreService).
    ///
    /// # Cancel safety
    ///
    /// Dropped at any point, before its first poll too, it gives back what it holds, and what it may have been given. In memory
    /// a permit is taken by `call`, unless the layer waits; elsewhere from the first poll on.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<I, Req, K, S, W, F, R, P>
    where
        I: Service<Req>,
        S: PermitBackend,
        R: CarryPermit<Req, I::Response, I::Error>,
    {
        #[pin]
        pub(super) state: State<
            Parked<I, Req, K, S, W, F, R, P>,
            Acquiring<S::Error>,
            I::Future,
            R::Carried,
            Result<R::Response, R::Error>,
        >,
    }
}

pin_project! {
    #[project = StateProj]
    pub(super) enum State<Parked, Acquiring, Inner, Carried, Output> {
        /// A permit is asked for, and perhaps waited for.
        Acquiring { acquiring: Acquiring, parked: Option<Box<Parked>> },
        /// It is there, and the inner service has to be ready.
        Readying { parked: Option<Box<Parked>> },
        /// The inner service has been called. Dropped in this order: the work ends before its permit does.
        Calling { #[pin] response: Inner, carried: Option<Carried> },
        /// The request was refused.
        Done { result: Option<Output> },
    }
}

/// A permit that is asked for, wherever it goes.
type Acquiring<E> = Pin<Box<dyn Future<Output = Result<Permit, NoPermit<E>>> + Send>>;

/// What waits for a permit, the service that is ready included.
pub(super) struct Parked<I, Req, K, S, W, F, R, P> {
    pub(super) layer: Arc<SemaphoreLayer<K, S, W, F, R, P>>,
    pub(super) service: I,
    pub(super) request: Req,
    pub(super) permits: Permits,
    pub(super) key: Key,
    pub(super) weight: u32,
    /// What the request goes on with, when the service is ready.
    pub(super) permit: Option<Permit>,
    /// Since when it may wait, and for how long.
    pub(super) bound: Option<Bound>,
    /// Whether the service's readiness has been given back.
    pub(super) has_given_way: bool,
}

/// A future is not polled after it has completed.
const DONE: &str = "`ResponseFuture` polled after completion";

/// The state of the future of `I`.
type StateOf<I, Req, K, S, W, F, R, P> = State<
    Parked<I, Req, K, S, W, F, R, P>,
    Acquiring<<S as PermitBackend>::Error>,
    <I as Service<Req>>::Future,
    <R as CarryPermit<Req, <I as Service<Req>>::Response, <I as Service<Req>>::Error>>::Carried,
    OutputOf<I, Req, R>,
>;

/// What a bounded service answers.
type OutputOf<I, Req, R> = Result<
    <R as crate::response::Reject<
        Req,
        <I as Service<Req>>::Response,
        <I as Service<Req>>::Error,
    >>::Response,
    <R as crate::response::Reject<
        Req,
        <I as Service<Req>>::Response,
        <I as Service<Req>>::Error,
    >>::Error,
>;

/// Answers in place of the service.
pub(super) fn refuse<Req, Res, Err, K, S, W, F, R, P>(
    layer: &SemaphoreLayer<K, S, W, F, R, P>,
    request: &Req,
    key: Option<&Key>,
    refusal: Refusal,
) -> Result<R::Response, R::Error>
where
    S: PermitBackend,
    R: CarryPermit<Req, Res, Err>,
{
    report::refused(&refusal);
    let refused = Refused {
        refusal,
        partition_key: key.and_then(|key| layer.share_of(key)),
        lobby: layer.semaphore.backend().lobby(),
    };
    layer.reject.refuse(request, refused)
}

/// Passes a request on to a service that is ready, with what it holds.
pub(super) fn serve<I, Req, K, S, W, F, R, P>(
    layer: &SemaphoreLayer<K, S, W, F, R, P>,
    service: &mut I,
    mut request: Req,
    key: Option<&Key>,
    permit: Option<Permit>,
) -> StateOf<I, Req, K, S, W, F, R, P>
where
    I: Service<Req>,
    S: PermitBackend,
    R: CarryPermit<Req, I::Response, I::Error>,
{
    // First: if the call panics, it is given back.
    let entered = Entered {
        permit,
        hold: layer.hold,
        partition_key: key.and_then(|key| layer.share_of(key)),
    };
    let carried = Some(layer.reject.enter(&mut request, entered));
    let response = service.call(request);
    State::Calling { response, carried }
}

/// Asks for a permit, from the first poll on.
fn acquire<B: PermitBackend, E: 'static>(
    semaphore: Semaphore<B>,
    key: Key,
    weight: u32,
    max_wait: impl FnOnce() -> MaxWait + Send + 'static,
    of: impl FnOnce(NoPermit<B::Error>) -> NoPermit<E> + Send + 'static,
) -> Acquiring<E> {
    Box::pin(async move {
        let acquired = semaphore.acquire(&key, weight, max_wait()).await;
        acquired.map_err(of)
    })
}

impl<I, Req, K, S, W, F, R, P> Parked<I, Req, K, S, W, F, R, P>
where
    I: Service<Req> + Clone,
    K: KeyExtractor<Req>,
    S: PermitBackend,
    F: HandlesFailure<S::Error>,
    R: CarryPermit<Req, I::Response, I::Error>,
{
    /// Asks for a permit.
    pub(super) fn acquire(self: Box<Self>) -> StateOf<I, Req, K, S, W, F, R, P> {
        let semaphore = self.layer.semaphore.with(&self.permits);
        let (backend, bound) = (semaphore.backend().clone(), self.bound);
        let left = move || bound.map_or(MaxWait::NONE, |bound| bound.left(backend.lobby()));
        let acquiring = acquire(semaphore, self.key.clone(), self.weight, left, |no| no);
        let parked = Some(self);
        State::Acquiring { acquiring, parked }
    }

    /// What comes after the answer.
    pub(super) fn acquired(
        mut self: Box<Self>,
        acquired: Result<Permit, NoPermit<S::Error>>,
    ) -> StateOf<I, Req, K, S, W, F, R, P> {
        let error = match acquired {
            Ok(permit) => {
                report::permit(&self.permits, Outcome::Allowed);
                self.permit = Some(permit);
                return self.go();
            }
            Err(NoPermit::Denied(decision)) => {
                // A weight above the capacity is too much for any service: that is the client's.
                let never = decision.retry_after() == Some(RetryAfter::Never);
                let refusal = Refusal::Busy {
                    permits: self.permits.clone(),
                    decision,
                    is_global: self.layer.key.is_global() && !never,
                };
                return self.refuse(refusal);
            }
            Err(NoPermit::Backend(error)) => error,
        };
        report::no_permit(&error, &self.permits);
        let lobby = self.layer.semaphore.backend().lobby();
        match self.layer.on_error.without_answer(&error) {
            NoAnswer::Pass => {
                report::permit(&self.permits, Outcome::Passed);
                lobby.let_in();
                self.go()
            }
            NoAnswer::Refuse => {
                report::permit(&self.permits, Outcome::Unavailable);
                self.refuse(Refusal::Unavailable)
            }
            NoAnswer::Ask(local) => {
                let local = Semaphore::new(self.permits.clone(), local.clone());
                let left = self.bound.map_or(MaxWait::NONE, |bound| bound.left(lobby));
                let (key, weight) = (self.key.clone(), self.weight);
                let acquiring = acquire(local, key, weight, move || left, NoPermit::of_infallible);
                let parked = Some(self);
                State::Acquiring { acquiring, parked }
            }
        }
    }

    /// Goes on as soon as the service is ready; it is if its readiness was kept.
    fn go(self: Box<Self>) -> StateOf<I, Req, K, S, W, F, R, P> {
        if self.has_given_way {
            return State::Readying { parked: Some(self) };
        }
        self.serve()
    }

    /// Goes on to the service, which is ready.
    fn serve(self) -> StateOf<I, Req, K, S, W, F, R, P> {
        let Self {
            layer,
            mut service,
            request,
            permit,
            key,
            ..
        } = self;
        serve(&layer, &mut service, request, Some(&key), permit)
    }

    fn refuse(self, refusal: Refusal) -> StateOf<I, Req, K, S, W, F, R, P> {
        let result = Some(refuse(
            &*self.layer,
            &self.request,
            Some(&self.key),
            refusal,
        ));
        State::Done { result }
    }

    /// Gives the service's readiness back, a slot of an inner `ConcurrencyLimit` say: a clone is not ready.
    fn give_way(&mut self) {
        if !self.has_given_way {
            self.service = self.service.clone();
            self.has_given_way = true;
        }
    }
}

impl<I, Req, K, S, W, F, R, P> Future for ResponseFuture<I, Req, K, S, W, F, R, P>
where
    I: Service<Req> + Clone,
    K: KeyExtractor<Req>,
    S: PermitBackend,
    F: HandlesFailure<S::Error>,
    R: CarryPermit<Req, I::Response, I::Error>,
{
    type Output = Result<R::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Acquiring { acquiring, parked } => match acquiring.as_mut().poll(cx) {
                    Poll::Ready(acquired) => parked.take().expect(DONE).acquired(acquired),
                    Poll::Pending => {
                        parked.as_mut().expect(DONE).give_way();
                        return Poll::Pending;
                    }
                },
                StateProj::Readying { parked } => {
                    let waiting = parked.as_mut().expect(DONE);
                    if let Err(error) = ready!(waiting.service.poll_ready(cx)) {
                        drop(parked.take());
                        return Poll::Ready(Err(R::error(error)));
                    }
                    parked.take().expect(DONE).serve()
                }
                StateProj::Calling { response, carried } => {
                    return Poll::Ready(match ready!(response.poll(cx)) {
                        Ok(response) => Ok(R::leave(carried.take().expect(DONE), response)),
                        Err(error) => {
                            drop(carried.take());
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
    R: CarryPermit<Req, I::Response, I::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
