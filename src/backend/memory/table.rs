use super::index::{self, Index};
use crate::algorithm::State;
use crate::backend::fingerprint::Fingerprint;
use crate::clock::Timestamp;

/// The entries of a shard in one vector, in which an eviction can sample, and an index of their positions.
///
/// A `DashMap` of such entries is as fast for few keys and a tenth faster for a million (`benches/decision.rs`). It
/// takes 86 bytes a key instead of 62 there, and it offers no sample of its entries, which an eviction needs.
#[derive(Default)]
pub(super) struct Table {
    index: Index,
    slots: Vec<Slot>,
}

/// One limit of one key.
pub(super) struct Slot {
    pub(super) fingerprint: Fingerprint,
    pub(super) reset: ResetTime,
    pub(super) state: Option<State>,
}

const _: () = assert!(size_of::<Slot>() == 48);

/// The time at which an entry owes nothing, and two marks.
///
/// - `LINGERS`: the entry is kept for some time after that. A bucket has the mark if it starts below its capacity.
/// - `DRAINED`: nothing was left after the last charge, so that the client is denied. Such entries are evicted last.
#[derive(Clone, Copy)]
pub(super) struct ResetTime(u64);

impl ResetTime {
    /// Times stay below both marks.
    const LINGERS: u64 = 1 << 63;
    const DRAINED: u64 = 1 << 62;
    const TIME: u64 = Self::DRAINED - 1;

    #[inline]
    pub(super) fn new(at: Timestamp, lingers: bool, drained: bool) -> Self {
        let marks = u64::from(lingers) << 63 | u64::from(drained) << 62;
        Self(at.as_micros() | marks)
    }

    #[inline]
    fn micros(self) -> u64 {
        self.0 & Self::TIME
    }

    /// Returns the time from which nothing is owed.
    #[inline]
    pub(super) fn at(self) -> Timestamp {
        Timestamp::from_micros(self.micros())
    }

    /// Returns whether the entry can be removed at `now`. A lingering entry is kept for `idle_ttl` µs more.
    #[inline]
    pub(super) fn is_over(self, now: Timestamp, idle_ttl: u64) -> bool {
        let ttl = if self.0 & Self::LINGERS == 0 {
            0
        } else {
            idle_ttl
        };
        self.micros().saturating_add(ttl) <= now.as_micros()
    }

    /// Returns whether nothing was left after the last charge and something is still owed.
    pub(super) fn is_drained_at(self, now: Timestamp) -> bool {
        self.0 & Self::DRAINED != 0 && self.at() > now
    }

    /// Returns the time after a charge: the later of both, lingering if either is, drained if the new one is. Policies
    /// of one name may compute different times, and keeping an entry longer is harmless.
    #[inline]
    pub(super) fn renewed(self, new: Self) -> Self {
        let marks = (self.0 | new.0) & Self::LINGERS | new.0 & Self::DRAINED;
        Self(self.micros().max(new.micros()) | marks)
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether no entry can be added, because positions have 24 bits.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= index::MOST
    }

    #[inline]
    pub(super) fn find(&self, fingerprint: Fingerprint) -> Option<usize> {
        self.index.find(fingerprint.hash(), |slot_index| {
            self.slots
                .get(slot_index)
                .is_some_and(|slot| slot.fingerprint == fingerprint)
        })
    }

    /// Returns the entry at a position below [`len`](Self::len). A removal moves the last entry.
    pub(super) fn slot(&self, slot_index: usize) -> &Slot {
        &self.slots[slot_index]
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, slot_index: usize) -> &mut Slot {
        &mut self.slots[slot_index]
    }

    /// Adds a new entry to a table that is not full.
    pub(super) fn push(&mut self, slot: Slot) {
        if self.slots.len() == self.slots.capacity() {
            // Grows by a sixteenth, because doubling can leave half of the vector empty.
            self.slots.reserve_exact(self.slots.len() / 16 + 4);
        }
        self.slots.push(slot);
        if self.index.is_full(self.slots.len()) {
            self.index = Index::from_hashes(self.slots.iter().map(|slot| slot.fingerprint.hash()));
        } else if let Some(slot) = self.slots.last() {
            self.index
                .insert(slot.fingerprint.hash(), self.slots.len() - 1);
        }
    }

    /// Removes an entry. The last entry moves to its position.
    pub(super) fn remove(&mut self, slot_index: usize) {
        let hash_at = |slot_index: usize| {
            self.slots
                .get(slot_index)
                .map_or(0, |slot| slot.fingerprint.hash())
        };
        let last = self.slots.len() - 1;
        self.index.remove(hash_at(slot_index), slot_index, hash_at);
        if slot_index != last {
            self.index.renumber(hash_at(last), last, slot_index);
        }
        self.slots.swap_remove(slot_index);
    }
}
