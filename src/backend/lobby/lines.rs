use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ahash::RandomState;
use smallvec::SmallVec;

use crate::backend::fingerprint::Fingerprints;
use crate::clock::Timestamp;
use crate::decision::{Decision, Snapshot};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::sync::{AtomicUsize, Mutex};

/// Locks that the keys are spread over.
const SHARDS: usize = 16;

/// Who waits, counted by key and in all.
///
/// The counts are relaxed: they carry no other memory, and each is changed in one step.
pub(super) struct Lines {
    each_key: usize,
    in_all: usize,
    waiting: AtomicUsize,
    turned_away: AtomicUsize,
    drawn: AtomicU64,
    prints: Fingerprints,
    names: RandomState,
    shards: [Mutex<HashMap<u64, Line, RandomState>>; SHARDS],
}

/// Those who wait for one key.
#[derive(Default)]
struct Line {
    waiting: usize,
    /// One for each tier that somebody waits under: what one is told of its quotas says nothing of another's.
    queues: SmallVec<[(Policy, Arc<Queue>); 1]>,
}

/// Who asks, if those who wait take turns at asking; first come, first served.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Held by the one who asks.
    head: tokio::sync::Mutex<()>,
    /// What was told last.
    known: Mutex<Option<Known>>,
}

/// A refusal, and when the one who was told it will look again; any time once he has left.
#[derive(Debug)]
struct Known {
    snapshot: Snapshot,
    told: Timestamp,
    next_look: Timestamp,
}

/// The right to ask, for the first of a line.
pub(crate) struct Head<'q> {
    queue: &'q Queue,
    /// Dropped after what was told is out of date.
    _held: tokio::sync::MutexGuard<'q, ()>,
}

impl Queue {
    /// If nobody else has it, or waits for it.
    pub(crate) fn try_head(&self) -> Option<Head<'_>> {
        let held = self.head.try_lock().ok()?;
        Some(self.of(held))
    }

    /// Once everybody in front has gone.
    pub(crate) async fn head(&self) -> Head<'_> {
        self.of(self.head.lock().await)
    }

    fn of<'q>(&'q self, held: tokio::sync::MutexGuard<'q, ()>) -> Head<'q> {
        Head {
            queue: self,
            _held: held,
        }
    }

    /// When the head of the line will look again, if that is known.
    pub(crate) fn next_look(&self) -> Option<Timestamp> {
        self.known.lock().as_ref().map(|known| known.next_look)
    }

    /// The last denial in this queue, aged to the time of `clock`, for a request of `cost`; none if there was no denial.
    ///
    /// The clock is read under the lock: a late reading would answer too long a wait.
    pub(crate) fn refusal(
        &self,
        clock: impl FnOnce() -> Timestamp,
        cost: &Cost,
    ) -> Option<Decision> {
        let known = self.known.lock();
        let Known { snapshot, told, .. } = known.as_ref()?;
        let age = clock().micros_since(*told);
        Some(Decision::of(snapshot.aged(cost, age)))
    }
}

impl Head<'_> {
    /// Lets those behind know of a refusal.
    pub(crate) fn tell(&self, snapshot: Snapshot, told: Timestamp, next_look: Timestamp) {
        *self.queue.known.lock() = Some(Known {
            snapshot,
            told,
            next_look,
        });
    }
}

impl Drop for Head<'_> {
    fn drop(&mut self) {
        // The next one may cost less, or find more: nobody is kept out by the word of one who has gone.
        if let Some(known) = &mut *self.queue.known.lock() {
            known.next_look = Timestamp::default();
        }
    }
}

/// A place in a line, left when it is dropped.
pub(crate) struct Place<'a> {
    lines: &'a Lines,
    print: u64,
}

