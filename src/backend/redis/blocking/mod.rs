//! Redis from plain threads: [`RedisBackend`], the asynchronous one and a thread that drives it.

mod driver;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bb8_redis::redis::Client;

use self::driver::Driver;
use super::super::{
    self as backend, Answer, BackendContext, BackendError, BackendErrorKind, BlockingBackend,
    BlockingPermitBackend, PermitBackend,
};
use super::atomicity::Atomicity;
use super::backend::RedisBackend as Tasks;
use super::builder::{CONNECT_TIMEOUT, RedisBuilder, client};
use super::manager::ByClient;
use crate::decision::{Op, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::policy::Policy;
use crate::policy::SemaphorePolicy;

/// Keeps buckets in Redis, asked from plain threads. Clones share everything.
///
/// It uses the scripts, keys and settings of [`crate::RedisBackend`], so that both share their buckets, and fails by
/// the same errors: an operation has 250 ms ([`RedisBuilder::time_limit`]), is never sent again if it may have been
/// done, and after 5 failures in a row Redis is left alone for a while. Denials are remembered for up to 1 s
/// ([`RedisBuilder::deny_cache`]).
///
/// A background thread with a Tokio runtime sends the operations of all threads over a few connections, in batches, as
/// [`crate::RedisBackend`] does. The thread ends when the last clone of the backend is dropped.
///
/// ```no_run
/// use tower_sluice::blocking::{Limiter, RedisBackend};
/// use tower_sluice::{Key, Policy, Quota};
///
/// let redis = RedisBackend::connect("redis://127.0.0.1/")?;
/// let limiter = Limiter::new(Policy::new("api", Quota::per_minute(600)), redis);
/// let allowed = limiter.check(&Key::from("ann"), 1)?.decision.is_allowed();
/// # Ok::<(), tower_sluice::backend::BackendError>(())
/// ```
#[derive(Clone)]
pub struct RedisBackend(Arc<BlockingRedisInner>);

struct BlockingRedisInner {
    tasks: Tasks,
    driver: Driver,
    time_limit: Duration,
}

impl RedisBackend {
    /// What to change before connecting, by [`RedisBuilder::connect_blocking`]: prefix, time limit, deny cache and
    /// more.
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
    /// if nobody listens there, or user and password are wrong, which its source tells; the error of the script, if it
    /// fails.
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn connect(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect_blocking(url)
    }

    /// Will connect to the server of `url` when it is first needed, so that a program starts while Redis is down; until
    /// then every operation fails. Nothing is sent here.
    ///
    /// # Errors
    ///
    /// [`Config`](BackendErrorKind::Config) if the URL cannot be read.
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn connect_lazy(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect_blocking_lazy(url)
    }

    /// Makes its connections by `client`, when they are needed: one with certificates of its own, say. Nothing is sent
    /// here.
    ///
    /// There is no such way for a pool: its test of a connection knows no time limit, and what is wrong with one it
    /// cannot be told.
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn from_client(client: Client) -> Self {
        Self::builder().threads(client)
    }

    fn over(tasks: Tasks, time_limit: Duration) -> Self {
        Self(Arc::new(BlockingRedisInner {
            tasks,
            driver: Driver::start().expect("a thread for the connections to Redis"),
            time_limit,
        }))
    }

    /// Makes sure that there is a connection and that it answers.
    fn first_connection(&self, patience: Duration) -> Result<(), BackendError> {
        let tasks = self.0.tasks.clone();
        self.0
            .wait(patience, async move { tasks.ready_within(patience).await })
    }
}

impl RedisBuilder {
    /// Connects to the server of `url` for plain threads; see
    /// [`blocking::RedisBackend::connect`](RedisBackend::connect).
    ///
    /// # Errors
    ///
    /// As [`blocking::RedisBackend::connect`](RedisBackend::connect);
    /// [`Config`](crate::backend::BackendErrorKind::Config) for [`Atomicity::Optimistic`], too.
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn connect_blocking(self, url: impl AsRef<str>) -> Result<RedisBackend, BackendError> {
        let patience = self.time_limit.max(CONNECT_TIMEOUT);
        let backend = self.connect_blocking_lazy(url)?;
        backend.first_connection(patience)?;
        Ok(backend)
    }

    /// Will connect to the server of `url` when it is needed, for plain threads; see
    /// [`blocking::RedisBackend::connect_lazy`](RedisBackend::connect_lazy).
    ///
    /// # Errors
    ///
    /// [`Config`](crate::backend::BackendErrorKind::Config) if the URL cannot be read, or for
    /// [`Atomicity::Optimistic`].
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn connect_blocking_lazy(self, url: impl AsRef<str>) -> Result<RedisBackend, BackendError> {
        let client = client(url.as_ref())?;
        self.from_blocking_client(client)
    }

    /// Makes its connections by `client`, for plain threads, when they are needed; see
    /// [`blocking::RedisBackend::from_client`](RedisBackend::from_client).
    ///
    /// # Errors
    ///
    /// [`Config`](crate::backend::BackendErrorKind::Config) for [`Atomicity::Optimistic`].
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn from_blocking_client(self, client: Client) -> Result<RedisBackend, BackendError> {
        if self.atomicity == Atomicity::Optimistic {
            return Err(BackendError::config(
                "`Atomicity::Optimistic` cannot be had from plain threads: use `Atomicity::Script`, or the backend for a runtime",
            ));
        }
        Ok(self.threads(client))
    }

    fn threads(self, client: Client) -> RedisBackend {
        #[cfg(feature = "tls")]
        super::tls::prepare(client.get_connection_info());
        let time_limit = self.time_limit;
        RedisBackend::over(self.pooled(Arc::new(ByClient(client))), time_limit)
    }
}

/// What a busy machine may add to a time limit.
const SLACK: Duration = Duration::from_secs(5);

impl BlockingRedisInner {
    /// The outcome of `future`, which keeps the time limit by itself.
    fn wait<T: Send + 'static>(
        &self,
        limit: Duration,
        future: impl Future<Output = Result<T, BackendError>> + Send + 'static,
    ) -> Result<T, BackendError> {
        let outcome = self.driver.run(limit.saturating_add(SLACK), future);
        outcome.unwrap_or_else(|| Err(BackendError::new(BackendErrorKind::Timeout(limit))))
    }

    fn answer<T: Send + 'static>(
        &self,
        answer: Answer<
            Result<T, BackendError>,
            impl Future<Output = Result<T, BackendError>> + Send + 'static,
        >,
    ) -> Result<T, BackendError> {
        match answer {
            Answer::Now(outcome) => outcome,
            Answer::Later(outcome) => self.wait(self.time_limit, outcome),
        }
    }
}

impl BlockingBackend for RedisBackend {
    type Error = BackendError;

    fn context(&self) -> &BackendContext {
        backend::Backend::context(&self.0.tasks)
    }

    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Result<Reply, BackendError> {
        let inner = &*self.0;
        inner.answer(backend::Backend::ask(&inner.tasks, op, policy, key))
    }
}

impl BlockingPermitBackend for RedisBackend {
    type Error = BackendError;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Result<PermitReply, BackendError> {
        let inner = &*self.0;
        inner.answer(PermitBackend::ask(&inner.tasks, op, policy, key))
    }

    fn context(&self) -> &BackendContext {
        backend::Backend::context(&self.0.tasks)
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        PermitBackend::next_attempt(&self.0.tasks, policy, reply, waiters)
    }
}

/// Shows no key and no password.
impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("naming", &self.0.tasks.0.preparer.naming)
            .finish_non_exhaustive()
    }
}
