//! Those of this process who wait for permits: in one line for each key, first come, first served.
//!
//! Nothing of the waiting is made by hand: who is at the head is told by tokio's mutex, which is fair and forgets those who
//! leave, and that something was released by its `Notify`, which keeps the word for one who is about to listen. Only the head
//! asks, so that no word can reach one who has gone while another one needs it: whoever follows him asks first.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ahash::RandomState;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::decision::Decision;
use crate::key::Key;
use crate::policy::Permits;
use crate::sync::{AtomicUsize, Mutex};

/// Locks that the keys are spread over.
const SHARDS: usize = 16;

/// The lines of a backend.
pub(crate) struct PermitLines {
    seed: RandomState,
    /// How many stand in line, of all keys. Relaxed: who releases and sees nobody has released before the newcomer asks, for
    /// both hold the lock of the state in between.
    standing: AtomicUsize,
    shards: [Mutex<HashMap<u64, Tiers, RandomState>>; SHARDS],
}

/// One line for each capacity: who may have less must not keep those out who may have more.
type Tiers = SmallVec<[(u32, Arc<PermitLine>); 1]>;

/// Those who wait for one key.
#[derive(Default)]
pub(crate) struct PermitLine {
    /// Held by the one who asks.
    pub(crate) head: tokio::sync::Mutex<()>,
    /// Something was released in this process.
    pub(crate) released: Notify,
    /// How many stand here, the head included.
    standing: AtomicUsize,
    /// What the head was told last.
    pub(crate) refusal: Mutex<Option<Decision>>,
}

/// A place in a line, left when it is dropped.
pub(crate) struct PermitPlace<'a> {
    lines: &'a PermitLines,
    print: u64,
    capacity: u32,
    pub(crate) line: Arc<PermitLine>,
}

impl PermitLine {
    /// How many stand here, the head included.
    pub(crate) fn standing(&self) -> usize {
        self.standing.load(Relaxed)
    }
}

impl Default for PermitLines {
    fn default() -> Self {
        Self {
            seed: RandomState::new(),
            standing: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl PermitLines {
    /// A place at the end.
    pub(crate) fn enter(&self, permits: &Permits, key: &Key) -> PermitPlace<'_> {
        let print = self.print(permits, key);
        let capacity = permits.capacity();
        self.standing.fetch_add(1, Relaxed);
        let mut shard = self.shard(print).lock();
        let tiers = shard.entry(print).or_default();
        let found = tiers.iter().find(|(tier, _)| *tier == capacity);
        let line = match found {
            Some((_, line)) => Arc::clone(line),
            None => {
                let line = Arc::default();
                tiers.push((capacity, Arc::clone(&line)));
                line
            }
        };
        line.standing.fetch_add(1, Relaxed);
        drop(shard);
        PermitPlace {
            lines: self,
            print,
            capacity,
            line,
        }
    }

    /// Something was released: the first one looks again.
    pub(crate) fn released(&self, permits: &Permits, key: &Key) {
        if self.standing.load(Relaxed) == 0 {
            return;
        }
        let print = self.print(permits, key);
        let shard = self.shard(print).lock();
        for (_, line) in shard.get(&print).into_iter().flatten() {
            line.released.notify_one();
        }
    }

    fn print(&self, permits: &Permits, key: &Key) -> u64 {
        self.seed.hash_one((permits.name(), key))
    }

    #[allow(clippy::cast_possible_truncation)] // its high bits are enough, and the map looks at others
    fn shard(&self, print: u64) -> &Mutex<HashMap<u64, Tiers, RandomState>> {
        &self.shards[(print >> 32) as usize % SHARDS]
    }
}

impl Drop for PermitPlace<'_> {
    fn drop(&mut self) {
        let mut shard = self.lines.shard(self.print).lock();
        // Under this lock nobody comes to a line that all have left.
        if self.line.standing.fetch_sub(1, Relaxed) == 1
            && let Some(tiers) = shard.get_mut(&self.print)
        {
            tiers.retain(|(capacity, _)| *capacity != self.capacity);
            if tiers.is_empty() {
                shard.remove(&self.print);
            }
        }
        drop(shard);
        self.lines.standing.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tier_has_a_line_and_nothing_stays_of_those_who_leave() {
        let lines = PermitLines::default();
        let (key, permits) = (Key::from("ann"), Permits::new("p", 1));
        let one = lines.enter(&permits, &key);
        let two = lines.enter(&permits.clone(), &key);
        assert!(Arc::ptr_eq(&one.line, &two.line));
        let other = lines.enter(&permits.clone().with_capacity(2), &key);
        assert!(!Arc::ptr_eq(&one.line, &other.line));
        let elsewhere = lines.enter(&Permits::new("q", 1), &key);
        assert!(!Arc::ptr_eq(&one.line, &elsewhere.line));
        assert_eq!(lines.standing.load(Relaxed), 4);
        drop((one, other, elsewhere));
        let again = lines.enter(&permits, &key);
        assert!(Arc::ptr_eq(&again.line, &two.line));
        drop((two, again));
        assert_eq!(lines.standing.load(Relaxed), 0);
        assert!(lines.shards.iter().all(|shard| shard.lock().is_empty()));
    }
}
