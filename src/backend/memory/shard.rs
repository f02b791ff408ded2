use smallvec::SmallVec;

use super::key_budget::KeyBudget;
use super::table::{ResetTime, Slot, Table};
use crate::algorithm::{self, Algorithm, State};
use crate::backend::fingerprint::Fingerprint;
use crate::clock::{Latest, Timestamp};
use crate::decision::{ChargePosition, QuotaSnapshot, Reply};
use crate::policy::{NamedQuota, Policy};

/// The old entries that each new entry checks, to remove those that owe nothing. More than one, so that the map shrinks
/// while keys come and go.
const SWEPT_PER_INSERTION: usize = 2;

/// The sample of an eviction. The entry nearest to its reset is evicted.
const SAMPLE: usize = 16;

/// A part of the map, under its own lock.
#[derive(Default)]
pub(super) struct Shard {
    /// The time of the last decision in this shard.
    pub(super) latest: Latest,
    table: Table,
    /// The index of the next entry to check for removal.
    hand: usize,
}

/// The time and the settings of an operation.
pub(super) struct ShardContext<'a> {
    pub(super) now: Timestamp,
    /// The µs for which a bucket is kept after it has filled, if it starts below its capacity.
    pub(super) idle_ttl: u64,
    pub(super) budget: &'a KeyBudget,
}

impl ShardContext<'_> {
    /// Returns the time at which a quota owes nothing, by its answer.
    #[inline]
    fn reset(&self, named: &NamedQuota, answer: &QuotaSnapshot) -> ResetTime {
        let at = self.now.as_micros().saturating_add(answer.reset_after);
        ResetTime::new(
            Timestamp::from_micros(at),
            named.lingers(),
            answer.remaining == 0,
        )
    }

    #[inline]
    fn is_over(&self, slot: &Slot) -> bool {
        slot.reset.is_over(self.now, self.idle_ttl)
    }

    /// Returns whether the entry is a bucket that starts again with its initial tokens. For all other states, full
    /// equals unused.
    #[inline]
    fn is_idle(&self, named: &NamedQuota, slot: &Slot) -> bool {
        named.lingers() && self.is_over(slot)
    }
}

impl Shard {
    /// Decides a request under a policy with one quota.
    #[inline(always)] // a call would return the numbers through memory
    pub(super) fn decide<A: Algorithm>(
        &mut self,
        algorithm: &A,
        named: &NamedQuota,
        fingerprint: Fingerprint,
        context: &ShardContext<'_>,
        cost: u64,
    ) -> (QuotaSnapshot, ChargePosition) {
        let Some(slot_index) = self.table.find(fingerprint) else {
            return self.decide_unseen(named, fingerprint, context, cost);
        };
        let slot = self.table.slot_mut(slot_index);
        if context.is_idle(named, slot) {
            self.forget(fingerprint, context.budget);
            return self.decide_unseen(named, fingerprint, context, cost);
        }
        let answer = algorithm::decide_by(algorithm, &mut slot.state, context.now, cost);
        if cost > 0 && answer.0.is_allowed() {
            slot.reset = slot.reset.renewed(context.reset(named, &answer.0));
        }
        answer
    }

    #[cold]
    #[inline(never)]
    fn decide_unseen(
        &mut self,
        named: &NamedQuota,
        fingerprint: Fingerprint,
        context: &ShardContext<'_>,
        cost: u64,
    ) -> (QuotaSnapshot, ChargePosition) {
        let mut state = None;
        let answer = algorithm::decide(named.quota(), &mut state, context.now, cost, true);
        if let Some(state) = state {
            self.insert(
                fingerprint,
                state,
                context.reset(named, &answer.0),
                context,
                |_| false,
            );
        }
        answer
    }

