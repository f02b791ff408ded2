//! The permits of one key, found by id and by the end of their lease.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use crate::decision::PermitId;

/// The most permits in the sorted array. A search in it is faster than one in the trees, and needs no allocation for
/// one or two permits.
const MAX_FEW: usize = 16;

/// A held permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) id: PermitId,
    /// The end of the lease in µs.
    pub(super) end: u64,
    pub(super) weight: u32,
}

impl Holder {
    fn order(&self) -> (u64, PermitId) {
        (self.end, self.id)
    }
}

/// The held permits, soonest end first.
#[derive(Debug)]
pub(super) enum HolderTable {
    Few(SmallVec<[Holder; 2]>),
    Many(Box<HolderTrees>),
}

#[derive(Debug, Default)]
pub(super) struct HolderTrees {
    /// The end and the weight of each permit.
    held: BTreeMap<PermitId, (u64, u32)>,
    ends: BTreeSet<(u64, PermitId)>,
}

impl Default for HolderTable {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl HolderTrees {
    fn insert(&mut self, Holder { id, end, weight }: Holder) {
        self.held.insert(id, (end, weight));
        self.ends.insert((end, id));
    }

    fn remove(&mut self, id: PermitId) -> Option<Holder> {
        let (end, weight) = self.held.remove(&id)?;
        self.ends.remove(&(end, id));
        Some(Holder { id, end, weight })
    }

    fn holder(&self, &(end, id): &(u64, PermitId)) -> Holder {
        let weight = self.held.get(&id).map_or(0, |(_, weight)| *weight);
        Holder { id, end, weight }
    }
}

impl HolderTable {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            // Fewer holders than this leave the trees.
            Self::Many(many) => many.held.is_empty(),
        }
    }

    /// Adds a permit whose id is not held.
    pub(super) fn insert(&mut self, holder: Holder) {
        match self {
            Self::Few(few) if few.len() < MAX_FEW => {
                // A new lease mostly ends last.
                let behind = few.iter().rev();
                let behind = behind.take_while(|other| other.order() > holder.order());
                few.insert(few.len() - behind.count(), holder);
            }
            Self::Few(few) => {
                let mut many = Box::<HolderTrees>::default();
                few.drain(..).for_each(|other| many.insert(other));
                many.insert(holder);
                *self = Self::Many(many);
            }
            Self::Many(many) => many.insert(holder),
        }
    }

    pub(super) fn remove(&mut self, id: PermitId) -> Option<Holder> {
        match self {
            Self::Few(few) => {
                let place = few.iter().position(|holder| holder.id == id)?;
                Some(few.remove(place))
            }
            Self::Many(many) => {
                let removed = many.remove(id);
                // Half of the bound, so that a crowd around the bound does not change the form all the time.
                if many.held.len() <= MAX_FEW / 2 {
                    let few = many.ends.iter().map(|end| many.holder(end));
                    *self = Self::Few(few.collect());
                }
                removed
            }
        }
    }

    /// Returns whether the id is held, whose lease then ends at `end`.
    pub(super) fn renew(&mut self, id: PermitId, end: u64) -> bool {
        let Some(held) = self.remove(id) else {
            return false;
        };
        self.insert(Holder { end, ..held });
        true
    }

    pub(super) fn first(&self) -> Option<Holder> {
        self.iter().next()
    }

    pub(super) fn last(&self) -> Option<Holder> {
        match self {
            Self::Few(few) => few.last().copied(),
            Self::Many(many) => many.ends.last().map(|end| many.holder(end)),
        }
    }

    /// Returns the latest end.
    pub(super) fn last_end(&self) -> Option<u64> {
        match self {
            Self::Few(few) => few.last().map(|held| held.end),
            Self::Many(many) => many.ends.last().map(|(end, _)| *end),
        }
    }

    /// The permits, soonest end first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Holder> {
        let (few, many) = match self {
            Self::Few(few) => (&few[..], None),
            Self::Many(many) => (&[][..], Some(many)),
        };
        let many = many
            .into_iter()
            .flat_map(|many| many.ends.iter().map(|end| many.holder(end)));
        few.iter().copied().chain(many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> PermitId {
        PermitId::from_bytes(u128::from(number).to_be_bytes())
    }

    /// Permits come and go in all sizes from none to several times the bound of the array.
    #[test]
    fn array_and_trees_hold_the_same_permits() {
        let (mut table, mut trees) = (HolderTable::default(), HolderTrees::default());
        let (mut most, mut random) = (0, 1_u64);
        for step in 0..20_000_u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let (number, end) = (random >> 40 & 63, random >> 50);
            let grows = step / 200 % 2 == 0;
            let is_held = trees.held.contains_key(&id(number));
            match random >> 33 & 3 {
                0 => {
                    assert_eq!(table.renew(id(number), end), is_held);
                    if let Some(held) = trees.remove(id(number)) {
                        trees.insert(Holder { end, ..held });
                    }
                }
                1 | 2 if grows && !is_held => {
                    let weight = 1;
                    let holder = Holder {
                        id: id(number),
                        end,
                        weight,
                    };
                    table.insert(holder);
                    trees.insert(holder);
                }
                _ if !grows => assert_eq!(table.remove(id(number)), trees.remove(id(number))),
                _ => {}
            }
            let expected: Vec<_> = trees.ends.iter().map(|end| trees.holder(end)).collect();
            assert_eq!(table.iter().collect::<Vec<_>>(), expected);
            assert_eq!(table.first(), expected.first().copied());
            assert_eq!(table.last(), expected.last().copied());
            assert_eq!(table.last_end(), expected.last().map(|held| held.end));
            assert_eq!(table.is_empty(), expected.is_empty());
            most = most.max(expected.len());
        }
        assert!(most > 2 * MAX_FEW, "{most}");
    }
}
