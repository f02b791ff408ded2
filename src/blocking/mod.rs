//! Limiters and semaphores for plain threads, without a runtime.
//!
//! Guide: [getting started](crate::_guide::getting_started).
//!
//! [`Limiter`] has the operations of [`crate::Limiter`] and returns the same answers. [`Semaphore`] limits the requests
//! in flight.
//!
//! Threads and tasks share state. A [`MemoryBackend`](crate::MemoryBackend) serves both. `RedisBackend` (feature
//! `redis`) shares its state with all processes that use the same prefix and policy names.
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
//! A call can wait for its tokens. Threads, tasks and other processes make reservations in one order of arrival.
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::blocking::Limiter;
//! use tower_sluice::{Key, MaxWait, MemoryBackend, Policy, Quota};
//!
//! let limiter = Limiter::new(Policy::new("upstream", Quota::per_second(50).burst(1)), MemoryBackend::new());
//! let (host, max_wait) = (Key::from("api.example.org"), MaxWait::within(Duration::from_secs(1)));
//! limiter.acquire(&host, 1, max_wait)?;
//! let charge = limiter.acquire(&host, 1, max_wait)?;
//! assert!(charge.waited() > Duration::from_millis(10));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Do not use this module in asynchronous code. A call blocks its thread, and so all tasks that the thread drives.

mod block;
mod limiter;
mod scopes;
mod semaphore;

use std::future::Ready;

use crate::backend::{Answer, Backend, BackendContext};
use crate::decision::{Op, Reply};
use crate::key::Key;
use crate::policy::Policy;

pub use self::limiter::Limiter;
pub use self::scopes::{Scope, Scopes};
pub use self::semaphore::Semaphore;
#[cfg(feature = "redis")]
pub use crate::backend::redis::blocking::RedisBackend;
pub use crate::backend::{BlockingBackend, BlockingPermitBackend};

/// Lets asynchronous code use a backend that blocks. Every answer is immediate.
#[derive(Clone)]
struct BlockingAdapter<B>(B);

impl<B: BlockingBackend> Backend for BlockingAdapter<B> {
    type Error = B::Error;
    type Future = Ready<Result<Reply, B::Error>>;

    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, B::Error>, Self::Future> {
        Answer::Now(self.0.ask(op, policy, key))
    }

    fn context(&self) -> &BackendContext {
        self.0.context()
    }
}
