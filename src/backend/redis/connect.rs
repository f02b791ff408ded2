//! From settings to a backend: the constructors of [`RedisBackend`], and the last calls of a [`RedisBuilder`].

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::super::{BackendContext, BackendError};
#[cfg(feature = "cluster")]
use super::adapter::RedisClient;
use super::atomicity::Atomicity;
use super::backend::{RedisBackend, RedisInner, Route};
use super::batch_queue::BatchQueue;
use super::builder::RedisBuilder;
#[cfg(feature = "cluster")]
use super::cluster::{NodeSettings, Router};
use super::connections::ConnectionPool;
use super::deny_cache::DenyCache;
use super::request::Expiry;
use super::request_preparer::RequestPreparer;
use super::round_trip::ScriptClient;
#[cfg(feature = "sentinel")]
use super::sentinel::{PrimaryState, SentinelConnector, SentinelSettings};
use super::source::ConnectionSource;
use super::transport::{Connector, Transport};
#[cfg(feature = "sentinel")]
use super::url::SentinelUrl;
use super::url::ServerUrl;
#[cfg(feature = "cluster")]
use super::url::{CLUSTER, SINGLE};
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

    /// Connects to the Redis Cluster of which `urls` are nodes, and checks that each primary can decide.
    ///
    /// A URL is one of a standalone server, such as `redis://user:password@host:6379`. One node is enough; with more
    /// the service can start while one of them is down. All nodes have the credentials and the TLS settings of the
    /// first URL. The URL `redis+cluster://user:password@host:6379,host:6379` does the same in
    /// [`connect`](Self::connect) and [`connect_lazy`](Self::connect_lazy). See
    /// [Redis Cluster](crate::backend::redis#redis-cluster).
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect). A primary that is down is no error, unless all are.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tower_sluice::RedisBackend;
    ///
    /// # async fn f() -> Result<(), tower_sluice::backend::BackendError> {
    /// let redis = RedisBackend::cluster(["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"]).await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "cluster")]
    pub async fn cluster<U: AsRef<str>>(
        urls: impl IntoIterator<Item = U>,
    ) -> Result<Self, BackendError> {
        Self::builder().cluster(urls).await
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
        match ServerUrl::parse(url.as_ref())? {
            ServerUrl::Single(client) => Ok(self.from_connector(client)),
            #[cfg(feature = "cluster")]
            ServerUrl::Cluster(clients) => self.over_cluster(clients),
            #[cfg(feature = "sentinel")]
            ServerUrl::Sentinel(url) => Ok(self.over_sentinel(url)),
        }
    }

    #[cfg(feature = "sentinel")]
    fn over_sentinel(self, url: SentinelUrl) -> RedisBackend {
        let state = PrimaryState::new(SentinelSettings {
            sentinels: url.sentinels,
            name: url.name,
            template: url.template,
            addresses: self.node_address.clone(),
        });
        let backend = self.from_connector(SentinelConnector(Arc::clone(&state)));
        if let Some(queue) = backend.0.route.queue() {
            state.follow(queue.client());
        }
        backend
    }

    /// Creates a backend over a Redis Cluster that connects to the servers of `urls`; see [`RedisBackend::cluster`].
    ///
    /// # Errors
    ///
    /// As [`RedisBackend::cluster`].
    #[cfg(feature = "cluster")]
    pub async fn cluster<U: AsRef<str>>(
        self,
        urls: impl IntoIterator<Item = U>,
    ) -> Result<RedisBackend, BackendError> {
        let patience = self.time_limit.max(CONNECT_TIMEOUT);
        let backend = self.cluster_lazy(urls)?;
        backend.ready_within(patience).await?;
        Ok(backend)
    }

    /// Creates a backend over a Redis Cluster that connects to the servers of `urls` at the first operation. Nothing is
    /// sent here.
    ///
    /// # Errors
    ///
    /// [`Config`](super::super::BackendErrorKind::Config) if there is no URL, if one cannot be read, or for
    /// [`Atomicity::Optimistic`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::RedisBackend;
    ///
    /// let urls = ["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"];
    /// let redis = RedisBackend::builder().prefix("shop").cluster_lazy(urls)?;
    /// # Ok::<(), tower_sluice::backend::BackendError>(())
    /// ```
    #[cfg(feature = "cluster")]
    pub fn cluster_lazy<U: AsRef<str>>(
        self,
        urls: impl IntoIterator<Item = U>,
    ) -> Result<RedisBackend, BackendError> {
        let clients = urls
            .into_iter()
            .map(|url| RedisClient::from_url(url.as_ref(), SINGLE));
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        self.over_cluster(clients)
    }

    /// Creates a backend over a Redis Cluster, with the credentials and the certificates of the first of `clients`.
    ///
    /// # Errors
    ///
    /// As [`cluster_lazy`](Self::cluster_lazy).
    #[cfg(feature = "cluster")]
    pub fn from_cluster_clients(
        self,
        clients: impl IntoIterator<Item = RedisClient>,
    ) -> Result<RedisBackend, BackendError> {
        self.over_cluster(clients.into_iter().collect())
    }

    #[cfg(feature = "cluster")]
    fn over_cluster(self, clients: Vec<RedisClient>) -> Result<RedisBackend, BackendError> {
        if self.atomicity == Atomicity::Optimistic {
            return Err(BackendError::config(
                "`Atomicity::Optimistic` does not work on a Redis Cluster; use `Atomicity::Script`",
            ));
        }
        let hosts: Option<Vec<_>> = clients.iter().map(RedisClient::host).collect();
        let (Some(hosts), Some(template)) = (hosts, clients.into_iter().next()) else {
            return Err(BackendError::config(format!(
                "a Redis Cluster needs the address of a node, such as {CLUSTER:?}"
            )));
        };
        if template.database() != 0 {
            return Err(BackendError::config(format!(
                "a Redis Cluster has the database 0 only; use for example {CLUSTER:?}"
            )));
        }
        let settings = NodeSettings {
            template,
            addresses: self.node_address.clone(),
            connections: self.connections.unwrap_or(SHARED),
            time_limit: self.time_limit,
            batching: self.batching,
            expiry: self.expiry(),
        };
        Ok(self.on(Route::Cluster(Router::new(settings, hosts))))
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
        let client = ScriptClient::new(source, self.time_limit, self.expiry(), false);
        let client = Arc::new(client);
        let route = Route::Single {
            queue: BatchQueue::new(Arc::clone(&client), self.batching),
            permit_queue: BatchQueue::new(client, self.batching),
        };
        self.on(route)
    }

    fn on(self, route: Route) -> RedisBackend {
        RedisBackend(Arc::new(RedisInner {
            route,
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
            server_clock: Arc::default(),
            naming: self.naming,
            deny_cache,
            context: BackendContext::from_clock(self.clock)
                .max_waiters(each_key, in_all)
                .shared(),
        }
    }
}
