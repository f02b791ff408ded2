use std::sync::atomic::Ordering::Relaxed;

use crossbeam_utils::CachePadded;

use crate::sync::AtomicUsize;
use crate::telemetry;

/// The bound on the entries of all shards, and counters.
///
/// All accesses are relaxed: no other memory depends on the numbers, and each changes in one step.
pub(super) struct KeyBudget {
    max_keys: usize,
    keys: CachePadded<AtomicUsize>,
    evictions: AtomicUsize,
    longest_search: AtomicUsize,
}

impl KeyBudget {
    pub(super) fn new(max_keys: usize) -> Self {
        let zero = || AtomicUsize::new(0);
        Self {
            max_keys,
            keys: CachePadded::new(zero()),
            evictions: zero(),
            longest_search: zero(),
        }
    }

    /// Counts a new entry if the bound allows it. The entry is counted before it is added, so that neither the map nor
    /// the count exceeds the bound.
    pub(super) fn take(&self) -> bool {
        let one_more = |keys| (keys < self.max_keys).then_some(keys + 1);
        self.keys.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    pub(super) fn give_back(&self) {
        self.keys.fetch_sub(1, Relaxed);
    }

    pub(super) fn evicted(&self) {
        self.evictions.fetch_add(1, Relaxed);
        telemetry::evicted();
    }

    pub(super) fn looked_at(&self, entries: usize) {
        self.longest_search.fetch_max(entries, Relaxed);
    }

    pub(super) fn max_keys(&self) -> usize {
        self.max_keys
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.load(Relaxed)
    }

    pub(super) fn evictions(&self) -> usize {
        self.evictions.load(Relaxed)
    }

    pub(super) fn longest_search(&self) -> usize {
        self.longest_search.load(Relaxed)
    }
}
