use std::collections::HashMap;

use std::sync::atomic::Ordering::Relaxed;

use crossbeam_utils::CachePadded;

use crate::backend::fingerprint::Fingerprint;
use crate::clock::Timestamp;
use crate::sync::{AtomicUsize, Mutex};

/// The number of parts, each under its own lock. While any key is blocked, each check takes the lock of its part.
const PARTS: usize = 16;

/// The blocked keys of all policies. They survive a reset and an eviction of the key.
///
/// Blocks that have ended are removed when they are found, and when the map has doubled.
pub(super) struct Blocks {
    /// The number of blocks. While it is 0, a check takes no lock. It is relaxed, because a check that happens after a
    /// block sees it.
    count: AtomicUsize,
    by_key: Box<[CachePadded<Mutex<Map>>]>,
}

#[derive(Default)]
struct Map {
    blocks: HashMap<u64, Block>,
    /// The number of blocks at which those that have ended are removed.
    sweep_at: usize,
}

#[derive(Clone, Copy)]
struct Block {
    until: u64,
    span: u64,
}

impl Block {
    /// A block is never longer than it was at its start, also if the clock has gone back.
    fn rest(self, now: Timestamp) -> u64 {
        self.until.saturating_sub(now.as_micros()).min(self.span)
    }
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            by_key: (0..PARTS).map(|_| CachePadded::default()).collect(),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    fn part(&self, key: Fingerprint) -> &Mutex<Map> {
        &self.by_key[key.shard(PARTS)]
    }

    /// Returns the rest of the block of a key in µs, 0 if there is none.
    #[cold]
    pub(super) fn rest(&self, key: Fingerprint, now: Timestamp) -> u64 {
        let mut map = self.part(key).lock();
        let rest = map.blocks.get(&key.hash()).map(|block| block.rest(now));
        if rest == Some(0) {
            map.blocks.remove(&key.hash());
            self.count.fetch_sub(1, Relaxed);
        }
        rest.unwrap_or(0)
    }

    /// Blocks a key for `span` µs, or ends its block if that is 0.
    pub(super) fn set(&self, key: Fingerprint, now: Timestamp, span: u64) {
        if span == 0 {
            return self.unblock(key);
        }
        let mut map = self.part(key).lock();
        if map.blocks.len() >= map.sweep_at {
            let before = map.blocks.len();
            map.blocks.retain(|_, block| block.rest(now) > 0);
            self.count.fetch_sub(before - map.blocks.len(), Relaxed);
            map.sweep_at = 2 * map.blocks.len() + 64;
        }
        let until = now.as_micros().saturating_add(span);
        if map
            .blocks
            .insert(key.hash(), Block { until, span })
            .is_none()
        {
            self.count.fetch_add(1, Relaxed);
        }
    }

    fn unblock(&self, key: Fingerprint) {
        let mut map = self.part(key).lock();
        if map.blocks.remove(&key.hash()).is_some() {
            self.count.fetch_sub(1, Relaxed);
        }
    }
}
