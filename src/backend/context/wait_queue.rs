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
pub(super) struct WaitQueues {
    each_key: usize,
    in_all: usize,
    waiting: AtomicUsize,
    rejected: AtomicUsize,
    drawn: AtomicU64,
    fingerprints: Fingerprints,
    names: RandomState,
    shards: [Mutex<HashMap<u64, KeyWaiters, RandomState>>; SHARDS],
}

/// Those who wait for one key.
#[derive(Default)]
struct KeyWaiters {
    waiting: usize,
    /// One for each tier that somebody waits under: what one is told of its quotas says nothing of another's.
    queues: SmallVec<[(Policy, Arc<TierQueue>); 1]>,
}

/// Who asks, if those who wait take turns at asking; first come, first served.
#[derive(Debug, Default)]
pub(crate) struct TierQueue {
    /// Held by the one who asks.
    head: tokio::sync::Mutex<()>,
    /// What was told last.
    last_denial: Mutex<Option<LastDenial>>,
}

/// A denial, and when the one who was told it will look again; any time once he has left.
#[derive(Debug)]
struct LastDenial {
    snapshot: Snapshot,
    at: Timestamp,
    next_look: Timestamp,
}

/// The right to ask, for the first of a line.
pub(crate) struct QueueHead<'q> {
    queue: &'q TierQueue,
    /// Dropped after what was told is out of date.
    _held: tokio::sync::MutexGuard<'q, ()>,
}

impl TierQueue {
    /// If nobody else has it, or waits for it.
    pub(crate) fn try_head(&self) -> Option<QueueHead<'_>> {
        let held = self.head.try_lock().ok()?;
        Some(self.head_guard(held))
    }

    /// Once everybody in front has gone.
    pub(crate) async fn head(&self) -> QueueHead<'_> {
        self.head_guard(self.head.lock().await)
    }

    fn head_guard<'q>(&'q self, held: tokio::sync::MutexGuard<'q, ()>) -> QueueHead<'q> {
        QueueHead {
            queue: self,
            _held: held,
        }
    }

    /// When the head of the line will look again, if that is known.
    pub(crate) fn next_attempt(&self) -> Option<Timestamp> {
        self.last_denial
            .lock()
            .as_ref()
            .map(|last_denial| last_denial.next_look)
    }

    /// The last denial in this queue, aged to the time of `clock`, for a request of `cost`; none if there was no
    /// denial.
    ///
    /// The clock is read under the lock: a late reading would answer too long a wait.
    pub(crate) fn last_denial(
        &self,
        clock: impl FnOnce() -> Timestamp,
        cost: &Cost,
    ) -> Option<Decision> {
        let last_denial = self.last_denial.lock();
        let LastDenial { snapshot, at, .. } = last_denial.as_ref()?;
        let age = clock().micros_since(*at);
        Some(Decision::from_snapshot(snapshot.aged(cost, age)))
    }
}

impl QueueHead<'_> {
    /// Lets those behind know of a denial.
    pub(crate) fn record_denial(&self, snapshot: Snapshot, at: Timestamp, next_look: Timestamp) {
        *self.queue.last_denial.lock() = Some(LastDenial {
            snapshot,
            at,
            next_look,
        });
    }
}

impl Drop for QueueHead<'_> {
    fn drop(&mut self) {
        // The next one may cost less, or find more: nobody is kept out by the word of one who has gone.
        if let Some(last_denial) = &mut *self.queue.last_denial.lock() {
            last_denial.next_look = Timestamp::default();
        }
    }
}

/// A place in a line, left when it is dropped.
pub(crate) struct WaiterGuard<'a> {
    queues: &'a WaitQueues,
    fingerprint: u64,
}