impl Lines {
    pub(super) fn new(each_key: usize, in_all: usize) -> Self {
        Self {
            each_key,
            in_all,
            waiting: AtomicUsize::new(0),
            turned_away: AtomicUsize::new(0),
            drawn: AtomicU64::new(0),
            prints: Fingerprints::new(),
            names: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    pub(super) fn turned_away(&self) -> usize {
        self.turned_away.load(Relaxed)
    }

    /// Another number each time; nothing hangs on its being hard to guess.
    pub(super) fn random(&self) -> u64 {
        self.names.hash_one(self.drawn.fetch_add(1, Relaxed))
    }

    pub(super) fn print(&self, policy: &str, key: &Key) -> u64 {
        let policy = self.names.hash_one(policy);
        self.prints.of(key).under(policy).hash()
    }

    pub(super) fn enter(&self, policy: &str, key: &Key) -> Option<Place<'_>> {
        // Counted before it is there, and only if there is room: the count is never above the bound.
        let one_more = |waiting| (waiting < self.in_all).then_some(waiting + 1);
        if self
            .waiting
            .fetch_update(Relaxed, Relaxed, one_more)
            .is_err()
        {
            self.turned_away.fetch_add(1, Relaxed);
            return None;
        }
        let print = self.print(policy, key);
        let mut shard = self.shard(print).lock();
        let line = shard.entry(print).or_default();
        // With a bound of 0 the entry may be new.
        if line.waiting >= self.each_key {
            if line.waiting == 0 {
                shard.remove(&print);
            }
            self.waiting.fetch_sub(1, Relaxed);
            self.turned_away.fetch_add(1, Relaxed);
            return None;
        }
        line.waiting += 1;
        Some(Place { lines: self, print })
    }

    #[allow(clippy::cast_possible_truncation)] // its low bits are enough
    fn shard(&self, print: u64) -> &Mutex<HashMap<u64, Line, RandomState>> {
        &self.shards[print as usize % SHARDS]
    }
}

impl Place<'_> {
    /// The queue of those in this line who wait under `policy`.
    pub(crate) fn queue(&self, policy: &Policy) -> Arc<Queue> {
        let mut shard = self.lines.shard(self.print).lock();
        let queues = &mut shard.entry(self.print).or_default().queues;
        if let Some((_, queue)) = queues.iter().find(|(tier, _)| tier == policy) {
            return Arc::clone(queue);
        }
        let queue = Arc::default();
        queues.push((policy.clone(), Arc::clone(&queue)));
        queue
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut shard = self.lines.shard(self.print).lock();
        if let Some(line) = shard.get_mut(&self.print) {
            line.waiting -= 1;
            if line.waiting == 0 {
                shard.remove(&self.print);
            } else {
                // Under this lock nobody comes to a queue that all have left.
                line.queues
                    .retain(|(_, queue)| Arc::strong_count(queue) > 1);
            }
        }
        drop(shard);
        self.lines.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::quota::Quota;

    #[test]
    fn so_many_wait_for_a_key_and_in_all_and_nothing_stays_of_those_who_leave() {
        let lines = Lines::new(2, 3);
        let enter = |name: &str| lines.enter("p", &Key::from(name));
        let (ann, again) = (enter("ann"), enter("ann"));
        assert!(ann.is_some() && again.is_some());
        assert!(enter("ann").is_none(), "two wait already");
        let bob = enter("bob");
        assert!(bob.is_some());
        assert!(enter("cid").is_none(), "three wait already");
        assert_eq!((lines.waiting(), lines.turned_away()), (3, 2));
        drop(ann);
        let other = lines.enter("other", &Key::from("ann"));
        assert!(other.is_some(), "of another policy");
        drop((again, bob, other));
        assert_eq!(lines.waiting(), 0);
        assert!(lines.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn each_tier_has_a_queue_for_as_long_as_somebody_stands_in_it() {
        let lines = Lines::new(9, 9);
        let tiers = [1, 2].map(|limit| Policy::new("p", Quota::per_second(limit)));
        let [one, two, three] = [(); 3].map(|()| {
            let place = lines.enter("p", &Key::from("ann"));
            place.expect("there is room")
        });
        let queue = one.queue(&tiers[0]);
        assert!(Arc::ptr_eq(&queue, &two.queue(&tiers[0].clone())));
        let other = three.queue(&tiers[1]);
        assert!(!Arc::ptr_eq(&queue, &other));
        let kept = || {
            let shard = lines.shard(one.print).lock();
            shard.get(&one.print).map(|line| line.queues.len())
        };
        assert_eq!(kept(), Some(2));
        drop((other, three));
        assert_eq!(kept(), Some(1));
        assert!(Arc::ptr_eq(&queue, &one.queue(&tiers[0])));
        drop((queue, two));
        assert_eq!(kept(), Some(0));
    }

    #[test]
    fn nothing_stays_of_ten_thousand_who_came_and_went() {
        let lines = Lines::new(50, 5_000);
        let policy = Policy::new("p", Quota::fixed_window(1, Duration::from_secs(1)));
        let mut places = Vec::new();
        for number in 0..10_000_u64 {
            // By way of each other: many keys at a time, and many of some.
            let key = Key::from(number % 7 * (number % 300));
            if let Some(place) = lines.enter("p", &key) {
                let queue = place.queue(&policy);
                let head = queue.try_head().is_some();
                places.push((queue, place, head));
            }
            if number % 3 > 0 {
                let leaves = lines.random() as usize % places.len();
                places.swap_remove(leaves);
            }
            assert_eq!(lines.waiting(), places.len());
        }
        assert!(lines.turned_away() > 0 && lines.waiting() > 1_000);
        places.clear();
        assert_eq!(lines.waiting(), 0);
        assert!(lines.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn with_no_room_at_all_nothing_is_kept() {
        let lines = Lines::new(0, 3);
        assert!(lines.enter("p", &Key::from("ann")).is_none());
        assert_eq!((lines.waiting(), lines.turned_away()), (0, 1));
        assert!(lines.shards.iter().all(|shard| shard.lock().is_empty()));
    }
}
