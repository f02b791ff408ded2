//! Bounds what is in flight at a time, for each key: [`Semaphore`], the handle for everything that is no Tower service.
//!
//! "At most 5 exports of a customer at a time, over all servers, also after one of them was killed." A [`Permit`] is
//! the right to be in flight. It is given back once: by its drop, whichever way that comes about, or by
//! [`release`](Permit::release).
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::semaphore::AcquireError;
//! use tower_sluice::{Key, MemorySemaphore, SemaphorePolicy, Semaphore};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let exports = Semaphore::new(SemaphorePolicy::new("exports", 2), MemorySemaphore::new());
//! let ann = Key::from("ann");
//!
//! let first = exports.try_acquire(&ann, 1).await.expect("two are free");
//! let second = exports.try_acquire(&ann, 1).await.expect("one is free");
//! assert!(matches!(exports.try_acquire(&ann, 1).await, Err(AcquireError::Denied(_))));
//! assert!(exports.try_acquire(&Key::from("bob"), 2).await.is_ok(), "each key has its own");
//!
//! let (third, ()) = tokio::join!(exports.acquire(&ann, 1, Duration::from_secs(1)), async { drop(first) });
//! assert!(third.is_ok(), "it has waited for the first one to end");
//! # drop(second);
//! # }
//! ```
//!
//! A permit may count for more ([`weight`](Semaphore::try_acquire)). Semaphores of one name share their permits also if
//! their capacities differ ([`Semaphore::with_policy`]): tiers, or a capacity that was changed.
//!
//! # Where permits are kept
//!
//! | | in this process | shared by a fleet (feature `redis`) |
//! |---|---|---|
//! | backend | [`MemorySemaphore`], [`MemoryBackend`](crate::MemoryBackend) | `RedisSemaphore`, `RedisBackend` |
//! | chosen at run time | [`AnyBackend`](crate::AnyBackend) | [`AnyBackend`](crate::AnyBackend) |
//! | a permit ends with | its guard | its guard, or its lease |
//! | those who wait are served | in the order in which they came | in the order in which they came, of all processes |
//!
//! Nothing is kept of a key without holders.
//!
//! # Leases
//!
//! What a process holds that is killed must come back. In Redis a permit therefore has a lease
//! ([`SemaphorePolicy::with_lease`], 30 s), by the clock of Redis. One task for each process and backend renews all
//! that are held, three times a lease, those of one key together. A permit is **lost** if a renewal finds it gone, or
//! if none was answered for a whole lease: its holder stood still for too long, or Redis was away or has forgotten. Its
//! holder is told ([`Permit::lost`]), it is counted
//! ([`BackendContext::lost_permits`](crate::backend::BackendContext::lost_permits)), and it is not silently taken
//! again.
//!
//! ```
//! # use tower_sluice::{Key, MemorySemaphore, SemaphorePolicy, Semaphore};
//! # async fn export() -> u32 { 7 }
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let exports = Semaphore::new(SemaphorePolicy::new("exports", 2), MemorySemaphore::new());
//! let permit = exports.try_acquire(&Key::from("ann"), 1).await.expect("free");
//! let done = tokio::select! {
//!     done = export() => Some(done),
//!     () = permit.lost() => None, // somebody else may be in our place: stop, and undo what was begun
//! };
//! assert_eq!(done, Some(7));
//! # }
//! ```
//!
//! **No library can stop work that has lost its lease.** A holder that stood still goes on where it was, and learns of
//! it only then. Work that must not overlap needs a check of its own at its end: a number that grows with each holder,
//! which the place that is written to compares (a fencing token), or a version that must not have changed.
//!
//! - A Redis that loses its state (a restart without persistence, a failover to a replica that lacks the last writes)
//!   has no holders. Those of before are told within a third of the lease; until then more may be inside than there are
//!   permits.
//! - A permit that is dropped is given back in the background. When a runtime shuts down, what is under way in it is
//!   cut off, and what it still held has nowhere to go: those permits end with their lease. [`Permit::release`],
//!   awaited before, gives back for certain. Outside of every runtime a permit is given back in the one that it was
//!   acquired in, if that is not gone.
//! - Renewals run where permits are held. A runtime that is not driven (a current-thread runtime between two calls of
//!   `block_on`) renews nothing; others take over when somebody next acquires in them.
//! - While Redis does not answer, nobody can tell who holds what: [`SemaphoreWithFailurePolicy`] treats that as was
//!   chosen, by the same [`FailurePolicy`](crate::FailurePolicy) as for rates. What was asked meanwhile is given back
//!   by its id, or ends with its lease.
//! - To shorten a lease while servers still use the longer one, go down by less than to a third at a time: they renew
//!   theirs as often as that, and no lease is believed that is longer than the one of whoever asks.
//!
//! # Waiting
//!
//! In a process those who wait for a key stand in one line, and only the first one asks: when something is released in
//! the process, and otherwise as its backend says. Who needs more than is left is not passed by others who need less. A
//! wait ends at its bound ([`MaxWait`](crate::MaxWait)), and not sooner because leases last for longer: releases come
//! sooner than that.
//!
//! Across servers the first ones of all processes stand in a line in Redis, by the time that they have waited, and look
//! again: every 50 ms, divided by how many wait behind them in their own process, but not every 5 ms; more seldom the
//! more stand in front. So there is at most one command for each waiter and 50 ms, and one for each release in his own
//! process. (A subscription would hear sooner of a release, but needs a connection of its own, rights for channels, and
//! is sent to every node of a cluster; it can be lost, so that one has to look anyway.) Who has not looked for a
//! second, because his process was killed, is forgotten; who comes back has his place again.
//!
//! A future of [`acquire`](Semaphore::acquire) that is kept but not polled, beside another one in a `select!` loop say,
//! holds up those behind it in its process, as one that has been handed a lock would.
//!
//! [`try_acquire`](Semaphore::try_acquire) looks at no line: it takes what is free, also while others are about to.

mod handle;
mod held;
mod pending;
mod permit;
mod release;
mod renewal;
mod with_failure_policy;

pub use self::handle::{AcquireError, Semaphore};
pub use self::held::{AnyLost, HeldPermit, Hold, KeptPermit};
pub use self::permit::{Lost, Permit};
pub use self::release::ReleaseError;
pub use self::with_failure_policy::SemaphoreWithFailurePolicy;
pub use crate::backend::{MemorySemaphore, MemorySemaphoreBuilder, PermitBackend};
pub use crate::decision::{PermitId, PermitOp, PermitReply};
pub use crate::policy::{SemaphorePolicy, SemaphorePolicyError};
