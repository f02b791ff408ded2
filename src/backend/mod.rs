//! Where the state of keys is kept: [`Backend`], and the one in this process, [`MemoryBackend`].
//!
//! A backend is one method. It gets an operation, a policy and a key, never a request, and answers at once
//! ([`Answer::Now`]) or with a future ([`Answer::Later`]). Beside it, it shows its [`BackendContext`], where requests
//! wait.
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
pub mod memory;
#[cfg(feature = "redis")]
mod misconfiguration;
mod permits;
#[cfg(feature = "redis")]
pub mod redis;

use crate::key::Key;
use crate::policy::Policy;

pub use self::any::AnyBackend;
#[cfg(feature = "blocking")]
pub use self::blocking::{BlockingBackend, BlockingPermitBackend};
pub use self::context::{BackendContext, BackendStats, IdleReport};
pub(crate) use self::context::{
    Insertion, Lease, PermitQueue, PermitWaiter, QueueHead, RenewalGroup, RenewalResult, TaskError,
    TierQueue, Unspent, WaiterGuard,
};
pub use self::error::{BackendError, BackendErrorKind};
pub use self::memory::{MemoryBackend, MemorySemaphore, MemorySemaphoreBuilder};
pub use self::permits::PermitBackend;
#[cfg(feature = "redis")]
pub use self::redis::{RedisBackend, RedisSemaphore};
pub use crate::decision::{Op, PermitId, PermitOp, PermitReply, Reply};

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
    /// What [`Answer::Later`] holds. One that is never polled must do nothing; one that was may go on in another task,
    /// when whoever asked has gone.
    type Future: Future<Output = Result<Reply, Self::Error>> + Send + 'static;

    /// Does `op` to the state of `key` under `policy`.
    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, Self::Error>, Self::Future>;

    /// Where those wait who use it: the same one for all clones, and for no other backend.
    fn context(&self) -> &BackendContext;
}
