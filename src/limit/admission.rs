use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::RateLimitLayer;
use crate::backend::Backend;
use crate::decision::{Decision, Reply};
use crate::key::Key;
use crate::limiter::charge::{Charge, Settle, Settlement};
use crate::limiter::{Acquired, CheckOutcome, HandleFailure};
use crate::partition::PartitionKey;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::{AllowedContext, DeferredCharge, Rejection};
use crate::telemetry;

pub(super) struct SharedLayer<K, B, C, F, R, P> {
    pub(super) layer: RateLimitLayer<K, B, C, F, R, P>,
    /// The layer's backend, for charges to be settled in.
    pub(super) settler: Arc<dyn Settle>,
}

/// What is asked for a request.
pub(super) struct CheckRequest {
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
pub(super) enum Admission {
    Allow(Admitted),
    /// Goes on by the charge that it has joined, when what that was above the cost has gone back.
    Settle(Settlement),
    Reject(Rejection),
}

/// What a request goes on with.
pub(super) struct Admitted {
    /// None: it passes uncounted, or there is nothing new to tell.
    pub(super) decision: Option<Decision>,
    pub(super) deferred_charge: DeferredCharge<'static>,
    /// Whether the offer is the charge of a layer around this one.
    pub(super) joined: bool,
    /// What gives it back unless the inner service begins with it.
    pub(super) unserved: Option<RefundUnlessServed>,
}

/// Gives a charge back unless the inner service begins with its request.
pub(super) struct RefundUnlessServed(Option<Box<Charge>>);

impl RefundUnlessServed {
    pub(super) fn new(charge: Charge) -> Self {
        Self(Some(Box::new(charge)))
    }

    pub(super) fn served(&mut self) {
        self.0 = None;
    }
}

impl Drop for RefundUnlessServed {
    fn drop(&mut self) {
        if let Some(charge) = self.0.take() {
            drop(charge.cancel());
        }
    }
}

impl<K, B, C, F, R, P> SharedLayer<K, B, C, F, R, P>
where
    B: Backend,
    F: HandleFailure<B::Error>,
{
    /// What a reply, or its failure, means for the request.
    pub(super) fn admission(
        &self,
        reply: Result<Reply, B::Error>,
        policy: &Policy,
        check: &mut CheckRequest,
    ) -> Admission {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                telemetry::backend_failed(&error, policy.labels());
                let on_error = &self.layer.on_error;
                check.use_fallback(policy);
                match on_error.handle(error, policy, &check.key, check.missing.clone()) {
                    CheckOutcome::Decided(reply) => reply,
                    CheckOutcome::Unavailable if !policy.is_shadow() => {
                        telemetry::decided(
                            policy.labels(),
                            telemetry::DecisionOutcome::Unavailable,
                        );
                        return Admission::Reject(Rejection::Unavailable);
                    }
                    CheckOutcome::Uncounted | CheckOutcome::Unavailable => {
                        telemetry::decided(policy.labels(), telemetry::DecisionOutcome::Passed);
                        return Admission::Allow(self.uncharged(None, check));
                    }
                }
            }
        };
        if reply.decision.is_allowed() {
            let acquired = Acquired {
                decision: reply.decision,
                receipt: reply.receipt,
                waited: Duration::ZERO,
            };
            self.allow(acquired, policy, check)
        } else {
            self.deny(reply.decision, policy, check)
        }
    }

    /// What a request goes on with that the backend, or the one in its place, has let through.
    pub(super) fn allow(
        &self,
        mut acquired: Acquired,
        policy: &Policy,
        check: &mut CheckRequest,
    ) -> Admission {
        telemetry::decided(policy.labels(), telemetry::DecisionOutcome::Allowed);
        telemetry::waited(acquired.waited, policy.labels());
        if let Some(charge) = check.joined.take() {
            if check.elsewhere {
                // It cannot be given back where the charge lies.
                acquired.receipt = None;
            }
            let decision = acquired.decision.clone();
            charge.extend(&check.missing, acquired);
            return self.lower(charge, Some(decision), check);
        }
        let settler: Option<Arc<dyn Settle>> = if check.by_fallback {
            let fallback = self.layer.on_error.fallback();
            fallback.map(|local| Arc::new(local.clone()) as _)
        } else {
            Some(Arc::clone(&self.settler))
        };
        let Some(settler) = settler else {
            let decision = Some(acquired.decision);
            return Admission::Allow(self.admitted(decision, DeferredCharge::Uncounted, false));
        };
        // Nothing asks for the key any more.
        let key = mem::replace(&mut check.key, Key::new(""));
        let cost = check.cost.clone();
        if self.layer.refund_unserved {
            let decision = Some(acquired.decision.clone());
            let charge = Charge::new(settler, policy.clone(), key, cost, acquired);
            let charge = DeferredCharge::Existing(Box::new(charge));
            return Admission::Allow(self.admitted(decision, charge, false));
        }
        let charge = DeferredCharge::New {
            settler: Cow::Owned(settler),
            key,
            cost,
            receipt: acquired.receipt,
            waited: acquired.waited,
        };
        Admission::Allow(self.admitted(Some(acquired.decision), charge, false))
    }

    /// Returns the admission of a request whose whole cost an outer layer has charged already.
    pub(super) fn admit_joined(&self, check: &mut CheckRequest) -> Option<Admission> {
        let charge = check.joined.take_if(|_| check.missing.is_zero())?;
        Some(self.lower(charge, None, check))
    }

    /// Gives back what an outer layer has charged above the cost, and continues with its charge.
    fn lower(
        &self,
        charge: Box<Charge>,
        decision: Option<Decision>,
        check: &mut CheckRequest,
    ) -> Admission {
        match charge.lower(&check.cost) {
            Some(settlement) if !check.elsewhere => {
                check.joined = Some(charge);
                Admission::Settle(settlement)
            }
            _ => Admission::Allow(self.join(charge, decision)),
        }
    }

    /// Continues with the charge of an outer layer.
    pub(super) fn join(&self, charge: Box<Charge>, decision: Option<Decision>) -> Admitted {
        self.admitted(decision, DeferredCharge::Existing(charge), true)
    }

    /// What becomes of a request that is over the limit.
    pub(super) fn deny(
        &self,
        decision: Decision,
        policy: &Policy,
        check: &mut CheckRequest,
    ) -> Admission {
        if !policy.is_shadow() {
            return Admission::Reject(Rejection::Limited {
                policy: policy.clone(),
                decision,
                joined: check.joined.is_some(),
            });
        }
        telemetry::decided(policy.labels(), telemetry::DecisionOutcome::Shadow);
        Admission::Allow(self.uncharged(Some(decision), check))
    }

    /// Continues without a charge of this layer.
    fn uncharged(&self, decision: Option<Decision>, check: &mut CheckRequest) -> Admitted {
        match check.joined.take() {
            Some(charge) => self.join(charge, decision),
            None => self.admitted(decision, DeferredCharge::Uncounted, false),
        }
    }

    fn admitted(
        &self,
        decision: Option<Decision>,
        deferred_charge: DeferredCharge<'static>,
        joined: bool,
    ) -> Admitted {
        let unserved = match &deferred_charge {
            DeferredCharge::Existing(charge) if self.layer.refund_unserved => {
                Some(RefundUnlessServed::new(Charge::clone(charge)))
            }
            _ => None,
        };
        Admitted {
            decision,
            deferred_charge,
            joined,
            unserved,
        }
    }

    /// Looks for a charge that a layer around this one has made for the same bucket, here or in the fallback.
    pub(super) fn find(&self, outer: &Charge, policy: &Policy, check: &mut CheckRequest) {
        let backend = &self.layer.backend;
        if let Some(charge) = outer.find(backend.context().id(), policy, &check.key) {
            check.join(charge, policy);
        } else if let Some(local) = self.layer.on_error.fallback() {
            let charge = outer.find(Backend::context(local).id(), policy, &check.key);
            check.local = charge.map(Box::new);
        }
    }
}

