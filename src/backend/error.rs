use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "redis")]
use super::misconfiguration::Misconfiguration;

/// Why Redis gave no answer. Keys and passwords are in none of its words.
///
/// Clones share what caused it: all decisions of a batch fail by the same error.
#[derive(Clone)]
pub struct BackendError {
    kind: BackendErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What kind of failure it was, and so what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// The URL or a setting cannot be: the text says which, and what can.
    Config(String),
    /// No answer within the time limit. The charge may have been made.
    Timeout(Duration),
    /// No connection could be had: nobody listens, or the server rejects the user or its password. Nothing was charged.
    Unreachable,
    /// The connection was lost before the answer came. The charge may have been made; it is never sent again.
    Lost,
    /// The circuit is open after repeated failures: Redis was not asked.
    CircuitOpen,
    /// Redis has answered with an error of this code, such as `OOM`, `NOPERM` or `READONLY`. Nothing was charged.
    Server(String),
    /// What is stored under the key is not ours, or of another format. It was left untouched.
    Corrupt,
    /// Optimistic mode: others changed the key in every one of so many attempts. Nothing was charged.
    Contended(u32),
    /// The backend cannot do this, and what can.
    Unsupported(&'static str),
}

#[cfg(feature = "redis")]
impl BackendErrorKind {
    /// Returns the value of the label `kind` in metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Timeout(_) => "timeout",
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

    /// Whether the server as a whole failed, and not this operation alone.
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

    /// What kind of failure it was.
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
                f.write_str("Redis was not asked: it has failed repeatedly")
            }
            BackendErrorKind::Server(code) => {
                write!(f, "Redis answered with the error {code}")?;
                #[cfg(feature = "redis")]
                if let Some(fault) = Misconfiguration::of_code(code) {
                    write!(f, ": {}; {}", fault.cause(), fault.remedy())?;
                }
                Ok(())
            }
            BackendErrorKind::Corrupt => f.write_str(
                "the key holds something else: delete it, or give this limiter a prefix of its own",
            ),
            BackendErrorKind::Contended(attempts) => {
                write!(
                    f,
                    "the key was changed by others in each of {attempts} attempts"
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

/// Codes of a server that can do nothing for anybody.
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
