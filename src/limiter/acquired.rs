use std::time::Duration;

use super::rejected::Rejected;
use crate::decision::{Decision, Receipt, Reply, Reservation};

/// Who may go on, by which charge, and after which wait.
pub(crate) struct Acquired {
    pub(crate) decision: Decision,
    pub(crate) receipt: Option<Receipt>,
    pub(crate) waited: Duration,
}

impl Acquired {
    /// The charge of a reply that allows.
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
