//! Redis from plain threads: [`RedisBackend`], which is the asynchronous backend and a thread that drives it.

mod driver;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::driver::Driver;
use super::super::{
    self as backend, Answer, BackendContext, BackendError, BackendErrorKind, BlockingBackend,
    BlockingPermitBackend, PermitBackend,
};
use super::atomicity::Atomicity;
use super::backend::RedisBackend as Tasks;
use super::builder::RedisBuilder;
use super::connect::CONNECT_TIMEOUT;
use super::transport::Connector;
use crate::decision::{Op, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::policy::Policy;
use crate::policy::SemaphorePolicy;

/// Keeps the state of limits in Redis, for plain threads. Clones share everything.
///
/// It has the scripts, keys, settings and errors of [`crate::RedisBackend`], and both share their state. An operation
/// has a time limit of 250 ms ([`RedisBuilder::time_limit`]). If its reply is missing, it is never sent again. After 5
/// failures in a row the circuit opens. Denials are cached for up to 1 s ([`RedisBuilder::deny_cache`]).
///
/// A background thread with a Tokio runtime sends the operations of all threads over a few connections, in batches. The
/// thread ends when the last clone of the backend is dropped.
///
/// # Examples
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
    /// Returns a builder with the default settings, to connect by [`RedisBuilder::connect_blocking`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::blocking::RedisBackend;
    ///
    /// let redis = RedisBackend::builder().prefix("shop").connect_blocking_lazy("redis://127.0.0.1/")?;
    /// # Ok::<(), tower_sluice::backend::BackendError>(())
    /// ```
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Connects to the server of `url`, such as `redis://user:password@host:6379/0`, and checks that it can decide; see
    /// [`crate::RedisBackend::connect`].
    ///
    /// # Errors
    ///
    /// As [`crate::RedisBackend::connect`].
    ///
    /// # Panics
    ///
    /// If the operating system starts no thread.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tower_sluice::blocking::RedisBackend;
    ///
    /// let redis = RedisBackend::connect("redis://127.0.0.1/")?;
    /// # Ok::<(), tower_sluice::backend::BackendError>(())
    /// ```
    pub fn connect(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect_blocking(url)
    }

    /// Creates a backend that connects to the server of `url` at the first operation. Nothing is sent here.
    ///
    /// A program can start while Redis is down. Until Redis is up, every operation fails.
    ///
    /// # Errors
    ///
    /// [`Config`](BackendErrorKind::Config) if the URL cannot be read.
    ///
    /// # Panics
    ///
    /// If the operating system starts no thread.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::blocking::RedisBackend;
    ///
    /// let redis = RedisBackend::connect_lazy("redis://127.0.0.1/")?;
    /// # Ok::<(), tower_sluice::backend::BackendError>(())
    /// ```
    pub fn connect_lazy(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect_blocking_lazy(url)
    }

    /// Creates a backend that opens its connections through `connector`, at the first operation. Nothing is sent here.
    ///
    /// A pool of blocking connections cannot be used: its check of a connection has no time limit.
    ///
    /// # Panics
    ///
    /// If the operating system starts no thread.
    ///
    /// # Examples
    ///
    /// A client with its own certificates:
    ///
    /// ```no_run
    /// use tower_sluice::backend::redis::adapter::RedisClient;
    /// use tower_sluice::blocking::RedisBackend;
    ///
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let redis = RedisBackend::from_connector(RedisClient::new(client));
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    pub fn from_connector(connector: impl Connector) -> Self {
        let builder = Self::builder();
        let time_limit = builder.time_limit;
        Self::over(builder.from_connector(connector), time_limit)
    }

    fn over(tasks: Tasks, time_limit: Duration) -> Self {
        Self(Arc::new(BlockingRedisInner {
            tasks,
            driver: Driver::start().expect("a thread for the connections to Redis"),
            time_limit,
        }))
    }

    /// Checks that there is a connection and that it answers.
    fn first_connection(&self, patience: Duration) -> Result<(), BackendError> {
        let tasks = self.0.tasks.clone();
        self.0
            .wait(patience, async move { tasks.ready_within(patience).await })
    }
}

/// # Plain threads
impl RedisBuilder {
    /// Connects to the server of `url` for plain threads; see [`blocking::RedisBackend::connect`].
    ///
    /// # Errors
    ///
    /// As [`blocking::RedisBackend::connect`], and [`Config`](BackendErrorKind::Config) for
    /// [`Atomicity::Optimistic`].
    ///
    /// # Panics
    ///
    /// If the operating system starts no thread.
    ///
    /// [`blocking::RedisBackend::connect`]: RedisBackend::connect
    pub fn connect_blocking(self, url: impl AsRef<str>) -> Result<RedisBackend, BackendError> {
        let patience = self.time_limit.max(CONNECT_TIMEOUT);
        let backend = self.connect_blocking_lazy(url)?;
        backend.first_connection(patience)?;
        Ok(backend)
    }

    /// Creates a backend for plain threads that connects to the server of `url` at the first operation; see
    /// [`blocking::RedisBackend::connect_lazy`].
    ///
    /// # Errors
    ///
    /// [`Config`](BackendErrorKind::Config) if the URL cannot be read, or for [`Atomicity::Optimistic`].
    ///
    /// # Panics
    ///
    /// If the operating system starts no thread.
    ///
    /// [`blocking::RedisBackend::connect_lazy`]: RedisBackend::connect_lazy
    pub fn connect_blocking_lazy(self, url: impl AsRef<str>) -> Result<RedisBackend, BackendError> {
        self.check_blocking()?;
        let time_limit = self.time_limit;
        Ok(RedisBackend::over(self.connect_lazy(url)?, time_limit))
    }

    /// Creates a backend for plain threads that opens its connections through `connector`; see
    /// [`blocking::RedisBackend::from_connector`].
    ///
    /// # Errors
    ///
    /// [`Config`](BackendErrorKind::Config) for [`Atomicity::Optimistic`].
    ///
    /// # Panics
    ///
    /// If the operating system starts no thread.
    ///
    /// [`blocking::RedisBackend::from_connector`]: RedisBackend::from_connector
    pub fn from_blocking_connector(
        self,
        connector: impl Connector,
    ) -> Result<RedisBackend, BackendError> {
        self.check_blocking()?;
        let time_limit = self.time_limit;
        Ok(RedisBackend::over(
            self.from_connector(connector),
            time_limit,
        ))
    }

    fn check_blocking(&self) -> Result<(), BackendError> {
        if self.atomicity == Atomicity::Optimistic {
            return Err(BackendError::config(
                "`Atomicity::Optimistic` does not work on plain threads; use `Atomicity::Script`, or the asynchronous backend",
            ));
        }
        Ok(())
    }
}

/// The time that a busy machine may add to a time limit.
const SLACK: Duration = Duration::from_secs(5);

impl BlockingRedisInner {
    /// Returns the outcome of `future`, which has its own time limit.
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

/// Shows neither a key nor a password.
impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("naming", &self.0.tasks.0.preparer.naming)
            .finish_non_exhaustive()
    }
}
