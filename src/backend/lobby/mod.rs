//! What those who use a backend share beside its state.

mod errands;
mod idle;
mod lease;
mod leases;
mod lines;
mod permit_line;
mod unreturned;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) use self::errands::{Errands, Fault};
pub use self::idle::IdleReport;
pub(crate) use self::lease::Lease;
pub(crate) use self::leases::{Group, Insertion, Leases, Renewed};
pub(crate) use self::lines::{Head, Place, Queue};
pub(crate) use self::permit_line::{PermitLine, PermitLines, PermitPlace};
pub(crate) use self::unreturned::Unspent;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::lines::Lines;
use self::unreturned::Unreturned;
use crate::clock::{AnyClock, Clock, Sleep, SystemClock, Timestamp};
use crate::key::Key;
use crate::policy::Policy;

/// Waiters of one key and in all, if nothing else is said.
pub(in crate::backend) const DEFAULT_MAX_WAITERS: (usize, usize) = (1_024, 65_536);

/// What those who use a backend share beside its state: the clock that they sleep by, bounds on how many wait, the order among
/// those who do, and a count of what is done for nobody's answer. A [`Backend`](super::Backend) has one, for all its clones.
///
/// ```
/// use tower_sluice::backend::Lobby;
/// use tower_sluice::clock::SystemClock;
///
/// let lobby = Lobby::new(SystemClock::new()).max_waiters(10, 1_000);
/// assert_eq!((lobby.waiters(), lobby.turned_away(), lobby.lost_errands()), (0, 0, 0));
/// ```
pub struct Lobby {
    clock: AnyClock,
    lines: Lines,
    is_shared: bool,
    unreturned: Unreturned,
    errands: Arc<Errands>,
    /// Those who wait for permits.
    permits: PermitLines,
    leases: Leases,
    /// Who was let in without a permit.
    unguarded: AtomicUsize,
}

impl Lobby {
    /// A lobby whose waiters sleep by `clock`: the one that the backend decides by, if it is in this process.
    #[must_use]
    pub fn new(clock: impl Clock) -> Self {
        Self::of(AnyClock::new(clock))
    }

    pub(in crate::backend) fn of(clock: AnyClock) -> Self {
        let (each_key, in_all) = DEFAULT_MAX_WAITERS;
        Self {
            clock,
            lines: Lines::new(each_key, in_all),
            is_shared: false,
            unreturned: Unreturned::new(each_key, in_all),
            errands: Arc::default(),
            permits: PermitLines::default(),
            leases: Leases::default(),
            unguarded: AtomicUsize::new(0),
        }
    }

    /// The most requests that wait at a time, of one key and in all; 1 024 and 65 536 by default. Above it nobody waits: who
    /// is not allowed at once is refused. A request counts from when it asks, so that a bound on waiters is also one on those
    /// whose turn is still being asked for.
    ///
    /// As many cancelled reservations are kept, until they are due, whose charge did not go back because others stood behind them.
    #[must_use]
    pub fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.lines = Lines::new(each_key, in_all);
        self.unreturned = Unreturned::new(each_key, in_all);
        self
    }

    /// Other processes wait for the same keys: those who look again after a wait do so up to a tenth later, 100 ms at the
    /// most, so that they do not all come at once.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    /// How many wait now, of all keys.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.lines.waiting()
    }

    /// How many were not let in because so many waited already.
    #[must_use]
    pub fn turned_away(&self) -> usize {
        self.lines.turned_away()
    }

    /// How many operations are under way that nobody needs to wait for: settlements, and what is given back for those who have
    /// gone. At most 1 024 settlements are at a time, and as many as have waited; for 5 s each. [`idle`](Self::idle) waits for
    /// their end.
    #[must_use]
    pub fn errands(&self) -> usize {
        self.errands.running()
    }

    /// How many of those operations have failed: the backend gave no answer, too many were under way, or the runtime ended.
    #[must_use]
    pub fn lost_errands(&self) -> usize {
        self.errands.lost()
    }

    /// How many permits of semaphores are held that end with a lease, and are renewed until they are given back.
    #[must_use]
    pub fn held_permits(&self) -> usize {
        self.leases.held()
    }

    /// How many permits were lost: a renewal found them gone, or none was answered for a whole lease.
    #[must_use]
    pub fn lost_permits(&self) -> usize {
        self.leases.lost()
    }

    /// How many were let in without a permit, because the backend failed and
    /// [`OnBackendError::Allow`](crate::OnBackendError::Allow) was chosen.
    #[must_use]
    pub fn let_in_without_permit(&self) -> usize {
        self.unguarded.load(Relaxed)
    }

    pub(crate) fn permits(&self) -> &PermitLines {
        &self.permits
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(crate) fn let_in(&self) {
        self.unguarded.fetch_add(1, Relaxed);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        self.clock.sleep_until(deadline)
    }

    /// A place among those who wait for `key`; none if too many do.
    pub(crate) fn enter(&self, policy: &Policy, key: &Key) -> Option<Place<'_>> {
        self.lines.enter(policy.name(), key)
    }

    /// A place among those who wait for a permit of `key`; none if too many do.
    pub(crate) fn enter_named(&self, name: &str, key: &Key) -> Option<Place<'_>> {
        self.lines.enter(name, key)
    }

    /// What stands for a key of a policy.
    pub(crate) fn print(&self, policy: &Policy, key: &Key) -> u64 {
        self.lines.print(policy.name(), key)
    }

    /// Cancelled reservations that may still return their charges.
    pub(crate) fn unreturned(&self) -> &Unreturned {
        &self.unreturned
    }

    /// When to look again after a refusal of `wait` µs.
    pub(crate) fn next_look(&self, now: Timestamp, wait: u64) -> Timestamp {
        let jitter = if self.is_shared {
            self.lines.random() % (wait / 10).clamp(1, LONGEST_JITTER)
        } else {
            0
        };
        Timestamp::from_micros(now.as_micros().saturating_add(wait).saturating_add(jitter))
    }

    /// Sees to it that `errand` runs to its end, within the bounds of errands, whether or not its outcome is waited for.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        errand: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Fault>>, Fault> {
        self.errands.run(errand)
    }

    /// What runs what is given back for those who have gone.
    pub(crate) fn errand_runner(&self) -> &Arc<Errands> {
        &self.errands
    }

    /// The same in this runtime, for what gives back what was had: however many are under way.
    pub(crate) fn run_at<T: Send + 'static>(
        &self,
        runtime: Option<Handle>,
        errand: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Fault>>, Fault> {
        self.errands.run_at(runtime, errand)
    }

    /// Another number each time; nothing hangs on its being hard to guess.
    pub(crate) fn random(&self) -> u64 {
        self.lines.random()
    }

    /// Counts an operation that failed at once, where nobody needs to wait for it.
    pub(crate) fn lost(&self, fault: Fault) -> Fault {
        self.errands.note(fault)
    }
}

/// 100 ms.
const LONGEST_JITTER: u64 = 100_000;

impl Default for Lobby {
    fn default() -> Self {
        Self::new(SystemClock::new())
    }
}

impl fmt::Debug for Lobby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lobby")
            .field("waiters", &self.waiters())
            .field("turned_away", &self.turned_away())
            .field("errands", &self.errands())
            .field("lost_errands", &self.lost_errands())
            .finish_non_exhaustive()
    }
}