impl<K, B: Backend, C, F, R, P> SharedLayer<K, B, C, F, R, P> {
    /// Describes an allowed request to the protocol.
    #[inline(always)] // what is moved here is large
    pub(super) fn allowed<'a>(
        &'a self,
        answer: Option<(&'a Policy, Decision)>,
        deferred_charge: DeferredCharge<'a>,
        joined: bool,
        partition_key: Option<PartitionKey>,
    ) -> AllowedContext<'a> {
        AllowedContext {
            answer,
            joined,
            partition_key,
            deferred_charge,
            context: self.layer.backend.context(),
        }
    }
}

impl CheckRequest {
    pub(super) fn new(key: Key, cost: Cost, partition_key: Option<PartitionKey>) -> Self {
        Self {
            key,
            missing: cost.clone(),
            cost,
            joined: None,
            local: None,
            by_fallback: false,
            elsewhere: false,
            partition_key,
        }
    }

    /// Lets a charge that a layer around this one has made for the same bucket pay its part.
    fn join(&mut self, charge: Charge, policy: &Policy) {
        let Some(paid) = charge.estimate() else {
            return;
        };
        let quotas = policy.quotas();
        self.missing = Cost::from_fn(quotas.len(), |index| match self.cost.get(index) {
            // It never passes, not in parts either.
            whole if whole > quotas[index].quota().limit() => whole,
            whole => whole.saturating_sub(paid.get(index)),
        });
        self.joined = Some(Box::new(charge));
    }

    /// For want of an answer of the backend somebody else decides from now on.
    pub(super) fn use_fallback(&mut self, policy: &Policy) {
        self.by_fallback = true;
        self.elsewhere = self.joined.is_some();
        if let Some(charge) = self.local.take() {
            self.join(*charge, policy);
        }
    }
}
