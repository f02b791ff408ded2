//! Operations on several entries at once.

use smallvec::SmallVec;

use super::shard::{Shard, ShardContext, without_room};
use crate::algorithm::{self, State};
use crate::backend::fingerprint::Fingerprint;
use crate::clock::Timestamp;
use crate::decision::{Op, Reply};
use crate::policy::{NamedQuota, Policy};
use crate::quota::Cost;

/// The entries of one operation: an entry for each quota of the policy, each in a shard that is locked.
pub(super) trait Entries {
    /// Returns the shard of the entry for this quota.
    fn shard(&mut self, named: &NamedQuota) -> &mut Shard;
    /// Returns the fingerprint of that entry.
    fn fingerprint(&self, named: &NamedQuota) -> Fingerprint;
}

/// The entries of one key.
pub(super) struct KeyEntries<'a> {
    pub(super) shard: &'a mut Shard,
    pub(super) key: Fingerprint,
}

impl Entries for KeyEntries<'_> {
    #[inline]
    fn shard(&mut self, _: &NamedQuota) -> &mut Shard {
        self.shard
    }

    #[inline]
    fn fingerprint(&self, named: &NamedQuota) -> Fingerprint {
        self.key.under(named.id())
    }
}

/// Applies `op` to the states of the entries, and stores the results. `may_create` tells whether `op` may create the
/// state of the quota at an index.
///
/// The operation is not run if there is no room for a total that it may create. The reply denies it.
pub(super) fn with_states(
    entries: &mut impl Entries,
    policy: &Policy,
    context: &ShardContext<'_>,
    may_create: impl Fn(usize) -> bool,
    op: impl FnOnce(&mut [Option<State>]) -> Reply,
) -> Reply {
    let quotas = policy.quotas();
    let mut slot_indexes = SmallVec::<[Option<usize>; 2]>::new();
    let mut states = SmallVec::<[Option<State>; 2]>::new();
    for named in quotas.iter().filter(|named| named.lingers()) {
        let fingerprint = entries.fingerprint(named);
        let keys = &mut entries.shard(named).keys;
        if keys
            .table
            .find(fingerprint)
            .is_some_and(|slot_index| context.is_idle(named, keys.table.slot(slot_index)))
        {
            keys.forget(fingerprint);
            context.budget.give_back();
        }
    }
    let (mut reserved, mut has_room) = (0, true);
    let is_created = |index: usize| quotas[index].is_total() && may_create(index);
    // Before the first look: a total of these entries may have ended and be removed.
    for index in (0..quotas.len()).filter(|index| is_created(*index)) {
        let totals = &mut entries.shard(&quotas[index]).totals;
        totals.sweep_before_totals(context);
    }
    for index in (0..quotas.len()).filter(|index| is_created(*index)) {
        let named = &quotas[index];
        let fingerprint = entries.fingerprint(named);
        let totals = &mut entries.shard(named).totals;
        if totals.table.find(fingerprint).is_none() {
            if totals.take_total(context.budget) {
                reserved += 1;
            } else {
                has_room = false;
            }
        }
    }
    for named in quotas {
        let fingerprint = entries.fingerprint(named);
        let table = &mut entries.shard(named).region(named).table;
        let slot_index = table.find(fingerprint);
        let mut state = slot_index.and_then(|slot_index| table.slot_mut(slot_index).state.take());
        if slot_index.is_some() && state.is_none() {
            // The same entry twice counts once.
            let mut earlier = quotas.iter().zip(&states);
            let first = earlier.find(|(named, _)| entries.fingerprint(named) == fingerprint);
            state = first.and_then(|(_, state)| state.clone());
        }
        states.push(state);
        slot_indexes.push(slot_index);
    }
    let mut before = SmallVec::<[Option<State>; 2]>::new();
    if policy.has_total() {
        let total = |(named, state): (&NamedQuota, &Option<State>)| {
            state.as_ref().filter(|_| named.is_total()).cloned()
        };
        before.extend(quotas.iter().zip(&states).map(total));
    }
    let reply = if has_room {
        op(&mut states)
    } else {
        let numbers = algorithm::check(policy, &mut states, context.now, Cost::ZERO);
        without_room(quotas, numbers.decision.snapshot().quotas())
    };
    let answers = reply.decision.snapshot().quotas();
    // The receipt of a check shows which quotas were charged. Other operations write all states.
    let written = |index: usize| match &reply.receipt {
        Some(receipt) => receipt.charges[index].tokens > 0,
        None => reply.decision.is_allowed(),
    };
    let reset = |index: usize| {
        let kept_for = algorithm::kept_for(quotas[index].quota(), &answers[index]);
        context.reset(&quotas[index], &answers[index], kept_for)
    };
    // Updates come before insertions and removals, which move entries.
    let mut moves = SmallVec::<[(usize, Option<State>); 2]>::new();
    for (index, (slot_index, state)) in slot_indexes.into_iter().zip(states).enumerate() {
        match (slot_index, state) {
            (Some(slot_index), Some(state)) if !state.is_unused_total() => {
                let named = &quotas[index];
                let region = entries.shard(named).region(named);
                let slot = region.table.slot_mut(slot_index);
                slot.state = Some(state);
                // A read or a denial does not change it, unless it cuts a total whose limit was lowered.
                let is_cut = named.is_total() && slot.state != before[index];
                if written(index) || is_cut {
                    slot.reset = slot.reset.renewed(reset(index));
                }
            }
            (None, None) => {}
            (_, state) => moves.push((index, state)),
        }
    }
    if !moves.is_empty() {
        let own = quotas.iter().map(|named| entries.fingerprint(named));
        let own: SmallVec<[Fingerprint; 8]> = own.collect();
        for (index, kept) in moves {
            let (named, fingerprint) = (&quotas[index], own[index]);
            if own[..index].contains(&fingerprint) {
                continue;
            }
            let shard = entries.shard(named);
            match kept.filter(|state| !state.is_unused_total()) {
                Some(state) if named.is_total() => {
                    shard.totals.push(fingerprint, state, reset(index));
                    reserved -= 1;
                }
                Some(state) => {
                    let of_these = |fingerprint| own.contains(&fingerprint);
                    shard.insert(fingerprint, state, reset(index), context, of_these);
                }
                None if shard.region(named).forget(fingerprint) && named.is_total() => {
                    context.budget.give_total_back();
                }
                None if named.is_total() => {}
                None => context.budget.give_back(),
            }
        }
    }
    for _ in 0..reserved {
        context.budget.give_total_back();
    }
    reply
}

