use smallvec::SmallVec;

use super::room::Room;
use super::table::{Reset, Slot, Table};
use crate::algorithm::{self, State};
use crate::backend::fingerprint::Fingerprint;
use crate::clock::{Latest, Timestamp};
use crate::decision::{Place, QuotaSnapshot, Reply};
use crate::policy::{NamedQuota, Policy};

/// Old entries that a new one looks at, forgetting those that owe nothing: more than one, so that the map shrinks while
/// keys come and go.
const SWEPT_PER_INSERTION: usize = 2;

/// Entries of which the one nearest to its reset goes when the map is full.
const SAMPLE: usize = 16;

/// A part of the map under a lock of its own.
#[derive(Default)]
pub(super) struct Shard {
    /// When something was last decided here.
    pub(super) latest: Latest,
    table: Table,
    /// Where the hand that looks for room stands.
    hand: usize,
}

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
    fn reset(&self, named: &NamedQuota, answer: &QuotaSnapshot) -> Reset {
        let at = self.now.as_micros().saturating_add(answer.reset_after);
        Reset::new(
            Timestamp::from_micros(at),
            algorithm::starts_below_capacity(named.quota()),
            answer.remaining == 0,
        )
    }

    #[inline]
    fn is_over(&self, slot: &Slot) -> bool {
        slot.reset.is_over(self.now, self.idle_ttl)
    }

    /// Whether a bucket starts again from its initial tokens; for all others full equals unseen.
    #[inline]
    fn is_idle(&self, named: &NamedQuota, slot: &Slot) -> bool {
        algorithm::starts_below_capacity(named.quota()) && self.is_over(slot)
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
        cost: u64,
    ) -> (QuotaSnapshot, Place) {
        let Some(place) = self.table.find(print) else {
            return self.decide_unseen(named, print, moment, cost);
        };
        let slot = self.table.slot_mut(place);
        if moment.is_idle(named, slot) {
            self.forget(print, moment.room);
            return self.decide_unseen(named, print, moment, cost);
        }
        let answer = algorithm::decide(named.quota(), &mut slot.state, moment.now, cost, true);
        if cost > 0 && answer.0.is_allowed() {
            slot.reset = slot.reset.renewed(moment.reset(named, &answer.0));
        }
        answer
    }

    #[cold]
    fn decide_unseen(
        &mut self,
        named: &NamedQuota,
        print: Fingerprint,
        moment: &Moment<'_>,
        cost: u64,
    ) -> (QuotaSnapshot, Place) {
        let mut state = None;
        let answer = algorithm::decide(named.quota(), &mut state, moment.now, cost, true);
        if let Some(state) = state {
            self.insert(print, state, moment.reset(named, &answer.0), moment, |_| {
                false
            });
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
            let print = key.under(named.id());
            if self
                .table
                .find(print)
                .is_some_and(|place| moment.is_idle(named, self.table.slot(place)))
            {
                self.forget(print, moment.room);
            }
        }
        for named in quotas {
            let place = self.table.find(key.under(named.id()));
            states.push(place.and_then(|place| self.table.slot_mut(place).state.take()));
            places.push(place);
        }
        let reply = op(&mut states);
        let answers = reply.decision.snapshot().quotas();
        // Of a check the receipt tells what was charged; other operations write.
        let written = |index: usize| match &reply.receipt {
            Some(receipt) => receipt.charges[index].tokens > 0,
            None => reply.decision.is_allowed(),
        };
        // First what stays where it is: making and taking room moves entries.
        let mut moves = SmallVec::<[(usize, Option<State>); 2]>::new();
        for (index, (place, state)) in places.into_iter().zip(states).enumerate() {
            match (place, state) {
                (Some(place), Some(state)) => {
                    let slot = self.table.slot_mut(place);
                    slot.state = Some(state);
                    // A look or a refusal leaves it alone.
                    if written(index) {
                        slot.reset = slot
                            .reset
                            .renewed(moment.reset(&quotas[index], &answers[index]));
                    }
                }
                (None, None) => {}
                (_, state) => moves.push((index, state)),
            }
        }
        let of_this_key =
            |print: Fingerprint| quotas.iter().any(|named| key.under(named.id()) == print);
        for (index, kept) in moves {
            let print = key.under(quotas[index].id());
            match kept {
                Some(state) => {
                    let reset = moment.reset(&quotas[index], &answers[index]);
                    self.insert(print, state, reset, moment, of_this_key);
                }
                None => self.forget(print, moment.room),
            }
        }
        reply
    }

    fn forget(&mut self, print: Fingerprint, room: &Room) {
        if let Some(place) = self.table.find(print) {
            self.table.remove(place);
            room.give_back();
        }
    }

    /// Adds an entry, and makes room for it if need be; entries that `spare` names go only if there is nothing else.
    #[cold]
    fn insert(
        &mut self,
        print: Fingerprint,
        state: State,
        reset: Reset,
        moment: &Moment<'_>,
        spare: impl Fn(Fingerprint) -> bool,
    ) {
        let room = moment.room;
        let mut looked_at = 0;
        for _ in 0..SWEPT_PER_INSERTION.min(self.table.len()) {
            looked_at += 1;
            let place = self.turn_hand();
            if moment.is_over(self.table.slot(place)) {
                self.table.remove(place);
                self.hand = place; // where another one is now
                room.give_back();
            }
        }
        if self.table.is_full() || !room.take() {
            if self.table.len() == 0 {
                // The only one that can go is the new one. It does not happen where the map is full: each shard then holds
                // about two thousand.
                room.evicted();
                return;
            }
            looked_at += self.evict(moment, spare);
        }
        room.looked_at(looked_at);
        self.table.push(Slot {
            print,
            reset,
            state: Some(state),
        });
    }

    /// Takes out the entry that is nearest to its reset, of a small sample; how many were looked at. Those that shut their
    /// client out come last: in a window all reset together, or newcomers later.
    ///
    /// The sample is spread over the shard: neighbours came at about the same time, and a crowd of debtors that came together
    /// would otherwise be among itself.
    fn evict(&mut self, moment: &Moment<'_>, spare: impl Fn(Fingerprint) -> bool) -> usize {
        let len = self.table.len();
        let sample = SAMPLE.min(len);
        let rank = |slot: &Slot| {
            (
                spare(slot.print),
                slot.reset.shuts_out(moment.now),
                slot.reset.at(),
            )
        };
        let start = self.turn_hand();
        let mut nearest = start;
        for step in 1..sample {
            let place = (start + step * (len / sample)) % len;
            if rank(self.table.slot(place)) < rank(self.table.slot(nearest)) {
                nearest = place;
            }
        }
        if self.table.slot(nearest).reset.at() > moment.now {
            moment.room.evicted();
        }
        self.table.remove(nearest);
        sample
    }

    /// The next place of the hand that goes round; there is at least one.
    fn turn_hand(&mut self) -> usize {
        let place = if self.hand < self.table.len() {
            self.hand
        } else {
            0
        };
        self.hand = place + 1;
        place
    }
}
