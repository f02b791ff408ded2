//! The limiter for plain threads: no runtime, no futures, the same buckets.
//!
//! [`Limiter`] has the operations of [`crate::Limiter`] and gives the same answers. Where the state is kept is the same, too: a
//! [`MemoryBackend`] serves threads and tasks at once, and `RedisBackend` (feature `redis`) counts with every process that uses
//! its prefix and policy names, whichever way they ask.
//!
//! ```
//! use std::thread;
//! use tower_sluice::blocking::Limiter;
//! use tower_sluice::{Key, MemoryBackend, Policy, Quota};
//!
//! let limiter = Limiter::new(Policy::new("imports", Quota::per_hour(10)), MemoryBackend::new());
//! let ann = Key::from("ann");
//!
//! let allowed: usize = thread::scope(|scope| {
//!     let check = || (0..5).filter(|_| limiter.check(&ann, 1).unwrap().decision.is_allowed()).count();
//!     let threads: Vec<_> = (0..4).map(|_| scope.spawn(check)).collect();
//!     threads.into_iter().map(|thread| thread.join().unwrap()).sum()
//! });
//! assert_eq!(allowed, 10);
//! assert_eq!(limiter.peek(&ann)?.remaining(), 0);
//! # Ok::<(), std::convert::Infallible>(())
//! ```
//!
//! Do not call it from asynchronous code: while Redis is asked the thread blocks, and every task that it drives.

mod limiter;

use std::convert::Infallible;

use crate::backend::{MemoryBackend, Op, Reply};
use crate::clock::Clock;
use crate::key::Key;
use crate::policy::Policy;

pub use self::limiter::{Limiter, Refused};
#[cfg(feature = "redis")]
pub use crate::backend::redis::blocking::RedisBackend;

/// Decides and keeps what keys have spent, on the thread that asks. Clones share their state.
///
/// Operations on one key take effect one at a time, in every thread and process that shares the state.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Why there is no answer; [`Infallible`] if there always is.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Does `op` to the state of `key` under `policy`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Result<Reply, Self::Error>;
}

impl<C: Clock> Backend for MemoryBackend<C> {
    type Error = Infallible;

    #[inline]
    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Result<Reply, Infallible> {
        Ok(self.decide(op, policy, key))
    }
}
