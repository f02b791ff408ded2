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
use crate::response::{DeferredCharge, Rejection};
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
                        return Admission::Allow(self.uncounted(check));
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
            // What another quota was charged too much for.
            return match charge.lower(&check.cost) {
                Some(settlement) if !check.elsewhere => {
                    check.joined = Some(charge);
                    Admission::Settle(settlement)
                }
                _ => Admission::Allow(self.join(charge, Some(decision))),
            };
        }
        let settler: Option<Arc<dyn Settle>> = if check.by_fallback {
            let fallback = self.layer.on_error.fallback();
            fallback.map(|local| Arc::new(local.clone()) as _)
        } else {
            Some(Arc::clone(&self.settler))
        };
        let Some(settler) = settler else {
            return Admission::Allow(Admitted {
                decision: Some(acquired.decision),
                deferred_charge: DeferredCharge::Uncounted,
                joined: false,
                unserved: None,
            });
        };
        // Nobody asks for the key any more.
        let key = mem::replace(&mut check.key, Key::new(""));
        if self.layer.refund_unserved {
            let decision = acquired.decision.clone();
            let charge = Charge::new(settler, policy.clone(), key, check.cost.clone(), acquired);
            return Admission::Allow(Admitted {
                decision: Some(decision),
                unserved: Some(RefundUnlessServed::new(charge.clone())),
                deferred_charge: DeferredCharge::Existing(Box::new(charge)),
                joined: false,
            });
        }
        Admission::Allow(Admitted {
            decision: Some(acquired.decision),
            deferred_charge: DeferredCharge::New {
                settler: Cow::Owned(settler),
                key,
                cost: check.cost.clone(),
                receipt: acquired.receipt,
                waited: acquired.waited,
            },
            joined: false,
            unserved: None,
        })
    }

    /// To go on with the charge of a layer around this one.
    pub(super) fn join(&self, charge: Box<Charge>, decision: Option<Decision>) -> Admitted {
        let unserved = self.layer.refund_unserved;
        Admitted {
            decision,
            unserved: unserved.then(|| RefundUnlessServed::new(Charge::clone(&charge))),
            deferred_charge: DeferredCharge::Existing(charge),
            joined: true,
        }
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
        Admission::Allow(match check.joined.take() {
            Some(charge) => self.join(charge, Some(decision)),
            None => Admitted {
                decision: Some(decision),
                deferred_charge: DeferredCharge::Uncounted,
                joined: false,
                unserved: None,
            },
        })
    }

    fn uncounted(&self, check: &mut CheckRequest) -> Admitted {
        match check.joined.take() {
            Some(charge) => self.join(charge, None),
            None => Admitted {
                decision: None,
                deferred_charge: DeferredCharge::Uncounted,
                joined: false,
                unserved: None,
            },
        }
    }
}

impl<K, B, C, F, R, P> SharedLayer<K, B, C, F, R, P>
where
    B: Backend,
    F: HandleFailure<B::Error>,
{
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

impl CheckRequest {
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
