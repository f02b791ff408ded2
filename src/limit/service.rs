use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{Parked, ResponseFuture, State};
use super::{PolicyOf, RateLimitLayer, trace};
use crate::backend::{Answer, Backend, HandlesFailure, Op, Outcome, Reply};
use crate::cost::CostOf;
use crate::decision::Decision;
use crate::key::{Key, KeyExtractor};
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::{Refusal, Reject};

/// A service limited by a [`RateLimitLayer`].
///
/// Around a service that does not speak HTTP it is none before the layer is told to
/// [`reject_with(AsError)`](RateLimitLayer::reject_with).
///
/// It is ready when the inner service is. A request that is refused gives the inner service's readiness back at once.
pub struct RateLimit<S, K, B, C, F, R, P> {
    pub(super) inner: S,
    /// Everything but the service: clones of it share one limit.
    pub(super) shared: Arc<RateLimitLayer<K, B, C, F, R, P>>,
}

impl<K, B, C, F, R, P> RateLimitLayer<K, B, C, F, R, P>
where
    B: Backend,
    F: HandlesFailure<B::Error>,
{
    /// What a reply, or its failure, means for the request: it goes on, with the decision unless it passes unlimited, or it
    /// is refused.
    #[inline]
    pub(super) fn settle(
        &self,
        reply: Result<Reply, B::Error>,
        policy: &Policy,
        key: &Key,
        cost: Cost,
    ) -> Result<Option<Decision>, Refusal> {
        let decision = match reply {
            Ok(reply) => reply.decision,
            Err(error) => {
                trace::failed(&error, policy);
                match self.on_error.handle(error, policy, key, cost) {
                    Outcome::Decided(reply) => reply.decision,
                    Outcome::Pass => return Ok(None),
                    Outcome::Unavailable => return Err(Refusal::Unavailable),
                }
            }
        };
        if decision.is_allowed() {
            Ok(Some(decision))
        } else {
            let policy = policy.clone();
            Err(Refusal::Limited { policy, decision })
        }
    }
}

impl<S, K, B, C, F, R, P, Req> Service<Req> for RateLimit<S, K, B, C, F, R, P>
where
    S: Service<Req> + Clone,
    K: KeyExtractor<Req>,
    B: Backend,
    C: CostOf<Req>,
    F: HandlesFailure<B::Error>,
    R: Reject<Req, S::Response, S::Error>,
    P: PolicyOf<Req>,
{
    type Response = R::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, K, B, C, F, R, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), R::Error>> {
        self.inner.poll_ready(cx).map_err(R::error)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let layer = &*self.shared;
        let key = match layer.key.key(&request) {
            Ok(key) => key,
            Err(_) if layer.skip_unkeyed => {
                let pass = Some(layer.reject.admit(&mut request, None));
                let response = self.inner.call(request);
                return ResponseFuture {
                    state: State::Calling { response, pass },
                };
            }
            Err(error) => return self.refuse(&request, Refusal::NoKey(error)),
        };
        let policy = match layer.policy.fixed() {
            Some(policy) => Cow::Borrowed(policy),
            None => Cow::Owned(layer.policy.policy(&request, &key)),
        };
        let cost = layer.cost.cost(&request);
        match layer.backend.ask(Op::Check(cost), &policy, &key) {
            Answer::Now(reply) => match layer.settle(reply, &policy, &key, cost) {
                Ok(decision) => {
                    let granted = decision.as_ref().map(|decision| (&*policy, decision));
                    let pass = Some(layer.reject.admit(&mut request, granted));
                    let response = self.inner.call(request);
                    ResponseFuture {
                        state: State::Calling { response, pass },
                    }
                }
                Err(refusal) => self.refuse(&request, refusal),
            },
            Answer::Later(reply) => {
                let (layer, policy) = (Arc::clone(&self.shared), policy.into_owned());
                // The one that `poll_ready` vouched for goes along; a clone is never ready.
                let fresh = self.inner.clone();
                let service = mem::replace(&mut self.inner, fresh);
                let parked = Some(Box::new(Parked {
                    layer,
                    service,
                    request,
                    policy,
                    key,
                    cost,
                }));
                ResponseFuture {
                    state: State::Deciding { reply, parked },
                }
            }
        }
    }
}

impl<S, K, B, C, F, R, P> RateLimit<S, K, B, C, F, R, P> {
    /// Answers in place of the inner service.
    fn refuse<Req>(
        &mut self,
        request: &Req,
        refusal: Refusal,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req> + Clone,
        B: Backend,
        R: Reject<Req, S::Response, S::Error>,
    {
        // A clone is never ready: this gives the slot of an inner `ConcurrencyLimit` or `Buffer` back at once.
        self.inner = self.inner.clone();
        trace::refused(&refusal);
        let result = Some(self.shared.reject.refuse(request, refusal));
        ResponseFuture {
            state: State::Done { result },
        }
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
            .field("layer", &self.shared)
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
