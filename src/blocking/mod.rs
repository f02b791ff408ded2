//! The limiter for plain threads: no runtime, no futures, the same buckets.
//!
//! [`Semaphore`] bounds what is in flight. [`Limiter`] has the operations of [`crate::Limiter`] and gives the same
//! answers. Where the state is kept is the same, too: a [`MemoryBackend`](crate::MemoryBackend) serves threads and
//! tasks at once, and `RedisBackend` (feature `redis`) counts with every process that uses its prefix and policy names,
//! whichever way they ask.
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
//! Who must wait and not fail, waits: in reservations that threads, tasks and other processes take together, first
//! come, first served.
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
//! Do not call it from asynchronous code: while Redis is asked or a reservation is waited for, the thread blocks, and
//! every task that it drives.

mod limiter;
mod semaphore;

use std::future::Ready;

use crate::backend::{Answer, Backend, BackendContext};
use crate::decision::{Op, Reply};
use crate::key::Key;
use crate::policy::Policy;

pub use self::limiter::Limiter;
pub use self::semaphore::Semaphore;
#[cfg(feature = "redis")]
pub use crate::backend::redis::blocking::RedisBackend;
pub use crate::backend::{BlockingBackend, BlockingPermitBackend};

/// A backend that blocks, for what awaits one that does not: nothing is left to be awaited.
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
