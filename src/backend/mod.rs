//! Backends keep the state of keys: the trait [`Backend`], and [`MemoryBackend`], which keeps it in this process.
//!
//! Guide: [write a part of your own](crate::_guide::extending).
//!
//! The main method of a backend is [`ask`](Backend::ask). It takes an operation, a policy and a key, and never sees a
//! request. It answers at once ([`Answer::Now`]) or with a future ([`Answer::Later`]). The second method returns the
//! [`BackendContext`], which holds the clock, the wait queues and the background tasks.
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
#[cfg(feature = "blocking")]
mod blocking;
mod context;
mod error;
mod fingerprint;
mod local;
pub mod memory;
#[cfg(feature = "redis")]
mod misconfiguration;
mod permits;
#[cfg(feature = "redis")]
pub mod redis;

use std::time::Duration;

use crate::key::Key;
use crate::policy::Policy;

#[cfg(feature = "test-util")]
pub mod test_util;

pub use self::any::AnyBackend;
#[cfg(feature = "blocking")]
pub use self::blocking::{BlockingBackend, BlockingPermitBackend};
pub use self::context::{BackendContext, BackendStats, IdleReport};
pub(crate) use self::context::{
    BackendId, CancelledReservation, LeaseCounters, PermitQueue, PermitWaiter, QueueHead,
    TaskError, TierQueue, WaiterGuard,
};
pub use self::error::{BackendError, BackendErrorKind};
pub use self::local::LocalBackend;
pub use self::memory::{MemoryBackend, MemorySemaphore, MemorySemaphoreBuilder};
pub use self::permits::PermitBackend;
#[cfg(feature = "redis")]
pub use self::redis::{RedisBackend, RedisSemaphore};
pub use crate::decision::{Op, PermitId, PermitOp, PermitReply, Reply};

/// The longest block, in µs: 142 years.
pub(crate) const LONGEST_BLOCK: u64 = 1 << 52;

/// An answer that is available now, or a future of it.
///
/// There is no third case, so a `match` needs no wildcard arm.
#[derive(Debug)]
pub enum Answer<T, F> {
    /// The answer. Nothing is polled or boxed.
    Now(T),
    /// A future that completes with the answer.
    Later(F),
}

/// Keeps the state of keys and decides requests. Clones share the state.
///
/// Operations on one key take effect one at a time, across all processes that share the state.
///
/// [`Op`] may get more variants, so a `match` on it needs a wildcard arm. Return [`Error`](Self::Error) from it: the
/// failure policy then applies.
pub trait Backend: Clone + Send + Sync + 'static {
    /// The error of a failed operation; [`Infallible`](std::convert::Infallible) if no operation can fail.
    type Error: std::error::Error + Send + Sync + 'static;
    /// The future in [`Answer::Later`]. It must have no effect before its first poll. After that, another task may
    /// complete it if the caller drops its request.
    type Future: Future<Output = Result<Reply, Self::Error>> + Send + 'static;

    /// Applies `op` to the state of `key` under `policy`.
    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, Self::Error>, Self::Future>;

    /// Returns the context. All clones return the same one, and no other backend returns it.
    fn context(&self) -> &BackendContext;

    /// Returns whether the limits of this backend are on; `true` by default. While it returns `false`, layers and
    /// limiters do not ask it, as with a [`Switch`](crate::Switch) that is off.
    #[inline]
    fn is_enabled(&self) -> bool {
        true
    }

    /// Returns whether the keys of one decision must share a hash tag, as in a Redis Cluster; `false` by default.
    ///
    /// Then a decision over [several scopes](crate::limiter::Scopes) needs `hash_by_outermost`.
    fn needs_one_hash_tag(&self) -> bool {
        false
    }

    /// Returns the longest time of an operation, if the backend bounds it; `None` by default.
    ///
    /// It is the [`TimeBudget`](crate::TimeBudget) of a request whose first remote backend this is.
    #[inline]
    fn time_limit(&self) -> Option<Duration> {
        None
    }

    /// Like [`ask`](Self::ask), and fails after `limit` without an answer. With a limit of zero it sends nothing.
    ///
    /// Layers call it if [`time_limit`](Self::time_limit) returns a value. The default ignores `limit`.
    fn ask_within(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
        limit: Duration,
    ) -> Answer<Result<Reply, Self::Error>, Self::Future> {
        let _ = limit;
        self.ask(op, policy, key)
    }
}