/// Runs an operation on the states of all quotas.
pub(super) fn apply(
    op: Op,
    policy: &Policy,
    states: &mut [Option<State>],
    now: Timestamp,
) -> Reply {
    match op {
        Op::Check(cost) => algorithm::check(policy, states, now, cost),
        Op::Reserve { cost, max_wait } => algorithm::reserve(policy, states, now, cost, max_wait),
        Op::Cancel(reservation) => {
            let mut reply = algorithm::cancel(policy, states, now, &reservation);
            reply.reservation = (!reply.returned).then_some(reservation);
            reply
        }
        Op::Penalize(cost) => algorithm::penalize(policy, states, now, cost),
        Op::Refund(receipt) => algorithm::refund(policy, states, now, &receipt),
        Op::CheckUpTo(most) => algorithm::check_up_to(policy, states, now, most),
        // A block has no state here.
        Op::Reset | Op::Block(_) | Op::Unblock => algorithm::reset(policy, states, now),
    }
}

/// Returns the cost for which an operation may create states.
pub(super) fn creations(op: &Op) -> Option<Cost> {
    match op {
        Op::Check(cost) | Op::Reserve { cost, .. } | Op::Penalize(cost) => Some(cost.clone()),
        Op::CheckUpTo(most) => Some(Cost::new(*most)),
        Op::Cancel(_) | Op::Refund(_) | Op::Reset | Op::Block(_) | Op::Unblock => None,
    }
}
