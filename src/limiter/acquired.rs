use std::time::Duration;

use super::rejected::Rejected;
use crate::decision::{Decision, Receipt, Reply, Reservation};

/// The outcome of an allowed check: the decision, the receipt of its charge, and the wait.
pub(crate) struct Acquired {
    pub(crate) decision: Decision,
    pub(crate) receipt: Option<Receipt>,
    pub(crate) waited: Duration,
}

impl Acquired {
    /// Converts the reply to a check or reservation.
    pub(super) fn from_reply<E>(reply: Reply, waited: Duration) -> Result<Self, Rejected<E>> {
        if !reply.decision.is_allowed() {
            return Err(Rejected::Denied(reply.decision));
        }
        let of_reservation = reply.reservation.and_then(Reservation::into_receipt);
        Ok(Self {
            decision: reply.decision,
            receipt: reply.receipt.or(of_reservation),
            waited,
        })
    }
}
