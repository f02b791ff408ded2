use std::convert::Infallible;

use crate::backend::MemoryBackend;
use crate::decision::Reply;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

/// The treatment of a request when the backend fails. You must choose one; there is no default.
///
/// Guide: [failures](crate::_guide::failures).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FailurePolicy {
    /// Allows the request without a limit. It has no rate-limit header fields and no permit.
    FailOpen,
    /// Rejects the request with status 503 and `Retry-After: 1`.
    FailClosed,
    /// Decides with a memory backend of this process. It applies the same policy to its own state.
    Fallback(MemoryBackend),
}

/// The absence of a failure policy. It suffices for backends that cannot fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unspecified;

/// The outcome of a check whose backend may have failed.
///
/// The enum is exhaustive, so that a `match` states what happens in each case.
#[derive(Debug)]
pub enum CheckOutcome {
    /// A backend decided: the limiter's own or the fallback.
    Decided(Reply),
    /// The backend failed. The request is allowed and not counted.
    Uncounted,
    /// The backend failed. The request is rejected.
    Unavailable,
}

/// The treatment of a permit request when the backend fails.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Failure<'a> {
    /// The request is allowed without a permit.
    FailOpen,
    /// The request is rejected.
    FailClosed,
    /// The request acquires a permit in this backend.
    Fallback(&'a MemoryBackend),
}

/// A failure policy for errors of type `E`. A layer over a backend that can fail does not compile without one.
#[diagnostic::on_unimplemented(
    message = "this backend can fail with `{E}`, and no failure policy is chosen",
    label = "add `.on_backend_error(FailurePolicy::FailClosed)`, `::FailOpen` or `::Fallback(..)` to this layer"
)]
pub trait HandleFailure<E>: Clone {
    /// Decides a check of this policy, key and cost after a failure.
    fn handle(&self, error: E, policy: &Policy, key: &Key, cost: Cost) -> CheckOutcome;

    /// Decides a request for a permit after a failure.
    fn on_failure(&self, error: &E) -> Failure<'_>;

    /// Returns the backend that decides after a failure, if any. Requests wait there, and charges are settled there.
    fn fallback(&self) -> Option<&MemoryBackend> {
        None
    }
}

impl HandleFailure<Infallible> for Unspecified {
    fn handle(&self, error: Infallible, _: &Policy, _: &Key, _: Cost) -> CheckOutcome {
        match error {}
    }

    fn on_failure(&self, error: &Infallible) -> Failure<'_> {
        match *error {}
    }
}

impl<E: std::error::Error> HandleFailure<E> for FailurePolicy {
    fn handle(&self, _: E, policy: &Policy, key: &Key, cost: Cost) -> CheckOutcome {
        match self {
            Self::FailOpen => CheckOutcome::Uncounted,
            Self::FailClosed => CheckOutcome::Unavailable,
            Self::Fallback(local) => CheckOutcome::Decided(local.check(policy, key, cost)),
        }
    }

    fn on_failure(&self, _: &E) -> Failure<'_> {
        match self {
            Self::FailOpen => Failure::FailOpen,
            Self::FailClosed => Failure::FailClosed,
            Self::Fallback(local) => Failure::Fallback(local),
        }
    }

    fn fallback(&self) -> Option<&MemoryBackend> {
        match self {
            Self::Fallback(local) => Some(local),
            Self::FailOpen | Self::FailClosed => None,
        }
    }
}
