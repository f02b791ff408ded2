use std::future::Ready;
use std::time::Duration;

use crate::backend::{Answer, BackendContext, BlockingPermitBackend, PermitBackend};
use crate::decision::{PermitId, PermitOp, PermitReply, Snapshot};
use crate::key::Key;
use crate::park;
use crate::policy::SemaphorePolicy;
use crate::semaphore::{self, AcquireError, Permit};
use crate::wait::MaxWait;

/// Bounds what is in flight at a time, for each key, from plain threads. Clones are cheap; semaphores of one backend
/// and name share their permits, with each other and with those of [`crate::Semaphore`].
///
/// A permit is given back when it is dropped, by the thread that drops it. In Redis a thread of its own renews those
/// that are held, for each backend and as long as there are any; see [`semaphore`](crate::semaphore). Who waits blocks,
/// in one line with the tasks that use the same backend.
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
    /// A semaphore of `policy`, kept in `backend`.
    #[must_use]
    pub fn new(policy: SemaphorePolicy, backend: B) -> Self {
        Self(semaphore::Semaphore::new(
            policy,
            BlockingPermitAdapter(backend),
        ))
    }

    /// The same state by other permits: a tier, made beforehand and of the same name.
    #[must_use]
    pub fn with_policy(&self, policy: &SemaphorePolicy) -> Self {
        Self(self.0.with_policy(policy))
    }

    /// What it is made of.
    #[must_use]
    pub const fn policy(&self) -> &SemaphorePolicy {
        self.0.policy()
    }

    /// The backend.
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.0.backend().0
    }

    /// A permit of `key` that counts for `weight`, if it is there now; see [`crate::Semaphore::try_acquire`].
    ///
    /// # Errors
    ///
    /// [`AcquireError::Denied`] if it is not there; [`AcquireError::Backend`] if there was no answer.
    pub fn try_acquire(&self, key: &Key, weight: u32) -> Result<Permit, AcquireError<B::Error>> {
        park::block_on(self.0.try_acquire(key, weight))
    }

    /// A permit of `key` that counts for `weight`, as soon as it is there, within `max_wait`; see
    /// [`crate::Semaphore::acquire`].
    ///
    /// # Errors
    ///
    /// [`AcquireError::Denied`] if none came free in time, or if too many wait already; [`AcquireError::Backend`] if
    /// there was no answer.
    pub fn acquire(
        &self,
        key: &Key,
        weight: u32,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Permit, AcquireError<B::Error>> {
        park::block_on(self.0.acquire(key, weight, max_wait))
    }

    /// Looks at `key`, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub fn peek(&self, key: &Key) -> Result<Snapshot, B::Error> {
        park::block_on(self.0.peek(key))
    }
}

/// A backend that blocks, for what awaits one that does not: nothing is left to be awaited.
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
