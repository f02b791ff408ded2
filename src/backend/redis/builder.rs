use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bb8::{ManageConnection, Pool};
use bb8_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use bb8_redis::redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisError};

use super::super::context::DEFAULT_MAX_WAITERS;
use super::super::{BackendContext, BackendError};
use super::alerts::Alerts;
use super::atomicity::Atomicity;
use super::backend::{RedisBackend, RedisInner};
use super::batch_queue::BatchQueue;
use super::breaker::Breaker;
use super::connections::ConnectionPool;
use super::deny_cache::DenyCache;
use super::key_name::Naming;
use super::manager::{ByClient, ByPool, Connect};
use super::request::Expiry;
use super::request_preparer::RequestPreparer;
use super::round_trip::ScriptClient;
use super::source::ConnectionSource;
use crate::clock::{AnyClock, Clock, SystemClock, micros_up};

/// How a [`RedisBackend`] works; all of it has a default.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is connected"]
pub struct RedisBuilder {
    naming: Naming,
    pub(super) time_limit: Duration,
    idle_ttl: Option<Duration>,
    deny_cache: Duration,
    batching: bool,
    connections: Option<NonZeroU32>,
    pub(super) atomicity: Atomicity,
    clock: AnyClock,
    max_waiters: (usize, usize),
}

/// Sums of time limits stay far from overflowing.
const SHORTEST_LIMIT: Duration = Duration::from_millis(1);
const LONGEST_LIMIT: Duration = Duration::from_secs(86_400);
/// Buckets that start below their capacity are kept for so long after they have filled.
const DEFAULT_IDLE: Duration = Duration::from_secs(86_400);
/// Connections to share, and connections for one operation at a time.
const SHARED: NonZeroU32 = NonZeroU32::new(4).unwrap();
const EXCLUSIVE: NonZeroU32 = NonZeroU32::new(16).unwrap();
/// How long a service that starts waits for its first connection, at least.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl RedisBackend {
    /// What to change before connecting: prefix, time limit, deny cache and more.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Connects to the server of `url`, such as `redis://user:password@host:6379/0`, and makes sure that it can decide:
    /// it runs a script once, on a key of its own below the prefix, and deletes that key.
    ///
    /// The forms of [redis-rs](https://docs.rs/redis) are understood: `redis://`, `rediss://` (feature `tls`),
    /// `redis+unix://`.
    ///
    /// # Errors
    ///
    /// [`Config`](BackendErrorKind::Config) if the URL cannot be read; [`Unreachable`](BackendErrorKind::Unreachable)
    /// if nobody listens there, or user and password are wrong, which its source tells. The error of the script, if it
    /// fails: [`Server`](BackendErrorKind::Server) if the user lacks a right (`NOPERM`), the memory is full (`OOM`),
    /// the server is a replica (`READONLY`) or a node of a cluster (`MOVED`); `Config` if the server is a 32-bit build.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect(url).await
    }

    /// Will connect to the server of `url` when it is first needed, so that a service starts while Redis is down; until
    /// then every operation fails, and [`FailurePolicy`](crate::FailurePolicy) applies. Nothing is sent here, and no
    /// runtime needed.
    ///
    /// # Errors
    ///
    /// [`Config`](BackendErrorKind::Config) if the URL cannot be read.
    pub fn connect_lazy(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect_lazy(url)
    }

    /// Makes its connections by the manager of `pool`, with its settings for new connections; those that are in the
    /// pool stay there for others.
    pub fn from_pool<M>(pool: Pool<M>) -> Self
    where
        M: ManageConnection<Connection = MultiplexedConnection, Error = RedisError>,
    {
        Self::builder().from_pool(pool)
    }

    /// Sends everything over clones of `connection`, say a `ConnectionManager`, which finds its server again by itself,
    /// or a `MultiplexedConnection`, which does not.
    ///
    /// Its own time limit for a response should be above this one's ([`RedisBuilder::time_limit`]), for the shorter one
    /// counts.
    ///
    /// A connection must not send a command again by itself when an answer is missing, as a `ClusterConnection` does by
    /// default: it can charge twice. Set its retries to 0.
    pub fn from_connection<C>(connection: C) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Self::builder().from_connection(connection)
    }
}

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
        }
    }
}

impl RedisBuilder {
    /// What all keys begin with, 1 to 64 of `A-Z a-z 0-9 _ . -`; `sluice` by default. Limiters of other prefixes share
    /// nothing.
    ///
    /// # Panics
    ///
    /// Where [`try_prefix`](Self::try_prefix) errs, with the same sentence.
    pub fn prefix(self, prefix: &str) -> Self {
        match self.try_prefix(prefix) {
            Ok(builder) => builder,
            Err(error) => panic!("{error}"),
        }
    }

