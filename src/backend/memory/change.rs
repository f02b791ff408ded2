//! All operations but checks, blocked keys, and totals without room.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::scopes::PerScope;
use super::shard::{ShardContext, without_room};
use super::states::{apply, creations};
use super::{CheckOne, MemoryInner};
use crate::algorithm;
use crate::backend::LONGEST_BLOCK;
use crate::backend::fingerprint::Fingerprint;
use crate::clock::{Clock, micros_up};
use crate::decision::{DenialReason, Op, Reply};
use crate::key::{Key, KeyRef};
use crate::policy::{NamedQuota, Policy};
use crate::quota::Cost;

/// The shards that are searched for ended totals after one was refused.
const SWEPT_SHARDS: usize = 8;

impl<C: Clock> MemoryInner<C> {
    #[inline(never)]
    pub(super) fn change(&self, op: Op, policy: &Policy, key: &Key) -> Reply {
        match &op {
            Op::Block(_) | Op::Unblock => {
                let span = match &op {
                    Op::Block(span) => micros_up(*span).min(LONGEST_BLOCK),
                    _ => 0,
                };
                let key = self.block_key(policy, key.into(), 0);
                self.blocks.set(key, self.clock.now(), span);
                return Reply::of_unused_key(policy);
            }
            Op::Check(_) | Op::Reserve { .. } | Op::CheckUpTo(_) if !self.blocks.is_empty() => {
                let cost = creations(&op).unwrap_or_default();
                if let Some(reply) = self.denial_by_block(policy, key.into(), &cost) {
                    return reply;
                }
            }
            _ => {}
        }
        let creates = creations(&op);
        let may_create = |index| {
            creates
                .as_ref()
                .is_some_and(|cost: &Cost| cost.get(index) > 0)
        };
        let run = |states: &mut [_], now| apply(op, policy, states, now);
        if policy.has_scopes() {
            return self.with_scopes(policy, key.into(), may_create, run);
        }
        let fingerprint = self.fingerprints.fingerprint(key);
        self.with_key(policy, fingerprint, may_create, run)
    }

    /// Decides while some keys are blocked. The cost is moved here, because a reference would keep it in memory on the
    /// path without blocks.
    #[cold]
    #[inline(never)]
    pub(super) fn check_with_blocks(&self, policy: &Policy, key: KeyRef<'_>, cost: Cost) -> Reply {
        if let Some(reply) = self.denial_by_block(policy, key, &cost) {
            return reply;
        }
        let fingerprint = self.fingerprints.fingerprint(key);
        match policy.quotas() {
            [only] => {
                let tokens = cost.get(0);
                let check = CheckOne {
                    backend: self,
                    only,
                    fingerprint,
                    tokens,
                };
                algorithm::by_algorithm(only.quota(), check)
            }
            _ if policy.has_scopes() => self.check_scopes(policy, key, cost),
            _ => self.check_several(policy, fingerprint, cost),
        }
    }

    /// Returns the denial of a request with blocked scopes, if there are any.
    #[cold]
    pub(super) fn denial_by_block(
        &self,
        policy: &Policy,
        key: KeyRef<'_>,
        cost: &Cost,
    ) -> Option<Reply> {
        let now = self.clock.now();
        let rest = |scope| match policy.can_be_blocked(scope) {
            true => self.blocks.rest(self.block_key(policy, key, scope), now),
            false => 0,
        };
        let rests: PerScope<u64> = (0..policy.scopes()).map(rest).collect();
        if rests.iter().all(|rest| *rest == 0) {
            return None;
        }
        if !policy.has_scopes() {
            return Some(Reply::of_blocked_scopes(policy, cost, &rests, &[]));
        }
        Some(self.with_scopes(
            policy,
            key,
            |_| false,
            |states, now| {
                let numbers = algorithm::answers_without_charge(policy, states, now, cost);
                Reply::of_blocked_scopes(policy, cost, &rests, &numbers)
            },
        ))
    }

    /// Returns the key of the block of a scope. All policies of a name share it.
    fn block_key(&self, policy: &Policy, key: KeyRef<'_>, scope: usize) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        policy.scope_name(scope).hash(&mut hasher);
        self.scope_fingerprint(policy, key, scope)
            .under(hasher.finish())
    }

    /// Makes room for totals after one was refused. The entries that have ended may be in other shards than the key.
    #[inline]
    pub(super) fn with_room(&self, reply: Reply) -> Reply {
        if reply.decision.denial_reason() == Some(DenialReason::TooManyTotals) {
            self.sweep_totals();
        }
        reply
    }

    #[cold]
    fn sweep_totals(&self) {
        let now = self.clock.now();
        let first = self.budget.refused_totals().wrapping_mul(SWEPT_SHARDS);
        for index in 0..SWEPT_SHARDS.min(self.shards.len()) {
            let context = ShardContext {
                now,
                idle_ttl: self.idle_ttl,
                budget: &self.budget,
            };
            let shard = &self.shards[first.wrapping_add(index) % self.shards.len()];
            shard.lock().sweep_totals(&context);
        }
    }

    /// Returns the reply for a new total without room.
    #[cold]
    pub(super) fn reject_total(&self, only: &NamedQuota) -> Reply {
        let mut unused = None;
        let numbers = algorithm::decide(only.quota(), &mut unused, self.clock.now(), 0, true).0;
        self.with_room(without_room(std::slice::from_ref(only), &[numbers]))
    }
}
