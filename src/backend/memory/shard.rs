use std::sync::atomic::Ordering::Relaxed;

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::fingerprint::Fingerprint;
use super::{Reply, Room};
use crate::algorithm::{self, State};
use crate::clock::Timestamp;
use crate::decision::{Place, QuotaSnapshot};
use crate::policy::{NamedQuota, Policy};

/// Old entries that a new one looks at, forgetting those that owe nothing: more than one, so that the map shrinks while
/// keys come and go.
const SWEPT_PER_INSERTION: usize = 2;

/// Entries of which the one nearest to its reset goes when the map is full.
const SAMPLE: usize = 16;

/// A part of the map under a lock of its own: a table of places, and the entries side by side so that a hand can go round.
#[derive(Default)]
pub(super) struct Shard {
    places: HashTable<u32>,
    slots: Vec<Slot>,
    hand: usize,
}

/// One quota of one key.
struct Slot {
    print: Fingerprint,
    /// When it owes nothing.
    reset: Timestamp,
    state: Option<State>,
}

const _: () = assert!(size_of::<Slot>() == 48);

/// What a shard needs to know beside its own entries.
pub(super) struct Moment<'a> {
    pub(super) now: Timestamp,
    /// µs that a bucket is remembered after it has filled, if it started below its capacity.
    pub(super) idle_ttl: u64,
    pub(super) room: &'a Room,
}

impl Moment<'_> {
    /// When a quota owes nothing, by its answer.
    #[inline]
    fn reset(&self, named: &NamedQuota, answer: &QuotaSnapshot) -> Timestamp {
        let kept = if algorithm::starts_below_capacity(named.quota()) {
            self.idle_ttl
        } else {
            0
        };
        Timestamp::from_micros(
            self.now
                .as_micros()
                .saturating_add(answer.reset_after)
                .saturating_add(kept),
        )
    }
}

impl Slot {
    /// Whether a bucket starts again from its initial tokens; for all others full equals unseen.
    #[inline]
    fn is_idle(&self, named: &NamedQuota, moment: &Moment<'_>) -> bool {
        algorithm::starts_below_capacity(named.quota()) && self.reset <= moment.now
    }
}

impl Shard {
    /// Decides a request of the only quota of its policy.
    #[inline]
    pub(super) fn decide(
        &mut self,
        named: &NamedQuota,
        print: Fingerprint,
        moment: &Moment<'_>,
        cost: u32,
    ) -> (QuotaSnapshot, Place) {
        let Some(place) = self.find(print) else {
            return self.decide_unseen(named, print, moment, cost);
        };
        let slot = &mut self.slots[place];
        if slot.is_idle(named, moment) {
            slot.state = None;
        }
        let answer = algorithm::decide(named.quota(), &mut slot.state, moment.now, cost, true);
        slot.reset = moment.reset(named, &answer.0);
        answer
    }

    #[cold]
    fn decide_unseen(
        &mut self,
        named: &NamedQuota,
        print: Fingerprint,
        moment: &Moment<'_>,
        cost: u32,
    ) -> (QuotaSnapshot, Place) {
        let mut state = None;
        let answer = algorithm::decide(named.quota(), &mut state, moment.now, cost, true);
        if let Some(state) = state {
            self.insert(print, state, moment.reset(named, &answer.0), moment);
        }
        answer
    }

