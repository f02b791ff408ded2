//! The leases of permits that this process holds, and the times of their renewals. They lie in a slot of the
//! [`BackendContext`], because all semaphores of a backend share them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::{self, Handle};
use tokio::sync::Notify;

use super::lease::Lease;
use crate::backend::{BackendContext, LeaseCounters};
use crate::clock::Timestamp;
use crate::decision::PermitId;
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// The most permits of one key that are renewed by one operation.
const MAX_BATCH: usize = 256;

/// The leases that this process renews.
pub(super) struct Leases {
    state: Mutex<LeaseTable>,
    counters: Arc<LeaseCounters>,
}

#[derive(Default)]
struct LeaseTable {
    counters: Arc<LeaseCounters>,
    held: HashMap<PermitId, LeaseEntry, RandomState>,
    /// The time of the next renewal or check of each lease, soonest first.
    due: BTreeSet<(Timestamp, PermitId)>,
    /// Groups that are due, and whose renewal was not sent yet, by the end of their first lease and a number. A group
    /// whose renewal has failed precedes others, because its leases end sooner.
    waiting: BTreeMap<(Timestamp, u64), RenewalGroup>,
    /// The number of groups so far.
    groups: u64,
    /// The renewal task, if there is one. It is woken by this when a lease is due sooner than `next_attempt`.
    task: Option<Arc<Notify>>,
    /// The time at which the task wakes up.
    next_attempt: Timestamp,
}

struct LeaseEntry {
    lease: Arc<Lease>,
    due: Timestamp,
    /// A whole lease after the last successful request was sent. The server starts the lease when the request arrives,
    /// so the lease does not expire before this time.
    ends: Timestamp,
    /// Whether the permit is in a waiting group.
    is_queued: bool,
}

/// Permits of one key, to be renewed together.
pub(super) struct RenewalGroup {
    pub(super) policy: SemaphorePolicy,
    pub(super) key: Key,
    pub(super) ids: Vec<PermitId>,
}

/// The outcome of one renewal.
pub(super) struct RenewalResult {
    pub(super) group: RenewalGroup,
    pub(super) asked_at: Timestamp,
    /// Whether each permit still exists; `None` if the renewal failed.
    pub(super) lasting: Option<SmallVec<[bool; 1]>>,
}

/// The effect of a new lease on the task that renews.
pub(super) enum Insertion {
    /// A task runs and renews the lease.
    Renewed,
    /// The caller must start a task, which is woken by this.
    NeedsTask(Arc<Notify>),
}

fn micros(policy: &SemaphorePolicy, part: u64) -> Duration {
    Duration::from_micros(policy.lease_micros() / part)
}

impl LeaseTable {
    fn insert(&mut self, lease: Arc<Lease>, due: Timestamp, ends: Timestamp) {
        let id = lease.id;
        self.remove(id);
        self.due.insert((due, id));
        let held = LeaseEntry {
            lease,
            due,
            ends,
            is_queued: false,
        };
        self.held.insert(id, held);
        self.counters.set_held(self.held.len());
    }

    fn remove(&mut self, id: PermitId) -> Option<LeaseEntry> {
        let held = self.held.remove(&id)?;
        self.due.remove(&(held.due, id));
        self.counters.set_held(self.held.len());
        Some(held)
    }

    fn move_to(&mut self, id: PermitId, due: Timestamp, ends: Option<Timestamp>) {
        if let Some(held) = self.held.get_mut(&id) {
            self.due.remove(&(held.due, id));
            held.due = due;
            if let Some(ends) = ends {
                // Answers may come in another order than their requests were sent.
                held.ends = ends.max(held.ends);
                held.is_queued = false;
            }
            self.due.insert((due, id));
        }
    }

    /// Registers a new task, if there is none, or if the task is late by more than `patience`. Then its runtime is
    /// probably not driven any more. The old task ends when it wakes up.
    fn begin(&mut self, now: Timestamp, due: Timestamp, patience: Duration) -> Option<Arc<Notify>> {
        if self.task.is_some() && now < self.next_attempt.after(patience) {
            return None;
        }
        self.next_attempt = due;
        self.task = Some(Arc::default());
        self.task.clone()
    }

    /// Returns whether `task` is the registered one.
    fn belongs_to(&self, task: &Arc<Notify>) -> bool {
        let own = self.task.as_ref();
        own.is_some_and(|own| Arc::ptr_eq(own, task))
    }
}

impl Leases {
    /// Returns the leases of a backend.
    pub(super) fn in_context(context: &BackendContext) -> &Self {
        // A panic under the lock leaves a table that can be used: the entries are independent of each other.
        context.slot(|| AssertUnwindSafe(Self::new(context.lease_counters())))
    }

    fn new(counters: &Arc<LeaseCounters>) -> Self {
        let state = LeaseTable {
            counters: Arc::clone(counters),
            ..LeaseTable::default()
        };
        Self {
            state: Mutex::new(state),
            counters: Arc::clone(counters),
        }
    }

    /// Adds a lease that was requested at `requested`. Returns whether the caller must start a task. A running task is
    /// woken if the lease is due sooner than the task would wake up.
    pub(super) fn insert(
        &self,
        lease: &Arc<Lease>,
        requested: Timestamp,
        clock: impl FnOnce() -> Timestamp,
    ) -> Insertion {
        let policy = &lease.policy;
        let due = next(policy, requested);
        let ends = requested.after(policy.lease());
        let mut state = self.state.lock();
        state.insert(Arc::clone(lease), due, ends);
        let is_sooner = due < state.next_attempt;
        // The clock is read under the lock. A late reading would hide that the task is late.
        if let Some(task) = state.begin(clock(), due, micros(policy, 6)) {
            return Insertion::NeedsTask(task);
        }
        if is_sooner && let Some(task) = state.task.clone() {
            drop(state);
            task.notify_one();
        }
        Insertion::Renewed
    }

