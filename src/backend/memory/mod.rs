//! State in this process: [`MemoryBackend`], a sharded map with a hard bound on its size.
//!
//! Guide: [getting started](crate::_guide::getting_started).
//!
//! Keys come from clients. The map therefore stores a 64-bit fingerprint of policy and key, with a random seed for each
//! backend. It allocates nothing for a key, keeps no secret, and an entry has the same size for every key.
//!
//! Each new key checks a few old entries and removes those that owe nothing; no later answer depends on them. If the
//! map is full of keys that owe something, it evicts the key nearest to its reset among a small sample. A flood of new
//! keys therefore neither denies other clients nor clears the largest debts. There is no background task to start, and
//! no operation holds a lock for long.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
//!
//! let backend = MemoryBackend::builder().max_keys(NonZeroUsize::new(2).unwrap()).build();
//! let limiter = Limiter::new(Policy::new("pages", Quota::per_day(9)), backend.clone());
//! for name in ["ann", "bob", "cid"] {
//!     assert!(limiter.check_now(&Key::from(name), 1).decision.is_allowed());
//! }
//! assert_eq!((backend.len(), backend.evictions()), (2, 1));
//! ```

#[cfg(feature = "blocking")]
mod blocking;
mod blocks;
mod builder;
mod cell;
mod change;
mod denial;
mod holders;
mod index;
mod key_budget;
mod permits;
mod scopes;
mod semaphore;
mod shard;
mod states;
mod table;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::future::Ready;
use std::sync::Arc;

use self::blocks::Blocks;
pub use self::builder::MemoryBackendBuilder;
use self::cell::ShardCell;
use self::key_budget::KeyBudget;
pub use self::semaphore::{MemorySemaphore, MemorySemaphoreBuilder};
use self::shard::{NO_ROOM, Shard, ShardContext};
use self::states::{KeyEntries, with_states};
use super::{Answer, Backend, BackendContext};
use crate::algorithm::{self, Algorithm, ByAlgorithm, State};
use crate::backend::fingerprint::{Fingerprint, Fingerprints};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::decision::{ChargePart, ChargePosition, Op, Reply};
use crate::key::{Key, KeyRef};
use crate::policy::{NamedQuota, Policy};
use crate::quota::Cost;
use crate::sync::MutexGuard;

/// Keeps its state in this process. Clones share the state; each process has its own.
///
/// Decisions are made at once and are exact: under any concurrency, the allowed cost stays within the quota.
///
/// Blocks ([`Limiter::block`](crate::Limiter::block)) are kept beside the entries, until they end.
///
/// At most [`max_keys`](MemoryBackendBuilder::max_keys) entries are kept. A key has one entry for each quota of its
/// policy. An entry takes up to 64 bytes, and a sliding log 16 bytes more for each allowed request in its window.
///
/// Guide: [getting started](crate::_guide::getting_started).
pub struct MemoryBackend<C = SystemClock>(Arc<MemoryInner<C>>);

struct MemoryInner<C> {
    clock: C,
    context: BackendContext,
    fingerprints: Fingerprints,
    shards: Box<[ShardCell]>,
    budget: KeyBudget,
    blocks: Blocks,
    idle_ttl: u64,
    semaphore: MemorySemaphore<C>,
}

impl MemoryBackend {
    /// Creates an empty backend for up to 1,000,000 entries.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder, which sets the bounds, the clock and the time for which idle buckets are kept.
    pub const fn builder() -> MemoryBackendBuilder {
        MemoryBackendBuilder::new()
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> MemoryBackend<C> {
    /// Returns the number of entries: one for each quota of each key, without totals. Entries that owe nothing may be among them. The
    /// call takes constant time.
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let policy = Policy::new("api", Quota::per_second(5)).and("daily", Quota::per_day(100));
    /// let limiter = Limiter::new(policy, MemoryBackend::new());
    /// limiter.check_now("ann", 1);
    /// assert_eq!(limiter.backend().len(), 2); // one key, two quotas
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.budget.keys()
    }

    /// Returns whether there is no entry.
    ///
    /// See the example of [`MemoryBackendBuilder`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many entries that owed something were evicted. Above 0,
    /// [`max_keys`](MemoryBackendBuilder::max_keys) is too small for the traffic.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let backend = MemoryBackend::builder().max_keys(NonZeroUsize::MIN).build();
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), backend);
    /// limiter.check_now("ann", 1);
    /// limiter.check_now("bob", 1);
    /// assert_eq!((limiter.backend().len(), limiter.backend().evictions()), (1, 1));
    /// ```
    #[must_use]
    pub fn evictions(&self) -> usize {
        self.0.budget.evictions()
    }

    /// Returns the number of [totals](crate::Quota::total), which have a bound of their own:
    /// [`max_totals`](MemoryBackendBuilder::max_totals).
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("trial", Quota::total(10)), MemoryBackend::new());
    /// limiter.check_now("ann", 1);
    /// assert_eq!((limiter.backend().totals(), limiter.backend().len()), (1, 0));
    /// ```
    #[must_use]
    pub fn totals(&self) -> usize {
        self.0.budget.totals()
    }

    /// Returns how many requests were denied because there was no room for another total.
    #[must_use]
    pub fn refused_totals(&self) -> usize {
        self.0.budget.refused_totals()
    }

    /// Returns the most entries that one new key has checked for removal or eviction.
    ///
    /// Growing a shard is not counted. It happens now and then and copies up to 4,096 entries.
    #[must_use]
    pub fn longest_search(&self) -> usize {
        self.0.budget.longest_search()
    }
}

