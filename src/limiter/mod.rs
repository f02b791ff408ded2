//! [`Limiter`]: applies a policy with a backend, without Tower.
//!
//! Guide: [getting started](crate::_guide::getting_started).
//!
//! ```
//! use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
//! let limiter = Limiter::new(Policy::new("exports", Quota::per_hour(10)), MemoryBackend::new());
//! let ann = Key::from("ann");
//!
//! let mut reply = limiter.check(&ann, 4).await?;
//! assert!(reply.decision.is_allowed());
//! if let Some(receipt) = &mut reply.receipt {
//!     limiter.refund(&ann, receipt, 3).await?; // the actual cost is 1
//! }
//! limiter.penalize(&ann, 2).await?;
//! assert_eq!(limiter.peek(&ann).await?.remaining(), 7);
//! limiter.reset(&ann).await?;
//! assert_eq!(limiter.peek(&ann).await?.remaining(), 10);
//! # Ok(()) }
//! ```
//!
//! # Limited work
//!
//! - [`limit`](Limiter::limit) runs a future if the limit allows it.
//! - [`try_acquire`](Limiter::try_acquire) returns a [`Charge`](charge::Charge), which can be settled at the actual
//!   cost.
//! - [`acquire`](Limiter::acquire) does the same after a wait.
//!
//! A decorator is a function that returns a function:
//!
//! ```
//! use std::convert::Infallible;
//! use std::time::Duration;
//! use tower_sluice::limiter::Rejected;
//! use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};
//!
//! /// `work`, but each call first waits until `key` is allowed.
//! fn limited<A, T, F: Future<Output = T>>(
//!     limiter: Limiter<MemoryBackend>,
//!     key: Key,
//!     work: impl Fn(A) -> F,
//! ) -> impl AsyncFn(A) -> Result<T, Rejected<Infallible>> {
//!     async move |argument| {
//!         limiter.acquire(&key, 1, MaxWait::within(Duration::from_secs(30))).await?;
//!         Ok(work(argument).await)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Rejected<Infallible>> {
//! let limiter = Limiter::new(Policy::new("mails", Quota::per_second(100)), MemoryBackend::new());
//! let send = limited(limiter, Key::from("ann"), |to: &'static str| async move { to.len() });
//! assert_eq!(send("bob@example.org").await?, 15);
//! # Ok(()) }
//! ```
#![doc = include_str!("../docs/failures.md")]

pub(crate) mod acquire;
mod acquired;
mod block;
mod boxed;
mod budgeted;
pub(crate) mod cancel;
pub mod charge;
mod failure;
mod handle;
mod on_drop;
mod rejected;
mod scopes;
mod with_failure_policy;

pub(crate) use self::acquired::Acquired;
pub(crate) use self::boxed::{WaitFuture, acquire_boxed, acquire_local, refund_on_drop};
pub(crate) use self::budgeted::ask;
pub use self::failure::{CheckOutcome, Failure, FailurePolicy, HandleFailure, Unspecified};
pub use self::handle::Limiter;
pub use self::rejected::Rejected;
#[cfg(feature = "blocking")]
pub(crate) use self::scopes::join_scopes;
pub use self::scopes::{RejectedScopes, Scope, Scopes};
pub use self::with_failure_policy::WithFailurePolicy;
