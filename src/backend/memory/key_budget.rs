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
    max_totals: usize,
    totals: AtomicUsize,
    refused_totals: AtomicUsize,
}

impl KeyBudget {
    pub(super) fn new(max_keys: usize, max_totals: usize) -> Self {
        let zero = || AtomicUsize::new(0);
        Self {
            max_keys,
            keys: CachePadded::new(zero()),
            evictions: zero(),
            longest_search: zero(),
            max_totals,
            totals: zero(),
            refused_totals: zero(),
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

    /// Counts a new total if the bound allows it.
    pub(super) fn take_total(&self) -> bool {
        let one_more = |totals| (totals < self.max_totals).then_some(totals + 1);
        self.totals.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    pub(super) fn has_room_for_total(&self) -> bool {
        self.totals.load(Relaxed) < self.max_totals
    }

    pub(super) fn give_total_back(&self) {
        self.totals.fetch_sub(1, Relaxed);
    }

    /// Counts a request that was denied because there was no room for its total. The first one is logged.
    pub(super) fn total_refused(&self) {
        if self.refused_totals.fetch_add(1, Relaxed) == 0 {
            telemetry::totals_full(self.max_totals);
        }
    }

    pub(super) fn totals(&self) -> usize {
        self.totals.load(Relaxed)
    }

    pub(super) fn refused_totals(&self) -> usize {
        self.refused_totals.load(Relaxed)
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
