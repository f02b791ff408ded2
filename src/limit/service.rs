use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_service::Service;

use super::future::{Next, Parked, ParkedOf, ResponseFuture, State, Unserved, serve};
use super::{PolicyOf, RateLimitLayer};
use crate::backend::{Answer, Backend};
use crate::charge::{Admitted, Charge, Settle, Settlement};
use crate::cost::CostOf;
use crate::decision::{Decision, Op, Reply};
use crate::key::{Key, KeyError, KeyExtractor};
use crate::limiter::{HandlesFailure, Outcome};
use crate::partition::PartitionKey;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::report;
use crate::response::{Granted, Offer, Refusal, Refused, Reject};
use crate::wait::{self, Bound, MaxWait};

/// A service limited by a [`RateLimitLayer`].
///
/// Around a service that does not speak HTTP it is none before the layer is told to
/// [`reject_with(AsError)`](RateLimitLayer::reject_with).
///
/// It is ready when the inner service is, and releases that readiness while a request is not decided; see
/// [`RateLimitLayer`](RateLimitLayer#readiness).
pub struct RateLimit<S, K, B, C, F, R, P> {
    pub(super) inner: S,
    /// Everything but the service: clones of it share one limit.
    pub(super) shared: Arc<Shared<K, B, C, F, R, P>>,
}

pub(super) struct Shared<K, B, C, F, R, P> {
    pub(super) layer: RateLimitLayer<K, B, C, F, R, P>,
    /// The layer's backend, for charges to be settled in.
    pub(super) settler: Arc<dyn Settle>,
}

/// What is asked for a request.
pub(super) struct Asked {
    pub(super) key: Key,
    /// What the request costs.
    pub(super) cost: Cost,
    /// What of it has not been charged yet.
    pub(super) missing: Cost,
    /// The charge of a layer of the same policy around this one, which pays the rest.
    pub(super) joined: Option<Box<Charge>>,
    /// The same in the backend in this process, should that decide for want of the other one.
    pub(super) local: Option<Box<Charge>>,
    /// Whether it does.
    pub(super) by_fallback: bool,
    /// Whether `joined` lies in another backend than the one that decides, if anybody does.
    pub(super) elsewhere: bool,
    /// What the client may be told of the key.
    pub(super) partition_key: Option<PartitionKey>,
}

/// What becomes of a request.
pub(super) enum Verdict {
    Go(Grant),
    /// Goes on by the charge that it has joined, when what that was above the cost has gone back.
    Settle(Settlement),
    Refuse(Refusal),
}

/// What a request goes on with.
pub(super) struct Grant {
    /// None: it passes uncounted, or there is nothing new to tell.
    pub(super) decision: Option<Decision>,
    pub(super) offer: Offer<'static>,
    /// Whether the offer is the charge of a layer around this one.
    pub(super) joined: bool,
    /// What gives it back unless the inner service begins with it.
    pub(super) unserved: Option<Unserved>,
}

