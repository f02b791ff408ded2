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

/// The number of shards, each under its own lock.
const SHARDS: usize = 16;

/// Counts and bounds the waiters, of each key and of all keys.
///
/// The counts use relaxed order: no other memory depends on them, and each changes in one step.
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

/// The waiters for one key.
#[derive(Default)]
struct KeyWaiters {
    waiting: usize,
    /// One queue for each policy of the waiters, because a denial under one policy says nothing about another policy.
    queues: SmallVec<[(Policy, Arc<TierQueue>); 1]>,
}

/// The queue of waiters that check one after another, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct TierQueue {
    /// Held by the waiter that checks.
    head: tokio::sync::Mutex<()>,
    /// The denial of the last check.
    last_denial: Mutex<Option<LastDenial>>,
}

/// A denial, its time, and the time of the head's next check. The latter is 0 once the head has left.
#[derive(Debug)]
struct LastDenial {
    snapshot: Snapshot,
    at: Timestamp,
    next_attempt: Timestamp,
}

/// The right of the first waiter in a queue to check.
pub(crate) struct QueueHead<'q> {
    queue: &'q TierQueue,
    /// Dropped after the denial is marked as outdated, because fields drop after `drop` runs.
    _held: tokio::sync::MutexGuard<'q, ()>,
}

impl TierQueue {
    /// Returns whether the queue has no head.
    pub(crate) fn is_free(&self) -> bool {
        self.head.try_lock().is_ok()
    }

    /// Becomes the head if the queue is empty.
    pub(crate) fn try_head(&self) -> Option<QueueHead<'_>> {
        let held = self.head.try_lock().ok()?;
        Some(self.head_guard(held))
    }

    /// Becomes the head after all waiters in front have left.
    pub(crate) async fn head(&self) -> QueueHead<'_> {
        self.head_guard(self.head.lock().await)
    }

    fn head_guard<'q>(&'q self, held: tokio::sync::MutexGuard<'q, ()>) -> QueueHead<'q> {
        QueueHead {
            queue: self,
            _held: held,
        }
    }

    /// Returns the time of the head's next check; `None` before the first denial.
    pub(crate) fn next_attempt(&self) -> Option<Timestamp> {
        self.last_denial
            .lock()
            .as_ref()
            .map(|last_denial| last_denial.next_attempt)
    }

    /// Returns the last denial in this queue for a request of `cost`, aged to the time of `clock`; `None` if there was
    /// no denial.
    ///
    /// The clock is read under the lock. A late reading would return too long a wait.
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
    /// Stores a denial for the waiters behind the head.
    pub(crate) fn record_denial(&self, snapshot: Snapshot, at: Timestamp, next_attempt: Timestamp) {
        *self.queue.last_denial.lock() = Some(LastDenial {
            snapshot,
            at,
            next_attempt,
        });
    }
}

impl Drop for QueueHead<'_> {
    fn drop(&mut self) {
        // The next waiter may have a smaller cost, so a denial of a head that has left must not keep it from checking.
        if let Some(last_denial) = &mut *self.queue.last_denial.lock() {
            last_denial.next_attempt = Timestamp::default();
        }
    }
}

/// A place among the waiters of a key. Dropping it leaves them.
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

    /// Returns a random number, which need not be unguessable.
    pub(super) fn random(&self) -> u64 {
        self.names.hash_one(self.drawn.fetch_add(1, Relaxed))
    }

    pub(super) fn fingerprint(&self, policy: &str, key: &Key) -> u64 {
        let policy = self.names.hash_one(policy);
        self.fingerprints.fingerprint(key).under(policy).hash()
    }

    pub(super) fn join_queue(&self, policy: &str, key: &Key) -> Option<WaiterGuard<'_>> {
        // The waiter is counted before it is added, so that the count never exceeds the bound.
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
        // With a bound of 0, this call may have created the entry.
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

    #[allow(clippy::cast_possible_truncation)] // the low bits are enough
    fn shard(&self, fingerprint: u64) -> &Mutex<HashMap<u64, KeyWaiters, RandomState>> {
        &self.shards[fingerprint as usize % SHARDS]
    }
}

impl WaiterGuard<'_> {
    /// Returns the queue of this key's waiters under `policy`.
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
                // Under this lock no waiter can join a queue that is about to be removed.
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
    use crate::decision::{QuotaSnapshot, RetryAfter};
    use crate::quota::Quota;

    #[test]
    fn waiters_are_bounded_by_key_and_in_total() {
        let queues = WaitQueues::new(2, 3);
        let enter = |name: &str| queues.join_queue("p", &Key::from(name));
        let (ann, again) = (enter("ann"), enter("ann"));
        assert!(ann.is_some() && again.is_some());
        assert!(enter("ann").is_none(), "two waiters is the bound of a key");
        let bob = enter("bob");
        assert!(bob.is_some());
        assert!(
            enter("cid").is_none(),
            "three waiters is the bound of all keys"
        );
        assert_eq!((queues.waiting(), queues.rejected_waiters()), (3, 2));
        drop(ann);
        let other = queues.join_queue("other", &Key::from("ann"));
        assert!(other.is_some(), "the bound of a key is per policy");
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
    fn a_denial_is_aged_by_a_reading_under_its_lock() {
        let (queue, at) = (TierQueue::default(), Timestamp::from_micros);
        let head = queue.try_head().expect("nothing else waits");
        let denied = QuotaSnapshot::new(9, 0, Some(RetryAfter::In(Duration::from_micros(500))), {
            Duration::from_micros(700)
        });
        head.record_denial(Snapshot::single(denied), at(1_000), at(1_500));
        let clock = || {
            assert!(queue.last_denial.is_locked(), "a late reading");
            at(1_200)
        };
        let decision = queue.last_denial(clock, &Cost::ONE).expect("a denial");
        let wait = RetryAfter::In(Duration::from_micros(300));
        assert_eq!(decision.retry_after(), Some(wait));
    }

    #[test]
    fn ten_thousand_waiters_leave_no_state() {
        let queues = WaitQueues::new(50, 5_000);
        let policy = Policy::new("p", Quota::fixed_window(1, Duration::from_secs(1)));
        let mut waiters = Vec::new();
        for number in 0..10_000_u64 {
            // Many keys at a time, and many waiters for some of them.
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
