use smallvec::SmallVec;

use super::receipt::Receipt;
use super::state::State;
use crate::clock::Timestamp;
use crate::quota::Cost;

/// Tokens that were charged now for a request that may proceed later.
///
/// A reservation that is not used should be cancelled. Its charge is returned unless later reservations of the key
/// depend on it.
///
/// Guide: [waiting](crate::_guide::waiting).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an unused reservation should be cancelled"]
pub struct Reservation(Box<ReservedCharge>);

#[derive(Debug, PartialEq, Eq)]
struct ReservedCharge {
    cost: Cost,
    /// The states after this reservation. While the stored states equal them, no later charge was made.
    left: SmallVec<[Option<State>; 2]>,
    receipt: Option<Receipt>,
    /// The time at which the request may proceed, by the clock of the waiters; the Unix epoch while it is not known.
    due: Timestamp,
}

impl Reservation {
    pub(crate) fn new(cost: Cost, left: &[Option<State>], receipt: Option<Receipt>) -> Self {
        Self(Box::new(ReservedCharge {
            cost,
            left: left.iter().cloned().collect(),
            receipt,
            due: Timestamp::default(),
        }))
    }

    pub(crate) fn due(&self) -> Timestamp {
        self.0.due
    }

    pub(crate) fn set_due(&mut self, due: Timestamp) {
        self.0.due = due;
    }

    /// Returns a key that orders the reservations of a key by age: the time and the debt of the state after each.
    pub(crate) fn order(&self) -> (i64, u64) {
        let charged = |(index, left): (usize, &Option<State>)| {
            let left = left.as_ref().filter(|_| self.0.cost.get(index) > 0);
            left.map(State::order)
        };
        let mut each = self.0.left.iter().enumerate();
        each.find_map(charged).unwrap_or_default()
    }

    /// Converts a used reservation into the receipt of its charge. The charge can then be refunded, and no longer be
    /// cancelled.
    #[must_use]
    pub fn into_receipt(self) -> Option<Receipt> {
        self.0.receipt
    }

    pub(crate) fn cost(&self) -> &Cost {
        &self.0.cost
    }

    /// Returns a copy, to cancel again after a cancel that did not return the charge.
    #[cfg(feature = "redis")]
    pub(crate) fn again(&self) -> Self {
        let ReservedCharge {
            cost,
            left,
            receipt,
            due,
        } = &*self.0;
        let receipt = receipt.as_ref().map(|receipt| Receipt {
            charges: receipt.charges.clone(),
        });
        let mut again = Self::new(cost.clone(), left, receipt);
        again.set_due(*due);
        again
    }

    /// Returns the state after this reservation of the quota at `index`.
    pub(crate) fn left(&self, index: usize) -> Option<&State> {
        self.0.left.get(index)?.as_ref()
    }
}
