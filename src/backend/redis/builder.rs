use std::fmt;
use std::num::NonZeroU32;
#[cfg(any(feature = "cluster", feature = "sentinel"))]
use std::sync::Arc;
use std::time::Duration;

use super::super::BackendError;
use super::super::context::DEFAULT_MAX_WAITERS;
use super::atomicity::Atomicity;
use super::key_name::Naming;
use crate::clock::{AnyClock, Clock, SystemClock};

/// Settings of a [`RedisBackend`](super::RedisBackend). Each has a default.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_sluice::RedisBackend;
///
/// let redis = RedisBackend::builder()
///     .prefix("shop")
///     .time_limit(Duration::from_millis(100))
///     .connect_lazy("redis://127.0.0.1/")?;
/// # Ok::<(), tower_sluice::backend::BackendError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is connected"]
pub struct RedisBuilder {
    pub(super) naming: Naming,
    pub(super) time_limit: Duration,
    pub(super) idle_ttl: Option<Duration>,
    pub(super) deny_cache: Duration,
    pub(super) batching: bool,
    pub(super) connections: Option<NonZeroU32>,
    pub(super) atomicity: Atomicity,
    pub(super) clock: AnyClock,
    pub(super) max_waiters: (usize, usize),
    #[cfg(any(feature = "cluster", feature = "sentinel"))]
    pub(super) node_address: Option<AddressMap>,
}

/// Returns the host and the port to connect to, for those that a server announces.
#[cfg(any(feature = "cluster", feature = "sentinel"))]
pub(super) type AddressMap = Arc<dyn Fn(&str, u16) -> (String, u16) + Send + Sync>;

/// The bounds of the time limit. Sums of a few of them never overflow.
const SHORTEST_LIMIT: Duration = Duration::from_millis(1);
const LONGEST_LIMIT: Duration = Duration::from_secs(86_400);
impl Default for RedisBuilder {
    fn default() -> Self {
        Self {
            naming: Naming::default(),
            time_limit: Duration::from_millis(250),
            idle_ttl: None,
            deny_cache: Duration::from_secs(1),
            batching: true,
            connections: None,
            atomicity: Atomicity::default(),
            clock: AnyClock::new(SystemClock::new()),
            max_waiters: DEFAULT_MAX_WAITERS,
            #[cfg(any(feature = "cluster", feature = "sentinel"))]
            node_address: None,
        }
    }
}

/// # Settings
impl RedisBuilder {
    /// Sets the prefix of all keys: 1 to 64 characters of `A-Z a-z 0-9 _ . -`, `sluice` by default.
    ///
    /// Limiters with different prefixes share nothing.
    ///
    /// # Panics
    ///
    /// If [`try_prefix`](Self::try_prefix) would return an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().prefix("shop");
    /// ```
    pub fn prefix(self, prefix: &str) -> Self {
        match self.try_prefix(prefix) {
            Ok(builder) => builder,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sets the prefix of all keys, for a prefix from a configuration.
    ///
    /// # Errors
    ///
    /// [`Config`](super::super::BackendErrorKind::Config) if it is not 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// assert!(RedisBackend::builder().try_prefix("shop").is_ok());
    /// assert!(RedisBackend::builder().try_prefix("shop:{1}").is_err());
    /// ```
    pub fn try_prefix(mut self, prefix: &str) -> Result<Self, BackendError> {
        self.naming = self.naming.with_prefix(prefix)?;
        Ok(self)
    }

    /// Digests identities with this secret (HMAC-SHA-256). All servers of a fleet must use the same secret.
    ///
    /// A reader of the keys in Redis then cannot guess an identity from its digest. Without a secret the digest is a
    /// plain SHA-256.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().secret("a long random text");
    /// ```
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.naming = self.naming.with_secret(secret.as_ref());
        self
    }

    /// Sets the time limit of an operation, connecting included: 250 ms by default, 1 ms to 1 day.
    ///
    /// A value outside this range is changed to its nearest bound.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().time_limit(Duration::from_millis(100));
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit.clamp(SHORTEST_LIMIT, LONGEST_LIMIT);
        self
    }

    /// Sets the shortest time for which a key is kept after its last write, to inspect keys.
    ///
    /// The expiry is derived from the time until nothing is owed. This setting never shortens it. A bucket that starts
    /// below its capacity is kept for this time after it has filled, 24 hours by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().idle_ttl(Duration::from_secs(600));
    /// ```
    pub fn idle_ttl(mut self, idle_ttl: Duration) -> Self {
        self.idle_ttl = Some(idle_ttl);
        self
    }

    /// Sets the longest time for which a denial is repeated without a command to Redis: 1 s by default, zero for never.
    ///
    /// A denial is repeated until its `retry_after`, and at most for this time. This keeps an attack on one key away
    /// from Redis. A reset or a refund by another server takes effect later by up to this time. The cache never allows
    /// a request.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().deny_cache(Duration::ZERO);
    /// ```
    pub fn deny_cache(mut self, longest: Duration) -> Self {
        self.deny_cache = longest;
        self
    }

    /// Sets whether decisions that arrive while others are in flight share a command, up to 64 in each: `true` by
    /// default.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().batching(false);
    /// ```
    pub fn batching(mut self, batching: bool) -> Self {
        self.batching = batching;
        self
    }

    /// Sets the largest number of connections: 4 by default, 16 for [`Atomicity::Optimistic`].
    ///
    /// All decisions share the connections. With [`Atomicity::Optimistic`] each decision has a connection to itself.
    /// The setting does not apply to [`from_transport`](Self::from_transport).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::num::NonZeroU32;
    ///
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().connections(NonZeroU32::MIN);
    /// ```
    pub fn connections(mut self, most: NonZeroU32) -> Self {
        self.connections = Some(most);
        self
    }

    /// Sets how a decision is made atomic: [`Atomicity::Script`] by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    /// use tower_sluice::backend::redis::Atomicity;
    ///
    /// let builder = RedisBackend::builder().atomicity(Atomicity::Optimistic);
    /// ```
    pub fn atomicity(mut self, atomicity: Atomicity) -> Self {
        self.atomicity = atomicity;
        self
    }

    /// Sets the largest number of waiters of this process: of one key, and of all keys. The defaults are 1,024 and
    /// 65,536.
    ///
    /// See [`BackendContext::max_waiters`](crate::backend::BackendContext::max_waiters).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().max_waiters(100, 10_000);
    /// ```
    pub fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.max_waiters = (each_key, in_all);
        self
    }

    /// Sets the address to connect to for each address that a Redis Cluster or a sentinel announces.
    ///
    /// It is for servers behind a translation of addresses, such as a port forwarding. The function gets the host and
    /// the port that were announced, and returns those to connect to.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// let builder = RedisBackend::builder().node_address(|_, port| ("127.0.0.1".to_owned(), port));
    /// ```
    #[cfg(any(feature = "cluster", feature = "sentinel"))]
    pub fn node_address(
        mut self,
        address: impl Fn(&str, u16) -> (String, u16) + Send + Sync + 'static,
    ) -> Self {
        self.node_address = Some(Arc::new(address));
        self
    }

    /// Sets the clock of the deny cache and of waiters, for tests. The clock of Redis decides.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    /// use tower_sluice::clock::SystemClock;
    ///
    /// let builder = RedisBackend::builder().clock(SystemClock::new());
    /// ```
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = AnyClock::new(clock);
        self
    }
}

/// Shows no secret.
impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("naming", &self.naming)
            .field("time_limit", &self.time_limit)
            .field("atomicity", &self.atomicity)
            .finish_non_exhaustive()
    }
}
