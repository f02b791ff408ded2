use smallvec::SmallVec;

use super::key_budget::KeyBudget;
use super::table::{ResetTime, Slot, Table};
use crate::algorithm::{self, State};
use crate::backend::fingerprint::Fingerprint;
use crate::clock::{Latest, Timestamp};
use crate::decision::{ChargePosition, QuotaSnapshot, Reply};
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
pub(super) struct ShardContext<'a> {
    pub(super) now: Timestamp,
    /// µs that a bucket is remembered after it has filled, if it started below its capacity.
    pub(super) idle_ttl: u64,
    pub(super) budget: &'a KeyBudget,
}

impl ShardContext<'_> {
    /// When a quota owes nothing, by its answer.
    #[inline]
    fn reset(&self, named: &NamedQuota, answer: &QuotaSnapshot) -> ResetTime {
        let at = self.now.as_micros().saturating_add(answer.reset_after);
        ResetTime::new(
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
        let answer = algorithm::decide(named.quota(), &mut slot.state, context.now, cost, true);
        if cost > 0 && answer.0.is_allowed() {
            slot.reset = slot.reset.renewed(context.reset(named, &answer.0));
        }
        answer
    }

    #[cold]
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

    /// Lets `op` work on the states of a key, each of which has an entry of its own here, and keeps what it leaves.
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
        // Of a check the receipt tells what was charged; other operations write.
        let written = |index: usize| match &reply.receipt {
            Some(receipt) => receipt.charges[index].tokens > 0,
            None => reply.decision.is_allowed(),
        };
        // First what stays where it is: making and taking room moves entries.
        let mut moves = SmallVec::<[(usize, Option<State>); 2]>::new();
        for (index, (slot_index, state)) in slot_indexes.into_iter().zip(states).enumerate() {
            match (slot_index, state) {
                (Some(slot_index), Some(state)) => {
                    let slot = self.table.slot_mut(slot_index);
                    slot.state = Some(state);
                    // A look or a denial leaves it alone.
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

    /// Adds an entry, and makes room for it if need be; entries that `spare` names go only if there is nothing else.
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
                self.hand = slot_index; // where another one is now
                budget.give_back();
            }
        }
        if self.table.is_full() || !budget.take() {
            if self.table.len() == 0 {
                // The only one that can go is the new one. It does not happen where the map is full: each shard then
                // holds about two thousand.
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

    /// Takes out the entry that is nearest to its reset, of a small sample; how many were looked at. Those that shut
    /// their client out come last: in a window all reset together, or newcomers later.
    ///
    /// The sample is spread over the shard: neighbours came at about the same time, and a crowd of debtors that came
    /// together would otherwise be among itself.
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

    /// The next place of the hand that goes round; there is at least one.
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
