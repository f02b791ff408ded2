/// Finds places by hash: open addressing with linear probing (Knuth, The Art of Computer Programming, vol. 3, §6.4,
/// algorithms L and R) in cells of 4 bytes.
///
/// A general hash table keeps its entries or its control bytes apart, which is one miss of the cache more; entries of 48
/// bytes in the table itself would leave up to half of them empty.
pub(super) struct Index {
    /// 0, or 8 bits of the hash and the place plus 1. A power of two of them, at least one of which is 0.
    cells: Box<[u32]>,
}

const PLACE: u32 = (1 << 24) - 1;

/// The most entries that an index can hold.
pub(super) const MOST: usize = PLACE as usize - 1;

impl Default for Index {
    fn default() -> Self {
        Self {
            cells: Box::new([0]),
        }
    }
}

impl Index {
    /// An index of places from 0 up, by their hashes, with room for more.
    pub(super) fn of(hashes: impl ExactSizeIterator<Item = u64>) -> Self {
        // Filled to 3/8 at first and to 3/4 before it grows again.
        let cells = (hashes.len() * 4 / 3 + 1).next_power_of_two().max(4);
        let mut index = Self {
            cells: vec![0; cells].into_boxed_slice(),
        };
        for (place, hash) in hashes.enumerate() {
            index.insert(hash, place);
        }
        index
    }

    /// Whether `len` entries are too many for it.
    pub(super) fn is_full(&self, len: usize) -> bool {
        len > self.cells.len() / 4 * 3
    }

    /// The place with this hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(usize) -> bool) -> Option<usize> {
        let (mask, tag) = (self.mask(), tag(hash));
        let mut at = home(hash) & mask;
        loop {
            let cell = self.cells[at & mask];
            if cell == 0 {
                return None;
            }
            let place = (cell & PLACE) as usize - 1;
            if cell & !PLACE == tag && is(place) {
                return Some(place);
            }
            at += 1;
        }
    }

    /// Adds a place; there is room.
    pub(super) fn insert(&mut self, hash: u64, place: usize) {
        let mask = self.mask();
        let mut at = home(hash) & mask;
        while self.cells[at] != 0 {
            at = (at + 1) & mask;
        }
        self.cells[at] = cell(hash, place);
    }

    /// Gives what was at one place another.
    pub(super) fn renumber(&mut self, hash: u64, from: usize, to: usize) {
        if let Some(at) = self.position(hash, from) {
            self.cells[at] = cell(hash, to);
        }
    }

    /// Takes a place out and closes the gap: what follows moves up unless it would pass its home.
    pub(super) fn remove(&mut self, hash: u64, place: usize, hash_at: impl Fn(usize) -> u64) {
        let Some(mut gap) = self.position(hash, place) else {
            return;
        };
        let mask = self.mask();
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell == 0 {
                break;
            }
            let home = home(hash_at((cell & PLACE) as usize - 1)) & mask;
            // How far it is from home, and how far the gap is behind it.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.cells[gap] = cell;
                gap = at;
            }
        }
        self.cells[gap] = 0;
    }

    /// The cell that holds a place.
    fn position(&self, hash: u64, place: usize) -> Option<usize> {
        let (mask, wanted) = (self.mask(), cell(hash, place));
        let mut at = home(hash) & mask;
        while self.cells[at] != wanted {
            if self.cells[at] == 0 {
                return None;
            }
            at = (at + 1) & mask;
        }
        Some(at)
    }

    #[inline]
    fn mask(&self) -> usize {
        self.cells.len() - 1
    }
}

/// Where the search for a hash begins: its low bits.
#[inline]
#[allow(clippy::cast_possible_truncation)]
fn home(hash: u64) -> usize {
    hash as usize
}

/// The high bits of a hash, where a cell has them.
#[inline]
#[allow(clippy::cast_possible_truncation)]
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 & !PLACE
}

#[allow(clippy::cast_possible_truncation)]
fn cell(hash: u64, place: usize) -> u32 {
    debug_assert!(place < MOST);
    tag(hash) | (place as u32 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few hashes, so that they crowd and wrap around the end.
        #[test]
        fn it_finds_what_is_there_and_nothing_else(steps in prop::collection::vec((any::<bool>(), 0_u64..12, 0_u64..3), 1..200)) {
            let (mut index, mut hashes) = (Index::default(), Vec::<u64>::new());
            for (add, low, high) in steps {
                let hash = low | high << 56 | (hashes.len() as u64) << 8;
                if add {
                    hashes.push(hash);
                    if index.is_full(hashes.len()) {
                        index = Index::of(hashes.iter().copied());
                    } else {
                        index.insert(hash, hashes.len() - 1);
                    }
                } else if !hashes.is_empty() {
                    let place = usize::try_from(low).expect("small") % hashes.len();
                    let last = hashes.len() - 1;
                    index.remove(hashes[place], place, |place| hashes[place]);
                    if place != last {
                        index.renumber(hashes[last], last, place);
                    }
                    hashes.swap_remove(place);
                }
                for (place, hash) in hashes.iter().enumerate() {
                    prop_assert_eq!(index.find(*hash, |found| found == place), Some(place));
                }
                let held = index.cells.iter().filter(|cell| **cell != 0).count();
                prop_assert_eq!(held, hashes.len());
                prop_assert_eq!(index.find(u64::MAX, |_| true), None);
            }
        }
    }
}
