//! What a check answers: [`Decision`], and the numbers behind it.
//!
//! ```
//! use tower_sluice::{Cost, Decision, Key, Limiter, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = Limiter::new(Policy::new("uploads", Quota::per_minute(2)), MemoryBackend::new());
//! match limiter.check(&Key::from("ann"), Cost::new(2)).await?.decision {
//!     Decision::Allow(snapshot) => assert_eq!(snapshot.remaining(), 0),
//!     Decision::Deny(_, retry) => panic!("{retry:?}"),
//! }
//! # Ok(()) }
//! ```

mod operation;
mod permit;

use std::time::Duration;

use smallvec::SmallVec;

pub use self::operation::{Op, Reply};
pub use self::permit::{PermitId, PermitOp, PermitReply};
use crate::algorithm::State;
use crate::clock::{Timestamp, micros_up};
use crate::quota::Cost;

/// How long to wait before the same request is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// The smallest wait after which the same request is allowed if nothing else happens: denied one microsecond
    /// sooner, allowed then. At least 1 µs.
    In(Duration),
    /// Waiting does not help: the cost is above the limit.
    Never,
}

/// What one quota says of a request; see [`Snapshot`] for a policy's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaSnapshot {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// 0 if allowed, [`NEVER`] if no wait helps; µs.
    pub(crate) retry_after: u64,
    /// µs
    pub(crate) reset_after: u64,
}

/// `retry_after` in µs of a cost above the limit.
pub(crate) const NEVER: u64 = u64::MAX;

impl QuotaSnapshot {
    /// An answer in numbers, for a backend that decides by itself: times are rounded up to whole µs, and a wait is at
    /// least 1 µs.
    #[must_use]
    pub fn new(
        limit: u64,
        remaining: u64,
        retry_after: Option<RetryAfter>,
        reset_after: Duration,
    ) -> Self {
        let retry_after = match retry_after {
            None => 0,
            Some(RetryAfter::In(wait)) => micros_up(wait).clamp(1, NEVER - 1),
            Some(RetryAfter::Never) => NEVER,
        };
        Self {
            limit,
            remaining,
            retry_after,
            reset_after: micros_up(reset_after),
        }
    }

    /// Whether this quota alone would have allowed the request.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.retry_after == 0
    }

    /// The most a bucket holds or a window admits, in tokens.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// The largest cost that would be allowed now, after this answer, in tokens.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The wait that this quota asks for; `None` if it allowed the request.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self.retry_after {
            0 => None,
            NEVER => Some(RetryAfter::Never),
            micros => Some(RetryAfter::In(Duration::from_micros(micros))),
        }
    }

    /// Time until nothing is owed: buckets are full, windows count nothing. 0 if so now.
    #[must_use]
    pub const fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after)
    }
}

/// The numbers of one answer: those of the governing quota, and each quota's own.
///
/// The governing quota is the one that single-valued headers speak of: of those that deny, the longest wait; if all
/// allow, the least remaining, then the latest reset, then the order of declaration.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub(crate) quotas: SmallVec<[QuotaSnapshot; 2]>,
    pub(crate) governing: u8,
}

impl Snapshot {
    #[inline]
    pub(crate) fn single(quota: QuotaSnapshot) -> Self {
        Self {
            quotas: SmallVec::from_buf_and_len([quota; 2], 1),
            governing: 0,
        }
    }

    /// Picks the governing quota; a policy has 1 to 8.
    pub(crate) fn new(quotas: SmallVec<[QuotaSnapshot; 2]>) -> Self {
        let mut governing = 0;
        for index in 1..quotas.len() {
            if rank(&quotas[index]) > rank(&quotas[governing]) {
                governing = index;
            }
        }
        Self {
            governing: u8::try_from(governing).unwrap_or(0),
            quotas,
        }
    }

    /// The governing quota's place in its policy, from 0.
    #[must_use]
    pub fn governing(&self) -> usize {
        usize::from(self.governing)
    }

    /// Each quota's own answer, in order of declaration.
    #[must_use]
    pub fn quotas(&self) -> &[QuotaSnapshot] {
        &self.quotas
    }

