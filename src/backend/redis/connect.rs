//! From settings to a backend: the constructors of [`RedisBackend`], and the last calls of a [`RedisBuilder`].

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::super::{BackendContext, BackendError};
use super::adapter::RedisClient;
use super::alerts::Alerts;
use super::atomicity::Atomicity;
use super::backend::{RedisBackend, RedisInner};
use super::batch_queue::BatchQueue;
use super::breaker::Breaker;
use super::builder::RedisBuilder;
use super::connections::ConnectionPool;
use super::deny_cache::DenyCache;
use super::request::Expiry;
use super::request_preparer::RequestPreparer;
use super::round_trip::ScriptClient;
use super::source::ConnectionSource;
use super::transport::{Connector, Transport};
use crate::clock::micros_up;

/// The time for which a bucket that starts below its capacity is kept after it has filled.
const DEFAULT_IDLE: Duration = Duration::from_secs(86_400);
/// The number of connections: shared ones, and ones for one operation at a time.
const SHARED: NonZeroU32 = NonZeroU32::new(4).unwrap();
const EXCLUSIVE: NonZeroU32 = NonZeroU32::new(16).unwrap();
/// The shortest limit for the first connection of a service that starts.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest expiry that Redis is asked for, ms: 142 years.
const LONGEST_TTL: u64 = 1 << 42;

/// # Constructors
impl RedisBackend {
    /// Returns a builder with the default settings.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// let redis = RedisBackend::builder().batching(false).connect_lazy("redis://127.0.0.1/")?;
    /// # Ok::<(), tower_sluice::backend::BackendError>(())
    /// ```
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Connects to the server of `url`, such as `redis://user:password@host:6379/0`, and checks that it can decide.
    ///
    /// The check runs a script on a key of its own below the prefix, and deletes this key.
    ///
    /// The URL has one of the forms of [redis-rs](https://docs.rs/redis): `redis://`, `rediss://` (feature `tls`) or
    /// `redis+unix://`. The time is limited to [`RedisBuilder::time_limit`], and at least 2 s.
    ///
    /// # Errors
    ///
    /// - [`Config`](super::super::BackendErrorKind::Config) if the URL cannot be read, or if the server is a 32-bit
    ///   build.
    /// - [`Unreachable`](super::super::BackendErrorKind::Unreachable) if there is no connection, or if the server
    ///   rejects the user or the password. The source of the error has the reason.
    /// - [`Server`](super::super::BackendErrorKind::Server) if the script fails: the user lacks a right (`NOPERM`), the
    ///   memory is full (`OOM`), the server is a replica (`READONLY`) or a node of a cluster (`MOVED`).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tower_sluice::RedisBackend;
    ///
    /// # async fn f() -> Result<(), tower_sluice::backend::BackendError> {
    /// let redis = RedisBackend::connect("redis://127.0.0.1/").await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect(url).await
    }

    /// Creates a backend that connects to the server of `url` at the first operation.
    ///
    /// A service can start while Redis is down. Until Redis is up, every operation fails and
    /// [`FailurePolicy`](crate::FailurePolicy) applies. This function sends nothing and needs no runtime.
    ///
    /// # Errors
    ///
    /// [`Config`](super::super::BackendErrorKind::Config) if the URL cannot be read.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// let redis = RedisBackend::connect_lazy("redis://127.0.0.1/")?;
    /// # Ok::<(), tower_sluice::backend::BackendError>(())
    /// ```
    pub fn connect_lazy(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect_lazy(url)
    }

    /// Creates a backend that opens its connections through `connector`, at the first operation.
    ///
    /// The backend keeps a few connections, checks them and replaces them. [`adapter`](super::adapter) has connectors
    /// for a client of redis-rs and for a pool of bb8, with examples.
    pub fn from_connector(connector: impl Connector) -> Self {
        Self::builder().from_connector(connector)
    }

    /// Creates a backend that sends everything over `transport`.
    ///
    /// The backend neither checks nor replaces the transport. [`adapter`](super::adapter) has transports for the
    /// connections of redis-rs, with examples.
    pub fn from_transport(transport: impl Transport) -> Self {
        Self::builder().from_transport(transport)
    }
}

/// # Connecting
impl RedisBuilder {
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

    /// Creates a backend that connects to the server of `url` at the first operation; see
    /// [`RedisBackend::connect_lazy`].
    ///
    /// # Errors
    ///
    /// As [`RedisBackend::connect_lazy`].
    pub fn connect_lazy(self, url: impl AsRef<str>) -> Result<RedisBackend, BackendError> {
        Ok(self.from_connector(RedisClient::from_url(url.as_ref())?))
    }

    /// Creates a backend that opens its connections through `connector`; see [`RedisBackend::from_connector`].
    pub fn from_connector(self, connector: impl Connector) -> RedisBackend {
        let most = self.connections.unwrap_or(match self.atomicity {
            Atomicity::Script => SHARED,
            Atomicity::Optimistic => EXCLUSIVE,
        });
        let connections = ConnectionPool::new(Arc::new(connector), most.get(), self.time_limit);
        self.over(ConnectionSource::Pool(connections))
    }

    /// Creates a backend that sends everything over `transport`; see [`RedisBackend::from_transport`].
    pub fn from_transport(self, transport: impl Transport) -> RedisBackend {
        self.over(ConnectionSource::shared(transport))
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
