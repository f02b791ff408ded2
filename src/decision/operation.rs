use std::time::Duration;

use smallvec::SmallVec;

use super::Decision;
use super::receipt::{ChargePart, Receipt};
use super::reservation::Reservation;
use super::snapshot::{QuotaSnapshot, Snapshot};
use crate::quota::Cost;

/// What is asked of a backend.
#[derive(Debug)]
#[non_exhaustive]
pub enum Op {
    /// Spends the cost from every quota of the policy, or nothing at all; a cost of 0 looks.
    Check(Cost),
    /// Spends the cost now or, under a policy of buckets only, makes a reservation that comes within `max_wait`: it is
    /// charged at once, and later reservations and checks stand behind it.
    Reserve {
        /// What is spent.
        cost: Cost,
        /// The longest wait that is accepted; zero makes it a check.
        max_wait: Duration,
    },
    /// Cancels a reservation: its charge goes back if nothing but time has changed the state of the key since.
    /// Otherwise the charge stays, and the reply holds the reservation, so that it can be cancelled again when those
    /// behind it are gone.
    Cancel(Reservation),
    /// Charges the cost without asking, up to a debt of twice each limit.
    Penalize(Cost),
    /// Gives back what the receipt says.
    Refund(Receipt),
    /// Forgets the key.
    Reset,
}

/// What a backend answers.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the decision is in the reply"]
#[non_exhaustive]
pub struct Reply {
    /// Whether the request may go on, and the numbers after it. Of other operations than a check: the numbers.
    pub decision: Decision,
    /// What an allowed check has charged; that of a reservation is in its turn.
    pub receipt: Option<Receipt>,
    /// How long to wait before going on; zero unless a reservation was made.
    pub wait: Duration,
    /// The reservation that a reservation took, so that it can be given up or, later, refunded; and one whose cancel
    /// did not return its charge.
    pub reservation: Option<Reservation>,
    /// Whether a cancelled reservation has returned its charge.
    pub returned: bool,
}

impl Reply {
    /// An answer made of each quota's own, in the order of the policy, for a backend that decides by itself. It has no
    /// receipt.
    ///
    /// # Panics
    ///
    /// If there is no quota.
    pub fn from_quotas(quotas: &[QuotaSnapshot]) -> Self {
        assert!(
            !quotas.is_empty(),
            "a policy has at least one quota, and so has its answer"
        );
        let decision = Decision::from_snapshot(Snapshot::new(SmallVec::from_slice(quotas)));
        Self {
            decision,
            receipt: None,
            wait: Duration::ZERO,
            reservation: None,
            returned: false,
        }
    }

    /// The answer of a policy's only quota to a check.
    #[inline]
    pub(crate) fn to_check_of_one(snapshot: QuotaSnapshot, charge: ChargePart) -> Self {
        Self::to_check(Snapshot::single(snapshot), || {
            SmallVec::from_buf_and_len([charge; 2], 1)
        })
    }

    /// The answer to a check, with a receipt of its charges if it was allowed.
    #[inline]
    pub(crate) fn to_check(
        snapshot: Snapshot,
        charges: impl FnOnce() -> SmallVec<[ChargePart; 2]>,
    ) -> Self {
        let decision = Decision::from_snapshot(snapshot);
        let receipt = decision
            .is_allowed()
            .then(|| Receipt { charges: charges() });
        Self {
            decision,
            receipt,
            wait: Duration::ZERO,
            reservation: None,
            returned: false,
        }
    }
}
