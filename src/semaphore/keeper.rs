//! Renews the permits that are held: one task for each process and backend, as long as there are any.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use ahash::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::{self, Handle};
use tokio::sync::Notify;

use super::permit::Ticket;
use crate::backend::{Answer, PermitBackend};
use crate::clock::Timestamp;
use crate::decision::{PermitId, PermitOp};
use crate::key::Key;
use crate::policy::Permits;

/// The most permits of one key that are renewed by one operation.
const MOST_TOGETHER: usize = 256;
/// The most operations under way: more would only wait in the backend, run out of their time there, and requests with them.
const MOST_FLIGHTS: usize = 64;

/// What renews permits.
#[derive(Default)]
pub(crate) struct Keeper {
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
    ticket: Arc<Ticket>,
    due: Timestamp,
    /// A whole lease after the last time that it was asked for with success. By the server's clock it ends no sooner: its lease
    /// began after it was asked.
    ends: Timestamp,
    /// Whether it is in a group that waits.
    waits: bool,
}

/// Permits of one key, to be renewed together.
struct Group {
    permits: Permits,
    key: Key,
    ids: SmallVec<[PermitId; 1]>,
}

/// What became of a group.
struct Renewed {
    group: Group,
    asked: Timestamp,
    /// Of each whether it lasts; none if there was no answer.
    lasting: Option<SmallVec<[bool; 1]>>,
}

type Flight = Pin<Box<dyn Future<Output = Renewed> + Send>>;

fn micros(permits: &Permits, part: u64) -> Duration {
    Duration::from_micros(permits.lease_micros() / part)
}

