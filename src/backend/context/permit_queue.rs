//! Those of this process who wait for permits: in one line for each key, first come, first served.
//!
//! Nothing of the waiting is made by hand: who is at the head is told by tokio's mutex, which is fair and forgets those
//! who leave, and that something was released by its `Notify`, which keeps the word for one who is about to listen.
//! Only the head asks, so that no word can reach one who has gone while another one needs it: whoever follows him asks
//! first.

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

/// Locks that the keys are spread over.
const SHARDS: usize = 16;

/// The lines of a backend.
pub(crate) struct PermitQueues {
    seed: RandomState,
    /// How many stand in line, of all keys. Relaxed: who releases and sees nobody has released before the newcomer
    /// asks, for both hold the lock of the state in between.
    waiting: AtomicUsize,
    shards: [Mutex<HashMap<u64, Tiers, RandomState>>; SHARDS],
}

/// One line for each capacity: who may have less must not keep those out who may have more.
type Tiers = SmallVec<[(u32, Arc<PermitQueue>); 1]>;

/// Those who wait for one key.
#[derive(Default)]
pub(crate) struct PermitQueue {
    /// Held by the one who asks.
    pub(crate) head: tokio::sync::Mutex<()>,
    /// Something was released in this process.
    pub(crate) released: Notify,
    /// How many stand here, the head included.
    waiting: AtomicUsize,
    /// What the head was told last.
    pub(crate) last_denial: Mutex<Option<Decision>>,
}

/// A place in a line, left when it is dropped.
pub(crate) struct PermitWaiter<'a> {
    queues: &'a PermitQueues,
    fingerprint: u64,
    capacity: u32,
    pub(crate) queue: Arc<PermitQueue>,
}

impl PermitQueue {
    /// How many stand here, the head included.
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
    /// A place at the end.
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

    /// Something was released: the first one looks again.
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

    #[allow(clippy::cast_possible_truncation)] // its high bits are enough, and the map looks at others
    fn shard(&self, fingerprint: u64) -> &Mutex<HashMap<u64, Tiers, RandomState>> {
        &self.shards[(fingerprint >> 32) as usize % SHARDS]
    }
}

impl Drop for PermitWaiter<'_> {
    fn drop(&mut self) {
        let mut shard = self.queues.shard(self.fingerprint).lock();
        // Under this lock nobody comes to a line that all have left.
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