    /// Applies `op` to the states of a key, one entry each, and stores the results.
    pub(super) fn with_states(
        &mut self,
        policy: &Policy,
        key: Fingerprint,
        context: &ShardContext<'_>,
        op: impl FnOnce(&mut [Option<State>]) -> Reply,
    ) -> Reply {
        let quotas = policy.quotas();
        let mut slot_indexes = SmallVec::<[Option<usize>; 2]>::new();
        let mut states = SmallVec::<[Option<State>; 2]>::new();
        for named in quotas {
            let fingerprint = key.under(named.id());
            if self
                .table
                .find(fingerprint)
                .is_some_and(|slot_index| context.is_idle(named, self.table.slot(slot_index)))
            {
                self.forget(fingerprint, context.budget);
            }
        }
        for named in quotas {
            let slot_index = self.table.find(key.under(named.id()));
            states.push(
                slot_index.and_then(|slot_index| self.table.slot_mut(slot_index).state.take()),
            );
            slot_indexes.push(slot_index);
        }
        let reply = op(&mut states);
        let answers = reply.decision.snapshot().quotas();
        // The receipt of a check shows which quotas were charged. Other operations write all states.
        let written = |index: usize| match &reply.receipt {
            Some(receipt) => receipt.charges[index].tokens > 0,
            None => reply.decision.is_allowed(),
        };
        // Updates come before insertions and removals, which move entries.
        let mut moves = SmallVec::<[(usize, Option<State>); 2]>::new();
        for (index, (slot_index, state)) in slot_indexes.into_iter().zip(states).enumerate() {
            match (slot_index, state) {
                (Some(slot_index), Some(state)) => {
                    let slot = self.table.slot_mut(slot_index);
                    slot.state = Some(state);
                    // A read or a denial does not change it.
                    if written(index) {
                        slot.reset = slot
                            .reset
                            .renewed(context.reset(&quotas[index], &answers[index]));
                    }
                }
                (None, None) => {}
                (_, state) => moves.push((index, state)),
            }
        }
        let of_this_key = |fingerprint: Fingerprint| {
            quotas
                .iter()
                .any(|named| key.under(named.id()) == fingerprint)
        };
        for (index, kept) in moves {
            let fingerprint = key.under(quotas[index].id());
            match kept {
                Some(state) => {
                    let reset = context.reset(&quotas[index], &answers[index]);
                    self.insert(fingerprint, state, reset, context, of_this_key);
                }
                None => self.forget(fingerprint, context.budget),
            }
        }
        reply
    }

    fn forget(&mut self, fingerprint: Fingerprint, budget: &KeyBudget) {
        if let Some(slot_index) = self.table.find(fingerprint) {
            self.table.remove(slot_index);
            budget.give_back();
        }
    }

    /// Adds an entry, and evicts another one if the map is full. Entries for which `spare` is true are evicted last.
    #[cold]
    fn insert(
        &mut self,
        fingerprint: Fingerprint,
        state: State,
        reset: ResetTime,
        context: &ShardContext<'_>,
        spare: impl Fn(Fingerprint) -> bool,
    ) {
        let budget = context.budget;
        let mut looked_at = 0;
        for _ in 0..SWEPT_PER_INSERTION.min(self.table.len()) {
            looked_at += 1;
            let slot_index = self.advance_hand();
            if context.is_over(self.table.slot(slot_index)) {
                self.table.remove(slot_index);
                self.hand = slot_index; // the last entry is here now
                budget.give_back();
            }
        }
        if self.table.is_full() || !budget.take() {
            if self.table.len() == 0 {
                // The shard is empty, so that only the new entry can be evicted. In practice each shard of a full map
                // holds at least 2,048 entries.
                budget.evicted();
                return;
            }
            looked_at += self.evict(context, spare);
        }
        budget.looked_at(looked_at);
        self.table.push(Slot {
            fingerprint,
            reset,
            state: Some(state),
        });
    }

    /// Evicts the entry that is nearest to its reset, of a small sample. Returns the size of the sample.
    ///
    /// Entries that deny their client are evicted last. Their reset time alone does not protect them: in a window all
    /// entries reset at the same time, and new entries may reset later.
    ///
    /// The sample is spread over the shard, because neighbours were added at about the same time and would all be in
    /// debt after a burst.
    fn evict(&mut self, context: &ShardContext<'_>, spare: impl Fn(Fingerprint) -> bool) -> usize {
        let len = self.table.len();
        let sample = SAMPLE.min(len);
        let rank = |slot: &Slot| {
            (
                spare(slot.fingerprint),
                slot.reset.is_drained_at(context.now),
                slot.reset.at(),
            )
        };
        let start = self.advance_hand();
        let mut nearest = start;
        for step in 1..sample {
            let slot_index = (start + step * (len / sample)) % len;
            if rank(self.table.slot(slot_index)) < rank(self.table.slot(nearest)) {
                nearest = slot_index;
            }
        }
        if self.table.slot(nearest).reset.at() > context.now {
            context.budget.evicted();
        }
        self.table.remove(nearest);
        sample
    }

    /// Advances the hand and returns its old position. The shard is not empty.
    fn advance_hand(&mut self) -> usize {
        let slot_index = if self.hand < self.table.len() {
            self.hand
        } else {
            0
        };
        self.hand = slot_index + 1;
        slot_index
    }
}
