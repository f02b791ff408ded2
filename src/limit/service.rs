use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_service::Service;

use super::future::{Next, Parked, ParkedOf, ResponseFuture, State, Unserved, serve};
use super::{PolicyOf, RateLimitLayer, trace};
use crate::backend::{Answer, Backend, HandlesFailure, Op, Outcome, Reply};
use crate::charge::{Admitted, Charge, Settle, Settlement};
use crate::clock::Timestamp;
use crate::cost::CostOf;
use crate::decision::Decision;
use crate::key::{Key, KeyExtractor};
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::{Granted, Refusal, Reject};
use crate::wait::{self, MaxWait};

/// A service limited by a [`RateLimitLayer`].
///
/// Around a service that does not speak HTTP it is none before the layer is told to
/// [`reject_with(AsError)`](RateLimitLayer::reject_with).
///
/// It is ready when the inner service is. A request that is refused, or that waits, gives the inner service's readiness back at
/// once.
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
    pub(super) joined: Option<Charge>,
    /// The same in the backend in this process, should that decide for want of the other one.
    pub(super) local: Option<Box<Charge>>,
    /// Whether it does.
    pub(super) by_fallback: bool,
    /// Whether `joined` lies in another backend than the one that decides.
    pub(super) elsewhere: bool,
}

/// What becomes of a request.
#[allow(clippy::large_enum_variant)] // the large one is the usual one
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
    /// What it was charged, if anybody wants to know.
    pub(super) charge: Option<Charge>,
    /// Whether that is the charge of a layer around this one.
    pub(super) joined: bool,
    /// What gives it back unless the inner service begins with it.
    pub(super) unserved: Option<Unserved>,
}

/// Where a charge can be settled: the layer's own backend, another one, or nowhere.
type Settler<'a> = Option<Cow<'a, Arc<dyn Settle>>>;

