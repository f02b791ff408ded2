use hashbrown::HashTable;

use super::fingerprint::Fingerprint;
use crate::algorithm::State;
use crate::clock::Timestamp;

/// The entries of a shard side by side, so that a hand can go round, and a hash table of their places.
#[derive(Default)]
pub(super) struct Table {
    places: HashTable<u32>,
    slots: Vec<Slot>,
}

/// One limit of one key.
pub(super) struct Slot {
    pub(super) print: Fingerprint,
    /// When it owes nothing.
    pub(super) reset: Timestamp,
    pub(super) state: Option<State>,
}

const _: () = assert!(size_of::<Slot>() == 48);

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn find(&self, print: Fingerprint) -> Option<usize> {
        let is = |place: &u32| self.slots[*place as usize].print == print;
        self.places
            .find(print.hash(), is)
            .map(|place| *place as usize)
    }

    /// The entry at a place below [`len`](Self::len); places are good until one is taken out.
    pub(super) fn slot(&self, place: usize) -> &Slot {
        &self.slots[place]
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, place: usize) -> &mut Slot {
        &mut self.slots[place]
    }

    /// Adds an entry that is not there yet. A shard does not come near the 2^32 places there are.
    pub(super) fn push(&mut self, slot: Slot) {
        let Ok(place) = u32::try_from(self.slots.len()) else {
            return;
        };
        self.grow();
        let hash = slot.print.hash();
        self.slots.push(slot);
        self.index(hash, place);
    }

    /// Takes an entry out; the last one moves to its place.
    pub(super) fn remove(&mut self, place: usize) {
        let removed = self.slots.swap_remove(place).print;
        let is_at = |wanted: usize| move |place: &u32| *place as usize == wanted;
        if let Ok(entry) = self.places.find_entry(removed.hash(), is_at(place)) {
            entry.remove();
        }
        let (Some(moved), from) = (self.slots.get(place), self.slots.len()) else {
            return;
        };
        if let Some(entry) = self.places.find_mut(moved.print.hash(), is_at(from))
            && let Ok(place) = u32::try_from(place)
        {
            *entry = place;
        }
    }

    fn index(&mut self, hash: u64, place: u32) {
        let slots = &self.slots;
        let hash_of = |place: &u32| {
            slots
                .get(*place as usize)
                .map_or(0, |slot| slot.print.hash())
        };
        self.places.insert_unique(hash, place, hash_of);
    }

    /// Makes room for one more, by a sixteenth: doubling may leave half of it empty. A table that is full of places which
    /// were taken out would double, too, so it is filled anew.
    fn grow(&mut self) {
        let more = self.slots.len() / 16 + 4;
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(more);
        }
        if self.places.len() == self.places.capacity() {
            self.places = HashTable::with_capacity(self.slots.len() + more);
            for place in 0..self.slots.len() {
                if let Ok(number) = u32::try_from(place) {
                    self.index(self.slots[place].print.hash(), number);
                }
            }
        }
    }
}
