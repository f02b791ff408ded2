//! State in Redis, shared by a fleet: [`RedisBackend`].
#![doc = include_str!("../../docs/redis.md")]

mod alerts;
mod batch_queue;
#[cfg(feature = "blocking")]
pub(crate) mod blocking;
mod breaker;
mod builder;
mod connections;
mod deny_cache;
mod error;
mod generation;
mod keep_alive;
mod key_name;
mod known;
mod manager;
mod optimistic;
mod packed_quotas;
mod probe;
mod request;
mod request_preparer;
mod round_trip;
mod script;
mod semaphore;
mod source;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bb8::{ManageConnection, Pool};
use bb8_redis::redis::RedisError;
use bb8_redis::redis::aio::{ConnectionLike, MultiplexedConnection};

use self::batch_queue::{BatchQueue, DetachedTrip};
use self::error::ConnectTimeout;
use self::request::OpRequest;
use self::request_preparer::RequestPreparer;
use self::round_trip::RedisResult;
use self::semaphore::PermitRequest;
use self::source::ConnectionSource;
use super::{Answer, Backend, BackendContext, BackendError, BackendErrorKind};
use crate::decision::{Op, Reply};
use crate::key::Key;
use crate::policy::Policy;

pub use self::builder::{Atomicity, RedisBuilder};
pub use self::semaphore::RedisSemaphore;
/// The pool and the client that this API speaks of, in the versions that it does: `bb8_redis::{bb8, redis}`.
#[doc(no_inline)]
pub use bb8_redis;

/// Keeps buckets in Redis, for all processes that use the same prefix and policy names. Clones share everything.
///
/// It needs a Tokio runtime with I/O and time, from the first operation on.
#[derive(Clone)]
pub struct RedisBackend(Arc<RedisInner>);

struct RedisInner {
    preparer: RequestPreparer,
    queue: Arc<BatchQueue<OpRequest>>,
    /// What is asked of semaphores goes by scripts of its own.
    permit_queue: Arc<BatchQueue<PermitRequest>>,
    atomicity: Atomicity,
}

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

impl RedisBackend {
    /// Makes sure within `patience` that there is a connection and that it answers.
    async fn ready_within(&self, patience: Duration) -> Result<(), BackendError> {
        let ready = tokio::time::timeout(patience, self.0.first_connection()).await;
        let ready = ready.unwrap_or_else(|_| {
            let why = ConnectTimeout(patience);
            Err(BackendError::because(BackendErrorKind::Unreachable, why))
        });
        if let Err(error) = &ready {
            self.0.queue.client().tell(error);
        }
        ready
    }
}

impl Backend for RedisBackend {
    type Error = BackendError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BackendError>> + Send>>;

    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Answer<RedisResult, Self::Future> {
        let inner = &self.0;
        let query = match inner.preparer.cached_denial(&op, policy, key) {
            Ok(denial) => return Answer::Now(Ok(denial)),
            Err(query) => query,
        };
        if inner.queue.client().breaker.rejects() {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::CircuitOpen)));
        }
        let (request, update) = inner.preparer.request(op, policy, key, query);
        let inner = Arc::clone(inner);
        Answer::Later(Box::pin(async move {
            inner.preparer.forget(&update);
            let outcome = inner.send(request).await;
            inner.preparer.record(&update, &outcome);
            outcome
        }))
    }

    fn context(&self) -> &BackendContext {
        &self.0.preparer.context
    }
}

impl RedisInner {
    async fn send(&self, request: OpRequest) -> RedisResult {
        match self.atomicity {
            Atomicity::Script => Arc::clone(&self.queue).send(request).await,
            Atomicity::Optimistic => {
                let client = Arc::clone(self.queue.client());
                DetachedTrip::new(async move { optimistic::deliver(&client, &request).await }).await
            }
        }
    }

    /// Makes sure that there is a connection and that it answers.
    async fn first_connection(&self) -> Result<(), BackendError> {
        match &self.queue.client().source {
            ConnectionSource::Pool(connections) => connections.first().await?,
            ConnectionSource::Shared(..) => {}
        }
        probe::run(self).await
    }
}

/// Shows no key and no password.
impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("naming", &self.0.preparer.naming)
            .field("source", &self.0.queue.client().source)
            .field("atomicity", &self.0.atomicity)
            .finish_non_exhaustive()
    }
}