impl<K, B, C, F, R, P> Shared<K, B, C, F, R, P>
where
    B: Backend,
    F: HandlesFailure<B::Error>,
{
    /// What a reply, or its failure, means for the request.
    pub(super) fn judge(
        &self,
        reply: Result<Reply, B::Error>,
        policy: &Policy,
        asked: &mut Asked,
    ) -> Verdict {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                report::failed(&error, policy);
                let on_error = &self.layer.on_error;
                asked.fall_back(policy);
                match on_error.handle(error, policy, &asked.key, asked.missing.clone()) {
                    Outcome::Decided(reply) => reply,
                    Outcome::Unavailable if !policy.is_shadow() => {
                        report::decided(policy, report::Outcome::Unavailable);
                        return Verdict::Refuse(Refusal::Unavailable);
                    }
                    Outcome::Pass | Outcome::Unavailable => {
                        report::decided(policy, report::Outcome::Passed);
                        return Verdict::Go(self.uncounted(asked));
                    }
                }
            }
        };
        if reply.decision.is_allowed() {
            let admitted = Admitted {
                decision: reply.decision,
                receipt: reply.receipt,
                waited: Duration::ZERO,
            };
            self.grant(admitted, policy, asked)
        } else {
            self.deny(reply.decision, policy, asked)
        }
    }

    /// What a request goes on with that the backend, or the one in its place, has let through.
    pub(super) fn grant(
        &self,
        mut admitted: Admitted,
        policy: &Policy,
        asked: &mut Asked,
    ) -> Verdict {
        report::decided(policy, report::Outcome::Allowed);
        report::waited(admitted.waited, policy);
        if let Some(charge) = asked.joined.take() {
            if asked.elsewhere {
                // It cannot be given back where the charge lies.
                admitted.receipt = None;
            }
            let decision = admitted.decision.clone();
            charge.extend(&asked.missing, admitted);
            // What another quota was charged too much for.
            return match charge.lower(&asked.cost) {
                Some(settlement) if !asked.elsewhere => {
                    asked.joined = Some(charge);
                    Verdict::Settle(settlement)
                }
                _ => Verdict::Go(self.join(charge, Some(decision))),
            };
        }
        let settler: Option<Arc<dyn Settle>> = if asked.by_fallback {
            let fallback = self.layer.on_error.fallback();
            fallback.map(|local| Arc::new(local.clone()) as _)
        } else {
            Some(Arc::clone(&self.settler))
        };
        let Some(settler) = settler else {
            return Verdict::Go(Grant {
                decision: Some(admitted.decision),
                offer: Offer::Uncounted,
                joined: false,
                unserved: None,
            });
        };
        // Nobody asks for the key any more.
        let key = mem::replace(&mut asked.key, Key::new(""));
        if self.layer.refund_unserved {
            let decision = admitted.decision.clone();
            let charge = Charge::new(settler, policy.clone(), key, asked.cost.clone(), admitted);
            return Verdict::Go(Grant {
                decision: Some(decision),
                unserved: Some(Unserved::new(charge.clone())),
                offer: Offer::Made(Box::new(charge)),
                joined: false,
            });
        }
        Verdict::Go(Grant {
            decision: Some(admitted.decision),
            offer: Offer::New {
                settler: Cow::Owned(settler),
                key,
                cost: asked.cost.clone(),
                receipt: admitted.receipt,
                waited: admitted.waited,
            },
            joined: false,
            unserved: None,
        })
    }

    /// To go on with the charge of a layer around this one.
    pub(super) fn join(&self, charge: Box<Charge>, decision: Option<Decision>) -> Grant {
        let unserved = self.layer.refund_unserved;
        Grant {
            decision,
            unserved: unserved.then(|| Unserved::new(Charge::clone(&charge))),
            offer: Offer::Made(charge),
            joined: true,
        }
    }

    /// What becomes of a request that is over the limit.
    pub(super) fn deny(&self, decision: Decision, policy: &Policy, asked: &mut Asked) -> Verdict {
        if !policy.is_shadow() {
            return Verdict::Refuse(Refusal::Limited {
                policy: policy.clone(),
                decision,
                joined: asked.joined.is_some(),
            });
        }
        report::decided(policy, report::Outcome::Shadow);
        Verdict::Go(match asked.joined.take() {
            Some(charge) => self.join(charge, Some(decision)),
            None => Grant {
                decision: Some(decision),
                offer: Offer::Uncounted,
                joined: false,
                unserved: None,
            },
        })
    }

    fn uncounted(&self, asked: &mut Asked) -> Grant {
        match asked.joined.take() {
            Some(charge) => self.join(charge, None),
            None => Grant {
                decision: None,
                offer: Offer::Uncounted,
                joined: false,
                unserved: None,
            },
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
        let shared = &*self.shared;
        let layer = &shared.layer;
        let is_free = layer.reject.is_free(&request);
        let key = match layer.key.key(&request) {
            Ok(key) if !is_free => key,
            Ok(_) => return self.skip(request),
            Err(error) if error.lets_pass(layer.skip_unkeyed || is_free) => {
                report::skipped(&error);
                return self.skip(request);
            }
            Err(error) => {
                let is_shadow = layer.policy.fixed().is_some_and(Policy::is_shadow);
                let passes = is_shadow && error != KeyError::Denied;
                let refusal = Refusal::NoKey(error);
                if !passes {
                    return self.refuse(&request, refusal, None);
                }
                report::refused(&refusal);
                return self.skip(request);
            }
        };
        let policy = match layer.policy.fixed() {
            Some(policy) => Cow::Borrowed(policy),
            None => Cow::Owned(layer.policy.policy(&request, &key)),
        };
        let cost = layer.cost.cost(&request);
        let partition_key = layer.partitioner.as_ref().map(|by| by.of(&key));
        let mut asked = Asked {
            key,
            missing: cost.clone(),
            cost,
            joined: None,
            local: None,
            by_fallback: false,
            elsewhere: false,
            partition_key,
        };
        if let Some(outer) = layer.reject.charge(&request) {
            shared.find(outer, &policy, &mut asked);
            if let Some(charge) = asked.joined.take_if(|_| asked.missing.is_zero()) {
                return self.join(request, policy.into_owned(), asked, charge);
            }
        }
        if layer.max_wait != MaxWait::NONE && !policy.is_shadow() {
            return self.wait(request, policy.into_owned(), asked);
        }
        let answer = layer
            .backend
            .ask(Op::Check(asked.missing.clone()), &policy, &asked.key);
        let reply = match answer {
            // The usual case by itself: what is below moves everything once more.
            Answer::Now(Ok(reply))
                if reply.decision.is_allowed()
                    && asked.joined.is_none()
                    && !layer.refund_unserved =>
            {
                report::decided(&policy, report::Outcome::Allowed);
                let granted = Granted {
                    answer: Some((&policy, reply.decision)),
                    offer: Offer::New {
                        settler: Cow::Borrowed(&shared.settler),
                        key: asked.key,
                        cost: asked.cost,
                        receipt: reply.receipt,
                        waited: Duration::ZERO,
                    },
                    joined: false,
                    partition_key: asked.partition_key,
                    lobby: layer.backend.lobby(),
                };
                let pass = Some(layer.reject.admit(&mut request, granted));
                let state = State::Calling {
                    response: self.inner.call(request),
                    pass,
                    unserved: None,
                };
                return ResponseFuture { state };
            }
            Answer::Now(reply) => reply,
            Answer::Later(reply) => {
                let parked = self.park(request, policy.into_owned(), asked, None);
                let state = parked.decide_later(reply);
                return ResponseFuture { state };
            }
        };
        let state = match shared.judge(reply, &policy, &mut asked) {
            Verdict::Go(grant) => serve(
                &mut self.inner,
                request,
                layer,
                &policy,
                asked.partition_key,
                grant,
            ),
            Verdict::Refuse(refusal) if asked.joined.is_none() => {
                return self.refuse(&request, refusal, asked.partition_key);
            }
            verdict => {
                let parked = self.park(request, policy.into_owned(), asked, None);
                parked.follow(verdict)
            }
        };
        ResponseFuture { state }
    }
}

