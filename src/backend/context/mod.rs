//! The users of a backend share its state, and these: clock, wait queues, background tasks and counters.

mod background;
mod id;
mod idle;
mod permit_queue;
mod stats;
mod unreturned;
mod wait_queue;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) use self::background::{BackgroundTasks, TaskError};
pub(crate) use self::id::BackendId;
pub use self::idle::IdleReport;
pub(crate) use self::permit_queue::{PermitQueue, PermitQueues, PermitWaiter};
pub use self::stats::BackendStats;
pub(crate) use self::stats::LeaseCounters;
pub(crate) use self::unreturned::CancelledReservation;
pub(crate) use self::wait_queue::{QueueHead, TierQueue, WaiterGuard};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::unreturned::Unreturned;
use self::wait_queue::WaitQueues;
use crate::clock::{AnyClock, Clock, Sleep, SystemClock, Timestamp};
use crate::key::Key;
use crate::policy::Policy;
use crate::slots::{Slot, TypedSlots};

/// The default bounds on waiters: of one key, and of all keys.
pub(in crate::backend) const DEFAULT_MAX_WAITERS: (usize, usize) = (1_024, 65_536);

/// The parts that the users of a backend share beside its state. All clones of a [`Backend`](super::Backend) share one
/// context.
///
/// It holds the clock of the waiters, the wait queues and their bounds, the background tasks, and counters. The leases
/// of permits have a slot in it.
///
/// ```
/// use tower_sluice::backend::BackendContext;
/// use tower_sluice::clock::SystemClock;
///
/// let context = BackendContext::new(SystemClock::new()).max_waiters(10, 1_000);
/// assert_eq!(context.stats().waiting, 0);
/// ```
pub struct BackendContext {
    id: BackendId,
    clock: AnyClock,
    queues: WaitQueues,
    is_shared: bool,
    unreturned: Unreturned,
    background: Arc<BackgroundTasks>,
    /// The waiters for permits.
    permit_queues: PermitQueues,
    leases: Arc<LeaseCounters>,
    /// Requests that were allowed without a permit.
    unpermitted: AtomicUsize,
    /// The state of higher floors that belongs to the backend: the leases of permits.
    slots: TypedSlots,
}

impl BackendContext {
    /// Creates a context whose waiters sleep by `clock`. A backend in this process should pass the clock by which it
    /// decides.
    #[must_use]
    pub fn new(clock: impl Clock) -> Self {
        Self::from_clock(AnyClock::new(clock))
    }

    pub(in crate::backend) fn from_clock(clock: AnyClock) -> Self {
        let (each_key, in_all) = DEFAULT_MAX_WAITERS;
        Self {
            id: BackendId::next(),
            clock,
            queues: WaitQueues::new(each_key, in_all),
            is_shared: false,
            unreturned: Unreturned::new(each_key, in_all),
            background: Arc::default(),
            permit_queues: PermitQueues::default(),
            leases: Arc::default(),
            unpermitted: AtomicUsize::new(0),
            slots: TypedSlots::default(),
        }
    }

    /// Sets the most requests that wait at a time, of one key and of all keys; 1,024 and 65,536 by default.
    ///
    /// Above the bound a request does not wait: it is denied unless it is allowed at once. A request counts from the
    /// moment it asks for a reservation.
    ///
    /// The same numbers bound the cancelled reservations that are kept until they are due, because later reservations
    /// kept their charge from being returned.
    #[must_use]
    pub fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.queues = WaitQueues::new(each_key, in_all);
        self.unreturned = Unreturned::new(each_key, in_all);
        self
    }

    /// Declares that other processes share the state.
    ///
    /// A waiter that checks again after a wait then adds a random delay of up to a tenth of the wait, at most 100 ms.
    /// The delay keeps the processes from checking at the same time.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    pub(crate) const fn id(&self) -> BackendId {
        self.id
    }

    pub(crate) fn permit_queues(&self) -> &PermitQueues {
        &self.permit_queues
    }

    /// Returns the counts of leases, which the owner of the leases keeps.
    pub(crate) fn lease_counters(&self) -> &Arc<LeaseCounters> {
        &self.leases
    }

    /// Returns the value of type `T` that a higher floor keeps for this backend. The first call creates it with `make`.
    pub(crate) fn slot<T: Slot>(&self, make: impl FnOnce() -> T) -> &T {
        self.slots.get_or_insert_with(make)
    }

    pub(crate) fn count_unpermitted(&self) {
        self.unpermitted.fetch_add(1, Relaxed);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        self.clock.sleep_until(deadline)
    }

    /// Joins the queue of `key`; `None` if the bound on waiters is reached.
    pub(crate) fn join_queue(&self, policy: &Policy, key: &Key) -> Option<WaiterGuard<'_>> {
        self.queues.join_queue(policy.name(), key)
    }

    /// Joins the queue for a permit of `key`; `None` if the bound on waiters is reached.
    pub(crate) fn join_named_queue(&self, name: &str, key: &Key) -> Option<WaiterGuard<'_>> {
        self.queues.join_queue(name, key)
    }

    /// Returns the hash of a key under a policy.
    pub(crate) fn fingerprint(&self, policy: &Policy, key: &Key) -> u64 {
        self.queues.fingerprint(policy.name(), key)
    }

    /// Returns the cancelled reservations that may still return their charges.
    pub(crate) fn unreturned(&self) -> &Unreturned {
        &self.unreturned
    }

    /// Returns the time of the next check after a denial with a wait of `wait` µs.
    pub(crate) fn next_attempt(&self, now: Timestamp, wait: u64) -> Timestamp {
        let jitter = if self.is_shared {
            self.queues.random() % (wait / 10).clamp(1, LONGEST_JITTER)
        } else {
            0
        };
        Timestamp::from_micros(now.as_micros().saturating_add(wait).saturating_add(jitter))
    }

    /// Runs `task` to its end in the background, within the bounds of background tasks. Dropping the receiver does not
    /// stop it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, TaskError>>, TaskError> {
        self.background.spawn(task)
    }

    /// Returns the background tasks.
    pub(crate) fn background(&self) -> &Arc<BackgroundTasks> {
        &self.background
    }

    /// Like [`spawn`](Self::spawn) in the given runtime, for tasks that return tokens or permits. Their number has no
    /// bound.
    pub(crate) fn spawn_on<T: Send + 'static>(
        &self,
        runtime: Option<Handle>,
        task: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, TaskError>>, TaskError> {
        self.background.spawn_on(runtime, task)
    }

    /// Returns a random number, which need not be unguessable.
    pub(crate) fn random(&self) -> u64 {
        self.queues.random()
    }

    /// Counts and reports a background operation that failed without a task.
    pub(crate) fn record_task_failure(&self, fault: TaskError) -> TaskError {
        self.background.record_failure(fault)
    }
}

/// 100 ms.
const LONGEST_JITTER: u64 = 100_000;

impl Default for BackendContext {
    fn default() -> Self {
        Self::new(SystemClock::new())
    }
}

impl fmt::Debug for BackendContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendContext")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
