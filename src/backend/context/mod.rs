//! What those who use a backend share beside its state.

mod background;
mod idle;
mod lease;
mod leases;
mod permit_queue;
mod stats;
mod unreturned;
mod wait_queue;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) use self::background::{BackgroundTasks, TaskError};
pub use self::idle::IdleReport;
pub(crate) use self::lease::Lease;
pub(crate) use self::leases::{Insertion, Leases, RenewalGroup, RenewalResult};
pub(crate) use self::permit_queue::{PermitQueue, PermitQueues, PermitWaiter};
pub use self::stats::BackendStats;
pub(crate) use self::unreturned::Unspent;
pub(crate) use self::wait_queue::{QueueHead, TierQueue, WaiterGuard};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::unreturned::Unreturned;
use self::wait_queue::WaitQueues;
use crate::clock::{AnyClock, Clock, Sleep, SystemClock, Timestamp};
use crate::key::Key;
use crate::policy::Policy;

/// Waiters of one key and in all, if nothing else is said.
pub(in crate::backend) const DEFAULT_MAX_WAITERS: (usize, usize) = (1_024, 65_536);

/// What those who use a backend share beside its state: the clock that they sleep by, bounds on how many wait, the
/// order among those who do, and a count of what is done for nobody's answer. A [`Backend`](super::Backend) has one,
/// for all its clones.
///
/// ```
/// use tower_sluice::backend::BackendContext;
/// use tower_sluice::clock::SystemClock;
///
/// let context = BackendContext::new(SystemClock::new()).max_waiters(10, 1_000);
/// assert_eq!(context.stats().waiting, 0);
/// ```
pub struct BackendContext {
    clock: AnyClock,
    queues: WaitQueues,
    is_shared: bool,
    unreturned: Unreturned,
    background: Arc<BackgroundTasks>,
    /// Those who wait for permits.
    permit_queues: PermitQueues,
    leases: Leases,
    /// Who was let in without a permit.
    unpermitted: AtomicUsize,
}

impl BackendContext {
    /// A context whose waiters sleep by `clock`: the one that the backend decides by, if it is in this process.
    #[must_use]
    pub fn new(clock: impl Clock) -> Self {
        Self::from_clock(AnyClock::new(clock))
    }

    pub(in crate::backend) fn from_clock(clock: AnyClock) -> Self {
        let (each_key, in_all) = DEFAULT_MAX_WAITERS;
        Self {
            clock,
            queues: WaitQueues::new(each_key, in_all),
            is_shared: false,
            unreturned: Unreturned::new(each_key, in_all),
            background: Arc::default(),
            permit_queues: PermitQueues::default(),
            leases: Leases::default(),
            unpermitted: AtomicUsize::new(0),
        }
    }

    /// The most requests that wait at a time, of one key and in all; 1 024 and 65 536 by default. Above it nobody
    /// waits: who is not allowed at once is denied. A request counts from when it asks, so that a bound on waiters is
    /// also one on those whose turn is still being asked for.
    ///
    /// As many cancelled reservations are kept, until they are due, whose charge did not go back because others stood
    /// behind them.
    #[must_use]
    pub fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.queues = WaitQueues::new(each_key, in_all);
        self.unreturned = Unreturned::new(each_key, in_all);
        self
    }

    /// Other processes wait for the same keys: those who look again after a wait do so up to a tenth later, 100 ms at
    /// the most, so that they do not all come at once.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    pub(crate) fn permit_queues(&self) -> &PermitQueues {
        &self.permit_queues
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
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

    /// A place among those who wait for `key`; none if too many do.
    pub(crate) fn join_queue(&self, policy: &Policy, key: &Key) -> Option<WaiterGuard<'_>> {
        self.queues.join_queue(policy.name(), key)
    }

    /// A place among those who wait for a permit of `key`; none if too many do.
    pub(crate) fn join_named_queue(&self, name: &str, key: &Key) -> Option<WaiterGuard<'_>> {
        self.queues.join_queue(name, key)
    }

    /// What stands for a key of a policy.
    pub(crate) fn fingerprint(&self, policy: &Policy, key: &Key) -> u64 {
        self.queues.fingerprint(policy.name(), key)
    }

    /// Cancelled reservations that may still return their charges.
    pub(crate) fn unreturned(&self) -> &Unreturned {
        &self.unreturned
    }

    /// When to look again after a denial of `wait` µs.
    pub(crate) fn next_attempt(&self, now: Timestamp, wait: u64) -> Timestamp {
        let jitter = if self.is_shared {
            self.queues.random() % (wait / 10).clamp(1, LONGEST_JITTER)
        } else {
            0
        };
        Timestamp::from_micros(now.as_micros().saturating_add(wait).saturating_add(jitter))
    }

    /// Sees to it that `task` runs to its end, within the bounds of background tasks, whether or not its outcome is
    /// waited for.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, TaskError>>, TaskError> {
        self.background.spawn(task)
    }

    /// What runs what is given back for those who have gone.
    pub(crate) fn background(&self) -> &Arc<BackgroundTasks> {
        &self.background
    }

    /// The same in this runtime, for what gives back what was had: however many are under way.
    pub(crate) fn spawn_on<T: Send + 'static>(
        &self,
        runtime: Option<Handle>,
        task: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, TaskError>>, TaskError> {
        self.background.spawn_on(runtime, task)
    }

    /// Another number each time; nothing hangs on its being hard to guess.
    pub(crate) fn random(&self) -> u64 {
        self.queues.random()
    }

    /// Counts an operation that failed at once, where nobody needs to wait for it.
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
