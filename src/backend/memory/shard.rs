use smallvec::SmallVec;

use super::denial::PublishedDenial;
use super::key_budget::KeyBudget;
use super::table::{ResetTime, Slot, Table};
use crate::algorithm::{self, Algorithm, State};
use crate::backend::fingerprint::Fingerprint;
use crate::clock::{Latest, Timestamp};
use crate::decision::{ChargePosition, DenialReason, QuotaSnapshot, Reply, Snapshot};
use crate::policy::NamedQuota;

/// The old entries that each new entry checks, to remove those that owe nothing. More than one, so that the map shrinks
/// while keys come and go.
const SWEPT_PER_INSERTION: usize = 2;

/// The answer for a new total without room.
pub(super) const NO_ROOM: QuotaSnapshot = QuotaSnapshot {
    limit: 0,
    remaining: 0,
    retry_after: 1_000_000,
    reset_after: 0,
};

/// Returns the denial of a request whose total has no room. It gets the wait of a request whose backend has failed.
pub(super) fn without_room(quotas: &[NamedQuota], numbers: &[QuotaSnapshot]) -> Reply {
    let mut answers = SmallVec::<[_; 2]>::from_slice(numbers);
    for (named, quota) in quotas.iter().zip(&mut answers) {
        if named.is_total() {
            quota.remaining = 0;
            quota.retry_after = NO_ROOM.retry_after;
        }
    }
    let snapshot = Snapshot::new(answers).denied_by(DenialReason::TooManyTotals);
    Reply::to_check(snapshot, SmallVec::new)
}

/// The sample of an eviction. The entry nearest to its reset is evicted.
const SAMPLE: usize = 16;

/// A part of the map, under its own lock.
#[derive(Default)]
pub(super) struct Shard {
    /// The time of the last decision in this shard.
    pub(super) latest: Latest,
    /// The entry of the last denial, if it can be published.
    denied: Option<Fingerprint>,
    /// The states that end by themselves.
    pub(super) keys: Region,
    /// The totals. They have a bound of their own, and none is evicted.
    pub(super) totals: Region,
}

/// A table with the position of its search for entries that owe nothing.
#[derive(Default)]
pub(super) struct Region {
    pub(super) table: Table,
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
    /// Returns the time at which a quota owes nothing, by its answer and the µs for which its state is kept.
    #[inline]
    pub(super) fn reset(
        &self,
        named: &NamedQuota,
        answer: &QuotaSnapshot,
        kept_for: u64,
    ) -> ResetTime {
        let at = self.now.as_micros().saturating_add(kept_for);
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
    pub(super) fn is_idle(&self, named: &NamedQuota, slot: &Slot) -> bool {
        named.lingers() && self.is_over(slot)
    }
}

impl Shard {
    /// Decides a request under a policy with one quota. The answer is [`NO_ROOM`]
    /// if there is no room for another total.
    #[inline(always)] // a call would return the numbers through memory
    pub(super) fn decide<A: Algorithm>(
        &mut self,
        algorithm: &A,
        named: &NamedQuota,
        fingerprint: Fingerprint,
        context: &ShardContext<'_>,
        cost: u64,
        denial: &PublishedDenial,
    ) -> (QuotaSnapshot, ChargePosition) {
        let region = if A::IS_TOTAL {
            &mut self.totals
        } else {
            &mut self.keys
        };
        let Some(slot_index) = region.table.find(fingerprint) else {
            denial.withdraw(); // an insertion may remove any entry
            return self.decide_unseen(named, fingerprint, context, cost);
        };
        let slot = region.table.slot_mut(slot_index);
        if context.is_idle(named, slot) {
            region.forget(fingerprint);
            context.budget.give_back();
            denial.withdraw();
            return self.decide_unseen(named, fingerprint, context, cost);
        }
        let before = slot.state.as_ref().filter(|_| A::IS_TOTAL).cloned();
        let answer = algorithm::decide_by(algorithm, &mut slot.state, context.now, cost);
        if answer.0.is_allowed() {
            denial.withdraw_entry(fingerprint);
        } else if self.denied != Some(fingerprint) {
            self.denied = Some(fingerprint);
            denial.withdraw_entry(fingerprint);
        } else if let Some(state) = &slot.state {
            denial.publish(fingerprint, &state.0, context.now);
        }
        // A lowered limit cuts the state of a total, also if the request is denied.
        let is_cut = A::IS_TOTAL && slot.state != before;
        if (cost > 0 && answer.0.is_allowed()) || is_cut {
            let kept_for = algorithm.kept_for(&answer.0);
            slot.reset = slot
                .reset
                .renewed(context.reset(named, &answer.0, kept_for));
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
            let reset = context.reset(
                named,
                &answer.0,
                algorithm::kept_for(named.quota(), &answer.0),
            );
            if !named.is_total() {
                self.insert(fingerprint, state, reset, context, |_| false);
            } else {
                self.totals.sweep_before_totals(context);
                if !self.totals.take_total(context.budget) {
                    return (NO_ROOM, ChargePosition::default());
                }
                self.totals.push(fingerprint, state, reset);
            }
        }
        answer
    }