impl<C: Clock> MemoryBackend<C> {
    /// Decides a request. A policy with one quota takes a shorter path.
    #[inline(always)] // a call would move the reply once more
    pub(crate) fn check<'k>(
        &self,
        policy: &Policy,
        key: impl Into<KeyRef<'k>>,
        cost: Cost,
    ) -> Reply {
        let key = key.into();
        let fingerprint = self.0.fingerprints.fingerprint(key);
        if !self.0.blocks.is_empty() {
            return self.0.check_with_blocks(policy, key, cost);
        }
        match policy.quotas() {
            [only] => {
                let tokens = cost.get(0);
                let backend = &*self.0;
                let check = CheckOne {
                    backend,
                    only,
                    fingerprint,
                    tokens,
                };
                algorithm::by_algorithm(only.quota(), check)
            }
            _ if policy.has_scopes() => self.0.check_scopes(policy, key, cost),
            _ => self.0.check_several(policy, fingerprint, cost),
        }
    }

    #[inline(always)] // for a constant operation the match disappears
    pub(crate) fn decide(&self, op: Op, policy: &Policy, key: &Key) -> Reply {
        match op {
            Op::Check(cost) => self.check(policy, key, cost),
            op => self.0.change(op, policy, key),
        }
    }
}

impl<C: Clock> MemoryInner<C> {
    /// Decides under a policy with one quota.
    ///
    /// There is a copy for each algorithm. Its arguments are in registers, and it writes the reply once, where the
    /// caller wants it: a wide load of a value that was just written in parts would stall.
    #[inline(never)]
    fn check_by<A: Algorithm>(
        &self,
        algorithm: &A,
        only: &NamedQuota,
        key: Fingerprint,
        tokens: u64,
    ) -> Reply {
        let limit = key.under(only.id());
        let reading = self.clock.now();
        let cell = self.cell(key);
        if let Some(state) = cell.denial.read(limit, reading)
            && let Some(denial) = algorithm::deny_by(algorithm, &state, reading, tokens)
        {
            let position = ChargePosition::default();
            return Reply::to_check_of_one(denial, ChargePart::new(only.mark(), tokens, position));
        }
        let mut shard = cell.lock_for_check();
        let context = self.shard_context(&mut shard, reading);
        let (snapshot, position) =
            shard.decide(algorithm, only, limit, &context, tokens, &cell.denial);
        drop(shard);
        if A::IS_TOTAL && snapshot == NO_ROOM {
            return self.reject_total(only);
        }
        Reply::to_check_of_one(snapshot, ChargePart::new(only.mark(), tokens, position))
    }

    #[inline(never)]
    pub(super) fn check_several(&self, policy: &Policy, key: Fingerprint, cost: Cost) -> Reply {
        let charges = cost.clone();
        let may_create = |index| charges.get(index) > 0;
        self.with_key(policy, key, may_create, |states, now| {
            algorithm::check(policy, states, now, cost)
        })
    }

    /// Applies `op` to the states of one key.
    #[inline]
    fn with_key(
        &self,
        policy: &Policy,
        key: Fingerprint,
        may_create: impl Fn(usize) -> bool,
        op: impl FnOnce(&mut [Option<State>], Timestamp) -> Reply,
    ) -> Reply {
        let (mut shard, context) = self.enter(key);
        let mut entries = KeyEntries {
            shard: &mut shard,
            key,
        };
        let op = |states: &mut [_]| op(states, context.now);
        let reply = with_states(&mut entries, policy, &context, may_create, op);
        drop(shard);
        self.with_room(reply)
    }

    /// Locks the shard of a key and reads the clock.
    ///
    /// The clock is read before the lock, which keeps the lock short. It is read again under the lock if another thread
    /// has decided at a later time meanwhile.
    #[inline]
    fn enter(&self, fingerprint: Fingerprint) -> (MutexGuard<'_, Shard>, ShardContext<'_>) {
        let reading = self.clock.now();
        let mut shard = self.cell(fingerprint).lock();
        let context = self.shard_context(&mut shard, reading);
        (shard, context)
    }

    #[inline]
    fn shard_context(&self, shard: &mut Shard, reading: Timestamp) -> ShardContext<'_> {
        ShardContext {
            now: shard.latest.in_order(reading, || self.clock.now()),
            idle_ttl: self.idle_ttl,
            budget: &self.budget,
        }
    }

    #[inline]
    fn cell(&self, fingerprint: Fingerprint) -> &ShardCell {
        &self.shards[fingerprint.shard(self.shards.len())]
    }
}

/// A check under a policy with one quota.
struct CheckOne<'a, C> {
    backend: &'a MemoryInner<C>,
    only: &'a NamedQuota,
    fingerprint: Fingerprint,
    tokens: u64,
}

impl<C: Clock> ByAlgorithm for CheckOne<'_, C> {
    type Output = Reply;

    #[inline]
    fn call<A: Algorithm>(self, algorithm: &A) -> Reply {
        let Self {
            backend,
            only,
            fingerprint,
            tokens,
        } = self;
        backend.check_by(algorithm, only, fingerprint, tokens)
    }
}

impl<C: Clock> Backend for MemoryBackend<C> {
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    #[inline(always)] // a call would move the reply once more
    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, Infallible>, Self::Future> {
        Answer::Now(Ok(self.decide(op, policy, key)))
    }

    fn context(&self) -> &BackendContext {
        &self.0.context
    }
}

impl<C> Clone for MemoryBackend<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> fmt::Debug for MemoryBackend<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("keys", &self.len())
            .field("max_keys", &self.0.budget.max_keys())
            .field("evictions", &self.evictions())
            .finish_non_exhaustive()
    }
}
