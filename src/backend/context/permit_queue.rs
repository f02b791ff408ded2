//! The queues of this process's waiters for permits, one for each key and capacity, in order of arrival.
//!
//! Two types of Tokio do the waiting. A fair `Mutex` makes the first waiter the head, and forgets waiters that leave. A
//! `Notify` wakes the head after a release; it stores a wake-up that comes before the head listens. Only the head asks
//! the backend. A wake-up is never lost to a waiter that has left, because each new head asks before it listens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ahash::RandomState;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::turn::WaiterQueue;
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::sync::{AtomicUsize, Mutex};

/// The number of shards, each under its own lock.
const SHARDS: usize = 16;

/// The queues of a backend.
pub(crate) struct PermitQueues {
    seed: RandomState,
    /// The waiters of all keys. Relaxed order is enough. A release that reads 0 precedes the waiter's request in the
    /// order of the state's lock, so that the request sees the release.
    waiting: AtomicUsize,
    shards: [Mutex<HashMap<u64, Tiers, RandomState>>; SHARDS],
}

/// One queue for each capacity, so that a waiter with a small capacity does not hold up one with a larger capacity.
type Tiers = SmallVec<[(u32, Arc<PermitQueue>); 1]>;

/// The waiters for one key and capacity.
#[derive(Default)]
pub(crate) struct PermitQueue {
    /// Held by the waiter that asks.
    head: tokio::sync::Mutex<()>,
    /// Notified by each release in this process.
    pub(crate) released: Notify,
    /// The number of waiters, including the head.
    waiting: AtomicUsize,
    last_denial: Mutex<LastDenial>,
    /// Notified by each denial of the head.
    denied: Notify,
}

/// The last denial of the head, and whether it still holds.
#[derive(Default)]
struct LastDenial {
    decision: Option<Decision>,
    /// Whether the head waits after this denial. Otherwise it asks, or is about to.
    is_current: bool,
    /// Whether a release wakes the head from its wait.
    listens: bool,
    /// The releases so far in this process.
    releases: u64,
}

/// The right of the first waiter in a queue to ask.
pub(crate) struct PermitQueueHead<'q> {
    queue: &'q PermitQueue,
    /// Dropped after the denial is marked as outdated, because fields drop after `drop` runs.
    _held: tokio::sync::MutexGuard<'q, ()>,
}

/// A place in a queue. Dropping it leaves the queue.
pub(crate) struct PermitWaiter<'a> {
    queues: &'a PermitQueues,
    fingerprint: u64,
    capacity: u32,
    pub(crate) queue: Arc<PermitQueue>,
}

impl WaiterQueue for PermitQueue {
    type Head<'q> = PermitQueueHead<'q>;

    fn try_head(&self) -> Option<PermitQueueHead<'_>> {
        let held = self.head.try_lock().ok()?;
        Some(self.head_guard(held))
    }

    async fn head(&self) -> PermitQueueHead<'_> {
        self.head_guard(self.head.lock().await)
    }

    /// A release may come at any time.
    fn next_attempt(&self) -> Option<Timestamp> {
        None
    }

    fn is_asking(&self, _now: Timestamp) -> bool {
        let last_denial = self.last_denial.lock();
        last_denial.decision.is_some() && !last_denial.is_current
    }

    fn denied(&self) -> Notified<'_> {
        self.denied.notified()
    }

    /// The head has no random delay.
    fn hurry(&self) {}
}

impl PermitQueue {
    fn head_guard<'q>(&'q self, held: tokio::sync::MutexGuard<'q, ()>) -> PermitQueueHead<'q> {
        PermitQueueHead {
            queue: self,
            _held: held,
        }
    }

    /// Returns the number of waiters, including the head.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Returns the last denial in this queue, if there was one.
    pub(crate) fn last_denial(&self) -> Option<Decision> {
        self.last_denial.lock().decision.clone()
    }

    fn release(&self) {
        let mut last_denial = self.last_denial.lock();
        last_denial.releases += 1;
        last_denial.is_current &= !last_denial.listens;
        drop(last_denial);
        self.released.notify_one();
    }
}

