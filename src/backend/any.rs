use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "redis")]
use super::RedisBackend;
#[cfg(feature = "test-util")]
use super::test_util::TestBackend;
use super::{Answer, Backend, BackendContext, BackendError, LocalBackend, MemoryBackend};
use crate::backend::PermitBackend;
use crate::clock::Clock;
use crate::decision::{Op, PermitId, PermitOp, PermitReply, QuotaSnapshot, Reply};
use crate::key::Key;
use crate::message::Quoted;
use crate::policy::{Policy, SemaphorePolicy};

/// A backend that is chosen at run time, by a URL or by `From` another backend.
///
/// Guide: [share limits in a fleet](crate::_guide::fleet).
///
/// ```
/// use tower_sluice::AnyBackend;
///
/// let backend = AnyBackend::from_url("memory:")?;
/// let why = AnyBackend::from_url("etcd://localhost").unwrap_err().to_string();
/// assert!(why.starts_with(r#"unknown backend "etcd:"; use "memory:""#), "{why}");
/// # Ok::<(), tower_sluice::backend::BackendError>(())
/// ```
///
/// A memory backend can have any clock, so that a service whose backend is chosen at run time is tested without
/// sleeping:
///
/// ```
/// use tower_sluice::clock::{ManualClock, Timestamp};
/// use tower_sluice::{AnyBackend, MemoryBackend};
///
/// let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
/// let backend = AnyBackend::from(MemoryBackend::builder().clock(clock.clone()).build());
/// ```
///
/// Its error type is [`BackendError`] for every choice. A layer over it does not compile without a failure policy
/// ([`on_backend_error`](crate::RateLimitLayer::on_backend_error)).
#[derive(Clone)]
pub struct AnyBackend(AnyInner);

#[derive(Clone)]
enum AnyInner {
    Memory(LocalBackend),
    #[cfg(feature = "redis")]
    Redis(RedisBackend),
    #[cfg(feature = "test-util")]
    Test(TestBackend),
    /// Limits nothing.
    Off(Arc<BackendContext>),
}

/// The schemes of Redis URLs, and whether each uses TLS.
const REDIS: [(&str, bool); 11] = [
    ("redis+cluster", false),
    ("rediss+cluster", true),
    ("redis+sentinel", false),
    ("rediss+sentinel", true),
    ("redis", false),
    ("rediss", true),
    ("redis+unix", false),
    ("unix", false),
    ("valkey", false),
    ("valkeys", true),
    ("valkey+unix", false),
];

/// The remedy in the message for an unknown URL.
const KNOWN: &str = r#"use "memory:", "redis://127.0.0.1/", "rediss://127.0.0.1/" or "redis+unix:///run/redis.sock""#;

