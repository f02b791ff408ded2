use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ahash::RandomState;
use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

use super::holders::{Holders, LeaseContext};
use crate::backend::{Answer, BackendContext, PermitBackend};
use crate::clock::{Clock, Latest, SystemClock};
use crate::decision::RetryAfter;
use crate::decision::{PermitId, PermitOp, PermitReply};
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::sync::Mutex;

/// Keeps permits in this process. Clones share them; each process has its own.
///
/// A permit ends with its guard and needs no lease. What the answers tell of leases is what they would be in Redis,
/// where they are renewed. Nothing is kept of a key without holders.
// Tokio's semaphore has a fixed number of permits: here the capacity comes with each request, and may differ from one
// to the next. Those who wait do so by tokio's means all the same: see `line`.
pub struct MemorySemaphore<C = SystemClock>(Arc<MemorySemaphoreInner<C>>);

struct MemorySemaphoreInner<C> {
    clock: C,
    context: BackendContext,
    leases_end: bool,
    ids: AtomicU64,
    seed: RandomState,
    shards: [CachePadded<Mutex<PermitShard>>; SHARDS],
}

#[derive(Default)]
struct PermitShard {
    /// When something was last decided here.
    latest: Latest,
    /// By the hash of name and key: two share one with a chance of 2^-64.
    keys: HashMap<u64, Holders, RandomState>,
}

/// Locks that the keys are spread over.
const SHARDS: usize = 16;

/// Sets up a [`MemorySemaphore`].
#[derive(Clone, Debug)]
#[must_use = "it is `build` that makes a semaphore"]
pub struct MemorySemaphoreBuilder<C = SystemClock> {
    clock: C,
    leases_end: bool,
    max_waiters: Option<(usize, usize)>,
}

impl MemorySemaphore {
    /// Nobody holds anything.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets the clock and the bounds on those who wait.
    pub const fn builder() -> MemorySemaphoreBuilder {
        MemorySemaphoreBuilder {
            clock: SystemClock::new(),
            leases_end: false,
            max_waiters: None,
        }
    }
}

impl Default for MemorySemaphore {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Clock> MemorySemaphoreBuilder<C> {
    /// The clock that those who wait sleep by; the system's by default.
    pub fn clock<D: Clock>(self, clock: D) -> MemorySemaphoreBuilder<D> {
        MemorySemaphoreBuilder {
            clock,
            leases_end: self.leases_end,
            max_waiters: self.max_waiters,
        }
    }

    /// The most that wait at a time, for one key and in all; 1 024 and 65 536 by default. See
    /// [`BackendContext::max_waiters`].
    pub const fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.max_waiters = Some((each_key, in_all));
        self
    }

    /// Lets permits end with their leases, as they do in Redis: for tests of what loses one, by a clock that is moved
    /// by hand.
    pub const fn leases_end(mut self) -> Self {
        self.leases_end = true;
        self
    }

    /// A semaphore of which nobody holds anything.
    #[must_use]
    pub fn build(self) -> MemorySemaphore<C> {
        let context = BackendContext::new(self.clock.clone());
        MemorySemaphore(Arc::new(MemorySemaphoreInner {
            context: match self.max_waiters {
                Some((each_key, in_all)) => context.max_waiters(each_key, in_all),
                None => context,
            },
            clock: self.clock,
            leases_end: self.leases_end,
            ids: AtomicU64::new(0),
            seed: RandomState::new(),
            shards: std::array::from_fn(|_| CachePadded::default()),
        }))
    }
}

impl<C> MemorySemaphore<C> {
    /// Of how many keys permits are held now. It looks at all of them: for tests and metrics.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0
            .shards
            .iter()
            .map(|shard| shard.lock().keys.len())
            .sum()
    }

    /// How many permits are held now, of all keys. It looks at all of them: for tests and metrics.
    #[must_use]
    pub fn held(&self) -> u64 {
        let of = |shard: &CachePadded<Mutex<PermitShard>>| -> u64 {
            shard.lock().keys.values().map(Holders::live).sum()
        };
        self.0.shards.iter().map(of).sum()
    }
}