impl<K, B, C, F, R, P> Shared<K, B, C, F, R, P>
where
    B: Backend,
    F: HandlesFailure<B::Error>,
{
    /// Looks for a charge that a layer around this one has made for the same bucket, here or in the fallback.
    fn find(&self, outer: &Charge, policy: &Policy, asked: &mut Asked) {
        let backend = &self.layer.backend;
        if let Some(charge) = outer.find(backend.lobby(), policy, &asked.key) {
            asked.join(charge, policy);
        } else if let Some(local) = self.layer.on_error.fallback() {
            let charge = outer.find(Backend::lobby(local), policy, &asked.key);
            asked.local = charge.map(Box::new);
        }
    }
}

impl Asked {
    /// Lets a charge that a layer around this one has made for the same bucket pay its part.
    fn join(&mut self, charge: Charge, policy: &Policy) {
        let Some(paid) = charge.estimate() else {
            return;
        };
        let quotas = policy.quotas();
        self.missing = Cost::of_each(quotas.len(), |index| match self.cost.of(index) {
            // It never passes, not in parts either.
            whole if whole > quotas[index].quota().limit() => whole,
            whole => whole.saturating_sub(paid.of(index)),
        });
        self.joined = Some(Box::new(charge));
    }

    /// For want of an answer of the backend somebody else decides from now on.
    pub(super) fn fall_back(&mut self, policy: &Policy) {
        self.by_fallback = true;
        self.elsewhere = self.joined.is_some();
        if let Some(charge) = self.local.take() {
            self.join(*charge, policy);
        }
    }
}

