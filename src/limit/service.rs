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
use super::pending::{PendingRequest, PendingRequestOf, RequestState, serve};
use super::{PolicyOf, RateLimitLayer};
use crate::backend::{Answer, Backend};
use crate::budget::BudgetedOp;
use crate::cost::CostOf;
use crate::decision::{Op, Reply};
use crate::key::KeyExtractor;
use crate::limiter::charge::Charge;
use crate::limiter::{self, HandleFailure, Unspecified};
use crate::middleware::{self, ReservedService};
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::{DeferredCharge, Http, Protocol};
use crate::switch::Switch;
use crate::telemetry;
use crate::wait::{Bound, MaxWait};

/// A service limited by a [`RateLimitLayer`].
///
/// Around a service without HTTP it implements `Service` only with
/// [`protocol(AsError)`](RateLimitLayer::protocol).
///
/// It is ready when the inner service is, and releases that readiness while a request is undecided; see
/// [`RateLimitLayer`](RateLimitLayer#readiness).
pub struct RateLimit<S, K, B, C = Cost, F = Unspecified, R = Http, P = Policy> {
    pub(super) inner: S,
    /// Clones of the service share one limit.
    pub(super) shared: Arc<SharedLayer<K, B, C, F, R, P>>,
}

impl<S, K, B, C, F, R, P> Layer<S> for RateLimitLayer<K, B, C, F, R, P>
where
    K: Clone,
    B: Backend,
    C: Clone,
    F: HandleFailure<B::Error>, // stated here for a short compiler error without a failure policy
    R: Clone,
    P: Clone,
{
    type Service = RateLimit<S, K, B, C, F, R, P>;

    /// # Panics
    ///
    /// Panics if the layer has several scopes without [`hash_by_outermost`](RateLimitLayer::hash_by_outermost), and the
    /// backend is a Redis Cluster.
    fn layer(&self, inner: S) -> Self::Service {
        assert!(
            !self.scopes.have_several_hash_tags() || !self.backend.needs_one_hash_tag(),
            "the keys of several scopes are in several slots of the Redis Cluster; use `hash_by_outermost`"
        );
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
        if Switch::is_off(layer.switch.as_ref()) || !layer.backend.is_enabled() {
            return self.skip(request);
        }
        // Key, answer and request are large. On the usual path they are used where they were written.
        let mut extracted = layer.key.key(&request);
        let key = match &mut extracted {
            Ok(key) if !layer.protocol.is_exempt(&request) => key,
            _ => return self.call_without_key(request, extracted),
        };
        let policy = match layer.policy.fixed() {
            Some(policy) => Cow::Borrowed(policy),
            None => Cow::Owned(layer.policy.policy(&request, key)),
        };
        let cost = match layer.cost.try_cost(&request) {
            Ok(cost) => policy.spread(cost),
            Err(error) => {
                let (policy, key) = (policy.into_owned(), mem::take(key));
                return self.call_without_cost(request, policy, key, error);
            }
        };
        let partition_key = layer.protocol.partition_key(key);
        let waits = layer.max_wait != MaxWait::NONE && !policy.is_shadow();
        let budget = match layer.backend.time_limit() {
            None => None,
            Some(limit) => layer.protocol.time_budget(&mut request, limit),
        };
        let budget = budget.map(BudgetedOp::begin);
        let outer = layer.protocol.charge(&request);
        if waits || outer.is_some() || layer.refund_unserved {
            let mut check = CheckRequest::new(mem::take(key), cost, partition_key, budget);
            if let Some(outer) = outer {
                shared.find(outer, &policy, &mut check);
            }
            let policy = policy.into_owned();
            return self.check(request, policy, check, waits);
        }
        let op = Op::Check(cost.clone());
        let mut answer = limiter::ask(&layer.backend, op, &policy, key, budget.as_ref());
        let Answer::Now(Ok(reply)) = &mut answer else {
            let check = CheckRequest::new(mem::take(key), cost, partition_key, budget);
            let policy = policy.into_owned();
            return self.decide(request, policy, check, answer);
        };
        if !reply.decision.is_allowed() {
            let check = CheckRequest::new(mem::take(key), cost, partition_key, budget);
            let policy = policy.into_owned();
            return self.decide(request, policy, check, answer);
        }
        telemetry::decided(policy.labels(), telemetry::DecisionOutcome::Allowed);
        let deferred_charge = DeferredCharge::New {
            settler: &shared.settler,
            key,
            cost: &cost,
            receipt: &mut reply.receipt,
            waited: Duration::ZERO,
        };
        let answer = Some((&*policy, &reply.decision));
        let allowed = shared.allowed(answer, deferred_charge, false, partition_key);
        // As `serve`, which would move the state once more.
        ResponseFuture {
            state: RequestState::Calling {
                in_flight: layer.protocol.allow(&mut request, allowed),
                response: self.inner.call(request),
                unserved: None,
            },
        }
    }
}

