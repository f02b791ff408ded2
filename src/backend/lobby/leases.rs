//! The leases of permits that this process holds, and when each is to be renewed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ahash::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::{self, Handle};
use tokio::sync::Notify;

use super::lease::Lease;
use crate::clock::Timestamp;
use crate::decision::PermitId;
use crate::key::Key;
use crate::policy::Permits;

/// The most permits of one key that are renewed by one operation.
const MOST_TOGETHER: usize = 256;
/// The leases that this process renews.
#[derive(Default)]
pub(crate) struct Leases {
    state: Mutex<State>,
    lost: AtomicUsize,
}

#[derive(Default)]
struct State {
    held: HashMap<PermitId, Held, RandomState>,
    /// When each is to be looked at, soonest first.
    due: BTreeSet<(Timestamp, PermitId)>,
    /// What is to be renewed and has not been asked for yet.
    waiting: VecDeque<Group>,
    /// The task, if there is one: by what it is told that something is to be looked at sooner than it knew.
    task: Option<Arc<Notify>>,
    /// When it looks again.
    look: Timestamp,
}

struct Held {
    lease: Arc<Lease>,
    due: Timestamp,
    /// A whole lease after the last time that it was asked for with success. By the server's clock it ends no sooner: its lease
    /// began after it was asked.
    ends: Timestamp,
    /// Whether it is in a group that waits.
    waits: bool,
}

/// Permits of one key, to be renewed together.
pub(crate) struct Group {
    pub(crate) permits: Permits,
    pub(crate) key: Key,
    pub(crate) ids: SmallVec<[PermitId; 1]>,
}

/// The outcome of one renewal.
pub(crate) struct Renewed {
    pub(crate) group: Group,
    pub(crate) asked: Timestamp,
    /// Whether each permit lasts; `None` if there was no answer.
    pub(crate) lasting: Option<SmallVec<[bool; 1]>>,
}

/// The effect of a new lease on the task that renews.
pub(crate) enum Insertion {
    /// A task runs.
    Renewed,
    /// The caller starts a task, which is woken by this.
    NeedsTask(Arc<Notify>),
}

fn micros(permits: &Permits, part: u64) -> Duration {
    Duration::from_micros(permits.lease_micros() / part)
}

impl State {
    fn insert(&mut self, lease: Arc<Lease>, due: Timestamp, ends: Timestamp) {
        let id = lease.id;
        self.remove(id);
        self.due.insert((due, id));
        let held = Held {
            lease,
            due,
            ends,
            waits: false,
        };
        self.held.insert(id, held);
    }

    fn remove(&mut self, id: PermitId) -> Option<Held> {
        let held = self.held.remove(&id)?;
        self.due.remove(&(held.due, id));
        Some(held)
    }

    fn move_to(&mut self, id: PermitId, due: Timestamp, ends: Option<Timestamp>) {
        if let Some(held) = self.held.get_mut(&id) {
            self.due.remove(&(held.due, id));
            held.due = due;
            if let Some(ends) = ends {
                // An answer may come after the one to a later question.
                held.ends = ends.max(held.ends);
                held.waits = false;
            }
            self.due.insert((due, id));
        }
    }

    /// A new task, if there is none or the one there is should have looked so long ago that nobody seems to drive its runtime
    /// any more. That one ends when it looks again.
    fn begin(&mut self, now: Timestamp, due: Timestamp, patience: Duration) -> Option<Arc<Notify>> {
        if self.task.is_some() && now < self.look.after(patience) {
            return None;
        }
        self.look = due;
        self.task = Some(Arc::default());
        self.task.clone()
    }

    /// Whether it is this task that renews.
    fn is_of(&self, task: &Arc<Notify>) -> bool {
        let own = self.task.as_ref();
        own.is_some_and(|own| Arc::ptr_eq(own, task))
    }
}

