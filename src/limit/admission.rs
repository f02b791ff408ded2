use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::RateLimitLayer;
use crate::backend::Backend;
use crate::budget::BudgetedOp;
use crate::decision::{Decision, DenialReason, Receipt, Reply};
use crate::key::Key;
use crate::limiter::charge::{Charge, Settle, Settlement};
use crate::limiter::{Acquired, CheckOutcome, HandleFailure};
use crate::partition::PartitionKey;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::{AllowedContext, DeferredCharge, Rejection};
use crate::telemetry;

/// The layer of a service, shared by clones of the service.
pub(super) struct SharedLayer<K, B, C, F, R, P> {
    pub(super) layer: RateLimitLayer<K, B, C, F, R, P>,
    /// Settles charges in the layer's backend.
    pub(super) settler: Arc<dyn Settle>,
}

/// The check of one request.
pub(super) struct CheckRequest {
    pub(super) key: Key,
    /// The cost of the request.
    pub(super) cost: Cost,
    /// The part of the cost that no outer layer has charged.
    pub(super) missing: Cost,
    /// The charge of an outer layer of the same policy, for the rest of the cost.
    pub(super) joined: Option<Box<Charge>>,
    /// The charge of an outer layer in the fallback, for the case that the backend fails.
    pub(super) local: Option<Box<Charge>>,
    /// Whether the fallback decides.
    pub(super) by_fallback: bool,
    /// Whether `joined` is a charge in another backend than the deciding one.
    pub(super) elsewhere: bool,
    /// The keyed hash of the key for the client.
    pub(super) partition_key: Option<PartitionKey>,
    /// The operation in a remote backend, by the budget of the request.
    pub(super) budget: Option<BudgetedOp>,
}

/// The result of a check.
pub(super) enum Admission {
    Allow(Admitted),
    /// The request continues with the joined charge, after the excess was refunded.
    Settle(Settlement),
    Reject(Rejection),
}

/// The result for a request that continues.
pub(super) struct Admitted {
    /// `None` if the request is uncounted, or an outer layer reports its decision.
    pub(super) decision: Option<Decision>,
    pub(super) charge: AdmittedCharge,
    /// Whether the charge is that of an outer layer.
    pub(super) joined: bool,
    /// Refunds the charge unless the inner service is called.
    pub(super) unserved: Option<RefundUnlessServed>,
}

/// The charge of a request that continues.
pub(super) enum AdmittedCharge {
    /// The request is not counted.
    Uncounted,
    New {
        settler: Arc<dyn Settle>,
        key: Key,
        cost: Cost,
        receipt: Option<Receipt>,
        waited: Duration,
    },
    Existing(Box<Charge>),
}

impl AdmittedCharge {
    fn deferred(&mut self) -> DeferredCharge<'_> {
        match self {
            Self::Uncounted => DeferredCharge::Uncounted,
            Self::New {
                settler,
                key,
                cost,
                receipt,
                waited,
            } => DeferredCharge::New {
                settler,
                key,
                cost,
                receipt,
                waited: *waited,
            },
            Self::Existing(charge) => DeferredCharge::Existing(charge),
        }
    }
}

/// Refunds a charge on drop, unless the inner service was called.
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
    /// Turns the reply of the backend, or its failure, into an admission.
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
                if let Some(budget) = check.budget.take() {
                    budget.failed();
                }
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

    /// Admits a request that the backend or the fallback has allowed.
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
                // The receipt is of another backend than the joined charge, and cannot be refunded there.
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
            return Admission::Allow(self.admitted(decision, AdmittedCharge::Uncounted, false));
        };
        // The key is not used again, so it is moved and not cloned.
        let key = mem::take(&mut check.key);
        let cost = check.cost.clone();
        if self.layer.refund_unserved {
            let decision = Some(acquired.decision.clone());
            let charge = Charge::new(settler, policy.clone(), key, cost, acquired);
            let charge = AdmittedCharge::Existing(Box::new(charge));
            return Admission::Allow(self.admitted(decision, charge, false));
        }
        let charge = AdmittedCharge::New {
            settler,
            key,
            cost,
            receipt: acquired.receipt,
            waited: acquired.waited,
        };
        Admission::Allow(self.admitted(Some(acquired.decision), charge, false))
    }

    /// Returns the admission of a request whose whole cost an outer layer has charged already.
    #[inline]
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
        self.admitted(decision, AdmittedCharge::Existing(charge), true)
    }

    /// Rejects a request over the limit, unless the policy is a shadow.
    pub(super) fn deny(
        &self,
        decision: Decision,
        policy: &Policy,
        check: &mut CheckRequest,
    ) -> Admission {
        if !policy.is_shadow() {
            if decision.denial_reason() == Some(DenialReason::TooManyTotals) {
                telemetry::decided(policy.labels(), telemetry::DecisionOutcome::Unavailable);
                return Admission::Reject(Rejection::Unavailable);
            }
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
            None => self.admitted(decision, AdmittedCharge::Uncounted, false),
        }
    }

    /// Builds the result for a request that continues. Nothing else builds it.
    fn admitted(
        &self,
        decision: Option<Decision>,
        charge: AdmittedCharge,
        joined: bool,
    ) -> Admitted {
        let unserved = match &charge {
            AdmittedCharge::Existing(charge) if self.layer.refund_unserved => {
                Some(RefundUnlessServed::new(Charge::clone(charge)))
            }
            _ => None,
        };
        Admitted {
            decision,
            charge,
            joined,
            unserved,
        }
    }

    /// Finds the charge of an outer layer for the same bucket, in the backend or in the fallback.
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
    /// Describes a request that continues to the protocol, from its admission.
    pub(super) fn allowed_by<'a>(
        &'a self,
        admitted: &'a mut Admitted,
        policy: &'a Policy,
        partition_key: Option<PartitionKey>,
    ) -> AllowedContext<'a> {
        self.allowed(
            admitted
                .decision
                .as_ref()
                .map(|decision| (policy, decision)),
            admitted.charge.deferred(),
            admitted.joined,
            partition_key,
        )
    }

    /// Describes a request that continues to the protocol. Nothing else builds that description.
    #[inline(always)] // a call would move large values once more
    pub(super) fn allowed<'a>(
        &'a self,
        answer: Option<(&'a Policy, &'a Decision)>,
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
    pub(super) fn new(
        key: Key,
        cost: Cost,
        partition_key: Option<PartitionKey>,
        budget: Option<BudgetedOp>,
    ) -> Self {
        Self {
            key,
            missing: cost.clone(),
            cost,
            joined: None,
            local: None,
            by_fallback: false,
            elsewhere: false,
            partition_key,
            budget,
        }
    }

    /// Joins the charge of an outer layer, which reduces the missing cost.
    fn join(&mut self, charge: Charge, policy: &Policy) {
        let Some(paid) = charge.estimate() else {
            return;
        };
        let quotas = policy.quotas();
        self.missing = Cost::from_fn(quotas.len(), |index| match self.cost.get(index) {
            // A cost above the limit is never allowed, so it must not be split into parts that are.
            whole if whole > quotas[index].quota().limit() => whole,
            whole => whole.saturating_sub(paid.get(index)),
        });
        self.joined = Some(Box::new(charge));
    }

    /// Lets the fallback decide, after the backend has failed.
    pub(super) fn use_fallback(&mut self, policy: &Policy) {
        self.by_fallback = true;
        self.elsewhere = self.joined.is_some();
        if let Some(charge) = self.local.take() {
            self.join(*charge, policy);
        }
    }
}
