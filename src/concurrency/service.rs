use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::future::ResponseFuture;
use super::pending::{PendingAcquire, PermitRequestState, reject, serve};
use super::{SemaphoreLayer, SemaphorePolicyOf};
use crate::backend::PermitBackend;
use crate::cost::CostOf;
use crate::key::{Key, KeyError, KeyExtractor};
use crate::limiter::{HandleFailure, Unspecified};
use crate::middleware::{self, ReservedService};
use crate::policy::SemaphorePolicy;
use crate::quota::Cost;
use crate::response::{Http, PermitProtocol, Rejection};
use crate::telemetry::{self, DecisionOutcome};
use crate::wait::MaxWait;

/// A service bounded by a [`SemaphoreLayer`].
///
/// It is ready when the inner service is, and releases that readiness while a request has no permit; see
/// [`SemaphoreLayer`](SemaphoreLayer#readiness).
pub struct SemaphoreService<I, K, S, W = Cost, F = Unspecified, R = Http, P = SemaphorePolicy> {
    pub(super) inner: I,
    /// Clones of the service share one limit.
    pub(super) layer: Arc<SemaphoreLayer<K, S, W, F, R, P>>,
}

impl<I, K, S, W, F, R, P> Layer<I> for SemaphoreLayer<K, S, W, F, R, P>
where
    K: Clone,
    S: PermitBackend,
    W: Clone,
    F: HandleFailure<S::Error>, // stated here for a short compiler error without a failure policy
    R: Clone,
    P: Clone,
{
    type Service = SemaphoreService<I, K, S, W, F, R, P>;

    fn layer(&self, inner: I) -> Self::Service {
        SemaphoreService {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

impl<I, K, S, W, F, R, P, Req> Service<Req> for SemaphoreService<I, K, S, W, F, R, P>
where
    I: Service<Req> + Clone,
    K: KeyExtractor<Req>,
    S: PermitBackend,
    W: CostOf<Req>,
    F: HandleFailure<S::Error>,
    R: PermitProtocol<Req, I::Response, I::Error>,
    P: SemaphorePolicyOf<Req>,
{
    type Response = R::Response;
    type Error = R::Error;
    type Future = ResponseFuture<I, Req, K, S, W, F, R, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), R::Error>> {
        self.inner.poll_ready(cx).map_err(R::error)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let layer = &*self.layer;
        if layer.semaphore.is_off() {
            let state = serve(layer, &mut self.inner, request, None, None, None);
            return ResponseFuture { state };
        }
        let is_exempt = layer.protocol.is_exempt(&request);
        let key = match middleware::limited_key(&layer.key, &request, is_exempt, layer.skip_unkeyed)
        {
            Ok(Some(key)) => key,
            Ok(None) => {
                let state = serve(layer, &mut self.inner, request, None, None, None);
                return ResponseFuture { state };
            }
            Err(error) => {
                let is_shadow = layer.policy.fixed().is_some_and(SemaphorePolicy::is_shadow);
                let passes = is_shadow && error != KeyError::Denied;
                return self.call_without_weight(request, None, Rejection::NoKey(error), passes);
            }
        };
        let policy = layer.policy.policy(&request, &key);
        // A weight above `u32::MAX` exceeds any capacity, and so does `u32::MAX`.
        let weight = match layer.weight.try_cost(&request) {
            Ok(weight) => weight.get(0),
            Err(error) => {
                let (rejection, passes) = (Rejection::NoCost(error), policy.is_shadow());
                return self.call_without_weight(request, Some(&key), rejection, passes);
            }
        };
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let waits = layer.max_wait != MaxWait::NONE && !policy.is_shadow();
        let bound = waits.then(|| {
            let context = layer.semaphore.backend().context();
            middleware::bound(&layer.protocol, &mut request, layer.max_wait, context)
        });
        let budget = match layer.semaphore.backend().time_limit() {
            None => None,
            Some(limit) => layer.protocol.time_budget(&mut request, limit),
        };
        // A semaphore in this process decides at once, so the request stays in place.
        let is_here = bound.is_none() && !layer.semaphore.backend().has_leases();
        let acquired = if is_here {
            layer.semaphore.try_now(&policy, &key, weight)
        } else {
            None
        };
        let acquired = match acquired {
            Some(Ok(permit)) => {
                telemetry::permit_decided(policy.label(), DecisionOutcome::Allowed);
                let state = serve(
                    layer,
                    &mut self.inner,
                    request,
                    Some(&key),
                    Some(permit),
                    None,
                );
                return ResponseFuture { state };
            }
            other => other,
        };
        let pending = Box::new(PendingAcquire {
            layer: Arc::clone(&self.layer),
            service: ReservedService::take(&mut self.inner),
            request,
            policy,
            key,
            weight,
            permit: None,
            denial: None,
            bound,
        });
        let state = match acquired {
            Some(acquired) => pending.acquired(acquired),
            None => pending.acquire(budget),
        };
        ResponseFuture { state }
    }
}

impl<I, K, S, W, F, R, P> SemaphoreService<I, K, S, W, F, R, P> {
    /// Rejects a request whose key or weight is unknown, or passes it uncounted.
    #[inline(never)]
    fn call_without_weight<Req>(
        &mut self,
        request: Req,
        key: Option<&Key>,
        rejection: Rejection,
        passes: bool,
    ) -> ResponseFuture<I, Req, K, S, W, F, R, P>
    where
        I: Service<Req> + Clone,
        S: PermitBackend,
        R: PermitProtocol<Req, I::Response, I::Error>,
    {
        let layer = &*self.layer;
        if passes {
            rejection.report();
            layer.protocol.observe_rejection(&request, key, &rejection);
            let state = serve(layer, &mut self.inner, request, None, None, None);
            return ResponseFuture { state };
        }
        let result = Some(reject(layer, &request, key, rejection));
        // A clone is not ready: this releases the slot of an inner `ConcurrencyLimit` or `Buffer` at once.
        self.inner = self.inner.clone();
        let state = PermitRequestState::Done { result };
        ResponseFuture { state }
    }
}

impl<I: Clone, K, S, W, F, R, P> Clone for SemaphoreService<I, K, S, W, F, R, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: Arc::clone(&self.layer),
        }
    }
}

impl<I: fmt::Debug, K, S, W, F, R, P: fmt::Debug> fmt::Debug
    for SemaphoreService<I, K, S, W, F, R, P>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphoreService")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<I, K, S, W, F, R, P> SemaphoreService<I, K, S, W, F, R, P> {
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &I {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub const fn get_mut(&mut self) -> &mut I {
        &mut self.inner
    }

    /// Returns the inner service without its limit.
    pub fn into_inner(self) -> I {
        self.inner
    }
}