    /// Lets `op` work on the states of a key, each of which has an entry of its own here, and keeps what it leaves.
    pub(super) fn with_states(
        &mut self,
        policy: &Policy,
        key: Fingerprint,
        moment: &Moment<'_>,
        op: impl FnOnce(&mut [Option<State>]) -> Reply,
    ) -> Reply {
        let quotas = policy.quotas();
        let mut places = SmallVec::<[Option<usize>; 2]>::new();
        let mut states = SmallVec::<[Option<State>; 2]>::new();
        for named in quotas {
            let place = self.find(key.under(named.id()));
            states.push(place.and_then(|place| {
                let slot = &mut self.slots[place];
                let idle = slot.is_idle(named, moment);
                slot.state.take().filter(|_| !idle)
            }));
            places.push(place);
        }
        let reply = op(&mut states);
        let answers = reply.decision.snapshot().quotas();
        // First what stays where it is: making and taking room moves entries.
        let mut moves = SmallVec::<[(usize, Option<State>); 2]>::new();
        for (index, (place, state)) in places.into_iter().zip(states).enumerate() {
            match (place, state) {
                (Some(place), Some(state)) => {
                    let slot = &mut self.slots[place];
                    slot.state = Some(state);
                    slot.reset = moment.reset(&quotas[index], &answers[index]);
                }
                (None, None) => {}
                (_, state) => moves.push((index, state)),
            }
        }
        for (index, kept) in moves {
            let named = &quotas[index];
            let print = key.under(named.id());
            match kept {
                Some(state) => {
                    self.insert(print, state, moment.reset(named, &answers[index]), moment)
                }
                None => self.forget(print, moment.room),
            }
        }
        reply
    }

    #[inline]
    fn find(&self, print: Fingerprint) -> Option<usize> {
        let is = |place: &u32| self.slots[*place as usize].print == print;
        self.places
            .find(print.hash(), is)
            .map(|place| *place as usize)
    }

    fn forget(&mut self, print: Fingerprint, room: &Room) {
        if let Some(place) = self.find(print) {
            self.remove(place);
            room.keys.fetch_sub(1, Relaxed);
        }
    }

    #[cold]
    fn insert(&mut self, print: Fingerprint, state: State, reset: Timestamp, moment: &Moment<'_>) {
        let room = moment.room;
        let mut looked_at = 0;
        for _ in 0..SWEPT_PER_INSERTION.min(self.slots.len()) {
            looked_at += 1;
            let place = self.turn_hand();
            if self.slots[place].reset <= moment.now {
                self.hand = place;
                self.remove(place);
                room.keys.fetch_sub(1, Relaxed);
            }
            if self.slots.is_empty() {
                break;
            }
        }
        // Counted before it is there, so that the bound holds at every moment; a shard without entries has none to give up,
        // which does not happen where the map is full: each shard then holds about a thousand.
        let full = room.keys.fetch_add(1, Relaxed) >= room.max_keys && !self.slots.is_empty();
        if full {
            room.keys.fetch_sub(1, Relaxed);
            let sample = SAMPLE.min(self.slots.len());
            looked_at += sample;
            let victim = self.nearest_to_reset(sample);
            if self.slots[victim].reset > moment.now {
                room.evictions.fetch_add(1, Relaxed);
            }
            self.remove(victim);
        }
        room.longest_search.fetch_max(looked_at, Relaxed);
        let state = Some(state);
        self.push(Slot {
            print,
            reset,
            state,
        });
    }

    /// The next place of the hand that goes round.
    fn turn_hand(&mut self) -> usize {
        let place = if self.hand < self.slots.len() {
            self.hand
        } else {
            0
        };
        self.hand = place + 1;
        place
    }

    /// Of the next `sample` entries.
    fn nearest_to_reset(&mut self, sample: usize) -> usize {
        let mut best = self.turn_hand();
        for _ in 1..sample {
            let place = self.turn_hand();
            if self.slots[place].reset < self.slots[best].reset {
                best = place;
            }
        }
        best
    }

    fn push(&mut self, slot: Slot) {
        let Ok(place) = u32::try_from(self.slots.len()) else {
            return;
        };
        self.places
            .insert_unique(slot.print.hash(), place, |place| {
                self.slots
                    .get(*place as usize)
                    .map_or(0, |slot| slot.print.hash())
            });
        self.slots.push(slot);
    }

    /// Takes an entry out; the last one moves to its place.
    fn remove(&mut self, place: usize) {
        let removed = self.slots.swap_remove(place).print;
        let is_at = |wanted: usize| move |place: &u32| *place as usize == wanted;
        if let Ok(entry) = self.places.find_entry(removed.hash(), is_at(place)) {
            entry.remove();
        }
        if let Some(moved) = self.slots.get(place) {
            let from = self.slots.len();
            if let Some(entry) = self.places.find_mut(moved.print.hash(), is_at(from))
                && let Ok(place) = u32::try_from(place)
            {
                *entry = place;
            }
        }
    }
}
