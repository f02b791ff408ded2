use std::pin::Pin;
use std::sync::Arc;

use pin_project_lite::pin_project;
use tower_service::Service;

use super::SemaphoreLayer;
use crate::backend::PermitBackend;
use crate::budget::TimeBudget;
use crate::decision::{Decision, RetryAfter};
use crate::key::{Key, KeyExtractor};
use crate::limiter::{Failure, HandleFailure};
use crate::middleware::{self, Output, ReservedService};
use crate::policy::SemaphorePolicy;
use crate::response::{PermitContext, PermitProtocol, Rejection};
use crate::semaphore::{AcquireError, Permit, Semaphore};
use crate::telemetry::{self, DecisionOutcome};
use crate::wait::{Bound, MaxWait};

pin_project! {
    #[project = StateProj]
    pub(super) enum PermitRequestState<PendingAcquire, AcquireFuture, Inner, PermitHolder, Output> {
        /// The request waits for a permit.
        Acquiring { acquiring: AcquireFuture, pending: Option<Box<PendingAcquire>> },
        /// The request has its permit, and waits until the inner service is ready.
        WaitingForService { pending: Option<Box<PendingAcquire>> },
        /// The inner service has been called. The fields are dropped in this order: the work ends before its permit.
        Calling { #[pin] response: Inner, holder: Option<PermitHolder> },
        /// The request was rejected.
        Done { result: Option<Output> },
    }
}

/// A boxed future of a permit, in the backend or in the fallback.
pub(super) type AcquireFuture<E> =
    Pin<Box<dyn Future<Output = Result<Permit, AcquireError<E>>> + Send>>;

/// A request without a permit, with the inner service that is ready.
pub(super) struct PendingAcquire<I, Req, K, S, W, F, R, P> {
    pub(super) layer: Arc<SemaphoreLayer<K, S, W, F, R, P>>,
    pub(super) service: ReservedService<I>,
    pub(super) request: Req,
    pub(super) policy: SemaphorePolicy,
    pub(super) key: Key,
    pub(super) weight: u32,
    /// The permit, while the inner service is not ready.
    pub(super) permit: Option<Permit>,
    /// The denial of a shadow policy.
    pub(super) denial: Option<ShadowDenial>,
    /// The start and the bounds of the wait.
    pub(super) bound: Option<Bound>,
}

/// A shadow policy and its denial. It is in a box, because it is seldom there and large.
type ShadowDenial = Box<(SemaphorePolicy, Decision)>;

/// The state of a request for the service `I`.
pub(super) type PermitRequestStateOf<I, Req, K, S, W, F, R, P> = PermitRequestState<
    PendingAcquire<I, Req, K, S, W, F, R, P>,
    AcquireFuture<<S as PermitBackend>::Error>,
    <I as Service<Req>>::Future,
    <R as PermitProtocol<Req, <I as Service<Req>>::Response, <I as Service<Req>>::Error>>::PermitHolder,
    Output<I, Req, R>,
>;

/// Rejects a request.
pub(super) fn reject<Req, Res, Err, K, S, W, F, R, P>(
    layer: &SemaphoreLayer<K, S, W, F, R, P>,
    request: &Req,
    key: Option<&Key>,
    rejection: Rejection,
) -> Result<R::Response, R::Error>
where
    S: PermitBackend,
    R: PermitProtocol<Req, Res, Err>,
{
    let partition_key = key.and_then(|key| layer.protocol.partition_key(key));
    let context = layer.semaphore.backend().context();
    middleware::reject(
        &layer.protocol,
        request,
        key,
        rejection,
        partition_key,
        context,
    )
}

/// Calls a service that is ready.
pub(super) fn serve<I, Req, K, S, W, F, R, P>(
    layer: &SemaphoreLayer<K, S, W, F, R, P>,
    service: &mut I,
    mut request: Req,
    key: Option<&Key>,
    permit: Option<Permit>,
    denial: Option<ShadowDenial>,
) -> PermitRequestStateOf<I, Req, K, S, W, F, R, P>
where
    I: Service<Req>,
    S: PermitBackend,
    R: PermitProtocol<Req, I::Response, I::Error>,
{
    // Before the call, so that a panic of the service releases the permit.
    let context = PermitContext {
        permit,
        denial,
        hold: layer.hold,
        partition_key: key.and_then(|key| layer.protocol.partition_key(key)),
    };
    let holder = Some(layer.protocol.hold_permit(&mut request, context));
    let response = service.call(request);
    PermitRequestState::Calling { response, holder }
}

/// Acquires a permit, from the first poll on.
fn acquire<B: PermitBackend, E: 'static>(
    semaphore: Semaphore<B>,
    key: Key,
    weight: u32,
    max_wait: impl FnOnce() -> MaxWait + Send + 'static,
    map_error: impl FnOnce(AcquireError<B::Error>) -> AcquireError<E> + Send + 'static,
) -> AcquireFuture<E> {
    Box::pin(async move {
        let acquired = semaphore.acquire(&key, weight, max_wait()).await;
        acquired.map_err(map_error)
    })
}

