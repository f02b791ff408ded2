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
use super::batch_queue::BatchQueue;
#[cfg(feature = "blocking")]
use super::blocking::RedisBackend as RedisThreads;
use super::breaker::Breaker;
use super::connections::ConnectionPool;
use super::deny_cache::DenyCache;
use super::key_name::Naming;
use super::manager::{ByClient, ByPool, Connect};
use super::request::Expiry;
use super::request_preparer::RequestPreparer;
use super::round_trip::ScriptClient;
use super::source::ConnectionSource;
use super::{RedisBackend, RedisInner};
use crate::clock::{AnyClock, Clock, SystemClock, micros_up};

/// How a [`RedisBackend`] works; all of it has a default.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is connected"]
pub struct RedisBuilder {
    naming: Naming,
    time_limit: Duration,
    idle_ttl: Option<Duration>,
    deny_cache: Duration,
    batching: bool,
    connections: Option<NonZeroU32>,
    atomicity: Atomicity,
    clock: AnyClock,
    max_waiters: (usize, usize),
}

/// How a decision is made in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atomicity {
    /// By a Lua script, one trip: the default.
    #[default]
    Script,
    /// By WATCH, MULTI and EXEC, at least two trips, repeated while others change the key, 12 times at most: for
    /// servers that forbid scripts. Slow, and slower the more ask for one key. It cannot keep sliding logs, and it
    /// needs connections of its own: those of a URL or a pool.
    Optimistic,
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
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

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

    /// Connects to the server of `url` for plain threads; see
    /// [`blocking::RedisBackend::connect`](RedisThreads::connect).
    ///
    /// # Errors
    ///
    /// As [`blocking::RedisBackend::connect`](RedisThreads::connect);
    /// [`Config`](crate::backend::BackendErrorKind::Config) for [`Atomicity::Optimistic`], too.
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    #[cfg(feature = "blocking")]
    pub fn connect_blocking(self, url: impl AsRef<str>) -> Result<RedisThreads, BackendError> {
        let patience = self.time_limit.max(CONNECT_TIMEOUT);
        let backend = self.connect_blocking_lazy(url)?;
        backend.first_connection(patience)?;
        Ok(backend)
    }

    /// Will connect to the server of `url` when it is needed, for plain threads; see
    /// [`blocking::RedisBackend::connect_lazy`](RedisThreads::connect_lazy).
    ///
    /// # Errors
    ///
    /// [`Config`](crate::backend::BackendErrorKind::Config) if the URL cannot be read, or for
    /// [`Atomicity::Optimistic`].
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    #[cfg(feature = "blocking")]
    pub fn connect_blocking_lazy(self, url: impl AsRef<str>) -> Result<RedisThreads, BackendError> {
        let client = client(url.as_ref())?;
        self.from_blocking_client(client)
    }

    /// Makes its connections by `client`, for plain threads, when they are needed; see
    /// [`blocking::RedisBackend::from_client`](RedisThreads::from_client).
    ///
    /// # Errors
    ///
    /// [`Config`](crate::backend::BackendErrorKind::Config) for [`Atomicity::Optimistic`].
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    #[cfg(feature = "blocking")]
    pub fn from_blocking_client(self, client: Client) -> Result<RedisThreads, BackendError> {
        if self.atomicity == Atomicity::Optimistic {
            return Err(BackendError::config(
                "`Atomicity::Optimistic` cannot be had from plain threads: use `Atomicity::Script`, or the backend for a runtime",
            ));
        }
        Ok(self.threads(client))
    }

    #[cfg(feature = "blocking")]
    pub(super) fn threads(self, client: Client) -> RedisThreads {
        #[cfg(feature = "tls")]
        super::tls::prepare(client.get_connection_info());
        let time_limit = self.time_limit;
        RedisThreads::over(self.pooled(Arc::new(ByClient(client))), time_limit)
    }

    fn pooled(self, maker: Arc<dyn Connect>) -> RedisBackend {
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
fn client(url: &str) -> Result<Client, BackendError> {
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