impl<S: Clone, K, B, C, F, R, P> RateLimit<S, K, B, C, F, R, P> {
    /// Answers in place of the inner service.
    fn refuse<Req>(
        &mut self,
        request: &Req,
        refusal: Refusal,
        partition_key: Option<PartitionKey>,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Reject<Req, S::Response, S::Error>,
    {
        // A clone is never ready: this gives the slot of an inner `ConcurrencyLimit` or `Buffer` back at once.
        self.inner = self.inner.clone();
        report::refused(&refusal);
        let layer = &self.shared.layer;
        let refused = Refused {
            refusal,
            partition_key,
            lobby: layer.backend.lobby(),
        };
        let result = Some(layer.reject.refuse(request, refused));
        ResponseFuture {
            state: State::Done { result },
        }
    }

    /// Lets a request through that is nobody's.
    fn skip<Req>(&mut self, mut request: Req) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Reject<Req, S::Response, S::Error>,
    {
        let layer = &self.shared.layer;
        let granted = Granted {
            answer: None,
            offer: Offer::Uncounted,
            joined: false,
            partition_key: None,
            lobby: layer.backend.lobby(),
        };
        let pass = Some(layer.reject.admit(&mut request, granted));
        let state = State::Calling {
            response: self.inner.call(request),
            pass,
            unserved: None,
        };
        ResponseFuture { state }
    }

    /// Puts a request aside that is not decided at once. The service that `poll_ready` vouched for goes along; a clone is never
    /// ready.
    fn park<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        asked: Asked,
        bound: Option<Bound>,
    ) -> ParkedOf<S, Req, K, B, C, F, R, P> {
        let fresh = self.inner.clone();
        let is_given_up = bound.is_some() || self.shared.layer.refund_unserved;
        let joined = asked.joined.as_ref().filter(|_| is_given_up);
        Box::new(Parked {
            shared: Arc::clone(&self.shared),
            service: mem::replace(&mut self.inner, fresh),
            request,
            policy,
            unserved: joined.map(|charge| Unserved::new(Charge::clone(charge))),
            asked,
            grant: None,
            next: None,
            bound,
            has_given_way: false,
        })
    }

    /// Nothing is missing: a layer around this one has charged as much, or more.
    fn join<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        mut asked: Asked,
        charge: Box<Charge>,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        F: HandlesFailure<B::Error>,
        R: Reject<Req, S::Response, S::Error>,
    {
        let state = match charge.lower(&asked.cost) {
            Some(settlement) => {
                asked.joined = Some(charge);
                let parked = self.park(request, policy, asked, None);
                parked.settle(settlement, Next::Go)
            }
            None => {
                let grant = self.shared.join(charge, None);
                let layer = &self.shared.layer;
                let partition_key = asked.partition_key;
                serve(
                    &mut self.inner,
                    request,
                    layer,
                    &policy,
                    partition_key,
                    grant,
                )
            }
        };
        ResponseFuture { state }
    }

    /// Waits until the request is allowed.
    fn wait<Req>(
        &mut self,
        mut request: Req,
        policy: Policy,
        asked: Asked,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Reject<Req, S::Response, S::Error>,
    {
        let layer = &self.shared.layer;
        let now = layer.backend.lobby().now();
        let mut max_wait = layer.max_wait;
        if let (MaxWait::Within(longest), Some(charge)) = (&mut max_wait, &asked.joined) {
            // It may have waited for that charge already.
            *longest = longest.saturating_sub(charge.waited());
        }
        let bound = Bound {
            began: now,
            max_wait,
            end: layer.reject.deadline(&mut request, now),
        };
        let wait = wait::begin(&layer.backend, &policy, &asked.key, &asked.missing, bound);
        let parked = Some(self.park(request, policy, asked, Some(bound)));
        let state = State::Waiting { wait, parked };
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
