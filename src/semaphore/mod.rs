//! Limits the requests in flight for each key, without Tower: [`Semaphore`].
//!
//! Guide: [limit what is in flight](crate::_guide::concurrency).
//!
//! A limit can say "at most 5 exports of a customer at a time, over all servers, even if one of them is killed". A
//! [`Permit`] is the right to be in flight. It is released once, when it is dropped or by [`release`](Permit::release).
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
//! assert!(exports.try_acquire(&Key::from("bob"), 2).await.is_ok(), "each key has its own permits");
//!
//! let (third, ()) = tokio::join!(exports.acquire(&ann, 1, Duration::from_secs(1)), async { drop(first) });
//! assert!(third.is_ok(), "it waited for the first one");
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
//! | waiters are served | in order of arrival | in order of arrival, across processes |
//!
//! A key without held permits occupies no memory.
//!
//! # Leases
//!
//! Permits of a killed process must become free again. In Redis a permit therefore has a lease, by the clock of Redis
//! ([`SemaphorePolicy::with_lease`], 30 s by default). One task for each process and backend renews all held permits,
//! three times in a lease. It renews the permits of one key together.
//!
//! A permit is **lost** if a renewal finds it gone, or if no renewal is answered for a whole lease. The causes are a
//! holder that was suspended for too long, and a Redis that was unreachable or lost its state. Then [`Permit::lost`]
//! completes, and [`BackendStats`](crate::backend::BackendStats) counts it. A lost permit is not acquired again.
//!
//! ```
//! # use tower_sluice::{Key, MemorySemaphore, SemaphorePolicy, Semaphore};
//! # async fn export() -> u32 { 7 }
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let exports = Semaphore::new(SemaphorePolicy::new("exports", 2), MemorySemaphore::new());
//! let permit = exports.try_acquire(&Key::from("ann"), 1).await.expect("free");
//! let done = tokio::select! {
//!     done = export() => Some(done),
//!     () = permit.lost() => None, // another holder may have the permit: stop and roll back
//! };
//! assert_eq!(done, Some(7));
//! # }
//! ```
//!
//! **No library can stop work whose lease is lost.** A holder that was suspended continues its work, and only then
//! learns of the loss. Work that must not overlap needs a check at its end. One is a fencing token: a number that grows
//! with each holder, which the target of a write compares. Another is a version that must not have changed.
//!
//! - A Redis that loses its state has no holders. This happens at a restart without persistence, and at a failover to a
//!   replica that lacks the last writes. The earlier holders lose their permits within a third of the lease. Until
//!   then, more permits than the capacity may be held.
//! - A dropped permit is released in a background task. When a runtime shuts down, its tasks are cancelled, and permits
//!   that are still held end with their leases. Await [`Permit::release`] before the shutdown to release them for
//!   certain.
//! - A permit that is dropped outside of a runtime is released on the runtime where it was acquired, if that still
//!   runs.
//! - Renewals run on a runtime that holds permits. A runtime that is not driven renews nothing, such as a
//!   current-thread runtime between two calls of `block_on`. Another runtime takes over at its next acquire.
//! - While Redis does not answer, [`WithFailurePolicy`] applies a [`FailurePolicy`](crate::FailurePolicy). Permits that
//!   were requested meanwhile are released by their ids, or end with their leases.
//! - To shorten a lease while servers still use the longer one, reduce it to more than a third in each step. The
//!   servers renew three times in their own lease, and Redis limits a lease to the one of the request that it executes.
//!
//! # Waiting
//!
//! The waiters for a key form one queue in each process, and only the first one asks the backend. It asks when a permit
//! is released in the process, and at the times that the backend suggests. Waiters are served in order of arrival. A
//! small request never overtakes a large one. A wait ends at its bound ([`MaxWait`](crate::MaxWait)).
//!
//! Across servers, the first waiters of all processes form a queue in Redis, ordered by the time that they have waited.
//!
//! - A first waiter asks again every 50 ms, divided by the number of waiters behind it, but at most every 5 ms. It asks
//!   less often if many permits are requested in front of it.
//! - So there is at most one command for each waiter in 50 ms, and one for each release in its process.
//! - A waiter that has not asked for a second is removed, because its process may be killed. A waiter that asks again
//!   regains its place.
//! - A subscription would announce releases sooner. It needs a connection of its own and rights for channels, is sent
//!   to every node of a cluster, and can be lost. So waiters would have to ask anyway.
//!
//! A future of [`acquire`](Semaphore::acquire) that is kept but not polled blocks the waiters behind it, like a lock
//! that is held. This can happen in a `select!` loop.
//!
//! [`try_acquire`](Semaphore::try_acquire) ignores the queue: it takes a free permit even if others wait for it.

mod error;
mod handle;
mod held;
mod lease;
mod leases;
mod pending;
mod permit;
mod release;
mod renewal;
mod with_failure_policy;

pub use self::error::AcquireError;
pub use self::handle::Semaphore;
pub use self::held::{AnyLost, HeldPermit, Hold, KeptPermit};
pub use self::permit::{Lost, Permit};
pub use self::release::ReleaseError;
pub use crate::backend::{MemorySemaphore, MemorySemaphoreBuilder, PermitBackend};
pub use crate::decision::{PermitId, PermitOp, PermitReply};
pub use crate::limiter::WithFailurePolicy;
pub use crate::policy::{SemaphorePolicy, SemaphorePolicyError};
