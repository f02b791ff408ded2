use smallvec::SmallVec;

use super::receipt::Receipt;
use super::state::State;
use crate::clock::Timestamp;
use crate::quota::Cost;

/// A place in the line that a reservation took, worth giving up as long as nobody stands behind it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a turn that is not wanted should be cancelled"]
pub struct Reservation(Box<ReservedCharge>);

#[derive(Debug, PartialEq, Eq)]
struct ReservedCharge {
    cost: Cost,
    /// What the reservation left: while it is there unchanged, nothing came after it.
    left: SmallVec<[Option<State>; 2]>,
    receipt: Option<Receipt>,
    /// When it is due, by the clock of those who wait; the beginning of time if nobody has said.
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

    /// Later reservations of a key come after earlier ones: by the time of the state that they have left, and the debt
    /// in it.
    pub(crate) fn order(&self) -> (i64, u64) {
        let charged = |(index, left): (usize, &Option<State>)| {
            let left = left.as_ref().filter(|_| self.0.cost.get(index) > 0);
            left.map(State::order)
        };
        let mut each = self.0.left.iter().enumerate();
        each.find_map(charged).unwrap_or_default()
    }

    /// The receipt of its charge, once the reservation has been used: what can be refunded can no longer be cancelled.
    #[must_use]
    pub fn into_receipt(self) -> Option<Receipt> {
        self.0.receipt
    }

    pub(crate) fn cost(&self) -> &Cost {
        &self.0.cost
    }

    /// The same reservation once more, for a cancel that did not return its charge.
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

    /// What it left of the quota at `index`.
    pub(crate) fn left(&self, index: usize) -> Option<&State> {
        self.0.left.get(index)?.as_ref()
    }
}
