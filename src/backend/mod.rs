//! Where the state of keys is kept: [`Backend`], and the one in this process, [`MemoryBackend`].
//!
//! A backend is one method. It gets an operation, a policy and a key, never a request, and answers at once ([`Answer::Now`])
//! or with a future ([`Answer::Later`]). Beside it, it shows its [`Lobby`], where requests wait for their turn.
//!
//! ```
//! use tower_sluice::backend::{Answer, Backend, Op};
//! use tower_sluice::{Cost, Key, MemoryBackend, Policy, Quota};
//!
//! let (backend, policy) = (MemoryBackend::new(), Policy::new("mails", Quota::per_hour(1)));
//! let allowed = |name: &str| match backend.ask(Op::Check(Cost::ONE), &policy, &Key::from(name)) {
//!     Answer::Now(Ok(reply)) => reply.decision.is_allowed(),
//!     _ => unreachable!("memory answers at once and cannot fail"),
//! };
//! assert!(allowed("ann"));
//! assert!(!allowed("ann"));
//! assert!(allowed("bob"));
//! ```

mod any;
mod error;
mod failure;
mod fingerprint;
mod lobby;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
mod resilient;

use std::time::Duration;

use smallvec::SmallVec;

use crate::decision::{Decision, Part, QuotaSnapshot, Receipt, Snapshot, Turn};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

pub use self::any::AnyBackend;
pub use self::error::{BackendError, BackendErrorKind};
pub use self::failure::{HandlesFailure, NoAnswer, NoChoice, OnBackendError, Outcome};
pub use self::lobby::Lobby;
pub(crate) use self::lobby::{Fault, Head, Place, Queue};
pub use self::memory::MemoryBackend;
#[cfg(feature = "redis")]
pub use self::redis::{RedisBackend, RedisSemaphore};
pub use self::resilient::Resilient;

/// What is asked of a backend.
#[derive(Debug)]
pub enum Op {
    /// Spends the cost from every quota of the policy, or nothing at all; a cost of 0 looks.
    Check(Cost),
    /// Spends the cost now or, under a policy of buckets only, reserves a turn that comes within `max_wait`: it is charged at
    /// once, and later turns and checks stand behind it.
    Reserve {
        /// What is spent.
        cost: Cost,
        /// The longest wait that is accepted; zero makes it a check.
        max_wait: Duration,
    },
    /// Gives a turn up: its charge goes back if nothing was charged or changed after it, else the turn passes unused.
    Cancel(Turn),
    /// Charges the cost without asking, up to a debt of twice each limit.
    Penalty(Cost),
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
    /// How long to wait before going on; zero unless a turn was reserved.
    pub go_after: Duration,
    /// The turn that a reservation took, so that it can be given up or, later, refunded.
    pub turn: Option<Turn>,
    /// Whether a turn that was given up has been given back, or passes unused.
    pub returned: bool,
}

impl Reply {
    /// An answer made of each quota's own, in the order of the policy, for a backend that decides by itself. It has no
    /// receipt.
    ///
    /// # Panics
    ///
    /// If there is no quota.
    pub fn of(quotas: &[QuotaSnapshot]) -> Self {
        assert!(
            !quotas.is_empty(),
            "a policy has at least one quota, and so has its answer"
        );
        let decision = Decision::of(Snapshot::new(SmallVec::from_slice(quotas)));
        Self {
            decision,
            receipt: None,
            go_after: Duration::ZERO,
            turn: None,
            returned: false,
        }
    }

    /// The answer of a policy's only quota to a check.
    #[inline]
    pub(crate) fn to_check_of_one(snapshot: QuotaSnapshot, charge: Part) -> Self {
        Self::to_check(Snapshot::single(snapshot), || {
            SmallVec::from_buf_and_len([charge; 2], 1)
        })
    }

    /// The answer to a check, with a receipt of its charges if it was allowed.
    #[inline]
    pub(crate) fn to_check(
        snapshot: Snapshot,
        charges: impl FnOnce() -> SmallVec<[Part; 2]>,
    ) -> Self {
        let decision = Decision::of(snapshot);
        let receipt = decision
            .is_allowed()
            .then(|| Receipt { charges: charges() });
        Self {
            decision,
            receipt,
            go_after: Duration::ZERO,
            turn: None,
            returned: false,
        }
    }
}

/// An answer that is there, or a future of one.
#[derive(Debug)]
pub enum Answer<T, F> {
    /// At once: no polling, no boxing.
    Now(T),
    /// When the future completes.
    Later(F),
}

/// Decides and keeps what keys have spent. Clones share their state.
///
/// Operations on one key take effect one at a time, in every process that shares the state.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Why there is no answer; [`Infallible`](std::convert::Infallible) if there always is.
    type Error: std::error::Error + Send + Sync + 'static;
    /// What [`Answer::Later`] holds. One that is never polled must do nothing; one that was may go on in another task, when
    /// whoever asked has gone.
    type Future: Future<Output = Result<Reply, Self::Error>> + Send + 'static;

    /// Does `op` to the state of `key` under `policy`.
    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, Self::Error>, Self::Future>;

    /// Where those wait who use it: the same one for all clones, and for no other backend.
    fn lobby(&self) -> &Lobby;
}
