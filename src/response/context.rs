use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::rejection::Rejection;
use crate::backend::BackendContext;
use crate::clock::Timestamp;
use crate::decision::{Decision, Receipt};
use crate::key::Key;
use crate::limiter::Acquired;
use crate::limiter::charge::{Charge, Settle};
use crate::partition::PartitionKey;
use crate::policy::{Policy, SemaphorePolicy};
use crate::quota::Cost;
use crate::semaphore::{Hold, Permit};

/// The context of an allowed request.
#[derive(Debug)]
#[non_exhaustive]
pub struct AllowedContext<'a> {
    /// The policy and its decision. `None` if the request is not counted or the decision is already known.
    pub answer: Option<(&'a Policy, &'a Decision)>,
    /// Whether an outer layer of the same policy has charged a part. Then the request carries that charge, and this
    /// decision is for both layers.
    pub joined: bool,
    /// The partition key for the client, if enabled.
    pub partition_key: Option<PartitionKey>,
    pub(crate) deferred_charge: DeferredCharge<'a>,
    pub(crate) context: &'a BackendContext,
}

/// The context of a rejected request.
#[derive(Debug)]
#[non_exhaustive]
pub struct RejectedContext<'a> {
    /// The reason.
    pub rejection: Rejection,
    /// The partition key for the client, if enabled.
    pub partition_key: Option<PartitionKey>,
    pub(crate) context: &'a BackendContext,
}

/// The context of a request that was allowed by a semaphore.
#[derive(Debug)]
#[non_exhaustive]
pub struct PermitContext {
    /// The permit. `None` if the request is allowed without one: it has no key, the limit is off, the backend failed,
    /// or a shadow policy denied it.
    pub permit: Option<Permit>,
    /// The [shadow](SemaphorePolicy::shadow) policy that denied the request, with its decision.
    pub denial: Option<Box<(SemaphorePolicy, Decision)>>,
    /// When the permit is released.
    pub hold: Hold,
    /// The partition key for the client, if enabled.
    pub partition_key: Option<PartitionKey>,
}

impl RejectedContext<'_> {
    /// Returns the time, by the backend's clock in this process.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.context.now()
    }
}

/// A charge that is built only if it is used. Its parts stay in place until then.
pub(crate) enum DeferredCharge<'a> {
    /// The request is not counted.
    Uncounted,
    New {
        settler: &'a Arc<dyn Settle>,
        key: &'a mut Key,
        cost: &'a Cost,
        receipt: &'a mut Option<Receipt>,
        waited: Duration,
    },
    Existing(&'a Charge),
}

impl std::fmt::Debug for DeferredCharge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeferredCharge(..)")
    }
}

impl AllowedContext<'_> {
    /// Returns the time, by the backend's clock in this process.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.context.now()
    }

    /// Builds the charge of the request. A protocol that does not need it skips the work.
    #[must_use]
    pub fn into_charge(self) -> Charge {
        self.deferred_charge.into_charge(self.answer)
    }
}

impl DeferredCharge<'_> {
    #[inline(always)] // what is moved here is large
    pub(super) fn into_charge(self, answer: Option<(&Policy, &Decision)>) -> Charge {
        match (self, answer) {
            (
                DeferredCharge::New {
                    settler,
                    key,
                    cost,
                    receipt,
                    waited,
                },
                Some((policy, decision)),
            ) => {
                let acquired = Acquired {
                    decision: decision.clone(),
                    receipt: receipt.take(),
                    waited,
                };
                // The key is not used again, so it is moved and not cloned.
                let key = mem::take(key);
                Charge::new(settler.clone(), policy.clone(), key, cost.clone(), acquired)
            }
            (DeferredCharge::Existing(charge), _) => charge.clone(),
            (_, Some((policy, decision))) => {
                Charge::from_decision(policy.clone(), decision.clone())
            }
            _ => Charge::uncounted(),
        }
    }
}
