//! A denied entry that is answered without the lock of its shard.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::backend::fingerprint::Fingerprint;
use crate::clock::Timestamp;
use crate::decision::StoredState;
use crate::sync::{AtomicU64, fence};

/// The state of an entry, and a version that shows whether it was read as a whole (a sequence lock: Lameter, Effective
/// Synchronization on Linux/NUMA Systems, 2005).
///
/// Only the holder of the shard's lock writes. It withdraws the state before it changes the entry, so that a reader with
/// an unchanged version has read the state that the entry had at that time.
#[derive(Default)]
pub(super) struct PublishedDenial {
    /// Odd while the other fields are written.
    version: AtomicU64,
    /// 0 if nothing is published. The one entry in 2^64 with this fingerprint is never published.
    fingerprint: AtomicU64,
    /// The latest decision in the shard when the state was published.
    latest: AtomicU64,
    words: [AtomicU64; 4],
}

impl PublishedDenial {
    /// Returns the state of this entry if it is published, and no decision in the shard was later than `now`.
    ///
    /// A reading of the clock before a change of the state would look like a step back of the clock.
    #[inline]
    pub(super) fn read(&self, entry: Fingerprint, now: Timestamp) -> Option<StoredState> {
        // A single comparison for the entries of which nothing is published.
        if self.fingerprint.load(Relaxed) != entry.hash() {
            return None;
        }
        let version = self.version.load(Acquire);
        let is_this = self.fingerprint.load(Relaxed) == entry.hash() && entry.hash() != 0;
        let latest = self.latest.load(Relaxed);
        let words = self.words.each_ref().map(|word| word.load(Relaxed));
        // A reader that sees a part of a later state also sees the version before it.
        fence(Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Relaxed) == version;
        (is_this && is_whole && latest <= now.as_micros())
            .then(|| StoredState::from_words(words))
            .flatten()
    }

    /// Publishes the state of an entry. The caller holds the lock of the shard.
    #[cold]
    #[inline(never)]
    pub(super) fn publish(&self, entry: Fingerprint, state: &StoredState, latest: Timestamp) {
        let Some(words) = state.to_words() else {
            return;
        };
        self.write(|denial| {
            denial.fingerprint.store(entry.hash(), Relaxed);
            denial.latest.store(latest.as_micros(), Relaxed);
            for (cell, word) in denial.words.iter().zip(words) {
                cell.store(word, Relaxed);
            }
        });
    }

    /// Withdraws what is published. The caller holds the lock of the shard.
    #[inline]
    pub(super) fn withdraw(&self) {
        if self.fingerprint.load(Relaxed) != 0 {
            self.clear();
        }
    }

    /// Withdraws the state of this entry if it is published. The caller holds the lock of the shard.
    #[inline]
    pub(super) fn withdraw_entry(&self, entry: Fingerprint) {
        if self.fingerprint.load(Relaxed) == entry.hash() {
            self.clear();
        }
    }

    #[cold]
    #[inline(never)]
    fn clear(&self) {
        self.write(|denial| denial.fingerprint.store(0, Relaxed));
    }

    fn write(&self, write: impl FnOnce(&Self)) {
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        write(self);
        self.version.store(version.wrapping_add(2), Release);
    }
}

#[cfg(test)]
mod tests;
