use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{Parked, ResponseFuture, State};
use super::{PolicyOf, RateLimitLayer};
use crate::backend::{Answer, Backend, HandlesFailure, Op, Outcome, Reply};
use crate::cost::CostOf;
use crate::decision::Decision;
use crate::key::{Key, KeyExtractor};
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::{Refusal, Reject};

/// A service limited by a [`RateLimitLayer`].
///
/// It is ready when the inner service is. A request that is refused gives the inner service's readiness back at once.
pub struct RateLimit<S, K, B, C, F, R, P> {
    pub(super) inner: S,
    /// Everything but the service: clones of it share one limit.
    pub(super) shared: Arc<RateLimitLayer<K, B, C, F, R, P>>,
}

/// What a reply, or its failure, means for the request.
pub(super) enum Next {
    /// It goes on; with the decision, unless it passes unlimited.
    Go(Option<Decision>),
    Refuse(Refusal),
}

impl<K, B, C, F, R, P> RateLimitLayer<K, B, C, F, R, P>
where
    B: Backend,
    F: HandlesFailure<B::Error>,
{
    pub(super) fn next(
        &self,
        reply: Result<Reply, B::Error>,
        policy: &Policy,
        key: &Key,
        cost: Cost,
    ) -> Next {
        let decision = match reply {
            Ok(reply) => reply.decision,
            Err(error) => match self.on_error.handle(error, policy, key, cost) {
                Outcome::Decided(reply) => reply.decision,
                Outcome::Pass => return Next::Go(None),
                Outcome::Unavailable => return Next::Refuse(Refusal::Unavailable),
            },
        };
        if decision.is_allowed() {
            Next::Go(Some(decision))
        } else {
            Next::Refuse(Refusal::Limited {
                policy: policy.clone(),
                decision,
            })
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
        self.inner
            .poll_ready(cx)
            .map_err(|error| self.shared.reject.inner_error(error))
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let layer = &*self.shared;
        let state = match layer.key.key(&request) {
            Err(_) if layer.skip_unkeyed => State::Calling {
                response: self.inner.call(request),
                granted: None,
            },
            Err(error) => refused(&mut self.inner, layer, &request, Refusal::NoKey(error)),
            Ok(key) => {
                let policy = match layer.policy.fixed() {
                    Some(policy) => Cow::Borrowed(policy),
                    None => Cow::Owned(layer.policy.policy(&request, &key)),
                };
                let cost = layer.cost.cost(&request);
                match layer.backend.ask(Op::Check(cost), &policy, &key) {
                    Answer::Now(reply) => match layer.next(reply, &policy, &key, cost) {
                        Next::Go(decision) => {
                            if let Some(decision) = &decision {
                                layer.reject.admit(&mut request, decision);
                            }
                            let granted = decision.map(|decision| (picked(policy), decision));
                            State::Calling {
                                response: self.inner.call(request),
                                granted,
                            }
                        }
                        Next::Refuse(refusal) => refused(&mut self.inner, layer, &request, refusal),
                    },
                    Answer::Later(reply) => {
                        let policy = policy.into_owned();
                        // The one that `poll_ready` vouched for goes along; a clone is never ready.
                        let fresh = self.inner.clone();
                        let service = mem::replace(&mut self.inner, fresh);
                        State::Deciding {
                            reply,
                            parked: Some(Parked {
                                service,
                                request,
                                policy,
                                key,
                                cost,
                            }),
                        }
                    }
                }
            }
        };
        ResponseFuture {
            shared: Arc::clone(&self.shared),
            state,
        }
    }
}

/// A policy that the layer does not hold itself.
fn picked(policy: Cow<'_, Policy>) -> Option<Policy> {
    match policy {
        Cow::Borrowed(_) => None,
        Cow::Owned(policy) => Some(policy),
    }
}

/// Answers in place of `inner`.
fn refused<S, K, B, C, F, R, P, Req>(
    inner: &mut S,
    layer: &RateLimitLayer<K, B, C, F, R, P>,
    request: &Req,
    refusal: Refusal,
) -> State<S, Req, B::Future, R::Response, R::Error>
where
    S: Service<Req> + Clone,
    B: Backend,
    R: Reject<Req, S::Response, S::Error>,
{
    // A clone is never ready: this gives the slot of an inner `ConcurrencyLimit` or `Buffer` back at once.
    *inner = inner.clone();
    State::Done {
        result: Some(layer.reject.refuse(request, refusal)),
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
