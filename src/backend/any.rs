use std::fmt;
use std::time::Duration;

#[cfg(feature = "redis")]
use super::RedisBackend;
use super::{Answer, Backend, BackendContext, BackendError, MemoryBackend};
use crate::backend::PermitBackend;
use crate::decision::{Op, PermitId, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::message::Quoted;
use crate::policy::{Policy, SemaphorePolicy};

/// A backend that is chosen at run time, by a URL or from one made elsewhere.
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
/// It can always fail, so that a layer over it asks for a choice
/// ([`on_backend_error`](crate::RateLimitLayer::on_backend_error)).
#[derive(Clone)]
pub struct AnyBackend(AnyInner);

#[derive(Clone)]
enum AnyInner {
    Memory(MemoryBackend),
    #[cfg(feature = "redis")]
    Redis(RedisBackend),
}

/// Schemes that lead to Redis, as redis-rs knows them, and whether by TLS.
const REDIS: [(&str, bool); 7] = [
    ("redis", false),
    ("rediss", true),
    ("redis+unix", false),
    ("unix", false),
    ("valkey", false),
    ("valkeys", true),
    ("valkey+unix", false),
];

/// What can be had, for those who wrote something else.
const KNOWN: &str = r#"use "memory:", "redis://127.0.0.1/", "rediss://127.0.0.1/" or "redis+unix:///run/redis.sock""#;

impl AnyBackend {
    /// The backend of a URL: `memory:`, or with the feature `redis` a `redis://`, `rediss://` (feature `tls`) or
    /// `redis+unix:` URL as [redis-rs](https://docs.rs/redis) reads them. It does not connect: configuration can be
    /// read before Redis is there, and outside of a runtime.
    ///
    /// # Errors
    ///
    /// [`Config`](super::BackendErrorKind::Config) for a scheme that is unknown, one whose feature is missing, or a URL
    /// that cannot be read; the text says which, and what is known.
    pub fn from_url(url: &str) -> Result<Self, BackendError> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let scheme = scheme.to_ascii_lowercase();
        if scheme == "memory" && matches!(&url[scheme.len()..], ":" | "://") {
            return Ok(Self(AnyInner::Memory(MemoryBackend::new())));
        }
        match REDIS.iter().find(|(name, _)| *name == scheme) {
            Some((_, by_tls)) => Self::redis(url, &scheme, *by_tls),
            None => Err(BackendError::config(match &*scheme {
                // It may be anything, a password for instance.
                "" | "memory" => format!("invalid backend URL: it has no scheme; {KNOWN}"),
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

impl From<MemoryBackend> for AnyBackend {
    fn from(backend: MemoryBackend) -> Self {
        Self(AnyInner::Memory(backend))
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
    #[cfg(not(feature = "redis"))]
    type Future = std::future::Ready<Result<Reply, BackendError>>;

    #[inline]
    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, BackendError>, Self::Future> {
        match &self.0 {
            AnyInner::Memory(memory) => match Backend::ask(memory, op, policy, key) {
                Answer::Now(Ok(reply)) => Answer::Now(Ok(reply)),
                Answer::Later(reply) => Answer::Now(match reply.into_inner() {
                    Ok(reply) => Ok(reply),
                    Err(never) => match never {},
                }),
            },
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => Backend::ask(redis, op, policy, key),
        }
    }

    fn context(&self) -> &BackendContext {
        match &self.0 {
            AnyInner::Memory(memory) => Backend::context(memory),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => Backend::context(redis),
        }
    }
}

/// The permits of either.
impl PermitBackend for AnyBackend {
    type Error = BackendError;
    #[cfg(feature = "redis")]
    type Future = <RedisBackend as PermitBackend>::Future;
    #[cfg(not(feature = "redis"))]
    type Future = std::future::Ready<Result<PermitReply, BackendError>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        match &self.0 {
            AnyInner::Memory(memory) => match PermitBackend::ask(memory, op, policy, key) {
                Answer::Now(Ok(reply)) => Answer::Now(Ok(reply)),
                Answer::Later(reply) => Answer::Now(match reply.into_inner() {
                    Ok(reply) => Ok(reply),
                    Err(never) => match never {},
                }),
            },
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::ask(redis, op, policy, key),
        }
    }

    fn context(&self) -> &BackendContext {
        match &self.0 {
            AnyInner::Memory(memory) => PermitBackend::context(memory),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::context(redis),
        }
    }

    fn has_leases(&self) -> bool {
        match &self.0 {
            AnyInner::Memory(memory) => PermitBackend::has_leases(memory),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::has_leases(redis),
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
        }
    }

    fn new_id(&self) -> PermitId {
        match &self.0 {
            AnyInner::Memory(memory) => PermitBackend::new_id(memory),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => PermitBackend::new_id(redis),
        }
    }
}

impl fmt::Debug for AnyBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AnyInner::Memory(memory) => memory.fmt(f),
            #[cfg(feature = "redis")]
            AnyInner::Redis(redis) => redis.fmt(f),
        }
    }
}
