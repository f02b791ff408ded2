use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::charge::{Admitted, Charge, Settle};
use crate::decision::{Decision, Receipt};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

/// What a request that goes on has been granted.
#[derive(Debug)]
#[non_exhaustive]
pub struct Granted<'a> {
    /// The policy and its answer; `None` if the request passes uncounted, or there is nothing new to tell of it.
    pub answer: Option<(&'a Policy, Decision)>,
    /// Whether a layer of the same policy around this one has charged its part: the request carries that charge already, and
    /// this answer speaks for both.
    pub joined: bool,
    pub(crate) offer: Offer<'a>,
}

/// A charge that is made when somebody wants it.
pub(crate) enum Offer<'a> {
    /// The request passes uncounted.
    Uncounted,
    New {
        settler: Cow<'a, Arc<dyn Settle>>,
        key: Key,
        cost: Cost,
        receipt: Option<Receipt>,
        waited: Duration,
    },
    Made(Box<Charge>),
}

impl std::fmt::Debug for Offer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Offer(..)")
    }
}

impl Granted<'_> {
    /// What the request was charged, and the answer.
    #[inline(always)] // what is moved here is large
    pub fn into_charge(self) -> (Charge, Option<Decision>) {
        let (policy, decision) = self.answer.unzip();
        let charge = match (self.offer, policy, &decision) {
            (Offer::Made(charge), ..) => *charge,
            (
                Offer::New {
                    settler,
                    key,
                    cost,
                    receipt,
                    waited,
                },
                Some(policy),
                Some(decision),
            ) => {
                let admitted = Admitted {
                    decision: decision.clone(),
                    receipt,
                    waited,
                };
                Charge::new(settler.into_owned(), policy.clone(), key, cost, admitted)
            }
            _ => Charge::uncounted(),
        };
        (charge, decision)
    }
}
