use std::fmt;

use http::StatusCode;

use crate::decision::{Decision, RetryAfter};
use crate::key::KeyError;
use crate::policy::{Policy, SemaphorePolicy};
use crate::telemetry;

/// Why a request does not reach the service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// Over the limit.
    Limited {
        /// The policy that rejected.
        policy: Policy,
        /// Its answer.
        decision: Decision,
        /// Whether a layer of the same policy around this one had charged a part, which has gone back.
        joined: bool,
    },
    /// Too many are in flight.
    Busy {
        /// What they hold.
        policy: SemaphorePolicy,
        /// What the semaphore answered: when enough leases will have ended by themselves is in it, a hint.
        decision: Decision,
        /// Whether it is the whole service that has too many in flight, not the client.
        is_global: bool,
    },
    /// Nobody can say whose limit it is.
    NoKey(KeyError),
    /// The backend gave no answer, and that has been chosen to mean no.
    Unavailable,
}

impl Rejection {
    /// The status for HTTP: 429, 400, 500 or 503.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Limited { .. }
            | Self::Busy {
                is_global: false, ..
            } => StatusCode::TOO_MANY_REQUESTS,
            Self::NoKey(error) => error.status(),
            Self::Busy { .. } | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer of the policy or the semaphore that rejected, if it was that.
    #[must_use]
    pub const fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Limited { decision, .. } | Self::Busy { decision, .. } => Some(decision),
            _ => None,
        }
    }

    /// The wait after which the same request is allowed, if the policy rejected; of a semaphore a hint, for requests
    /// end sooner than leases.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Limited { decision, .. } | Self::Busy { decision, .. } => decision.retry_after(),
            _ => None,
        }
    }

    /// Reports the rejection to logs and metrics.
    pub(crate) fn report(&self) {
        match self {
            Self::Limited { policy, .. } => telemetry::rejected(policy.labels()),
            Self::Busy { policy, .. } => telemetry::permit_rejected(policy.label()),
            Self::NoKey(error) => telemetry::rejected_without_key(error, error.server_fault()),
            // The metrics count it where the policy is known.
            Self::Unavailable => telemetry::rejected_unavailable(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited { policy, .. } => write!(f, "rate limit `{}` exceeded", policy.name()),
            Self::Busy { policy, .. } => {
                write!(f, "too many requests of `{}` in flight", policy.name())
            }
            Self::NoKey(error) => error.fmt(f),
            Self::Unavailable => f.write_str("the rate limiter gave no answer"),
        }
    }
}

impl std::error::Error for Rejection {}
