use crate::charge::Charge;
use crate::decision::Decision;
use crate::policy::Policy;

/// What a request that goes on has been granted.
#[derive(Debug)]
#[non_exhaustive]
pub struct Granted<'a> {
    /// The policy and its answer; `None` if the request passes uncounted, or there is nothing new to tell of it.
    pub answer: Option<(&'a Policy, &'a Decision)>,
    /// What it was charged, if [`keeps_charges`](super::Reject::keeps_charges).
    pub charge: Option<Charge>,
    /// Whether that is the charge of a layer of the same policy around this one: the request carries it already, and the answer
    /// speaks for both.
    pub joined: bool,
}