impl State {
    fn insert(&mut self, ticket: Arc<Ticket>, due: Timestamp, ends: Timestamp) {
        let id = ticket.id;
        self.remove(id);
        self.due.insert((due, id));
        let held = Held {
            ticket,
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

impl Keeper {
    /// How many permits are renewed.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    /// How many were lost.
    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Relaxed)
    }

    /// Sees to it that a permit is renewed that was asked for at `asked`.
    pub(super) fn keep<B: PermitBackend>(
        &self,
        backend: &B,
        ticket: &Arc<Ticket>,
        asked: Timestamp,
    ) {
        let permits = &ticket.permits;
        let due = next(permits, asked);
        let ends = asked.after(permits.lease());
        let mut state = self.state.lock();
        state.insert(Arc::clone(ticket), due, ends);
        let is_sooner = due < state.look;
        let now = backend.lobby().now();
        if let Some(sooner) = state.begin(now, due, micros(permits, 6)) {
            drop(state);
            let runtime = super::permit::runtime(ticket.runtime.as_ref());
            let task = Task::new(backend.clone(), sooner, runtime.as_ref());
            match runtime {
                _ if backend.blocks() => on_a_thread(task),
                Some(runtime) => drop(runtime.spawn(task.run())),
                // Where others hold permits, perhaps; if nobody can renew it, it ends with its lease.
                None => drop(task),
            }
        } else if is_sooner && let Some(task) = state.task.clone() {
            drop(state);
            task.notify_one();
        }
    }

    /// It is not renewed any more.
    pub(super) fn forget(&self, id: PermitId) {
        self.state.lock().remove(id);
    }

    /// Tells the holder if its lease is over by the time of `clock`, should the task not have had its turn since.
    ///
    /// The clock is read under the lock, so that the answer does not precede a renewal that the state already shows.
    pub(super) fn look_at(&self, id: PermitId, clock: impl FnOnce() -> Timestamp) {
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
    fn next_look(&self, task: &Arc<Notify>) -> Option<Timestamp> {
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
    fn gather(&self, now: Timestamp) {
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
            let (permits, key) = (held.ticket.permits.clone(), held.ticket.key.clone());
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
    fn take(&self, now: Timestamp) -> Option<Group> {
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

    fn settle(&self, renewed: &Renewed) {
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
        held.ticket.lose();
    }
}

/// A third of the lease later, or a little sooner: together with others that are due at about that time.
fn next(permits: &Permits, asked: Timestamp) -> Timestamp {
    let due = asked.after(micros(permits, 3)).as_micros();
    let step = (permits.lease_micros() / 24).max(1);
    Timestamp::from_micros((due / step * step).max(asked.as_micros()))
}

/// For a backend that blocks. If there is no thread for it, permits end with their leases.
#[cfg(feature = "blocking")]
fn on_a_thread<B: PermitBackend>(task: Task<B>) {
    let thread = std::thread::Builder::new().name("permits".to_owned());
    drop(thread.spawn(move || crate::park::block_on(task.run())));
}

#[cfg(not(feature = "blocking"))]
fn on_a_thread<B: PermitBackend>(task: Task<B>) {
    drop(task);
}

/// The task that renews.
struct Task<B: PermitBackend> {
    backend: B,
    sooner: Arc<Notify>,
    runtime: Option<Handle>,
    /// Runtimes that had ended before it could begin there.
    ended: SmallVec<[runtime::Id; 1]>,
}

impl<B: PermitBackend> Task<B> {
    fn new(backend: B, sooner: Arc<Notify>, runtime: Option<&Handle>) -> Self {
        Self {
            backend,
            sooner,
            runtime: runtime.cloned(),
            ended: SmallVec::new(),
        }
    }

    async fn run(mut self) {
        self.ended.clear();
        let mut flights: Vec<Flight> = Vec::new();
        loop {
            let lobby = self.backend.lobby();
            let keeper = lobby.keeper();
            let Some(look) = keeper.next_look(&self.sooner) else {
                return;
            };
            let mut sleep = lobby.sleep_until(look);
            let mut sooner = std::pin::pin!(self.sooner.notified());
            poll_fn(|cx| {
                let before = flights.len();
                flights.retain_mut(|flight| match flight.as_mut().poll(cx) {
                    Poll::Ready(renewed) => {
                        keeper.settle(&renewed);
                        false
                    }
                    Poll::Pending => true,
                });
                let woken = sleep.as_mut().poll(cx).is_ready()
                    || sooner.as_mut().poll(cx).is_ready()
                    || flights.len() < before;
                if woken {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            keeper.gather(lobby.now());
            while flights.len() < MOST_FLIGHTS {
                let now = lobby.now();
                let Some(group) = keeper.take(now) else { break };
                flights.push(Box::pin(renew(self.backend.clone(), group, now)));
            }
        }
    }
}

async fn renew<B: PermitBackend>(backend: B, group: Group, asked: Timestamp) -> Renewed {
    let op = PermitOp::Renew(group.ids.clone());
    let reply = match backend.ask(op, &group.permits, &group.key) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    Renewed {
        group,
        asked,
        lasting: reply.ok().map(|reply| reply.lasting),
    }
}

impl<B: PermitBackend> Drop for Task<B> {
    fn drop(&mut self) {
        let keeper = self.backend.lobby().keeper();
        let mut state = keeper.state.lock();
        if !state.is_of(&self.sooner) {
            return;
        }
        // The runtime ends. If others hold permits, the first one of theirs that lasts goes on; if none does, the next one who
        // acquires begins anew.
        let mut ended = std::mem::take(&mut self.ended);
        ended.extend(self.runtime.as_ref().map(Handle::id));
        let others = state.held.values();
        let mut others = others.filter_map(|held| held.ticket.runtime.as_ref());
        let other = others.find(|runtime| !ended.contains(&runtime.id()));
        let other = other.cloned();
        if other.is_none() {
            state.task = None;
        }
        drop(state);
        if let Some(other) = other {
            let sooner = Arc::clone(&self.sooner);
            let mut task = Self::new(self.backend.clone(), sooner, Some(&other));
            task.ended = ended;
            other.spawn(task.run());
        }
    }
}