impl<S, K, B, C, F, R, P> RateLimit<S, K, B, C, F, R, P>
where
    B: Backend,
    F: HandleFailure<B::Error>,
{
    /// Checks a request that waits, or that an outer layer may have charged.
    #[inline(never)]
    fn check<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        mut check: CheckRequest,
        waits: bool,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req> + Clone,
        R: Protocol<Req, S::Response, S::Error>,
    {
        if let Some(admission) = self.shared.admit_joined(&mut check) {
            return self.proceed(request, policy, check, admission);
        }
        if waits {
            return self.wait_for_admission(request, policy, check);
        }
        let op = Op::Check(check.missing.clone());
        let (backend, budget) = (&self.shared.layer.backend, check.budget.as_ref());
        let answer = limiter::ask(backend, op, &policy, &check.key, budget);
        self.decide(request, policy, check, answer)
    }

    /// Continues with the answer of the backend.
    #[inline(never)]
    fn decide<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        mut check: CheckRequest,
        answer: Answer<Result<Reply, B::Error>, B::Future>,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req> + Clone,
        R: Protocol<Req, S::Response, S::Error>,
    {
        match answer {
            Answer::Now(reply) => {
                let admission = self.shared.admission(reply, &policy, &mut check);
                self.proceed(request, policy, check, admission)
            }
            Answer::Later(reply) => {
                let pending = self.set_aside(request, policy, check, None);
                ResponseFuture::new(pending.decide_later(reply))
            }
        }
    }

    /// Continues after the decision. The inner service is still ready.
    pub(super) fn proceed<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        check: CheckRequest,
        admission: Admission,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req> + Clone,
        R: Protocol<Req, S::Response, S::Error>,
    {
        match admission {
            Admission::Allow(mut admitted) => {
                let shared = &*self.shared;
                shared.observe_shadow::<S, Req>(&request, &policy, &check, &admitted);
                let unserved = admitted.unserved.take();
                let allowed = shared.allowed_by(&mut admitted, &policy, check.partition_key);
                let protocol = &shared.layer.protocol;
                let state = serve(&mut self.inner, request, protocol, allowed, unserved);
                ResponseFuture::new(state)
            }
            Admission::Reject(rejection) if check.joined.is_none() => {
                self.reject(&request, Some(&check.key), rejection, check.partition_key)
            }
            admission => {
                let pending = self.set_aside(request, policy, check, None);
                ResponseFuture::new(pending.proceed(admission))
            }
        }
    }
}

impl<S: Clone, K, B, C, F, R, P> RateLimit<S, K, B, C, F, R, P> {
    /// Calls the inner service with a request that is not limited.
    #[inline(never)]
    pub(super) fn skip<Req>(&mut self, request: Req) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Protocol<Req, S::Response, S::Error>,
    {
        let shared = &*self.shared;
        let allowed = shared.allowed(None, DeferredCharge::Uncounted, false, None);
        let protocol = &shared.layer.protocol;
        let state = serve(&mut self.inner, request, protocol, allowed, None);
        ResponseFuture::new(state)
    }

    /// Moves a request without a decision into a box, with the inner service that is ready.
    fn set_aside<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        check: CheckRequest,
        bound: Option<Bound>,
    ) -> PendingRequestOf<S, Req, K, B, C, F, R, P> {
        let is_refundable = bound.is_some() || self.shared.layer.refund_unserved;
        let joined = check.joined.as_ref().filter(|_| is_refundable);
        Box::new(PendingRequest {
            shared: Arc::clone(&self.shared),
            service: ReservedService::take(&mut self.inner),
            request,
            policy,
            unserved: joined.map(|charge| RefundUnlessServed::new(Charge::clone(charge))),
            check,
            admitted: None,
            next: None,
            bound,
        })
    }

    /// Lets a request wait until it is allowed.
    fn wait_for_admission<Req>(
        &mut self,
        mut request: Req,
        policy: Policy,
        mut check: CheckRequest,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Protocol<Req, S::Response, S::Error>,
    {
        let layer = &self.shared.layer;
        let mut max_wait = layer.max_wait;
        if let (MaxWait::Within(longest), Some(charge)) = (&mut max_wait, &check.joined) {
            // The wait in the outer layer counts.
            *longest = longest.saturating_sub(charge.waited());
        }
        let context = layer.backend.context();
        let bound = middleware::bound(&layer.protocol, &mut request, max_wait, context);
        let budget = check.budget.take().map(BudgetedOp::into_budget);
        let (backend, missing) = (&layer.backend, &check.missing);
        let wait = limiter::acquire_boxed(backend, &policy, &check.key, missing, bound, budget);
        let pending = Some(self.set_aside(request, policy, check, Some(bound)));
        ResponseFuture::new(RequestState::Waiting { wait, pending })
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
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service without its limit.
    pub fn into_inner(self) -> S {
        self.inner
    }
}
