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
    pub(crate) head: tokio::sync::Mutex<()>,
    /// Notified by each release in this process.
    pub(crate) released: Notify,
    /// The number of waiters, including the head.
    waiting: AtomicUsize,
    /// The last denial of the head.
    pub(crate) last_denial: Mutex<Option<Decision>>,
}

/// A place in a queue. Dropping it leaves the queue.
pub(crate) struct PermitWaiter<'a> {
    queues: &'a PermitQueues,
    fingerprint: u64,
    capacity: u32,
    pub(crate) queue: Arc<PermitQueue>,
}

impl PermitQueue {
    /// Returns the number of waiters, including the head.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
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
            queue.released.notify_one();
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