impl PermitQueueHead<'_> {
    /// Marks that the head asks. Returns the number of releases so far, for [`record_denial`](Self::record_denial).
    pub(crate) fn asks(&self) -> u64 {
        let mut last_denial = self.queue.last_denial.lock();
        last_denial.is_current = false;
        last_denial.releases
    }

    /// Stores a denial for the waiters behind the head. `releases` were counted before the head asked. `listens` says
    /// whether a release wakes the head: the denial of such a head is outdated if a release came meanwhile.
    pub(crate) fn record_denial(&self, decision: Decision, releases: u64, listens: bool) {
        let mut last_denial = self.queue.last_denial.lock();
        last_denial.decision = Some(decision);
        last_denial.listens = listens;
        last_denial.is_current = !listens || last_denial.releases == releases;
        drop(last_denial);
        self.queue.denied.notify_waiters();
    }
}

impl Drop for PermitQueueHead<'_> {
    fn drop(&mut self) {
        self.queue.last_denial.lock().is_current = false;
    }
}

impl Default for PermitQueues {
    fn default() -> Self {
        Self {
            seed: RandomState::new(),
            waiting: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl PermitQueues {
    /// Joins the queue at its end.
    pub(crate) fn join(&self, policy: &SemaphorePolicy, key: &Key) -> PermitWaiter<'_> {
        let fingerprint = self.fingerprint(policy, key);
        let capacity = policy.capacity();
        self.waiting.fetch_add(1, Relaxed);
        let mut shard = self.shard(fingerprint).lock();
        let tiers = shard.entry(fingerprint).or_default();
        let found = tiers.iter().find(|(tier, _)| *tier == capacity);
        let queue = match found {
            Some((_, queue)) => Arc::clone(queue),
            None => {
                let queue = Arc::default();
                tiers.push((capacity, Arc::clone(&queue)));
                queue
            }
        };
        queue.waiting.fetch_add(1, Relaxed);
        drop(shard);
        PermitWaiter {
            queues: self,
            fingerprint,
            capacity,
            queue,
        }
    }

    /// Wakes the head of each queue of `key` after a release.
    pub(crate) fn released(&self, policy: &SemaphorePolicy, key: &Key) {
        if self.waiting.load(Relaxed) == 0 {
            return;
        }
        let fingerprint = self.fingerprint(policy, key);
        let shard = self.shard(fingerprint).lock();
        for (_, queue) in shard.get(&fingerprint).into_iter().flatten() {
            queue.release();
        }
    }

    fn fingerprint(&self, policy: &SemaphorePolicy, key: &Key) -> u64 {
        self.seed.hash_one((policy.name(), key))
    }

    #[allow(clippy::cast_possible_truncation)] // the high bits are enough, and the map uses others
    fn shard(&self, fingerprint: u64) -> &Mutex<HashMap<u64, Tiers, RandomState>> {
        &self.shards[(fingerprint >> 32) as usize % SHARDS]
    }
}

impl Drop for PermitWaiter<'_> {
    fn drop(&mut self) {
        let mut shard = self.queues.shard(self.fingerprint).lock();
        // Under this lock no waiter can join a queue that is about to be removed.
        if self.queue.waiting.fetch_sub(1, Relaxed) == 1
            && let Some(tiers) = shard.get_mut(&self.fingerprint)
        {
            tiers.retain(|(capacity, _)| *capacity != self.capacity);
            if tiers.is_empty() {
                shard.remove(&self.fingerprint);
            }
        }
        drop(shard);
        self.queues.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tier_has_a_queue_that_is_removed_when_empty() {
        let queues = PermitQueues::default();
        let (key, policy) = (Key::from("ann"), SemaphorePolicy::new("p", 1));
        let one = queues.join(&policy, &key);
        let two = queues.join(&policy.clone(), &key);
        assert!(Arc::ptr_eq(&one.queue, &two.queue));
        let other = queues.join(&policy.clone().with_capacity(2), &key);
        assert!(!Arc::ptr_eq(&one.queue, &other.queue));
        let elsewhere = queues.join(&SemaphorePolicy::new("q", 1), &key);
        assert!(!Arc::ptr_eq(&one.queue, &elsewhere.queue));
        assert_eq!(queues.waiting.load(Relaxed), 4);
        drop((one, other, elsewhere));
        let again = queues.join(&policy, &key);
        assert!(Arc::ptr_eq(&again.queue, &two.queue));
        drop((two, again));
        assert_eq!(queues.waiting.load(Relaxed), 0);
        assert!(queues.shards.iter().all(|shard| shard.lock().is_empty()));
    }
}
