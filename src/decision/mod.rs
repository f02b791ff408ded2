//! The answer to a check: [`Decision`], and its numbers.
//!
//! Guide: [what clients see](crate::_guide::clients).
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

mod blocked;
mod operation;
mod permit;
mod receipt;
mod reservation;
mod scopes;
mod snapshot;
mod state;
mod unused;

pub use self::operation::{Op, Reply};
pub use self::permit::{PermitId, PermitOp, PermitReply};
pub use self::receipt::Receipt;
pub(crate) use self::receipt::{ChargePart, ChargePosition};
pub use self::reservation::Reservation;
pub(crate) use self::snapshot::NEVER;
pub use self::snapshot::{DenialReason, QuotaSnapshot, RetryAfter, Snapshot};
pub use self::state::State;
pub(crate) use self::state::{
    Capacity, FixedWindowState, IntervalBucketState, LogEntry, SlidingLogState, SlidingWindowState,
    StoredState, TokenBucketState, TotalState,
};

/// The answer to one request.
///
/// There is no third outcome, so a `match` needs no wildcard arm.
///
/// Guide: [what clients see](crate::_guide::clients).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every quota allowed the cost, and the cost has been charged.
    Allow(Snapshot),
    /// At least one quota denied the cost, and nothing has been charged. The wait is the longest of the denying quotas.
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

    /// Returns whether the request was allowed.
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(1)), MemoryBackend::new());
    /// assert!(limiter.check_now("ann", 1).decision.is_allowed());
    /// assert!(!limiter.check_now("ann", 1).decision.is_allowed());
    /// ```
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// Returns the numbers of the answer.
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(2)), MemoryBackend::new());
    /// let decision = limiter.check_now("ann", 1).decision;
    /// assert_eq!((decision.snapshot().limit(), decision.snapshot().remaining()), (2, 1));
    /// ```
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        match self {
            Self::Allow(snapshot) | Self::Deny(snapshot, _) => snapshot,
        }
    }

    /// Returns why the request was denied; `None` if it was allowed.
    ///
    /// ```
    /// use tower_sluice::decision::DenialReason;
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::total(1)), MemoryBackend::new());
    /// let decision = limiter.check_now(&Key::from("ann"), 2).decision;
    /// assert_eq!(decision.denial_reason(), Some(DenialReason::Quota));
    /// ```
    #[must_use]
    pub const fn denial_reason(&self) -> Option<DenialReason> {
        match self {
            Self::Allow(_) => None,
            Self::Deny(snapshot, _) => Some(snapshot.reason()),
        }
    }

    /// Returns the wait after which the same request is allowed; `None` if the request was allowed.
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota, RetryAfter};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(2)), MemoryBackend::new());
    /// match limiter.check_now("ann", 3).decision.retry_after() {
    ///     None => println!("allowed"),
    ///     Some(RetryAfter::In(wait)) => println!("again after {wait:?}"),
    ///     Some(RetryAfter::Never) => println!("3 tokens are more than the limit"),
    /// }
    /// ```
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Allow(_) => None,
            Self::Deny(_, retry_after) => Some(*retry_after),
        }
    }
}
