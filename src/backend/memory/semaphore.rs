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
/// A permit ends with its guard and has no lease. Answers contain the times that leases would have in Redis. No state
/// is kept for a key without holders.
///
/// ```
/// use tower_sluice::{Key, MemorySemaphore, Semaphore, SemaphorePolicy};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 1), MemorySemaphore::new());
/// let permit = semaphore.try_acquire(&Key::from("ann"), 1).await.expect("the first permit");
/// assert!(semaphore.try_acquire(&Key::from("ann"), 1).await.is_err());
/// drop(permit);
/// assert_eq!(semaphore.backend().held(), 0);
/// # }
/// ```
// Tokio's semaphore has a fixed number of permits. Here each request brings its capacity, which may differ from the
// last one. Waiters still wait on types of Tokio: see `permit_queue`.
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
    /// The time of the last decision in this shard.
    latest: Latest,
    /// By the hash of name and key. Two keys have the same hash with a probability of 2^-64.
    keys: HashMap<u64, Holders, RandomState>,
}

/// The number of shards, each under its own lock.
const SHARDS: usize = 16;

/// Builds a [`MemorySemaphore`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MemorySemaphoreBuilder<C = SystemClock> {
    clock: C,
    leases_end: bool,
    max_waiters: Option<(usize, usize)>,
}

impl MemorySemaphore {
    /// Creates a backend without held permits.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder, which sets the clock and the bounds on waiters.
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
    /// Sets the clock of the waiters; [`SystemClock`] by default.
    pub fn clock<D: Clock>(self, clock: D) -> MemorySemaphoreBuilder<D> {
        MemorySemaphoreBuilder {
            clock,
            leases_end: self.leases_end,
            max_waiters: self.max_waiters,
        }
    }

    /// Sets the most requests that wait at a time, of one key and of all keys; 1,024 and 65,536 by default. See
    /// [`BackendContext::max_waiters`].
    pub const fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.max_waiters = Some((each_key, in_all));
        self
    }

    /// Makes permits expire with their leases, as in Redis. Tests of lost permits need it, with a
    /// [`ManualClock`](crate::clock::ManualClock).
    pub const fn leases_end(mut self) -> Self {
        self.leases_end = true;
        self
    }

    /// Creates a backend without held permits.
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
    /// Returns the number of keys with held permits. It locks one shard after the other; meant for tests and metrics.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0
            .shards
            .iter()
            .map(|shard| shard.lock().keys.len())
            .sum()
    }

    /// Returns the held permits of all keys, by weight. It reads all keys; meant for tests and metrics.
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
            // In memory no request arrives late.
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
        // Frees the memory of a past crowd, seldom enough to cost nothing.
        if shard.capacity() > 1_024 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to(2 * shard.len());
        }
    }
}

impl<C> MemorySemaphoreInner<C> {
    #[allow(clippy::cast_possible_truncation)] // the high bits are enough, and the map uses others
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
        // A release in this process wakes the waiters. The expiry of a lease does not.
        match reply.decision.retry_after() {
            Some(RetryAfter::In(wait)) if self.0.leases_end => Some(wait),
            _ => None,
        }
    }

    /// The id never leaves the process, so that it only has to be unique.
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