    /// The governing quota's limit, in tokens.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.governor().limit
    }

    /// The governing quota's remaining tokens, after this answer.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.governor().remaining
    }

    /// Time until the governing quota owes nothing.
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.governor().reset_after()
    }

    /// What is left of a denial's waits and spans after `passed` µs, for a request of `cost`; what remained then is by
    /// now the least that remains. A cost above the limit never passes, whatever was waited for. It stays a denial: if
    /// all waits are over, of 1 µs.
    pub(crate) fn aged(&self, cost: &Cost, passed: u64) -> Self {
        let left = |(index, quota): (usize, &QuotaSnapshot)| QuotaSnapshot {
            retry_after: match quota.retry_after {
                _ if cost.get(index) > quota.limit => NEVER,
                wait => wait.saturating_sub(passed),
            },
            reset_after: quota.reset_after.saturating_sub(passed),
            ..*quota
        };
        let mut left: SmallVec<[_; 2]> = self.quotas.iter().enumerate().map(left).collect();
        if left.iter().all(QuotaSnapshot::is_allowed) {
            left[usize::from(self.governing)].retry_after = 1;
        }
        Self::new(left)
    }

    /// The waits of this denial, beside the numbers of `after`, which something has been given back before.
    pub(crate) fn with_numbers_from(&self, after: &Self) -> Self {
        let both = self.quotas.iter().zip(&after.quotas);
        let merged = |(denied, after): (&QuotaSnapshot, &QuotaSnapshot)| QuotaSnapshot {
            retry_after: denied.retry_after,
            ..*after
        };
        Self::new(both.map(merged).collect())
    }

    #[inline]
    pub(crate) fn governor(&self) -> &QuotaSnapshot {
        &self.quotas[usize::from(self.governing)]
    }
}

impl Clone for Snapshot {
    #[inline]
    fn clone(&self) -> Self {
        // As bytes in one piece: derived, it would go quota by quota.
        Self {
            quotas: SmallVec::from_slice(&self.quotas),
            governing: self.governing,
        }
    }
}

/// Denials before permissions, the longest wait first; then the least remaining, then the latest reset.
fn rank(quota: &QuotaSnapshot) -> (u64, u64, u64) {
    if quota.retry_after > 0 {
        (quota.retry_after, 0, 0)
    } else {
        (0, u64::MAX - quota.remaining, quota.reset_after)
    }
}

/// The answer to one request: spend and go on, or not now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every quota allowed the cost, and it has been charged.
    Allow(Snapshot),
    /// At least one quota denied, and nothing has been charged; the wait is the longest of those that denied.
    Deny(Snapshot, RetryAfter),
}

impl Decision {
    #[inline]
    pub(crate) fn from_snapshot(snapshot: Snapshot) -> Self {
        match snapshot.governor().retry_after() {
            None => Self::Allow(snapshot),
            Some(retry_after) => Self::Deny(snapshot, retry_after),
        }
    }

    /// Whether the request was allowed.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The numbers of the answer.
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        match self {
            Self::Allow(snapshot) | Self::Deny(snapshot, _) => snapshot,
        }
    }

    /// The wait after which the same request is allowed; `None` if it was.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Allow(_) => None,
            Self::Deny(_, retry_after) => Some(*retry_after),
        }
    }
}

/// What an allowed check charged to its key, worth a refund to that key of at most that, once.
///
/// It is not `Clone`: what has been given back is taken off it ([`Limiter::refund`](crate::Limiter::refund)).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "without its receipt a charge cannot be given back"]
pub struct Receipt {
    pub(crate) charges: SmallVec<[ChargePart; 2]>,
}

/// One quota's part of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChargePart {
    /// The identity of the quota that was charged (its low half: a receipt only meets quotas of its own policy).
    pub(crate) quota: u32,
    /// The [`ChargePosition`] in two parts: together they would take 8 bytes more.
    number: u32,
    at: i64,
    pub(crate) tokens: u64,
}

const _: () = assert!(size_of::<ChargePart>() == 24);

/// Where in the state a charge lies: the start of its window, or the time and number of its log entry. Buckets:
/// nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChargePosition {
    pub(crate) at: i64,
    pub(crate) number: u32,
}

impl ChargePart {
    #[inline]
    pub(crate) const fn new(quota: u32, tokens: u64, position: ChargePosition) -> Self {
        let ChargePosition { at, number } = position;
        Self {
            quota,
            number,
            at,
            tokens,
        }
    }

    pub(crate) const fn position(&self) -> ChargePosition {
        ChargePosition {
            at: self.at,
            number: self.number,
        }
    }
}

impl Receipt {
    /// The most that is still to be given back: the largest of its quotas' charges, in tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.charges
            .iter()
            .map(|charge| charge.tokens)
            .max()
            .unwrap_or(0)
    }

    /// What it is still worth, from each quota.
    pub(crate) fn cost(&self) -> Cost {
        let tokens = |index: usize| self.charges.get(index).map_or(0, |part| part.tokens);
        Cost::from_fn(self.charges.len(), tokens)
    }

    /// Takes up to `cost` of each quota off this receipt: what is returned can be refunded, what is left stays.
    pub fn take(&mut self, cost: Cost) -> Self {
        let mut taken = self.charges.clone();
        for (index, (own, part)) in self.charges.iter_mut().zip(&mut taken).enumerate() {
            part.tokens = own.tokens.min(cost.get(index));
            own.tokens -= part.tokens;
        }
        Self { charges: taken }
    }
}

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
