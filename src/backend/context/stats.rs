use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use super::BackendContext;

/// The numbers of a [`BackendContext`] at one moment, for metrics and health checks.
///
/// `waiting`, `background_tasks` and `held_permits` show the present. The other numbers count since the backend was
/// made, and never fall.
///
/// ```
/// use tower_sluice::backend::{Backend, BackendStats};
/// use tower_sluice::MemoryBackend;
///
/// let backend = MemoryBackend::new();
/// let stats = Backend::context(&backend).stats();
/// assert_eq!(stats, BackendStats::default(), "nothing has happened");
/// assert_eq!(stats.waiting, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendStats {
    /// Requests that wait now, of all keys.
    pub waiting: usize,
    /// Requests that were denied without a wait, because the bound on waiters was reached.
    pub rejected_waiters: usize,
    /// Background tasks that are running: settlements, refunds, cancelled reservations, released permits.
    ///
    /// At most 1,024 settlements run at a time. Each task times out after 5 s.
    /// [`BackendContext::idle`] waits until the number is 0.
    pub background_tasks: usize,
    /// Background tasks that have failed: the backend returned an error, too many tasks were running, the task timed
    /// out, or its runtime ended.
    pub failed_background_tasks: usize,
    /// Permits with a lease that this process holds and renews.
    pub held_permits: usize,
    /// Permits that were lost: a renewal found no permit, or no renewal succeeded for a whole lease.
    pub lost_permits: usize,
    /// Requests that were allowed without a permit, because the backend failed under
    /// [`FailurePolicy::FailOpen`](crate::FailurePolicy::FailOpen).
    pub unpermitted: usize,
}

impl BackendContext {
    /// Returns the numbers of this moment.
    ///
    /// Each number is exact. The numbers are read one after the other, so they may belong to slightly different
    /// moments.
    #[must_use]
    pub fn stats(&self) -> BackendStats {
        BackendStats {
            waiting: self.queues.waiting(),
            rejected_waiters: self.queues.rejected_waiters(),
            background_tasks: self.background.running(),
            failed_background_tasks: self.background.failed(),
            held_permits: self.leases.held(),
            lost_permits: self.leases.lost(),
            unpermitted: self.unpermitted.load(Relaxed),
        }
    }
}

/// The counts of the leases that a process holds.
#[derive(Debug, Default)]
pub(crate) struct LeaseCounters {
    held: AtomicUsize,
    lost: AtomicUsize,
}

impl LeaseCounters {
    /// Returns the number of held leases.
    pub(crate) fn held(&self) -> usize {
        self.held.load(SeqCst)
    }

    /// Sets the number of held leases.
    pub(crate) fn set_held(&self, held: usize) {
        self.held.store(held, SeqCst);
    }

    /// Returns the number of lost leases so far.
    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Relaxed)
    }

    /// Counts a lost lease.
    pub(crate) fn count_lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }
}