impl<C: Clock> MemorySemaphore<C> {
    fn decide(&self, op: &PermitOp, policy: &SemaphorePolicy, key: &Key) -> PermitReply {
        let shared = &*self.0;
        let fingerprint = shared.seed.hash_one((policy.name(), key));
        let reading = shared.clock.now();
        let mut shard = shared.shard(fingerprint).lock();
        let now = shard.latest.in_order(reading, || shared.clock.now());
        let at = LeaseContext {
            now: now.as_micros(),
            policy,
            leases_end: shared.leases_end,
        };
        let shard = &mut shard.keys;
        if let PermitOp::Acquire { id, weight } | PermitOp::Wait { id, weight, .. } = op {
            let numbers = shard
                .entry(fingerprint)
                .or_default()
                .acquire(&at, *id, *weight);
            forget_if_empty(shard, fingerprint);
            return PermitReply::from_snapshot(numbers);
        }
        let Some(holders) = shard.get_mut(&fingerprint) else {
            let lasting = match op {
                PermitOp::Renew(ids) => SmallVec::from_elem(false, ids.len()),
                PermitOp::Release(_) | PermitOp::Revoke(_) => SmallVec::from_elem(false, 1),
                _ => SmallVec::new(),
            };
            let reply = PermitReply::from_snapshot(Holders::default().snapshot(&at, 0));
            return PermitReply { lasting, ..reply };
        };
        let lasting = match op {
            PermitOp::Renew(ids) => ids.iter().map(|id| holders.renew(&at, *id)).collect(),
            // Nothing arrives late in memory.
            PermitOp::Release(id) | PermitOp::Revoke(id) => {
                SmallVec::from_elem(holders.release(&at, *id), 1)
            }
            _ => SmallVec::new(),
        };
        let reply = PermitReply::from_snapshot(holders.snapshot(&at, 0));
        forget_if_empty(shard, fingerprint);
        PermitReply { lasting, ..reply }
    }
}

fn forget_if_empty(shard: &mut HashMap<u64, Holders, RandomState>, fingerprint: u64) {
    if shard.get(&fingerprint).is_some_and(Holders::is_empty) {
        shard.remove(&fingerprint);
        // What a crowd has left behind is given back, seldom enough to cost nothing.
        if shard.capacity() > 1_024 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to(2 * shard.len());
        }
    }
}

impl<C> MemorySemaphoreInner<C> {
    #[allow(clippy::cast_possible_truncation)] // its high bits are enough, and the map looks at others
    fn shard(&self, fingerprint: u64) -> &Mutex<PermitShard> {
        &self.shards[(fingerprint >> 32) as usize % SHARDS]
    }
}

impl<C: Clock> PermitBackend for MemorySemaphore<C> {
    type Error = Infallible;
    type Future = Ready<Result<PermitReply, Infallible>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, Infallible>, Self::Future> {
        Answer::Now(Ok(self.decide(&op, policy, key)))
    }

    fn context(&self) -> &BackendContext {
        &self.0.context
    }

    fn has_leases(&self) -> bool {
        self.0.leases_end
    }

    fn next_attempt(&self, _: &SemaphorePolicy, reply: &PermitReply, _: usize) -> Option<Duration> {
        // All who release are here. But a lease ends without a word.
        match reply.decision.retry_after() {
            Some(RetryAfter::In(wait)) if self.0.leases_end => Some(wait),
            _ => None,
        }
    }

    /// It never leaves the process, and so needs only to be another one.
    fn new_id(&self) -> PermitId {
        let number = u128::from(self.0.ids.fetch_add(1, Relaxed));
        PermitId::from_bytes(number.to_le_bytes())
    }
}

impl<C> Clone for MemorySemaphore<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> fmt::Debug for MemorySemaphore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySemaphore")
            .field("leases_end", &self.0.leases_end)
            .finish_non_exhaustive()
    }
}
