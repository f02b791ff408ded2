use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::fmt;
use std::future::Ready;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ahash::RandomState;
use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

use super::holders::{Holders, LeaseContext};
use crate::backend::{Answer, BackendContext, PermitBackend};
use crate::clock::{Clock, Latest, SystemClock, Timestamp};
use crate::decision::{PermitId, PermitOp, PermitReply, QuotaSnapshot, RetryAfter};
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::sync::Mutex;

/// Keeps permits in this process. Clones share them; each process has its own.
///
/// Guide: [limit what is in flight](crate::_guide::concurrency).
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
    keys: Keys,
}

/// The holders of each key, by the hash of name and key. Two keys have the same hash with a probability of 2^-64.
type Keys = HashMap<u64, Holders, BuildHasherDefault<IdentityHasher>>;

/// Returns the number that it gets, which is a hash already.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Keys are numbers, which call `write_u64`.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
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
    ///
    /// See the example of [`held`](Self::held).
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0
            .shards
            .iter()
            .map(|shard| shard.lock().keys.len())
            .sum()
    }

    /// Returns the held permits of all keys, by weight. It reads all keys; meant for tests and metrics.
    ///
    /// ```
    /// use tower_sluice::{Key, MemorySemaphore, Semaphore, SemaphorePolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let exports = Semaphore::new(SemaphorePolicy::new("exports", 5), MemorySemaphore::new());
    /// let permit = exports.try_acquire(&Key::from("ann"), 2).await?;
    /// assert_eq!((exports.backend().keys(), exports.backend().held()), (1, 2));
    /// drop(permit);
    /// assert_eq!(exports.backend().held(), 0);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn held(&self) -> u64 {
        let of = |shard: &CachePadded<Mutex<PermitShard>>| -> u64 {
            shard.lock().keys.values().map(Holders::live).sum()
        };
        self.0.shards.iter().map(of).sum()
    }
}

impl<C: Clock> MemorySemaphore<C> {
    fn acquire(
        &self,
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> QuotaSnapshot {
        let shared = &*self.0;
        let fingerprint = shared.fingerprint(policy, key);
        let reading = shared.clock.now();
        let mut shard = shared.shard(fingerprint).lock();
        let now = shard.latest.in_order(reading, || shared.clock.now());
        let at = shared.lease_context(now, policy);
        let keys = &mut shard.keys;
        match keys.entry(fingerprint) {
            Entry::Occupied(mut entry) => {
                let numbers = entry.get_mut().acquire(&at, id, weight);
                // The leases of all holders may have ended.
                if entry.get().is_empty() {
                    entry.remove();
                    shrink(keys);
                }
                numbers
            }
            Entry::Vacant(entry) => {
                let mut holders = Holders::default();
                let numbers = holders.acquire(&at, id, weight);
                if !holders.is_empty() {
                    entry.insert(holders);
                }
                numbers
            }
        }
    }

    fn decide(&self, op: &PermitOp, policy: &SemaphorePolicy, key: &Key) -> PermitReply {
        if let PermitOp::Acquire { id, weight } | PermitOp::Wait { id, weight, .. } = op {
            return PermitReply::from_snapshot(self.acquire(*id, *weight, policy, key));
        }
        let shared = &*self.0;
        let fingerprint = shared.fingerprint(policy, key);
        let reading = shared.clock.now();
        let mut shard = shared.shard(fingerprint).lock();
        let now = shard.latest.in_order(reading, || shared.clock.now());
        let at = shared.lease_context(now, policy);
        let keys = &mut shard.keys;
        let Entry::Occupied(mut entry) = keys.entry(fingerprint) else {
            let lasting = match op {
                PermitOp::Renew(ids) => SmallVec::from_elem(false, ids.len()),
                PermitOp::Release(_) | PermitOp::Revoke(_) => SmallVec::from_elem(false, 1),
                _ => SmallVec::new(),
            };
            let reply = PermitReply::from_snapshot(Holders::default().snapshot(&at, 0));
            return PermitReply { lasting, ..reply };
        };
        let holders = entry.get_mut();
        let lasting = match op {
            PermitOp::Renew(ids) => ids.iter().map(|id| holders.renew(&at, *id)).collect(),
            // In memory no request arrives late.
            PermitOp::Release(id) | PermitOp::Revoke(id) => {
                SmallVec::from_elem(holders.release(&at, *id), 1)
            }
            _ => SmallVec::new(),
        };
        let reply = PermitReply::from_snapshot(holders.snapshot(&at, 0));
        if holders.is_empty() {
            entry.remove();
            shrink(keys);
        }
        PermitReply { lasting, ..reply }
    }
}

/// Frees the memory of a past crowd, seldom enough to cost nothing.
fn shrink(keys: &mut Keys) {
    if keys.capacity() > 1_024 && keys.len() < keys.capacity() / 8 {
        keys.shrink_to(2 * keys.len());
    }
}

impl<C> MemorySemaphoreInner<C> {
    #[allow(clippy::cast_possible_truncation)] // the high bits are enough, and the map uses others
    fn shard(&self, fingerprint: u64) -> &Mutex<PermitShard> {
        &self.shards[(fingerprint >> 32) as usize % SHARDS]
    }

    fn fingerprint(&self, policy: &SemaphorePolicy, key: &Key) -> u64 {
        self.seed.hash_one((policy.name(), key))
    }

    fn lease_context<'a>(&self, now: Timestamp, policy: &'a SemaphorePolicy) -> LeaseContext<'a> {
        LeaseContext {
            now: now.as_micros(),
            policy,
            leases_end: self.leases_end,
        }
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

    fn acquire_now(
        &self,
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Option<QuotaSnapshot> {
        (!self.0.leases_end).then(|| self.acquire(id, weight, policy, key))
    }

    fn release_now(&self, id: PermitId, policy: &SemaphorePolicy, key: &Key) -> Option<bool> {
        let shared = &*self.0;
        // A permit without a lease is released without a reading of the clock.
        if shared.leases_end {
            return None;
        }
        let fingerprint = shared.fingerprint(policy, key);
        let keys = &mut shared.shard(fingerprint).lock().keys;
        let Entry::Occupied(mut entry) = keys.entry(fingerprint) else {
            return Some(false);
        };
        let was_held = entry.get_mut().remove(id);
        if entry.get().is_empty() {
            entry.remove();
            shrink(keys);
        }
        Some(was_held)
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