impl Leases {
    /// How many permits are renewed.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    /// How many were lost.
    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Relaxed)
    }

    /// Adds a lease that was requested at `requested`. Returns whether its renewal needs a new task, or the running one sooner.
    pub(crate) fn insert(
        &self,
        lease: &Arc<Lease>,
        requested: Timestamp,
        clock: impl FnOnce() -> Timestamp,
    ) -> Insertion {
        let permits = &lease.permits;
        let due = next(permits, requested);
        let ends = requested.after(permits.lease());
        let mut state = self.state.lock();
        state.insert(Arc::clone(lease), due, ends);
        let is_sooner = due < state.look;
        // Read under the lock: a late reading would take a task for driven that has looked at nothing for long.
        if let Some(task) = state.begin(clock(), due, micros(permits, 6)) {
            return Insertion::NeedsTask(task);
        }
        if is_sooner && let Some(task) = state.task.clone() {
            drop(state);
            task.notify_one();
        }
        Insertion::Renewed
    }

    /// Passes the renewals on after the runtime of `task` has ended: to a runtime of another lease, which is none of `ended`. Returns
    /// `None` if there is no such runtime, or if another task renews.
    pub(crate) fn pass_on(&self, task: &Arc<Notify>, ended: &[runtime::Id]) -> Option<Handle> {
        let mut state = self.state.lock();
        if !state.is_of(task) {
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

    /// It is not renewed any more.
    pub(crate) fn forget(&self, id: PermitId) {
        self.state.lock().remove(id);
    }

    /// Tells the holder if its lease is over by the time of `clock`, should the task not have had its turn since.
    ///
    /// The clock is read under the lock, so that the answer does not precede a renewal that the state already shows.
    pub(crate) fn look_at(&self, id: PermitId, clock: impl FnOnce() -> Timestamp) {
        let mut state = self.state.lock();
        let now = clock();
        let is_over = state.held.get(&id).is_some_and(|held| held.ends <= now);
        let over = is_over.then(|| state.remove(id)).flatten();
        drop(state);
        if let Some(held) = over {
            self.lose(&held);
        }
    }

    /// When this task looks next; `None`, and it is over, if there is nothing to renew or another one does it.
    pub(crate) fn next_look(&self, task: &Arc<Notify>) -> Option<Timestamp> {
        let mut state = self.state.lock();
        if !state.is_of(task) {
            return None;
        }
        let first = state.due.first().map(|(due, _)| *due);
        if first.is_none() {
            state.task = None;
            state.waiting.clear();
        }
        state.look = first.unwrap_or_default();
        first
    }

    /// Lets all that is due wait for its turn, by keys, and tells those whose lease is over.
    pub(crate) fn gather(&self, now: Timestamp) {
        let mut groups: HashMap<(Permits, Key), Vec<Group>, RandomState> = HashMap::default();
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
            let (permits, key) = (held.lease.permits.clone(), held.lease.key.clone());
            // If there is no answer it is asked again, several times before its end.
            let again = now.after(micros(&permits, 24)).min(held.ends);
            let waits = held.waits;
            state.move_to(id, again, None);
            if waits {
                continue;
            }
            if let Some(held) = state.held.get_mut(&id) {
                held.waits = true;
            }
            let own = groups.entry((permits.clone(), key.clone())).or_default();
            match own.last_mut() {
                Some(group) if group.ids.len() < MOST_TOGETHER => group.ids.push(id),
                _ => own.push(Group {
                    permits,
                    key,
                    ids: SmallVec::from_elem(id, 1),
                }),
            }
        }
        state.waiting.extend(groups.into_values().flatten());
        drop(state);
        for held in over {
            self.lose(&held);
        }
    }

    /// Takes the next group that is to be asked for, at `now`, without those who have gone or were renewed meanwhile.
    pub(crate) fn take(&self, now: Timestamp) -> Option<Group> {
        let mut state = self.state.lock();
        loop {
            let mut group = state.waiting.pop_front()?;
            let again = now.after(micros(&group.permits, 24));
            group.ids.retain(|id| {
                let held = state.held.get_mut(id).filter(|held| held.waits);
                let Some(held) = held else { return false };
                held.waits = false;
                let again = again.min(held.ends);
                state.move_to(*id, again, None);
                true
            });
            if !group.ids.is_empty() {
                return Some(group);
            }
        }
    }

    pub(crate) fn settle(&self, renewed: &Renewed) {
        let Renewed {
            group,
            asked,
            lasting,
        } = renewed;
        let Some(lasting) = lasting else { return };
        let ends = asked.after(group.permits.lease());
        for (id, lasts) in group.ids.iter().zip(lasting) {
            let mut state = self.state.lock();
            if *lasts {
                state.move_to(*id, next(&group.permits, *asked), Some(ends));
            } else if let Some(held) = state.remove(*id) {
                drop(state);
                self.lose(&held);
            }
        }
    }

    fn lose(&self, held: &Held) {
        self.lost.fetch_add(1, Relaxed);
        held.lease.lose();
    }
}

/// A third of the lease later, or a little sooner: together with others that are due at about that time.
fn next(permits: &Permits, asked: Timestamp) -> Timestamp {
    let due = asked.after(micros(permits, 3)).as_micros();
    let step = (permits.lease_micros() / 24).max(1);
    Timestamp::from_micros((due / step * step).max(asked.as_micros()))
}
