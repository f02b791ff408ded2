use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "redis")]
use super::misconfiguration::Misconfiguration;

/// The error returned when Redis does not answer an operation. Its messages contain neither keys nor passwords.
///
/// All operations of a batch fail by one error, so that clones share the source.
#[derive(Clone)]
pub struct BackendError {
    kind: BackendErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The kind of a [`BackendError`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// The URL or a setting is invalid. The text shows the value and the remedy.
    Config(String),
    /// Redis did not answer within the time limit. A charge may have been made.
    Timeout(Duration),
    /// No connection could be made: no server listens, or the server rejected the user or the password. Nothing was
    /// charged.
    Unreachable,
    /// The connection was lost before the answer came. A charge may have been made. The operation is never sent again.
    Lost,
    /// The circuit breaker is open after repeated failures. The operation was not sent.
    CircuitOpen,
    /// The request had no time left for Redis, because it had waited for an earlier failure; see
    /// [`TimeBudget`](crate::TimeBudget). The operation was not sent.
    OutOfTime,
    /// Redis answered with an error of this code, such as `OOM`, `NOPERM` or `READONLY`. Nothing was charged.
    Server(String),
    /// The key in Redis holds a value of another format. The value was not changed.
    Corrupt,
    /// In optimistic mode, other clients changed the key in each of this many attempts. Nothing was charged.
    Contended(u32),
    /// The backend does not support the operation. The text shows the alternative.
    Unsupported(&'static str),
}

#[cfg(feature = "redis")]
impl BackendErrorKind {
    /// Returns the value of the label `kind` in metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Timeout(_) => "timeout",
            Self::OutOfTime => "out_of_time",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::CircuitOpen => "circuit_open",
            Self::Server(_) => "server",
            Self::Corrupt => "corrupt",
            Self::Contended(_) => "contended",
            Self::Unsupported(_) => "unsupported",
        }
    }
}

impl BackendError {
    pub(crate) const fn new(kind: BackendErrorKind) -> Self {
        Self { kind, source: None }
    }

    pub(crate) fn config(why: impl Into<String>) -> Self {
        Self::new(BackendErrorKind::Config(why.into()))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn because(kind: BackendErrorKind, why: impl Error + Send + Sync + 'static) -> Self {
        Self {
            kind,
            source: Some(Arc::new(why)),
        }
    }

    /// Returns whether the whole server failed, and not this operation alone.
    #[cfg(feature = "redis")]
    pub(crate) fn is_outage(&self) -> bool {
        match &self.kind {
            BackendErrorKind::Timeout(_)
            | BackendErrorKind::Unreachable
            | BackendErrorKind::Lost
            | BackendErrorKind::CircuitOpen => true,
            BackendErrorKind::Server(code) => OUTAGES.contains(&&**code),
            _ => false,
        }
    }

    /// Returns the kind of the failure.
    #[must_use]
    pub const fn kind(&self) -> &BackendErrorKind {
        &self.kind
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            BackendErrorKind::Config(why) => f.write_str(why),
            BackendErrorKind::Timeout(limit) => write!(f, "no answer from Redis within {limit:?}"),
            BackendErrorKind::Unreachable => f.write_str("no connection to Redis"),
            BackendErrorKind::Lost => {
                f.write_str("the connection to Redis was lost before the answer came")
            }
            BackendErrorKind::CircuitOpen => {
                f.write_str("Redis circuit open after repeated failures; the operation was not sent")
            }
            BackendErrorKind::OutOfTime => f.write_str(
                "the request has no time left for Redis after earlier failures; the operation was not sent",
            ),
            BackendErrorKind::Server(code) => {
                write!(f, "Redis answered with the error {code}")?;
                #[cfg(feature = "redis")]
                if let Some(fault) = Misconfiguration::of_code(code) {
                    write!(f, ": {}; {}", fault.cause(), fault.remedy())?;
                }
                Ok(())
            }
            BackendErrorKind::Corrupt => f.write_str(
                "the Redis key holds a value of another format; delete it, or set another `RedisBuilder::prefix`",
            ),
            BackendErrorKind::Contended(attempts) => {
                write!(
                    f,
                    "other clients changed the key in each of {attempts} attempts; use `Atomicity::Script`"
                )
            }
            BackendErrorKind::Unsupported(why) => f.write_str(why),
        }
    }
}

impl fmt::Debug for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendError")
            .field("kind", &self.kind)
            .field("source", &self.source)
            .finish()
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

/// Error codes of a server that can execute no operation.
#[cfg(feature = "redis")]
const OUTAGES: [&str; 8] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "NOAUTH",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
];