impl AnyBackend {
    /// Creates the backend of a URL: `memory:`, `off:`, or with the feature `redis` a `redis://`, `rediss://` (feature
    /// `tls`) or `redis+unix:` URL in the form of [redis-rs](https://docs.rs/redis), `redis+cluster://host:port,host:port`
    /// (feature `cluster`), or `redis+sentinel://host:port,host:port/name` (feature `sentinel`).
    ///
    /// `off:` turns off all limits of the backend, as a [`Switch`](crate::Switch) does. Layers pass every request on,
    /// and write no header field.
    ///
    /// It does not connect. It can be called before Redis is reachable, and outside of a Tokio runtime.
    ///
    /// ```
    /// use tower_sluice::AnyBackend;
    ///
    /// let backend = AnyBackend::from_url("memory:")?;
    /// # let _ = backend;
    /// # Ok::<(), tower_sluice::backend::BackendError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Config`](super::BackendErrorKind::Config) if the scheme is unknown, its feature is not enabled, or the
    /// URL is invalid. The message shows the value and the known schemes.
    pub fn from_url(url: &str) -> Result<Self, BackendError> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let scheme = scheme.to_ascii_lowercase();
        if scheme == "memory" && matches!(&url[scheme.len()..], ":" | "://") {
            return Ok(MemoryBackend::new().into());
        }
        if scheme == "off" && matches!(&url[scheme.len()..], ":" | "://") {
            return Ok(Self(AnyInner::Off(Arc::default())));
        }
        match REDIS.iter().find(|(name, _)| *name == scheme) {
            Some((_, by_tls)) => Self::redis(url, &scheme, *by_tls),
            None => Err(BackendError::config(match &*scheme {
                // The text is not shown, because it may contain a password.
                "" | "memory" | "off" => format!("invalid backend URL: it has no scheme; {KNOWN}"),
                _ => format!("unknown backend {}; {KNOWN}", Quoted(&format!("{scheme}:"))),
            })),
        }
    }

    #[cfg(feature = "redis")]
    fn redis(url: &str, scheme: &str, by_tls: bool) -> Result<Self, BackendError> {
        if by_tls && cfg!(not(feature = "tls")) {
            return Err(lacking(scheme, "tls"));
        }
        RedisBackend::connect_lazy(url).map(Self::from)
    }

    #[cfg(not(feature = "redis"))]
    fn redis(_: &str, scheme: &str, by_tls: bool) -> Result<Self, BackendError> {
        Err(lacking(scheme, if by_tls { "tls" } else { "redis" }))
    }
}

#[cfg_attr(feature = "tls", allow(dead_code))]
fn lacking(scheme: &str, feature: &str) -> BackendError {
    BackendError::config(format!(
        r#"backend "{scheme}:" needs the feature "{feature}" of tower-sluice; enable it in Cargo.toml, or use "memory:""#
    ))
}

impl<C: Clock> From<MemoryBackend<C>> for AnyBackend {
    fn from(backend: MemoryBackend<C>) -> Self {
        LocalBackend::from(backend).into()
    }
}

impl From<LocalBackend> for AnyBackend {
    fn from(backend: LocalBackend) -> Self {
        Self(AnyInner::Memory(backend))
    }
}

#[cfg(feature = "test-util")]
impl From<TestBackend> for AnyBackend {
    fn from(backend: TestBackend) -> Self {
        Self(AnyInner::Test(backend))
    }
}

#[cfg(feature = "redis")]
impl From<RedisBackend> for AnyBackend {
    fn from(backend: RedisBackend) -> Self {
        Self(AnyInner::Redis(backend))
    }
}

impl Backend for AnyBackend {
    type Error = BackendError;
    #[cfg(feature = "redis")]
    type Future = <RedisBackend as Backend>::Future;
    #[cfg(all(feature = "test-util", not(feature = "redis")))]
    type Future = <TestBackend as Backend>::Future;
    #[cfg(not(any(feature = "redis", feature = "test-util")))]
    type Future = std::future::Ready<Result<Reply, BackendError>>;

    #[inline]
    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, BackendError>, Self::Future> {
        match &self.0 {
            AnyInner::Memory(memory) => Answer::Now(Ok(memory.decide(op, policy, key))),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => Backend::ask(redis, op, policy, key),
            #[cfg(feature = "test-util")]
            AnyInner::Test(test) => Backend::ask(test, op, policy, key),
            AnyInner::Off(_) => Answer::Now(Ok(Reply::of_unused_key(policy))),
        }
    }

    fn context(&self) -> &BackendContext {
        match &self.0 {
            AnyInner::Memory(memory) => Backend::context(memory),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => Backend::context(redis),
            #[cfg(feature = "test-util")]
            AnyInner::Test(test) => Backend::context(test),
            AnyInner::Off(context) => context,
        }
    }

    fn is_enabled(&self) -> bool {
        !matches!(self.0, AnyInner::Off(_))
    }

    fn needs_one_hash_tag(&self) -> bool {
        match &self.0 {
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => Backend::needs_one_hash_tag(redis),
            _ => false,
        }
    }