impl WaitQueues {
    pub(super) fn new(each_key: usize, in_all: usize) -> Self {
        Self {
            each_key,
            in_all,
            waiting: AtomicUsize::new(0),
            rejected: AtomicUsize::new(0),
            drawn: AtomicU64::new(0),
            fingerprints: Fingerprints::new(),
            names: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    pub(super) fn rejected_waiters(&self) -> usize {
        self.rejected.load(Relaxed)
    }

    /// Another number each time; nothing hangs on its being hard to guess.
    pub(super) fn random(&self) -> u64 {
        self.names.hash_one(self.drawn.fetch_add(1, Relaxed))
    }

    pub(super) fn fingerprint(&self, policy: &str, key: &Key) -> u64 {
        let policy = self.names.hash_one(policy);
        self.fingerprints.fingerprint(key).under(policy).hash()
    }

    pub(super) fn join_queue(&self, policy: &str, key: &Key) -> Option<WaiterGuard<'_>> {
        // Counted before it is there, and only if there is room: the count is never above the bound.
        let one_more = |waiting| (waiting < self.in_all).then_some(waiting + 1);
        if self
            .waiting
            .fetch_update(Relaxed, Relaxed, one_more)
            .is_err()
        {
            self.rejected.fetch_add(1, Relaxed);
            return None;
        }
        let fingerprint = self.fingerprint(policy, key);
        let mut shard = self.shard(fingerprint).lock();
        let waiters = shard.entry(fingerprint).or_default();
        // With a bound of 0 the entry may be new.
        if waiters.waiting >= self.each_key {
            if waiters.waiting == 0 {
                shard.remove(&fingerprint);
            }
            self.waiting.fetch_sub(1, Relaxed);
            self.rejected.fetch_add(1, Relaxed);
            return None;
        }
        waiters.waiting += 1;
        Some(WaiterGuard {
            queues: self,
            fingerprint,
        })
    }

    #[allow(clippy::cast_possible_truncation)] // its low bits are enough
    fn shard(&self, fingerprint: u64) -> &Mutex<HashMap<u64, KeyWaiters, RandomState>> {
        &self.shards[fingerprint as usize % SHARDS]
    }
}

impl WaiterGuard<'_> {
    /// The queue of those in this line who wait under `policy`.
    pub(crate) fn queue(&self, policy: &Policy) -> Arc<TierQueue> {
        let mut shard = self.queues.shard(self.fingerprint).lock();
        let queues = &mut shard.entry(self.fingerprint).or_default().queues;
        if let Some((_, queue)) = queues.iter().find(|(tier, _)| tier == policy) {
            return Arc::clone(queue);
        }
        let queue = Arc::default();
        queues.push((policy.clone(), Arc::clone(&queue)));
        queue
    }
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        let mut shard = self.queues.shard(self.fingerprint).lock();
        if let Some(waiters) = shard.get_mut(&self.fingerprint) {
            waiters.waiting -= 1;
            if waiters.waiting == 0 {
                shard.remove(&self.fingerprint);
            } else {
                // Under this lock nobody comes to a queue that all have left.
                waiters
                    .queues
                    .retain(|(_, queue)| Arc::strong_count(queue) > 1);
            }
        }
        drop(shard);
        self.queues.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::quota::Quota;

    #[test]
    fn waiters_are_bounded_by_key_and_in_total() {
        let queues = WaitQueues::new(2, 3);
        let enter = |name: &str| queues.join_queue("p", &Key::from(name));
        let (ann, again) = (enter("ann"), enter("ann"));
        assert!(ann.is_some() && again.is_some());
        assert!(enter("ann").is_none(), "two wait already");
        let bob = enter("bob");
        assert!(bob.is_some());
        assert!(enter("cid").is_none(), "three wait already");
        assert_eq!((queues.waiting(), queues.rejected_waiters()), (3, 2));
        drop(ann);
        let other = queues.join_queue("other", &Key::from("ann"));
        assert!(other.is_some(), "of another policy");
        drop((again, bob, other));
        assert_eq!(queues.waiting(), 0);
        assert!(queues.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn each_tier_has_a_queue_while_it_has_waiters() {
        let queues = WaitQueues::new(9, 9);
        let tiers = [1, 2].map(|limit| Policy::new("p", Quota::per_second(limit)));
        let [one, two, three] = [(); 3].map(|()| {
            let waiter = queues.join_queue("p", &Key::from("ann"));
            waiter.expect("there is room")
        });
        let queue = one.queue(&tiers[0]);
        assert!(Arc::ptr_eq(&queue, &two.queue(&tiers[0].clone())));
        let other = three.queue(&tiers[1]);
        assert!(!Arc::ptr_eq(&queue, &other));
        let kept = || {
            let shard = queues.shard(one.fingerprint).lock();
            shard
                .get(&one.fingerprint)
                .map(|waiters| waiters.queues.len())
        };
        assert_eq!(kept(), Some(2));
        drop((other, three));
        assert_eq!(kept(), Some(1));
        assert!(Arc::ptr_eq(&queue, &one.queue(&tiers[0])));
        drop((queue, two));
        assert_eq!(kept(), Some(0));
    }

    #[test]
    fn ten_thousand_waiters_leave_no_state() {
        let queues = WaitQueues::new(50, 5_000);
        let policy = Policy::new("p", Quota::fixed_window(1, Duration::from_secs(1)));
        let mut waiters = Vec::new();
        for number in 0..10_000_u64 {
            // By way of each other: many keys at a time, and many of some.
            let key = Key::from(number % 7 * (number % 300));
            if let Some(waiter) = queues.join_queue("p", &key) {
                let queue = waiter.queue(&policy);
                let head = queue.try_head().is_some();
                waiters.push((queue, waiter, head));
            }
            if number % 3 > 0 {
                let leaves = queues.random() as usize % waiters.len();
                waiters.swap_remove(leaves);
            }
            assert_eq!(queues.waiting(), waiters.len());
        }
        assert!(queues.rejected_waiters() > 0 && queues.waiting() > 1_000);
        waiters.clear();
        assert_eq!(queues.waiting(), 0);
        assert!(queues.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn zero_max_waiters_keeps_no_state() {
        let queues = WaitQueues::new(0, 3);
        assert!(queues.join_queue("p", &Key::from("ann")).is_none());
        assert_eq!((queues.waiting(), queues.rejected_waiters()), (0, 1));
        assert!(queues.shards.iter().all(|shard| shard.lock().is_empty()));
    }
}
