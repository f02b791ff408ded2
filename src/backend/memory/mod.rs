//! State in this process: [`MemoryBackend`], a sharded map with a hard bound on its size.
//!
//! Keys come from clients, so what is stored is a keyed 64-bit fingerprint of policy and key, seeded at random for each
//! backend: no allocation, no secret kept, the same size whatever a client sends.
//!
//! Room is made as it is needed: each new key looks at a few old ones and forgets those that owe nothing, which no
//! later answer can show. If the map is full of keys that owe something, the one nearest to its reset goes, of a small
//! sample: a flood of new keys is neither an outage nor an amnesty for whoever is deepest in debt. There is no sweeper
//! to start and no long pass under a lock.
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
mod holders;
mod index;
mod key_budget;
mod semaphore;
mod shard;
mod table;

use std::convert::Infallible;
use std::fmt;
use std::future::Ready;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use self::key_budget::KeyBudget;
pub use self::semaphore::{MemorySemaphore, MemorySemaphoreBuilder};
use self::shard::{Shard, ShardContext};
use super::context::DEFAULT_MAX_WAITERS;
use super::{Answer, Backend, BackendContext};
use crate::algorithm;
use crate::backend::PermitBackend;
use crate::backend::fingerprint::{Fingerprint, Fingerprints};
use crate::clock::{Clock, SystemClock, micros_up};
use crate::decision::{ChargePart, Op, PermitId, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::policy::{Policy, SemaphorePolicy};
use crate::quota::Cost;
use crate::sync::{Mutex, MutexGuard};

/// Keys kept if nothing else is said.
const DEFAULT_MAX_KEYS: NonZeroUsize = NonZeroUsize::new(1_000_000).expect("not 0");

/// How long the state of a bucket with other initial tokens is kept after it has filled, if nothing else is said.
const DEFAULT_IDLE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps its state in this process. Clones share it; each process has its own.
///
/// Decisions are made at once and exactly: under any concurrency the admitted cost stays within the quota. At most
/// [`max_keys`](MemoryBackendBuilder::max_keys) are kept, each quota of a policy counting as one; a key takes 48 bytes
/// and its place in the map, up to 64 in all; a sliding log 16 bytes more for each request that it admitted.
pub struct MemoryBackend<C = SystemClock>(Arc<MemoryInner<C>>);

struct MemoryInner<C> {
    clock: C,
    context: BackendContext,
    fingerprints: Fingerprints,
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    budget: KeyBudget,
    idle_ttl: u64,
    semaphore: MemorySemaphore<C>,
}

/// Sets up a [`MemoryBackend`].
#[derive(Clone, Debug)]
#[must_use = "it is `build` that makes a backend"]
pub struct MemoryBackendBuilder<C = SystemClock> {
    clock: C,
    max_keys: NonZeroUsize,
    idle_ttl: Duration,
    max_waiters: (usize, usize),
}

impl MemoryBackend {
    /// An empty backend for up to 1 000 000 keys.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets the bound on keys, the clock and how long an idle bucket is remembered.
    pub const fn builder() -> MemoryBackendBuilder {
        MemoryBackendBuilder {
            clock: SystemClock::new(),
            max_keys: DEFAULT_MAX_KEYS,
            idle_ttl: DEFAULT_IDLE_TTL,
            max_waiters: DEFAULT_MAX_WAITERS,
        }
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Clock> MemoryBackendBuilder<C> {
    /// The most keys that are kept, 1 000 000 by default; each quota of a policy counts as one. It is never exceeded:
    /// with less room than a policy has quotas not even one client is limited.
    pub const fn max_keys(mut self, max_keys: NonZeroUsize) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// The most requests that wait at a time, of one key and in all; 1 024 and 65 536 by default. See
    /// [`BackendContext::max_waiters`].
    pub const fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.max_waiters = (each_key, in_all);
        self
    }

    /// The clock that decides, and that those who wait sleep by; the system's by default.
    pub fn clock<D: Clock>(self, clock: D) -> MemoryBackendBuilder<D> {
        MemoryBackendBuilder {
            clock,
            max_keys: self.max_keys,
            idle_ttl: self.idle_ttl,
            max_waiters: self.max_waiters,
        }
    }

    /// How long after it has filled a bucket is remembered that starts below its capacity, 24 hours by default; after
    /// that it starts again from its initial tokens. Other states need no such time: full equals unseen.
    pub const fn idle_ttl(mut self, idle_ttl: Duration) -> Self {
        self.idle_ttl = idle_ttl;
        self
    }

    /// An empty backend.
    #[must_use]
    pub fn build(self) -> MemoryBackend<C> {
        let max_keys = self.max_keys.get();
        // Shards of two to four thousand keys, so that a full map has a key to give up in each, and growing one is a
        // short pass under its lock.
        let bits = (max_keys / 2_048 + 1).ilog2().min(16);
        let shards = (0..1 << bits)
            .map(|_| CachePadded::new(Mutex::new(Shard::default())))
            .collect();
        // The first reading calibrates the clock: not in the first request.
        let _ = self.clock.now();
        let (each_key, in_all) = self.max_waiters;
        let semaphore = MemorySemaphore::builder().clock(self.clock.clone());
        MemoryBackend(Arc::new(MemoryInner {
            semaphore: semaphore.max_waiters(each_key, in_all).build(),
            context: BackendContext::new(self.clock.clone()).max_waiters(each_key, in_all),
            fingerprints: Fingerprints::new(),
            shards,
            budget: KeyBudget::new(max_keys),
            idle_ttl: micros_up(self.idle_ttl),
            clock: self.clock,
        }))
    }
}

impl<C> MemoryBackend<C> {
    /// How many keys are kept now, at no cost: each quota of a policy counting as one; those that owe nothing may be
    /// among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.budget.keys()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys that owed something were forgotten to make room: above 0,
    /// [`max_keys`](MemoryBackendBuilder::max_keys) is too small for the traffic.
    #[must_use]
    pub fn evictions(&self) -> usize {
        self.0.budget.evictions()
    }

    /// The most entries that any one new key has looked at to make room. (Growing a shard, now and then, is not
    /// counted: it copies up to some thousand entries.)
    #[must_use]
    pub fn longest_search(&self) -> usize {
        self.0.budget.longest_search()
    }
}

impl<C: Clock> MemoryBackend<C> {
    /// Decides a request: the path that has to be short.
    #[inline]
    pub(crate) fn check(&self, policy: &Policy, key: &Key, cost: Cost) -> Reply {
        let shared = &*self.0;
        let fingerprint = shared.fingerprints.fingerprint(key);
        let (mut shard, context) = shared.enter(fingerprint);
        let [only] = policy.quotas() else {
            let op = |states: &mut [_]| algorithm::check(policy, states, context.now, cost);
            return shard.with_states(policy, fingerprint, &context, op);
        };
        let (tokens, limit) = (cost.get(0), fingerprint.under(only.id()));
        let (snapshot, position) = shard.decide(only, limit, &context, tokens);
        drop(shard);
        Reply::to_check_of_one(snapshot, ChargePart::new(only.mark(), tokens, position))
    }

    #[inline]
    pub(crate) fn decide(&self, op: Op, policy: &Policy, key: &Key) -> Reply {
        match op {
            Op::Check(cost) => self.check(policy, key, cost),
            op => self.change(op, policy, key),
        }
    }

    fn change(&self, op: Op, policy: &Policy, key: &Key) -> Reply {
        let shared = &*self.0;
        let fingerprint = shared.fingerprints.fingerprint(key);
        let (mut shard, context) = shared.enter(fingerprint);
        shard.with_states(policy, fingerprint, &context, |states| match op {
            Op::Check(cost) => algorithm::check(policy, states, context.now, cost),
            Op::Reserve { cost, max_wait } => {
                algorithm::reserve(policy, states, context.now, cost, max_wait)
            }
            Op::Cancel(reservation) => {
                let mut reply = algorithm::cancel(policy, states, context.now, &reservation);
                reply.reservation = (!reply.returned).then_some(reservation);
                reply
            }
            Op::Penalize(cost) => algorithm::penalize(policy, states, context.now, cost),
            Op::Refund(receipt) => algorithm::refund(policy, states, context.now, &receipt),
            Op::Reset => algorithm::reset(policy, states, context.now),
        })
    }
}

impl<C: Clock> MemoryInner<C> {
    /// Locks the shard of a key, and tells when.
    ///
    /// The clock is read before the lock is taken, which keeps the lock short, and again under the lock if another
    /// thread has decided later meanwhile.
    #[inline]
    fn enter(&self, fingerprint: Fingerprint) -> (MutexGuard<'_, Shard>, ShardContext<'_>) {
        let reading = self.clock.now();
        let mut shard = self.shard(fingerprint).lock();
        let now = shard.latest.in_order(reading, || self.clock.now());
        let context = ShardContext {
            now,
            idle_ttl: self.idle_ttl,
            budget: &self.budget,
        };
        (shard, context)
    }

    #[inline]
    fn shard(&self, fingerprint: Fingerprint) -> &Mutex<Shard> {
        &self.shards[fingerprint.shard(self.shards.len())]
    }
}

impl<C: Clock> Backend for MemoryBackend<C> {
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    #[inline]
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

/// Its permits are kept beside its buckets, unbounded: a key with holders costs them more than it costs here.
impl<C: Clock> PermitBackend for MemoryBackend<C> {
    type Error = Infallible;
    type Future = Ready<Result<PermitReply, Infallible>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, Infallible>, Self::Future> {
        PermitBackend::ask(&self.0.semaphore, op, policy, key)
    }

    fn context(&self) -> &BackendContext {
        PermitBackend::context(&self.0.semaphore)
    }

    fn has_leases(&self) -> bool {
        PermitBackend::has_leases(&self.0.semaphore)
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        PermitBackend::next_attempt(&self.0.semaphore, policy, reply, waiters)
    }

    fn new_id(&self) -> PermitId {
        PermitBackend::new_id(&self.0.semaphore)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::limiter::Limiter;
    use crate::quota::Quota;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn backend(max_keys: usize) -> (ManualClock, MemoryBackend<ManualClock>) {
        let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
        let max_keys = NonZeroUsize::new(max_keys).expect("not 0");
        let backend = MemoryBackend::builder()
            .max_keys(max_keys)
            .clock(clock.clone())
            .build();
        (clock, backend)
    }

    fn number(key: u64) -> Key {
        Key::from(key)
    }

    #[test]
    fn eviction_of_full_buckets_frees_no_denied_key() {
        let (clock, backend) = backend(100);
        // Not shut out: such a debtor would be spared for that.
        let debtor = Limiter::new(Policy::new("slow", Quota::per_hour(2)), backend.clone());
        assert!(debtor.check_now(&number(0), 1).decision.is_allowed());
        let flood = Quota::per_second(10).initial_tokens(5);
        let flood = Limiter::new(Policy::new("flood", flood), backend);
        for key in 0..5_000 {
            clock.advance(Duration::from_millis(1));
            let _ = flood.check_now(&number(key), 1);
        }
        let left = debtor
            .check_now(&number(0), 0)
            .decision
            .snapshot()
            .remaining();
        assert_eq!(left, 1, "the debt is still known");
    }

    #[test]
    fn peek_at_a_restarting_bucket_changes_no_later_decision() {
        for look in [false, true] {
            let (clock, backend) = backend(100);
            let quota = Quota::per_hour(10).initial_tokens(0);
            let limiter = Limiter::new(Policy::new("late", quota), backend.clone());
            let check = |after: Duration, cost: u64| {
                clock.advance(after);
                limiter.check_now(&number(0), cost).decision.is_allowed()
            };
            assert!(!check(Duration::ZERO, 1));
            assert!(!look || check(26 * HOUR, 0));
            let rest = if look { 24 } else { 50 };
            assert!(!check(rest * HOUR, 1), "it starts again, empty");
            assert!(check(2 * HOUR, 1), "it has filled since");
            assert_eq!(backend.len(), 1);
        }
    }

    #[test]
    fn charge_by_a_faster_tier_keeps_the_debt_of_a_slower_tier() {
        let (clock, backend) = backend(1_000);
        let free = Limiter::new(Policy::new("api", Quota::per_hour(60)), backend.clone());
        let paid = free.with_policy(&Policy::new("api", Quota::per_second(60)));
        assert!(free.check_now(&number(0), 59).decision.is_allowed());
        assert!(paid.check_now(&number(0), 1).decision.is_allowed());
        clock.advance(Duration::from_secs(2));
        // Newcomers look at old entries.
        (1..100).for_each(|key| drop(free.check_now(&number(key), 1)));
        assert_eq!(
            free.check_now(&number(0), 0)
                .decision
                .snapshot()
                .remaining(),
            0
        );
    }

    #[test]
    fn eviction_for_one_quota_keeps_the_other_quotas_of_the_key() {
        let (_, backend) = backend(20);
        let day = Duration::from_secs(86_400);
        let policy =
            Policy::new("two", Quota::per_hour(2)).and("day", Quota::fixed_window(100, day));
        let limiter = Limiter::new(policy, backend.clone());
        for key in 0..200 {
            let mut allowed =
                (0..3).map(|_| limiter.check_now(&number(key), 1).decision.is_allowed());
            assert_eq!(
                [true, true, false].map(Some),
                [allowed.next(), allowed.next(), allowed.next()]
            );
            assert!(backend.len() <= 20);
        }
        assert!(backend.evictions() > 0);
    }
}
