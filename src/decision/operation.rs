use std::time::Duration;

use smallvec::SmallVec;

use super::Decision;
use super::receipt::{ChargePart, Receipt};
use super::reservation::Reservation;
use super::snapshot::{QuotaSnapshot, Snapshot};
use crate::quota::Cost;

/// An operation on the state of one key, the request to a [`Backend`](crate::backend::Backend).
///
/// More operations may be added. A backend that matches on them needs a wildcard arm, and should return its error from
/// it: the failure policy then applies.
#[derive(Debug)]
#[non_exhaustive]
pub enum Op {
    /// Charges the cost to every quota of the policy, or to none. A cost of 0 only reads.
    Check(Cost),
    /// Charges the cost now, or reserves it for a time within `max_wait`. Only a policy of buckets can reserve. A
    /// reservation is charged at once: later reservations come due after it, and later checks see its charge.
    Reserve {
        /// The tokens to charge.
        cost: Cost,
        /// The longest wait. Zero makes the operation a check.
        max_wait: Duration,
    },
    /// Cancels a reservation. Its charge is returned if only time has changed the state of the key since.
    ///
    /// Otherwise the charge stays, and the reply contains the reservation. It can be cancelled again when the later
    /// reservations have been cancelled.
    Cancel(Reservation),
    /// Charges the cost unconditionally, up to a debt of twice each limit.
    Penalize(Cost),
    /// Refunds the tokens of the receipt.
    Refund(Receipt),
    /// Removes the state of the key. A block stays.
    Reset,
    /// Charges as many tokens to every quota as are there, from 1 to this number, or denies the request.
    CheckUpTo(u64),
    /// Blocks the key under the policy's name for this time, which replaces an earlier block. Checks and reservations
    /// are denied meanwhile, also by other policies of the name. The numbers of the reply are those of an unused key.
    Block(Duration),
    /// Ends the block of the key. The numbers of the reply are those of an unused key.
    Unblock,
}

/// The answer of a [`Backend`](crate::backend::Backend).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reply holds the decision"]
#[non_exhaustive]
pub struct Reply {
    /// The decision and the numbers after it. Operations that decide nothing return `Allow` with the numbers.
    pub decision: Decision,
    /// The receipt of an allowed check. The receipt of a reservation is in `reservation`.
    pub receipt: Option<Receipt>,
    /// The wait before the request may proceed; zero unless tokens were reserved for later.
    pub wait: Duration,
    /// The reservation that was made, to be cancelled or, once it is used, refunded. After a cancel that did not return
    /// the charge: the same reservation.
    pub reservation: Option<Reservation>,
    /// Whether a cancel has returned the charge.
    pub returned: bool,
}

impl Reply {
    /// Creates a reply from the answers of all quotas, in the order of the policy, for a backend that decides by
    /// itself. The reply has no receipt.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::RetryAfter;
    /// use tower_sluice::backend::Reply;
    /// use tower_sluice::decision::QuotaSnapshot;
    ///
    /// let retry_after = RetryAfter::In(Duration::from_secs(2));
    /// let reply = Reply::from_quotas(&[QuotaSnapshot::new(10, 0, Some(retry_after), Duration::from_secs(20))]);
    /// assert_eq!(reply.decision.retry_after(), Some(retry_after));
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if `quotas` is empty.
    pub fn from_quotas(quotas: &[QuotaSnapshot]) -> Self {
        assert!(
            !quotas.is_empty(),
            "a reply needs the answer of at least one quota"
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

    /// Creates the reply of a policy's only quota to a check.
    #[inline]
    pub(crate) fn to_check_of_one(snapshot: QuotaSnapshot, charge: ChargePart) -> Self {
        Self::to_check(Snapshot::single(snapshot), || {
            SmallVec::from_buf_and_len([charge; 2], 1)
        })
    }

    /// Creates the reply to a check, with a receipt of its charges if it was allowed.
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