impl<I, Req, K, S, W, F, R, P> PendingAcquire<I, Req, K, S, W, F, R, P>
where
    I: Service<Req> + Clone,
    K: KeyExtractor<Req>,
    S: PermitBackend,
    F: HandleFailure<S::Error>,
    R: PermitProtocol<Req, I::Response, I::Error>,
{
    /// Starts to acquire a permit.
    pub(super) fn acquire(
        self: Box<Self>,
        budget: Option<TimeBudget>,
    ) -> PermitRequestStateOf<I, Req, K, S, W, F, R, P> {
        let semaphore = self
            .layer
            .semaphore
            .with_policy(&self.policy)
            .within(budget);
        let (backend, bound) = (semaphore.backend().clone(), self.bound);
        let left = move || bound.map_or(MaxWait::NONE, |bound| bound.left(backend.context().now()));
        let acquiring = acquire(semaphore, self.key.clone(), self.weight, left, |no| no);
        let pending = Some(self);
        PermitRequestState::Acquiring { acquiring, pending }
    }

    /// Continues after the decision.
    pub(super) fn acquired(
        mut self: Box<Self>,
        acquired: Result<Permit, AcquireError<S::Error>>,
    ) -> PermitRequestStateOf<I, Req, K, S, W, F, R, P> {
        let error = match acquired {
            Ok(permit) => {
                telemetry::permit_decided(self.policy.label(), DecisionOutcome::Allowed);
                self.permit = Some(permit);
                return self.call_when_ready();
            }
            Err(AcquireError::Denied(decision)) => {
                // A weight above the capacity can never be allowed. That is a fault of the request, not of the service.
                let never = decision.retry_after() == Some(RetryAfter::Never);
                let policy = self.policy.clone();
                if policy.is_shadow() {
                    self.denial = Some(Box::new((policy.clone(), decision.clone())));
                }
                let rejection = Rejection::Busy {
                    policy,
                    decision,
                    is_global: self.layer.key.is_global() && !never,
                };
                if !self.policy.is_shadow() {
                    return self.reject(rejection);
                }
                telemetry::permit_decided(self.policy.label(), DecisionOutcome::Shadow);
                let (protocol, key) = (&self.layer.protocol, Some(&self.key));
                protocol.observe_rejection(&self.request, key, &rejection);
                return self.call_when_ready();
            }
            Err(AcquireError::Backend(error)) => error,
        };
        telemetry::permit_backend_failed(&error, self.policy.label());
        let context = self.layer.semaphore.backend().context();
        match self.layer.on_error.on_failure(&error) {
            // A shadow policy never rejects.
            Failure::FailClosed if !self.policy.is_shadow() => {
                telemetry::permit_decided(self.policy.label(), DecisionOutcome::Unavailable);
                self.reject(Rejection::Unavailable)
            }
            Failure::FailOpen | Failure::FailClosed => {
                telemetry::permit_decided(self.policy.label(), DecisionOutcome::Passed);
                context.count_unpermitted();
                self.call_when_ready()
            }
            Failure::Fallback(local) => {
                let local = Semaphore::new(self.policy.clone(), local.clone());
                let left = self
                    .bound
                    .map_or(MaxWait::NONE, |bound| bound.left(context.now()));
                let (key, weight) = (self.key.clone(), self.weight);
                let acquiring =
                    acquire(local, key, weight, move || left, AcquireError::widen_error);
                let pending = Some(self);
                PermitRequestState::Acquiring { acquiring, pending }
            }
        }
    }

    /// Calls the inner service when it is ready. It is ready unless its readiness was released.
    fn call_when_ready(self: Box<Self>) -> PermitRequestStateOf<I, Req, K, S, W, F, R, P> {
        if !self.service.is_ready() {
            return PermitRequestState::WaitingForService {
                pending: Some(self),
            };
        }
        self.serve()
    }

    /// Calls the inner service, which is ready.
    pub(super) fn serve(self) -> PermitRequestStateOf<I, Req, K, S, W, F, R, P> {
        let Self {
            layer,
            service,
            request,
            permit,
            denial,
            key,
            ..
        } = self;
        serve(
            &layer,
            &mut service.into_inner(),
            request,
            Some(&key),
            permit,
            denial,
        )
    }

    fn reject(self, rejection: Rejection) -> PermitRequestStateOf<I, Req, K, S, W, F, R, P> {
        let result = Some(reject(
            &*self.layer,
            &self.request,
            Some(&self.key),
            rejection,
        ));
        PermitRequestState::Done { result }
    }
}