impl<K, B, C, F, R, P> Shared<K, B, C, F, R, P>
where
    B: Backend,
    F: HandlesFailure<B::Error>,
{
    /// What a reply, or its failure, means for the request.
    #[inline]
    pub(super) fn judge<Req, Res, Err>(
        &self,
        reply: Result<Reply, B::Error>,
        policy: &Policy,
        asked: &mut Asked,
    ) -> Verdict
    where
        R: Reject<Req, Res, Err>,
    {
        let (reply, settler) = match reply {
            Ok(reply) => (reply, Some(Cow::Borrowed(&self.settler))),
            Err(error) => {
                trace::failed(&error, policy);
                let on_error = &self.layer.on_error;
                asked.fall_back(policy);
                match on_error.handle(error, policy, &asked.key, asked.missing) {
                    Outcome::Decided(reply) => (reply, self.fallback()),
                    Outcome::Pass => {
                        return Verdict::Go(match asked.joined.take() {
                            Some(charge) => self.join(charge, None),
                            None => self.uncounted::<Req, Res, Err>(),
                        });
                    }
                    Outcome::Unavailable => return Verdict::Refuse(Refusal::Unavailable),
                }
            }
        };
        if reply.decision.is_allowed() {
            let admitted = Admitted {
                decision: reply.decision,
                receipt: reply.receipt,
                waited: Duration::ZERO,
            };
            self.grant::<Req, Res, Err>(admitted, settler, policy, asked)
        } else {
            Verdict::Refuse(self.limited(reply.decision, policy, asked))
        }
    }

    /// What a request goes on with after a wait.
    pub(super) fn waited<Req, Res, Err>(
        &self,
        admitted: Admitted,
        policy: &Policy,
        asked: &mut Asked,
    ) -> Verdict
    where
        R: Reject<Req, Res, Err>,
    {
        let settler = if asked.by_fallback {
            self.fallback()
        } else {
            Some(Cow::Borrowed(&self.settler))
        };
        trace::waited(admitted.waited, policy);
        self.grant::<Req, Res, Err>(admitted, settler, policy, asked)
    }

    #[inline]
    fn grant<Req, Res, Err>(
        &self,
        mut admitted: Admitted,
        settler: Settler<'_>,
        policy: &Policy,
        asked: &mut Asked,
    ) -> Verdict
    where
        R: Reject<Req, Res, Err>,
    {
        if let Some(charge) = asked.joined.take() {
            if asked.elsewhere {
                // It cannot be given back where the charge lies.
                admitted.receipt = None;
            }
            let decision = admitted.decision.clone();
            charge.extend(asked.missing, admitted);
            // What another quota was charged too much for.
            return match charge.lower(asked.cost) {
                Some(settlement) if !asked.elsewhere => {
                    asked.joined = Some(charge);
                    Verdict::Settle(settlement)
                }
                _ => Verdict::Go(self.join(charge, Some(decision))),
            };
        }
        if !self.layer.reject.keeps_charges() && !self.layer.refund_unserved {
            return Verdict::Go(Grant {
                decision: Some(admitted.decision),
                charge: None,
                joined: false,
                unserved: None,
            });
        }
        let decision = admitted.decision.clone();
        let charge = match settler {
            Some(settler) => {
                // Nobody asks for the key any more.
                let key = mem::replace(&mut asked.key, Key::new(""));
                let (settler, policy) = (settler.into_owned(), policy.clone());
                Charge::new(settler, policy, key, asked.cost, admitted)
            }
            None => Charge::uncounted(),
        };
        Verdict::Go(Grant {
            decision: Some(decision),
            unserved: self.unserved(&charge),
            charge: Some(charge),
            joined: false,
        })
    }

    /// To go on with the charge of a layer around this one.
    pub(super) fn join(&self, charge: Charge, decision: Option<Decision>) -> Grant {
        Grant {
            decision,
            unserved: self.unserved(&charge),
            charge: Some(charge),
            joined: true,
        }
    }

    fn uncounted<Req, Res, Err>(&self) -> Grant
    where
        R: Reject<Req, Res, Err>,
    {
        Grant {
            decision: None,
            charge: self.layer.reject.keeps_charges().then(Charge::uncounted),
            joined: false,
            unserved: None,
        }
    }

    pub(super) fn limited(&self, decision: Decision, policy: &Policy, asked: &Asked) -> Refusal {
        Refusal::Limited {
            policy: policy.clone(),
            decision,
            joined: asked.joined.is_some(),
        }
    }

    fn unserved(&self, charge: &Charge) -> Option<Unserved> {
        let wanted = self.layer.refund_unserved;
        wanted.then(|| Unserved::new(charge.clone()))
    }

    fn fallback(&self) -> Settler<'_> {
        let local: Arc<dyn Settle> = Arc::new(self.layer.on_error.fallback()?.clone());
        Some(Cow::Owned(local))
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

    fn call(&mut self, request: Req) -> Self::Future {
        let shared = &*self.shared;
        let layer = &shared.layer;
        let key = match layer.key.key(&request) {
            Ok(key) => key,
            Err(_) if layer.skip_unkeyed => {
                return self.skip(request);
            }
            Err(error) => return self.refuse(&request, Refusal::NoKey(error)),
        };
        let policy = match layer.policy.fixed() {
            Some(policy) => Cow::Borrowed(policy),
            None => Cow::Owned(layer.policy.policy(&request, &key)),
        };
        let cost = layer.cost.cost(&request);
        let mut asked = Asked {
            key,
            cost,
            missing: cost,
            joined: None,
            local: None,
            by_fallback: false,
            elsewhere: false,
        };
        if let Some(outer) = layer.reject.charge(&request) {
            shared.find(outer, &policy, &mut asked);
            if let Some(charge) = asked.joined.take_if(|_| asked.missing.is_zero()) {
                return self.join(request, policy.into_owned(), asked, charge);
            }
        }
        if layer.max_wait != MaxWait::NONE {
            return self.wait(request, policy.into_owned(), asked);
        }
        let answer = layer
            .backend
            .ask(Op::Check(asked.missing), &policy, &asked.key);
        let reply = match answer {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => {
                let parked = self.park(request, policy.into_owned(), asked, None);
                let state = parked.decide_later(reply);
                return ResponseFuture { state };
            }
        };
        let state = match shared.judge::<Req, S::Response, S::Error>(reply, &policy, &mut asked) {
            Verdict::Go(grant) => {
                let reject = &layer.reject;
                serve(&mut self.inner, request, reject, &policy, grant)
            }
            Verdict::Refuse(refusal) if asked.joined.is_none() => {
                return self.refuse(&request, refusal);
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
        self.joined = Some(charge);
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
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Reject<Req, S::Response, S::Error>,
    {
        // A clone is never ready: this gives the slot of an inner `ConcurrencyLimit` or `Buffer` back at once.
        self.inner = self.inner.clone();
        trace::refused(&refusal);
        let result = Some(self.shared.layer.reject.refuse(request, refusal));
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
        let reject = &self.shared.layer.reject;
        let granted = Granted {
            answer: None,
            charge: reject.keeps_charges().then(Charge::uncounted),
            joined: false,
        };
        let pass = Some(reject.admit(&mut request, granted));
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
        began: Option<(Timestamp, MaxWait)>,
    ) -> ParkedOf<S, Req, K, B, C, F, R, P> {
        let fresh = self.inner.clone();
        let is_given_up = began.is_some() || self.shared.layer.refund_unserved;
        let joined = asked.joined.as_ref().filter(|_| is_given_up);
        Box::new(Parked {
            shared: Arc::clone(&self.shared),
            service: mem::replace(&mut self.inner, fresh),
            request,
            policy,
            unserved: joined.map(|charge| Unserved::new(charge.clone())),
            asked,
            began,
            has_given_way: false,
        })
    }

    /// Nothing is missing: a layer around this one has charged as much, or more.
    fn join<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        mut asked: Asked,
        charge: Charge,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        F: HandlesFailure<B::Error>,
        R: Reject<Req, S::Response, S::Error>,
    {
        let state = match charge.lower(asked.cost) {
            Some(settlement) => {
                asked.joined = Some(charge);
                let parked = self.park(request, policy, asked, None);
                parked.settle(settlement, Next::Go)
            }
            None => {
                let grant = self.shared.join(charge, None);
                let reject = &self.shared.layer.reject;
                serve(&mut self.inner, request, reject, &policy, grant)
            }
        };
        ResponseFuture { state }
    }

    /// Waits until the request is allowed.
    fn wait<Req>(
        &mut self,
        request: Req,
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
        if let Some(patience) = layer.reject.patience(&request, now) {
            max_wait = max_wait.at_most(patience);
        }
        let wait = wait::begin(&layer.backend, &policy, &asked.key, asked.missing, max_wait);
        let parked = Some(self.park(request, policy, asked, Some((now, max_wait))));
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
