use std::future::Ready;
use std::time::Duration;

use crate::backend::{Answer, BackendContext, BlockingPermitBackend, PermitBackend};
use crate::decision::{PermitId, PermitOp, PermitReply, Snapshot};
use crate::key::Key;
use crate::park;
use crate::policy::SemaphorePolicy;
use crate::semaphore::{self, AcquireError, Permit};
use crate::switch::Switch;
use crate::wait::MaxWait;

/// Limits the requests in flight for each key, on plain threads.
///
/// Clones are cheap. Semaphores of one backend and name share their permits with each other and with those of
/// [`crate::Semaphore`].
///
/// A permit is released when it is dropped, by the thread that drops it. With Redis, one background thread for each
/// backend renews the held permits; see [`semaphore`](crate::semaphore). A waiter blocks its thread. Threads and tasks
/// that use the same backend wait in one queue.
///
/// ```
/// use std::thread;
/// use std::time::Duration;
/// use tower_sluice::blocking::Semaphore;
/// use tower_sluice::{Key, MemorySemaphore, SemaphorePolicy};
///
/// let exports = Semaphore::new(SemaphorePolicy::new("exports", 1), MemorySemaphore::new());
/// let ann = Key::from("ann");
///
/// let held = exports.try_acquire(&ann, 1)?;
/// assert!(exports.try_acquire(&ann, 1).is_err());
/// thread::scope(|scope| {
///     let waiter = scope.spawn(|| exports.acquire(&ann, 1, Duration::from_secs(10)).is_ok());
///     drop(held);
///     assert!(waiter.join().unwrap());
/// });
/// # Ok::<(), tower_sluice::semaphore::AcquireError<std::convert::Infallible>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore<B: BlockingPermitBackend>(semaphore::Semaphore<BlockingPermitAdapter<B>>);

impl<B: BlockingPermitBackend> Semaphore<B> {
    /// Creates a semaphore of `policy`, with its state in `backend`.
    #[must_use]
    pub fn new(policy: SemaphorePolicy, backend: B) -> Self {
        Self(semaphore::Semaphore::new(
            policy,
            BlockingPermitAdapter(backend),
        ))
    }

    /// Returns a semaphore with the same state and another policy of the same name, for example a tier.
    #[must_use]
    pub fn with_policy(&self, policy: &SemaphorePolicy) -> Self {
        Self(self.0.with_policy(policy))
    }

    /// Sets whether the limit is on; true by default. A [`Switch`] turns it off and on at run time, and states what
    /// each operation returns while it is off.
    ///
    /// See the example of [`Switch`].
    #[must_use]
    pub fn enabled(self, switch: impl Into<Switch>) -> Self {
        Self(self.0.enabled(switch))
    }

    /// Returns the policy.
    #[must_use]
    pub const fn policy(&self) -> &SemaphorePolicy {
        self.0.policy()
    }

    /// Returns the backend.
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.0.backend().0
    }

    /// Acquires a permit of `key` that counts for `weight`, without waiting; see [`crate::Semaphore::try_acquire`].
    ///
    /// See the example of [`Semaphore`].
    ///
    /// # Errors
    ///
    /// Returns [`AcquireError::Denied`] if not enough permits are free, and [`AcquireError::Backend`] if the backend
    /// fails.
    pub fn try_acquire(&self, key: &Key, weight: u32) -> Result<Permit, AcquireError<B::Error>> {
        park::block_on(self.0.try_acquire(key, weight))
    }

    /// Acquires a permit of `key` that counts for `weight`, and waits for it for at most `max_wait`; see
    /// [`crate::Semaphore::acquire`].
    ///
    /// See the example of [`Semaphore`].
    ///
    /// # Errors
    ///
    /// - [`AcquireError::Denied`] if not enough permits became free in time, or if the queue is full.
    /// - [`AcquireError::Backend`] if the backend fails.
    pub fn acquire(
        &self,
        key: &Key,
        weight: u32,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Permit, AcquireError<B::Error>> {
        park::block_on(self.0.acquire(key, weight, max_wait))
    }

    /// Returns the numbers of `key` and changes nothing.
    ///
    /// ```
    /// use tower_sluice::blocking::Semaphore;
    /// use tower_sluice::{Key, MemorySemaphore, SemaphorePolicy};
    ///
    /// let exports = Semaphore::new(SemaphorePolicy::new("exports", 5), MemorySemaphore::new());
    /// let ann = Key::from("ann");
    /// let permit = exports.try_acquire(&ann, 2)?;
    /// assert_eq!(exports.peek(&ann).unwrap().remaining(), 3);
    /// drop(permit);
    /// assert_eq!(exports.peek(&ann).unwrap().remaining(), 5);
    /// # Ok::<(), tower_sluice::semaphore::AcquireError<std::convert::Infallible>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn peek(&self, key: &Key) -> Result<Snapshot, B::Error> {
        park::block_on(self.0.peek(key))
    }
}

/// Lets asynchronous code use a backend that blocks. Every answer is immediate.
#[derive(Clone, Debug)]
struct BlockingPermitAdapter<B>(B);

impl<B: BlockingPermitBackend> PermitBackend for BlockingPermitAdapter<B> {
    type Error = B::Error;
    type Future = Ready<Result<PermitReply, B::Error>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, B::Error>, Self::Future> {
        Answer::Now(self.0.ask(op, policy, key))
    }

    fn context(&self) -> &BackendContext {
        self.0.context()
    }

    fn has_leases(&self) -> bool {
        self.0.has_leases()
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        self.0.next_attempt(policy, reply, waiters)
    }

    fn blocks(&self) -> bool {
        true
    }

    fn new_id(&self) -> PermitId {
        self.0.new_id()
    }
}
