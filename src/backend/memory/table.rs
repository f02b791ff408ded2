use super::index::{self, Index};
use crate::algorithm::State;
use crate::backend::fingerprint::Fingerprint;
use crate::clock::Timestamp;

/// The entries of a shard side by side, so that a hand can go round, and an index of their places.
///
/// A `DashMap` of such entries is as fast for few keys and a tenth faster for a million (`benches/decision.rs`), but
/// takes 86 bytes a key instead of 62 there, and does not show a few of its entries, which is what making room needs.
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

/// When an entry owes nothing, and two marks. One that lingers is not forgotten then: a bucket that starts below its
/// capacity is remembered for some time after it has filled. One that is drained shuts its client out: it is the last
/// to make room.
#[derive(Clone, Copy)]
pub(super) struct ResetTime(u64);

impl ResetTime {
    /// Times stay below both.
    const LINGERS: u64 = 1 << 63;
    const DRAINED: u64 = 1 << 62;

    #[inline]
    pub(super) fn new(at: Timestamp, lingers: bool, drained: bool) -> Self {
        let mark = |mark, on| if on { mark } else { 0 };
        Self(at.as_micros() | mark(Self::LINGERS, lingers) | mark(Self::DRAINED, drained))
    }

    /// The time from which nothing is owed.
    #[inline]
    pub(super) fn at(self) -> Timestamp {
        Timestamp::from_micros(self.0 & !(Self::LINGERS | Self::DRAINED))
    }

    /// Whether the entry can be forgotten at `now`, if one that lingers does so for `idle_ttl` µs.
    #[inline]
    pub(super) fn is_over(self, now: Timestamp, idle_ttl: u64) -> bool {
        let ttl = if self.0 & Self::LINGERS == 0 {
            0
        } else {
            idle_ttl
        };
        self.at().as_micros().saturating_add(ttl) <= now.as_micros()
    }

    /// Whether nothing was left at the last charge, and something is still owed.
    pub(super) fn is_drained_at(self, now: Timestamp) -> bool {
        self.0 & Self::DRAINED != 0 && self.at() > now
    }

    /// After a charge: the later of both times, lingering if either does, drained if the new one is. Tiers see
    /// different times, and keeping an entry longer is harmless.
    #[inline]
    pub(super) fn renewed(self, new: Self) -> Self {
        let lingers = (self.0 | new.0) & Self::LINGERS != 0;
        Self::new(self.at().max(new.at()), lingers, new.0 & Self::DRAINED != 0)
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no entry can be added: places are numbered by 24 bits.
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

    /// The entry at a place below [`len`](Self::len); places are good until one is taken out.
    pub(super) fn slot(&self, slot_index: usize) -> &Slot {
        &self.slots[slot_index]
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, slot_index: usize) -> &mut Slot {
        &mut self.slots[slot_index]
    }

    /// Adds an entry that is not there yet, to a table that is not full.
    pub(super) fn push(&mut self, slot: Slot) {
        if self.slots.len() == self.slots.capacity() {
            // By a sixteenth: doubling may leave half of it empty.
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

    /// Takes an entry out; the last one moves to its place.
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
