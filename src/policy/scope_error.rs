use std::fmt;

use crate::message::Quoted;

/// The error of scopes that cannot be decided together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScopeError {
    /// There is no scope, or there are more than 8.
    Count(usize),
    /// Two scopes have the policy of this name and the same key.
    Duplicate(String),
    /// The scopes have different backends.
    Backends,
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "invalid decision over {count} scopes: use 1 to 8"),
            Self::Duplicate(name) => write!(
                f,
                "duplicate scope {}: give each scope of a decision its own policy or key",
                Quoted(name)
            ),
            Self::Backends => f.write_str(
                "scopes with different backends: use limiters of one backend and its clones",
            ),
        }
    }
}

impl std::error::Error for ScopeError {}