    fn time_limit(&self) -> Option<Duration> {
        match &self.0 {
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => Backend::time_limit(redis),
            _ => None,
        }
    }

    fn ask_within(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
        limit: Duration,
    ) -> Answer<Result<Reply, BackendError>, Self::Future> {
        match &self.0 {
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => Backend::ask_within(redis, op, policy, key, limit),
            _ => {
                let _ = limit;
                Backend::ask(self, op, policy, key)
            }
        }
    }
}

impl PermitBackend for AnyBackend {
    type Error = BackendError;
    #[cfg(feature = "redis")]
    type Future = <RedisBackend as PermitBackend>::Future;
    #[cfg(all(feature = "test-util", not(feature = "redis")))]
    type Future = <TestBackend as PermitBackend>::Future;
    #[cfg(not(any(feature = "redis", feature = "test-util")))]
    type Future = std::future::Ready<Result<PermitReply, BackendError>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        match &self.0 {
            AnyInner::Memory(memory) => Answer::Now(Ok(memory.decide_permit(op, policy, key))),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::ask(redis, op, policy, key),
            #[cfg(feature = "test-util")]
            AnyInner::Test(test) => PermitBackend::ask(test, op, policy, key),
            AnyInner::Off(_) => Answer::Now(Ok(PermitReply::of_unused_key(policy))),
        }
    }

    fn acquire_now(
        &self,
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Option<QuotaSnapshot> {
        match &self.0 {
            AnyInner::Memory(memory) => memory.acquire_now(id, weight, policy, key),
            _ => None,
        }
    }

    fn release_now(&self, id: PermitId, policy: &SemaphorePolicy, key: &Key) -> Option<bool> {
        match &self.0 {
            AnyInner::Memory(memory) => memory.release_now(id, policy, key),
            _ => None,
        }
    }

    fn context(&self) -> &BackendContext {
        match &self.0 {
            AnyInner::Memory(memory) => PermitBackend::context(memory),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::context(redis),
            #[cfg(feature = "test-util")]
            AnyInner::Test(test) => PermitBackend::context(test),
            AnyInner::Off(context) => context,
        }
    }

    fn is_enabled(&self) -> bool {
        !matches!(self.0, AnyInner::Off(_))
    }

    fn time_limit(&self) -> Option<Duration> {
        match &self.0 {
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::time_limit(redis),
            _ => None,
        }
    }

    fn ask_within(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
        limit: Duration,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        match &self.0 {
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::ask_within(redis, op, policy, key, limit),
            _ => {
                let _ = limit;
                PermitBackend::ask(self, op, policy, key)
            }
        }
    }

    fn has_leases(&self) -> bool {
        match &self.0 {
            AnyInner::Memory(memory) => PermitBackend::has_leases(memory),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::has_leases(redis),
            #[cfg(feature = "test-util")]
            AnyInner::Test(test) => PermitBackend::has_leases(test),
            AnyInner::Off(_) => false,
        }
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        match &self.0 {
            AnyInner::Memory(memory) => PermitBackend::next_attempt(memory, policy, reply, waiters),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::next_attempt(redis, policy, reply, waiters),
            #[cfg(feature = "test-util")]
            AnyInner::Test(test) => PermitBackend::next_attempt(test, policy, reply, waiters),
            AnyInner::Off(_) => None,
        }
    }

    fn new_id(&self) -> PermitId {
        match &self.0 {
            AnyInner::Memory(memory) => PermitBackend::new_id(memory),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::new_id(redis),
            #[cfg(feature = "test-util")]
            AnyInner::Test(test) => PermitBackend::new_id(test),
            AnyInner::Off(_) => PermitId::random(),
        }
    }
}

impl fmt::Debug for AnyBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AnyInner::Memory(memory) => memory.fmt(f),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => redis.fmt(f),
            #[cfg(feature = "test-util")]
            AnyInner::Test(test) => test.fmt(f),
            AnyInner::Off(_) => f.write_str("Off"),
        }
    }
}