    /// Removes some of the totals that have ended.
    pub(super) fn sweep_totals(&mut self, context: &ShardContext<'_>) {
        let removed = || context.budget.give_total_back();
        self.totals.sweep(SAMPLE, context, removed);
    }

    pub(super) fn region(&mut self, named: &NamedQuota) -> &mut Region {
        if named.is_total() {
            &mut self.totals
        } else {
            &mut self.keys
        }
    }

    /// Adds an entry, and evicts another one if the map is full. Entries for which `spare` is true are evicted last.
    #[cold]
    pub(super) fn insert(
        &mut self,
        fingerprint: Fingerprint,
        state: State,
        reset: ResetTime,
        context: &ShardContext<'_>,
        spare: impl Fn(Fingerprint) -> bool,
    ) {
        let (budget, keys) = (context.budget, &mut self.keys);
        let mut looked_at = keys.sweep(SWEPT_PER_INSERTION, context, || budget.give_back());
        if keys.table.is_full() || !budget.take() {
            if keys.table.len() == 0 {
                // The shard is empty, so that only the new entry can be evicted. In practice each shard of a full map
                // holds at least 2,048 entries.
                budget.evicted();
                return;
            }
            looked_at += keys.evict(context, spare);
        }
        budget.looked_at(looked_at);
        keys.push(fingerprint, state, reset);
    }
}

impl Region {
    /// Removes an entry, and returns whether it was there.
    pub(super) fn forget(&mut self, fingerprint: Fingerprint) -> bool {
        let slot_index = self.table.find(fingerprint);
        slot_index.is_some_and(|slot_index| {
            self.table.remove(slot_index);
            true
        })
    }

    /// Adds an entry to a table with room.
    pub(super) fn push(&mut self, fingerprint: Fingerprint, state: State, reset: ResetTime) {
        self.table.push(Slot {
            fingerprint,
            reset,
            state: Some(state),
        });
    }

    /// Checks up to `most` entries, and removes those that owe nothing. Returns the number of checked entries.
    fn sweep(&mut self, most: usize, context: &ShardContext<'_>, removed: impl Fn()) -> usize {
        let mut looked_at = 0;
        for _ in 0..most.min(self.table.len()) {
            looked_at += 1;
            let slot_index = self.advance_hand();
            if context.is_over(self.table.slot(slot_index)) {
                self.table.remove(slot_index);
                self.hand = slot_index; // the last entry is here now
                removed();
            }
        }
        looked_at
    }

    /// Removes some of the totals that have ended, and more of them if there is no room.
    #[cold]
    pub(super) fn sweep_before_totals(&mut self, context: &ShardContext<'_>) {
        let most = if context.budget.has_room_for_total() {
            SWEPT_PER_INSERTION
        } else {
            SAMPLE
        };
        self.sweep(most, context, || context.budget.give_total_back());
    }

    /// Reserves room for one more total. Returns whether there is room.
    pub(super) fn take_total(&self, budget: &KeyBudget) -> bool {
        let has_room = !self.table.is_full() && budget.take_total();
        if !has_room {
            budget.total_refused();
        }
        has_room
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
