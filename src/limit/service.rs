use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use super::admission::{Admission, CheckRequest, RefundUnlessServed, SharedLayer};
use super::future::ResponseFuture;
use super::pending::{AfterSettlement, PendingRequest, PendingRequestOf, RequestState, serve};
use super::{PolicyOf, RateLimitLayer};
use crate::backend::{Answer, Backend};
use crate::cost::CostOf;
use crate::decision::Op;
use crate::key::{KeyError, KeyExtractor};
use crate::limiter::charge::Charge;
use crate::limiter::{self, HandleFailure};
use crate::partition::PartitionKey;
use crate::policy::Policy;
use crate::response::{AllowedContext, DeferredCharge, Protocol, RejectedContext, Rejection};
use crate::telemetry;
use crate::wait::{Bound, MaxWait};

/// A service limited by a [`RateLimitLayer`].
///
/// Around a service that does not speak HTTP it is none before the layer is told to
/// [`protocol(AsError)`](RateLimitLayer::protocol).
///
/// It is ready when the inner service is, and releases that readiness while a request is not decided; see
/// [`RateLimitLayer`](RateLimitLayer#readiness).
pub struct RateLimit<S, K, B, C, F, R, P> {
    pub(super) inner: S,
    /// Everything but the service: clones of it share one limit.
    pub(super) shared: Arc<SharedLayer<K, B, C, F, R, P>>,
}

impl<S, K, B, C, F, R, P> Layer<S> for RateLimitLayer<K, B, C, F, R, P>
where
    K: Clone,
    B: Backend,
    C: Clone,
    F: HandleFailure<B::Error>, // here, so that the compiler names the missing choice
    R: Clone,
    P: Clone,
{
    type Service = RateLimit<S, K, B, C, F, R, P>;

    fn layer(&self, inner: S) -> Self::Service {
        let settler = Arc::new(self.backend.clone());
        let layer = self.clone();
        RateLimit {
            inner,
            shared: Arc::new(SharedLayer { layer, settler }),
        }
    }
}

impl<S, K, B, C, F, R, P, Req> Service<Req> for RateLimit<S, K, B, C, F, R, P>
where
    S: Service<Req> + Clone,
    K: KeyExtractor<Req>,
    B: Backend,
    C: CostOf<Req>,
    F: HandleFailure<B::Error>,
    R: Protocol<Req, S::Response, S::Error>,
    P: PolicyOf<Req>,
{
    type Response = R::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, K, B, C, F, R, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), R::Error>> {
        self.inner.poll_ready(cx).map_err(R::error)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let shared = &*self.shared;
        let layer = &shared.layer;
        let is_exempt = layer.protocol.is_exempt(&request);
        let key = match layer.key.key(&request) {
            Ok(key) if !is_exempt => key,
            Ok(_) => return self.skip(request),
            Err(error) if error.skips_limit(layer.skip_unkeyed || is_exempt) => {
                telemetry::unkeyed(&error, error.server_fault());
                return self.skip(request);
            }
            Err(error) => {
                let is_shadow = layer.policy.fixed().is_some_and(Policy::is_shadow);
                let passes = is_shadow && error != KeyError::Denied;
                let rejection = Rejection::NoKey(error);
                if !passes {
                    return self.reject(&request, rejection, None);
                }
                rejection.report();
                return self.skip(request);
            }
        };
        let policy = match layer.policy.fixed() {
            Some(policy) => Cow::Borrowed(policy),
            None => Cow::Owned(layer.policy.policy(&request, &key)),
        };
        let cost = layer.cost.cost(&request);
        let partition_key = layer.partitioner.as_ref().map(|by| by.partition_key(&key));
        let mut check = CheckRequest {
            key,
            missing: cost.clone(),
            cost,
            joined: None,
            local: None,
            by_fallback: false,
            elsewhere: false,
            partition_key,
        };
        if let Some(outer) = layer.protocol.charge(&request) {
            shared.find(outer, &policy, &mut check);
            if let Some(charge) = check.joined.take_if(|_| check.missing.is_zero()) {
                return self.join(request, policy.into_owned(), check, charge);
            }
        }
        if layer.max_wait != MaxWait::NONE && !policy.is_shadow() {
            return self.wait_for_admission(request, policy.into_owned(), check);
        }
        let answer = layer
            .backend
            .ask(Op::Check(check.missing.clone()), &policy, &check.key);
        let reply = match answer {
            // The usual case by itself: what is below moves everything once more.
            Answer::Now(Ok(reply))
                if reply.decision.is_allowed()
                    && check.joined.is_none()
                    && !layer.refund_unserved =>
            {
                telemetry::decided(policy.labels(), telemetry::DecisionOutcome::Allowed);
                let allowed = AllowedContext {
                    answer: Some((&policy, reply.decision)),
                    deferred_charge: DeferredCharge::New {
                        settler: Cow::Borrowed(&shared.settler),
                        key: check.key,
                        cost: check.cost,
                        receipt: reply.receipt,
                        waited: Duration::ZERO,
                    },
                    joined: false,
                    partition_key: check.partition_key,
                    context: layer.backend.context(),
                };
                let in_flight = Some(layer.protocol.allow(&mut request, allowed));
                let state = RequestState::Calling {
                    response: self.inner.call(request),
                    in_flight,
                    unserved: None,
                };
                return ResponseFuture { state };
            }
            Answer::Now(reply) => reply,
            Answer::Later(reply) => {
                let pending = self.set_aside(request, policy.into_owned(), check, None);
                let state = pending.decide_later(reply);
                return ResponseFuture { state };
            }
        };
        let state = match shared.admission(reply, &policy, &mut check) {
            Admission::Allow(admitted) => serve(
                &mut self.inner,
                request,
                layer,
                &policy,
                check.partition_key,
                admitted,
            ),
            Admission::Reject(rejection) if check.joined.is_none() => {
                return self.reject(&request, rejection, check.partition_key);
            }
            admission => {
                let pending = self.set_aside(request, policy.into_owned(), check, None);
                pending.proceed(admission)
            }
        };
        ResponseFuture { state }
    }
}