    /// Returns a runtime for the renewals after the runtime of `task` has ended: that of another lease, and none of
    /// `ended`. Returns `None` if there is no such runtime, or if another task renews.
    pub(super) fn pass_on(&self, task: &Arc<Notify>, ended: &[runtime::Id]) -> Option<Handle> {
        let mut state = self.state.lock();
        if !state.belongs_to(task) {
            return None;
        }
        let others = state.held.values();
        let mut others = others.filter_map(|held| held.lease.runtime.as_ref());
        let other = others.find(|runtime| !ended.contains(&runtime.id()));
        let other = other.cloned();
        if other.is_none() {
            state.task = None;
        }
        other
    }

    /// Stops the renewal of a lease.
    pub(super) fn forget(&self, id: PermitId) {
        self.state.lock().remove(id);
    }

    /// Marks a lease as lost if it has expired by `clock`. The task may not have run since the expiry.
    ///
    /// The clock is read under the lock, so that the reading is not older than a renewal in the state.
    pub(super) fn check_lease(&self, id: PermitId, clock: impl FnOnce() -> Timestamp) {
        let mut state = self.state.lock();
        let now = clock();
        let is_over = state.held.get(&id).is_some_and(|held| held.ends <= now);
        let over = is_over.then(|| state.remove(id)).flatten();
        drop(state);
        if let Some(held) = over {
            self.lose(&held);
        }
    }

    /// Returns the time at which `task` must wake up. `None` if there is nothing to renew or another task renews:
    /// `task` ends.
    pub(super) fn next_attempt(&self, task: &Arc<Notify>) -> Option<Timestamp> {
        let mut state = self.state.lock();
        if !state.belongs_to(task) {
            return None;
        }
        let first = state.due.first().map(|(due, _)| *due);
        if first.is_none() {
            state.task = None;
            state.waiting.clear();
        }
        state.next_attempt = first.unwrap_or_default();
        first
    }

    /// Queues the due permits for renewal, grouped by key, and marks expired leases as lost.
    pub(super) fn gather(&self, now: Timestamp) {
        let mut groups: HashMap<
            (SemaphorePolicy, Key),
            Vec<(Timestamp, RenewalGroup)>,
            RandomState,
        > = HashMap::default();
        let mut over = Vec::new();
        let mut state = self.state.lock();
        while let Some(&(due, id)) = state.due.first()
            && due <= now
        {
            let Some(held) = state.held.get(&id) else {
                state.due.remove(&(due, id));
                continue;
            };
            if held.ends <= now {
                over.extend(state.remove(id));
                continue;
            }
            let (policy, key) = (held.lease.policy.clone(), held.lease.key.clone());
            // A failed renewal is repeated several times before the lease expires.
            let again = now.after(micros(&policy, 24)).min(held.ends);
            let is_queued = held.is_queued;
            state.move_to(id, again, None);
            if is_queued {
                continue;
            }
            let mut ends = Timestamp::MAX;
            if let Some(held) = state.held.get_mut(&id) {
                held.is_queued = true;
                ends = held.ends;
            }
            let own = groups.entry((policy.clone(), key.clone())).or_default();
            match own.last_mut() {
                Some((first, group)) if group.ids.len() < MAX_BATCH => {
                    group.ids.push(id);
                    *first = ends.min(*first);
                }
                _ => {
                    let ids = vec![id];
                    own.push((ends, RenewalGroup { policy, key, ids }));
                }
            }
        }
        for (ends, group) in groups.into_values().flatten() {
            state.groups += 1;
            let number = state.groups;
            state.waiting.insert((ends, number), group);
        }
        drop(state);
        for held in over {
            self.lose(&held);
        }
    }

    /// Takes the group to renew at `now` whose leases end soonest, without permits that were released or renewed
    /// meanwhile.
    pub(super) fn take(&self, now: Timestamp) -> Option<RenewalGroup> {
        let mut state = self.state.lock();
        loop {
            let (_, mut group) = state.waiting.pop_first()?;
            let again = now.after(micros(&group.policy, 24));
            group.ids.retain(|id| {
                let held = state.held.get_mut(id).filter(|held| held.is_queued);
                let Some(held) = held else { return false };
                held.is_queued = false;
                let again = again.min(held.ends);
                state.move_to(*id, again, None);
                true
            });
            if !group.ids.is_empty() {
                return Some(group);
            }
        }
    }

    /// Applies the outcome of a renewal.
    pub(super) fn settle(&self, renewed: &RenewalResult) {
        let RenewalResult {
            group,
            asked_at,
            lasting,
        } = renewed;
        let Some(lasting) = lasting else { return };
        let ends = asked_at.after(group.policy.lease());
        for (id, lasts) in group.ids.iter().zip(lasting) {
            let mut state = self.state.lock();
            if *lasts {
                state.move_to(*id, next(&group.policy, *asked_at), Some(ends));
            } else if let Some(held) = state.remove(*id) {
                drop(state);
                self.lose(&held);
            }
        }
    }

    fn lose(&self, held: &LeaseEntry) {
        self.counters.count_lost();
        held.lease.lose();
    }
}

/// Returns the time of the next renewal: a third of the lease after `asked_at`. It is rounded down, so that leases of
/// about the same time are renewed together.
fn next(policy: &SemaphorePolicy, asked_at: Timestamp) -> Timestamp {
    let due = asked_at.after(micros(policy, 3)).as_micros();
    let step = (policy.lease_micros() / 24).max(1);
    Timestamp::from_micros((due / step * step).max(asked_at.as_micros()))
}

#[cfg(test)]
mod tests;
