use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::backend::fingerprint::Fingerprints;
use crate::clock::Timestamp;
use crate::decision::Snapshot;
use crate::key::Key;

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
    queue: Option<Arc<Queue>>,
}

/// Who asks, if those who wait take turns at asking; first come, first served.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Held by the one who asks.
    pub(crate) head: tokio::sync::Mutex<()>,
    /// What that one was told last.
    pub(crate) known: Mutex<Option<Known>>,
}

/// A refusal, and when its owner will look again.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) snapshot: Snapshot,
    pub(crate) told: Timestamp,
    pub(crate) next_look: Timestamp,
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
        let print = self
            .prints
            .of(key)
            .under(self.names.hash_one(policy))
            .hash();
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
    /// The queue of this line.
    pub(crate) fn queue(&self) -> Arc<Queue> {
        let mut shard = self.lines.shard(self.print).lock();
        let line = shard.entry(self.print).or_default();
        Arc::clone(line.queue.get_or_insert_default())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut shard = self.lines.shard(self.print).lock();
        if let Some(line) = shard.get_mut(&self.print) {
            line.waiting -= 1;
            if line.waiting == 0 {
                shard.remove(&self.print);
            }
        }
        drop(shard);
        self.lines.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn with_no_room_at_all_nothing_is_kept() {
        let lines = Lines::new(0, 3);
        assert!(lines.enter("p", &Key::from("ann")).is_none());
        assert_eq!((lines.waiting(), lines.turned_away()), (0, 1));
        assert!(lines.shards.iter().all(|shard| shard.lock().is_empty()));
    }
}
