use std::fmt;

use http::StatusCode;
use smallvec::SmallVec;

use crate::cost::CostError;
use crate::decision::{Decision, DenialReason, RetryAfter};
use crate::key::KeyError;
use crate::policy::{Policy, SemaphorePolicy};
use crate::telemetry;

/// The reason why a request does not reach the service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// The request exceeds a rate limit.
    Limited {
        /// The policy that denied the request. If it joins several scopes, [`Decision::denied_by`] names those that
        /// deny.
        policy: Policy,
        /// The decision.
        decision: Decision,
        /// Whether an outer layer of the same policy had charged a part, which was refunded.
        joined: bool,
    },
    /// Too many requests are in flight.
    Busy {
        /// The policy of the semaphore.
        policy: SemaphorePolicy,
        /// The decision. Its wait is a hint: it ends when enough leases end without a renewal.
        decision: Decision,
        /// Whether the limit is of the whole service and not of one client.
        is_global: bool,
    },
    /// The request has no key.
    NoKey(KeyError),
    /// The cost of the request is unknown, such as the length of an upload.
    NoCost(CostError),
    /// The backend failed, and the failure policy rejects the request.
    Unavailable,
}

impl Rejection {
    /// Returns the HTTP status: 400, 403, 404, 411, 429, 500 or 503.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Limited { .. }
            | Self::Busy {
                is_global: false, ..
            } => StatusCode::TOO_MANY_REQUESTS,
            Self::NoKey(error) => error.status(),
            Self::NoCost(error) => error.status(),
            Self::Busy { .. } | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the decision of the policy or of the semaphore, if there is one.
    #[must_use]
    pub const fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Limited { decision, .. } | Self::Busy { decision, .. } => Some(decision),
            _ => None,
        }
    }

    /// Returns the wait after which the same request is allowed, if a limit denied it.
    ///
    /// For a semaphore it is a hint, because most requests end before their leases.
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
            Self::Limited {
                policy, decision, ..
            } => {
                let is_blocked = decision.denial_reason() == Some(DenialReason::Blocked);
                telemetry::rejected(policy.labels(), is_blocked);
            }
            Self::Busy { policy, .. } => telemetry::permit_rejected(policy.label()),
            Self::NoKey(error) => telemetry::rejected_without_key(error, error.server_fault()),
            Self::NoCost(error) => telemetry::rejected_without_cost(error),
            // The metrics count it by policy, where the policy is known.
            Self::Unavailable => telemetry::rejected_unavailable(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited {
                policy, decision, ..
            } => {
                let denied_by: SmallVec<[&str; 8]> = decision.denied_by(policy).collect();
                match denied_by.as_slice() {
                    [] => write!(f, "rate limit `{}` exceeded", policy.name()),
                    names => write!(f, "rate limit `{}` exceeded", names.join("`, `")),
                }
            }
            Self::Busy { policy, .. } => {
                write!(f, "too many requests of `{}` in flight", policy.name())
            }
            Self::NoKey(error) => error.fmt(f),
            Self::NoCost(error) => error.fmt(f),
            Self::Unavailable => f.write_str("the rate limiter is unavailable"),
        }
    }
}

impl std::error::Error for Rejection {}
