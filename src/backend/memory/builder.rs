use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::blocks::Blocks;
use super::cell::ShardCell;
use super::key_budget::KeyBudget;
use super::{MemoryBackend, MemoryInner, MemorySemaphore};
use crate::backend::BackendContext;
use crate::backend::context::DEFAULT_MAX_WAITERS;
use crate::backend::fingerprint::Fingerprints;
use crate::clock::{Clock, SystemClock, micros_up};

/// The default bound on keys.
const DEFAULT_MAX_KEYS: NonZeroUsize = NonZeroUsize::new(1_000_000).expect("not 0");

/// The default bound on totals.
const DEFAULT_MAX_TOTALS: NonZeroUsize = NonZeroUsize::new(100_000).expect("not 0");

/// The default time for which a bucket that starts below its capacity is kept after it has filled.
const DEFAULT_IDLE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Builds a [`MemoryBackend`].
///
/// ```
/// use std::num::NonZeroUsize;
/// use tower_sluice::MemoryBackend;
///
/// let max_keys = NonZeroUsize::new(10_000).expect("not 0");
/// let backend = MemoryBackend::builder().max_keys(max_keys).max_waiters(10, 1_000).build();
/// assert!(backend.is_empty());
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MemoryBackendBuilder<C = SystemClock> {
    clock: C,
    max_keys: NonZeroUsize,
    max_totals: NonZeroUsize,
    idle_ttl: Duration,
    max_waiters: (usize, usize),
}

impl MemoryBackendBuilder {
    pub(super) const fn new() -> Self {
        Self {
            clock: SystemClock::new(),
            max_keys: DEFAULT_MAX_KEYS,
            max_totals: DEFAULT_MAX_TOTALS,
            idle_ttl: DEFAULT_IDLE_TTL,
            max_waiters: DEFAULT_MAX_WAITERS,
        }
    }
}

impl<C: Clock> MemoryBackendBuilder<C> {
    /// Sets the most entries that are kept; 1,000,000 by default. A key has one entry for each quota of its policy.
    ///
    /// The bound is never exceeded. A bound below the number of quotas of a policy cannot limit even one key.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use tower_sluice::MemoryBackend;
    ///
    /// const MOST: NonZeroUsize = NonZeroUsize::new(10_000).expect("not 0");
    /// let backend = MemoryBackend::builder().max_keys(MOST).build();
    /// # let _ = backend;
    /// ```
    pub const fn max_keys(mut self, max_keys: NonZeroUsize) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// Sets the most [totals](crate::Quota::total) that are kept; 100,000 by default. They are not counted as keys, and
    /// neither totals nor keys are evicted for a new total.
    ///
    /// A total is never forgotten to make room. A request of a new key beyond the bound is denied, with
    /// [`DenialReason::TooManyTotals`](crate::decision::DenialReason::TooManyTotals). A layer rejects it as if the
    /// backend had failed: with 503, or as an unavailable gRPC service. A penalty of such a key is lost.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let max_totals = NonZeroUsize::new(1).expect("not 0");
    /// let backend = MemoryBackend::builder().max_totals(max_totals).build();
    /// let trial = Limiter::new(Policy::new("trial", Quota::total(9)), backend.clone());
    /// assert!(trial.check_now(&Key::from("ann"), 1).decision.is_allowed());
    /// assert!(!trial.check_now(&Key::from("bob"), 1).decision.is_allowed());
    /// assert_eq!((backend.totals(), backend.refused_totals()), (1, 1));
    /// ```
    pub const fn max_totals(mut self, max_totals: NonZeroUsize) -> Self {
        self.max_totals = max_totals;
        self
    }

    /// Sets the most requests that wait at a time, of one key and of all keys; 1,024 and 65,536 by default. See
    /// [`BackendContext::max_waiters`].
    ///
    /// See the example of [`MemoryBackendBuilder`].
    pub const fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.max_waiters = (each_key, in_all);
        self
    }

    /// Sets the clock of decisions and waiters; [`SystemClock`] by default.
    ///
    /// See the example of [`ManualClock::advance`](crate::clock::ManualClock::advance).
    pub fn clock<D: Clock>(self, clock: D) -> MemoryBackendBuilder<D> {
        MemoryBackendBuilder {
            clock,
            max_keys: self.max_keys,
            max_totals: self.max_totals,
            idle_ttl: self.idle_ttl,
            max_waiters: self.max_waiters,
        }
    }

    /// Sets how long a bucket that starts below its capacity is kept after it has filled; 24 hours by default. After
    /// that it starts again with its initial tokens.
    ///
    /// Other states need no such time, because a full bucket equals an unused one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::MemoryBackend;
    ///
    /// let backend = MemoryBackend::builder().idle_ttl(Duration::from_secs(3_600)).build();
    /// # let _ = backend;
    /// ```
    pub const fn idle_ttl(mut self, idle_ttl: Duration) -> Self {
        self.idle_ttl = idle_ttl;
        self
    }

    /// Creates an empty backend.
    ///
    /// See the example of [`MemoryBackendBuilder`].
    #[must_use]
    pub fn build(self) -> MemoryBackend<C> {
        let max_keys = self.max_keys.get();
        // Shards of 2,048 to 4,096 entries. Each shard of a full map has an entry to evict, and growing a shard holds
        // its lock only shortly.
        let bits = (max_keys / 2_048 + 1).ilog2().min(16);
        let shards = (0..1 << bits).map(|_| ShardCell::default()).collect();
        // The first reading calibrates the clock. It should not delay the first request.
        let _ = self.clock.now();
        let (each_key, in_all) = self.max_waiters;
        let semaphore = MemorySemaphore::builder().clock(self.clock.clone());
        MemoryBackend(Arc::new(MemoryInner {
            semaphore: semaphore.max_waiters(each_key, in_all).build(),
            context: BackendContext::new(self.clock.clone()).max_waiters(each_key, in_all),
            fingerprints: Fingerprints::new(),
            shards,
            blocks: Blocks::new(),
            budget: KeyBudget::new(max_keys, self.max_totals.get()),
            idle_ttl: micros_up(self.idle_ttl),
            clock: self.clock,
        }))
    }
}
