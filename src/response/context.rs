use std::borrow::Cow;
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
use crate::policy::Policy;
use crate::quota::Cost;
use crate::semaphore::{Hold, Permit};

/// What a request that goes on has been granted.
#[derive(Debug)]
#[non_exhaustive]
pub struct AllowedContext<'a> {
    /// The policy and its answer; `None` if the request passes uncounted, or there is nothing new to tell of it.
    pub answer: Option<(&'a Policy, Decision)>,
    /// Whether a layer of the same policy around this one has charged its part: the request carries that charge
    /// already, and this answer speaks for both.
    pub joined: bool,
    /// What its client may be told of its key.
    pub partition_key: Option<PartitionKey>,
    pub(crate) deferred_charge: DeferredCharge<'a>,
    pub(crate) context: &'a BackendContext,
}

/// What is rejected, and what it takes to say so.
#[derive(Debug)]
#[non_exhaustive]
pub struct RejectedContext<'a> {
    /// Why.
    pub rejection: Rejection,
    /// What its client may be told of its key.
    pub partition_key: Option<PartitionKey>,
    pub(crate) context: &'a BackendContext,
}

/// What a request goes on with that holds a permit.
#[derive(Debug)]
#[non_exhaustive]
pub struct PermitContext {
    /// The permit; `None` if it goes on without one.
    pub permit: Option<Permit>,
    /// Until when it lasts.
    pub hold: Hold,
    /// What its client may be told of its key.
    pub partition_key: Option<PartitionKey>,
}

impl RejectedContext<'_> {
    /// The time by the backend's clock in this process.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.context.now()
    }
}

/// A charge that is made when somebody wants it.
pub(crate) enum DeferredCharge<'a> {
    /// The request passes uncounted.
    Uncounted,
    New {
        settler: Cow<'a, Arc<dyn Settle>>,
        key: Key,
        cost: Cost,
        receipt: Option<Receipt>,
        waited: Duration,
    },
    Existing(Box<Charge>),
}

impl std::fmt::Debug for DeferredCharge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeferredCharge(..)")
    }
}

impl AllowedContext<'_> {
    /// The time by the backend's clock in this process.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.context.now()
    }

    /// What the request was charged. It is made by this call: who does not want it need not pay for it.
    #[must_use]
    pub fn into_charge(self) -> Charge {
        self.deferred_charge.into_charge(self.answer.as_ref())
    }
}

impl DeferredCharge<'_> {
    #[inline(always)] // what is moved here is large
    pub(super) fn into_charge(self, answer: Option<&(&Policy, Decision)>) -> Charge {
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
                let admitted = Acquired {
                    decision: decision.clone(),
                    receipt,
                    waited,
                };
                let policy = Policy::clone(policy);
                Charge::new(settler.into_owned(), policy, key, cost, admitted)
            }
            (DeferredCharge::Existing(charge), _) => *charge,
            (_, Some((policy, decision))) => {
                Charge::from_decision(Policy::clone(policy), decision.clone())
            }
            _ => Charge::uncounted(),
        }
    }
}
