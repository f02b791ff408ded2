use std::convert::Infallible;
use std::fmt;

use crate::decision::{Decision, RetryAfter};

/// The error of a request for a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireError<E> {
    /// Not enough permits are free, or none became free within the longest wait.
    Denied(Decision),
    /// The backend failed. A permit that it may have granted is released, or ends with its lease.
    Backend(E),
}

impl<E> AcquireError<E> {
    /// Returns the wait until enough leases end without a renewal, if the permits were denied.
    ///
    /// It is a hint: a release shortens the wait, and a renewal extends it.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Denied(decision) => decision.retry_after(),
            Self::Backend(_) => None,
        }
    }
}

impl AcquireError<Infallible> {
    /// Converts to the error type of a backend that can fail.
    pub(crate) fn widen_error<E>(self) -> AcquireError<E> {
        match self {
            Self::Denied(decision) => AcquireError::Denied(decision),
            Self::Backend(never) => match never {},
        }
    }
}

impl<E: fmt::Display> fmt::Display for AcquireError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(decision) => {
                let snapshot = decision.snapshot();
                let (limit, remaining) = (snapshot.limit(), snapshot.remaining());
                match decision.retry_after() {
                    Some(RetryAfter::Never) => {
                        write!(
                            f,
                            "the weight exceeds the capacity of {limit} and can never be allowed"
                        )
                    }
                    _ => write!(f, "not enough permits are free: {remaining} of {limit}"),
                }
            }
            Self::Backend(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for AcquireError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied(_) => None,
            // The message is the backend error's own, so its sources follow.
            Self::Backend(error) => error.source(),
        }
    }
}