    /// What all keys begin with, from a configuration.
    ///
    /// # Errors
    ///
    /// If it is not 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub fn try_prefix(mut self, prefix: &str) -> Result<Self, BackendError> {
        self.naming = self.naming.with_prefix(prefix)?;
        Ok(self)
    }

    /// Digests identities with this secret, the same on all servers, so that nobody who sees the keys of Redis can
    /// guess whose they are. Without one the digest is a plain SHA-256.
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.naming = self.naming.with_secret(secret.as_ref());
        self
    }

    /// The time for a whole operation, connecting included; 250 ms by default, at least 1 ms and at most a day.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit.clamp(SHORTEST_LIMIT, LONGEST_LIMIT);
        self
    }

    /// The least time that keys are kept after their last write, for those who want to look at them: expiry is derived
    /// from the time until nothing is owed, and this never shortens it. Buckets that start below their capacity are
    /// kept for so long after they have filled; for them it is 24 hours by default.
    pub fn idle_ttl(mut self, idle_ttl: Duration) -> Self {
        self.idle_ttl = Some(idle_ttl);
        self
    }

    /// For how long a denial is believed without asking Redis again: until its `retry_after`, and at most so long; 1 s
    /// by default, zero turns it off. It spares Redis an attack on one key. A reset or refund by another server is seen
    /// so much later; nothing is ever allowed from it.
    pub fn deny_cache(mut self, longest: Duration) -> Self {
        self.deny_cache = longest;
        self
    }

    /// Whether decisions that arrive while others are in flight go together, up to 64 in one call; they do by default.
    pub fn batching(mut self, batching: bool) -> Self {
        self.batching = batching;
        self
    }

    /// The most connections; 4 by default, which all decisions share, or 16 for [`Atomicity::Optimistic`], where each
    /// decision has one to itself.
    pub fn connections(mut self, most: NonZeroU32) -> Self {
        self.connections = Some(most);
        self
    }

    /// How a decision is made in one piece; by scripts by default.
    pub fn atomicity(mut self, atomicity: Atomicity) -> Self {
        self.atomicity = atomicity;
        self
    }

    /// The most requests of this process that wait at a time, of one key and in all; 1 024 and 65 536 by default. See
    /// [`BackendContext::max_waiters`].
    pub fn max_waiters(mut self, each_key: usize, in_all: usize) -> Self {
        self.max_waiters = (each_key, in_all);
        self
    }

    /// The clock of the deny cache and of those who wait, for tests. What decides is the clock of Redis.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = AnyClock::new(clock);
        self
    }

    /// Connects to the server of `url`; see [`RedisBackend::connect`].
    ///
    /// # Errors
    ///
    /// As [`RedisBackend::connect`].
    pub async fn connect(self, url: impl AsRef<str>) -> Result<RedisBackend, BackendError> {
        let patience = self.time_limit.max(CONNECT_TIMEOUT);
        let backend = self.connect_lazy(url)?;
        backend.ready_within(patience).await?;
        Ok(backend)
    }

    /// Will connect to the server of `url` when it is needed; see [`RedisBackend::connect_lazy`].
    ///
    /// # Errors
    ///
    /// As [`RedisBackend::connect_lazy`].
    pub fn connect_lazy(self, url: impl AsRef<str>) -> Result<RedisBackend, BackendError> {
        let client = client(url.as_ref())?;
        Ok(self.pooled(Arc::new(ByClient(client))))
    }

    /// Takes connections from where `pool` has them from; see [`RedisBackend::from_pool`].
    pub fn from_pool<M>(self, pool: Pool<M>) -> RedisBackend
    where
        M: ManageConnection<Connection = MultiplexedConnection, Error = RedisError>,
    {
        self.pooled(Arc::new(ByPool(pool)))
    }

    /// Sends everything over clones of `connection`; see [`RedisBackend::from_connection`].
    pub fn from_connection<C>(self, connection: C) -> RedisBackend
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.over(ConnectionSource::shared(connection))
    }

    pub(super) fn pooled(self, maker: Arc<dyn Connect>) -> RedisBackend {
        let most = self.connections.unwrap_or(match self.atomicity {
            Atomicity::Script => SHARED,
            Atomicity::Optimistic => EXCLUSIVE,
        });
        let connections = ConnectionPool::new(maker, most.get(), self.time_limit);
        self.over(ConnectionSource::Pool(connections))
    }

    fn over(self, source: ConnectionSource) -> RedisBackend {
        let client = ScriptClient {
            source,
            breaker: Breaker::new(),
            alerts: Alerts::default(),
            time_limit: self.time_limit,
            is_cluster: AtomicBool::new(false),
            expiry: self.expiry(),
        };
        let client = Arc::new(client);
        RedisBackend(Arc::new(RedisInner {
            queue: BatchQueue::new(Arc::clone(&client), self.batching),
            permit_queue: BatchQueue::new(client, self.batching),
            atomicity: self.atomicity,
            preparer: self.preparer(),
        }))
    }

    fn expiry(&self) -> Expiry {
        let millis = |span: Duration| micros_up(span).div_ceil(1_000).min(LONGEST_TTL);
        Expiry {
            floor: self.idle_ttl.map_or(0, millis),
            idle: millis(self.idle_ttl.unwrap_or(DEFAULT_IDLE)),
        }
    }

    fn preparer(self) -> RequestPreparer {
        let deny_cache =
            (!self.deny_cache.is_zero()).then(|| DenyCache::new(micros_up(self.deny_cache)));
        let (each_key, in_all) = self.max_waiters;
        RequestPreparer {
            naming: self.naming,
            deny_cache,
            context: BackendContext::from_clock(self.clock)
                .max_waiters(each_key, in_all)
                .shared(),
        }
    }
}

/// What makes connections to the server of a URL.
pub(super) fn client(url: &str) -> Result<Client, BackendError> {
    let unreadable = |error: RedisError| {
        // Its words are about the parts of a URL, and never hold one.
        BackendError::config(format!(
            r#"invalid Redis URL: {error}; use for example "redis://127.0.0.1:6379/0""#
        ))
    };
    let info: ConnectionInfo = url.into_connection_info().map_err(unreadable)?;
    #[cfg(feature = "tls")]
    super::tls::prepare(&info);
    Client::open(info).map_err(unreadable)
}

/// The longest expiry that is asked of Redis, ms: 142 years.
const LONGEST_TTL: u64 = 1 << 42;

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