impl<S: Clone, K, B, C, F, R, P> RateLimit<S, K, B, C, F, R, P> {
    /// Answers in place of the inner service.
    fn reject<Req>(
        &mut self,
        request: &Req,
        rejection: Rejection,
        partition_key: Option<PartitionKey>,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Protocol<Req, S::Response, S::Error>,
    {
        // A clone is never ready: this gives the slot of an inner `ConcurrencyLimit` or `Buffer` back at once.
        self.inner = self.inner.clone();
        rejection.report();
        let layer = &self.shared.layer;
        let rejected = RejectedContext {
            rejection,
            partition_key,
            context: layer.backend.context(),
        };
        let result = Some(layer.protocol.reject(request, rejected));
        ResponseFuture {
            state: RequestState::Done { result },
        }
    }

    /// Lets a request through that is nobody's.
    fn skip<Req>(&mut self, mut request: Req) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Protocol<Req, S::Response, S::Error>,
    {
        let layer = &self.shared.layer;
        let allowed = AllowedContext {
            answer: None,
            deferred_charge: DeferredCharge::Uncounted,
            joined: false,
            partition_key: None,
            context: layer.backend.context(),
        };
        let in_flight = Some(layer.protocol.allow(&mut request, allowed));
        let state = RequestState::Calling {
            response: self.inner.call(request),
            in_flight,
            unserved: None,
        };
        ResponseFuture { state }
    }

    /// Puts a request aside that is not decided at once. The service that `poll_ready` vouched for goes along; a clone
    /// is never ready.
    fn set_aside<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        check: CheckRequest,
        bound: Option<Bound>,
    ) -> PendingRequestOf<S, Req, K, B, C, F, R, P> {
        let fresh = self.inner.clone();
        let is_given_up = bound.is_some() || self.shared.layer.refund_unserved;
        let joined = check.joined.as_ref().filter(|_| is_given_up);
        Box::new(PendingRequest {
            shared: Arc::clone(&self.shared),
            service: mem::replace(&mut self.inner, fresh),
            request,
            policy,
            unserved: joined.map(|charge| RefundUnlessServed::new(Charge::clone(charge))),
            check,
            admitted: None,
            next: None,
            bound,
            has_released_readiness: false,
        })
    }

    /// Nothing is missing: a layer around this one has charged as much, or more.
    fn join<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        mut check: CheckRequest,
        charge: Box<Charge>,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        F: HandleFailure<B::Error>,
        R: Protocol<Req, S::Response, S::Error>,
    {
        let state = match charge.lower(&check.cost) {
            Some(settlement) => {
                check.joined = Some(charge);
                let pending = self.set_aside(request, policy, check, None);
                pending.settle(settlement, AfterSettlement::Allow)
            }
            None => {
                let admitted = self.shared.join(charge, None);
                let layer = &self.shared.layer;
                let partition_key = check.partition_key;
                serve(
                    &mut self.inner,
                    request,
                    layer,
                    &policy,
                    partition_key,
                    admitted,
                )
            }
        };
        ResponseFuture { state }
    }

    /// Waits until the request is allowed.
    fn wait_for_admission<Req>(
        &mut self,
        mut request: Req,
        policy: Policy,
        check: CheckRequest,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Protocol<Req, S::Response, S::Error>,
    {
        let layer = &self.shared.layer;
        let now = layer.backend.context().now();
        let mut max_wait = layer.max_wait;
        if let (MaxWait::Within(longest), Some(charge)) = (&mut max_wait, &check.joined) {
            // It may have waited for that charge already.
            *longest = longest.saturating_sub(charge.waited());
        }
        let bound = Bound {
            began: now,
            max_wait,
            end: layer.protocol.deadline(&mut request, now),
        };
        let wait =
            limiter::acquire_boxed(&layer.backend, &policy, &check.key, &check.missing, bound);
        let pending = Some(self.set_aside(request, policy, check, Some(bound)));
        let state = RequestState::Waiting { wait, pending };
        ResponseFuture { state }
    }
}

impl<S: Clone, K, B, C, F, R, P> Clone for RateLimit<S, K, B, C, F, R, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: fmt::Debug, K, B, C, F, R, P: fmt::Debug> fmt::Debug for RateLimit<S, K, B, C, F, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .field("layer", &self.shared.layer)
            .finish()
    }
}

impl<S, K, B, C, F, R, P> RateLimit<S, K, B, C, F, R, P> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, to be changed.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, without its limit.
    pub fn into_inner(self) -> S {
        self.inner
    }
}
