//! One decision over several keys, whose entries may be in several shards.

use smallvec::SmallVec;

use super::MemoryInner;
use super::shard::{Shard, ShardContext};
use super::states::{Entries, with_states};
use crate::algorithm::{self, State};
use crate::backend::fingerprint::Fingerprint;
use crate::clock::{Clock, Latest, Timestamp};
use crate::decision::Reply;
use crate::key::KeyRef;
use crate::policy::{NamedQuota, Policy};
use crate::quota::Cost;
use crate::sync::MutexGuard;

/// One for each scope.
pub(super) type PerScope<T> = SmallVec<[T; 4]>;

/// The entries of all scopes, and their shards, each locked once.
struct ScopeEntries<'a> {
    keys: PerScope<Fingerprint>,
    /// The index in `shards` of the shard of each scope.
    places: PerScope<usize>,
    shards: PerScope<MutexGuard<'a, Shard>>,
}

impl Entries for ScopeEntries<'_> {
    fn shard(&mut self, named: &NamedQuota) -> &mut Shard {
        &mut self.shards[self.places[named.scope()]]
    }

    fn fingerprint(&self, named: &NamedQuota) -> Fingerprint {
        self.keys[named.scope()].under(named.id())
    }
}

impl<C: Clock> MemoryInner<C> {
    #[inline(never)]
    pub(super) fn check_scopes(&self, policy: &Policy, key: KeyRef<'_>, cost: Cost) -> Reply {
        let charges = cost.clone();
        let may_create = |index| charges.get(index) > 0;
        self.with_scopes(policy, key, may_create, |states, now| {
            algorithm::check(policy, states, now, cost)
        })
    }

    /// Applies `op` to the states of the keys of all scopes.
    pub(super) fn with_scopes(
        &self,
        policy: &Policy,
        key: KeyRef<'_>,
        may_create: impl Fn(usize) -> bool,
        op: impl FnOnce(&mut [Option<State>], Timestamp) -> Reply,
    ) -> Reply {
        let fingerprint = |scope| self.scope_fingerprint(policy, key, scope);
        let keys: PerScope<Fingerprint> = (0..policy.scopes()).map(fingerprint).collect();
        let index_of = |key: &Fingerprint| key.shard(self.shards.len());
        let mut locked: PerScope<usize> = keys.iter().map(index_of).collect();
        locked.sort_unstable();
        locked.dedup();
        let places = keys
            .iter()
            .map(|key| locked.partition_point(|index| *index < index_of(key)))
            .collect();
        let reading = self.clock.now();
        // Every decision locks the shards in ascending order, so two decisions never wait for each other.
        let shards = locked.iter().map(|index| self.shards[*index].lock());
        let mut entries = ScopeEntries {
            keys,
            places,
            shards: shards.collect(),
        };
        let latest = entries.shards.iter_mut().map(|shard| &mut shard.latest);
        let now = Latest::in_order_of_all(latest, reading, || self.clock.now());
        let context = ShardContext {
            now,
            idle_ttl: self.idle_ttl,
            budget: &self.budget,
        };
        let op = |states: &mut [_]| op(states, now);
        let reply = with_states(&mut entries, policy, &context, may_create, op);
        drop(entries);
        self.with_room(reply)
    }

    pub(super) fn scope_fingerprint(
        &self,
        policy: &Policy,
        key: KeyRef<'_>,
        scope: usize,
    ) -> Fingerprint {
        let outermost = policy.scopes() - 1;
        let own = key.scope(scope);
        if policy.is_by_outermost() && scope < outermost {
            let name = policy.scope_name(outermost);
            return self
                .fingerprints
                .fingerprint_within(name, key.scope(outermost), own);
        }
        self.fingerprints.fingerprint(own)
    }
}
