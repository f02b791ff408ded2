use std::convert::Infallible;
use std::fmt;

use crate::decision::{Decision, RetryAfter};

/// Why somebody may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejected<E> {
    /// The limit does not allow it now, or not within the longest wait. Nothing was charged.
    Denied(Decision),
    /// The backend gave no answer.
    Backend(E),
}

impl<E> Rejected<E> {
    /// The wait after which the same request is allowed, if the limit said no.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Denied(decision) => decision.retry_after(),
            Self::Backend(_) => None,
        }
    }
}

impl Rejected<Infallible> {
    /// The same of a backend that can fail.
    pub(crate) fn widen_error<E>(self) -> Rejected<E> {
        match self {
            Self::Denied(decision) => Rejected::Denied(decision),
            Self::Backend(never) => match never {},
        }
    }
}

impl<E: fmt::Display> fmt::Display for Rejected<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retry_after() {
            Some(RetryAfter::In(wait)) => write!(f, "rate limit exceeded, allowed after {wait:?}"),
            Some(RetryAfter::Never) => f.write_str("the cost is above the limit, no wait helps"),
            None => match self {
                Self::Denied(_) => f.write_str("rate limit exceeded"),
                Self::Backend(error) => error.fmt(f),
            },
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Rejected<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied(_) => None,
            // Shown in place of this one, so its causes are ours.
            Self::Backend(error) => error.source(),
        }
    }
}
