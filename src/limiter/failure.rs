use std::convert::Infallible;

use crate::backend::{LocalBackend, MemoryBackend};
use crate::clock::Clock;
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
    /// Decides with a memory backend of this process, which [`Fallback`](Self::Fallback) takes.
    Local(LocalBackend),
}

impl FailurePolicy {
    /// Decides with a memory backend of this process, with a clock of any type. It applies the same policy to its own
    /// state.
    ///
    /// ```
    /// use tower_sluice::clock::{ManualClock, Timestamp};
    /// use tower_sluice::{FailurePolicy, MemoryBackend};
    ///
    /// let in_service = FailurePolicy::Fallback(MemoryBackend::new());
    /// let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    /// let in_test = FailurePolicy::Fallback(MemoryBackend::builder().clock(clock).build());
    /// ```
    #[allow(non_snake_case)] // it is used as the variants are, and a variant could not take any clock
    #[must_use]
    pub fn Fallback<C: Clock>(backend: MemoryBackend<C>) -> Self {
        Self::Local(backend.into())
    }
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

/// The treatment of a request for a permit, or for a charge without a layer, when the backend fails.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Failure<'a> {
    /// The request is allowed without a permit or charge.
    FailOpen,
    /// The request is rejected.
    FailClosed,
    /// The request acquires its permit or its tokens in this backend.
    Fallback(&'a LocalBackend),
}

/// A failure policy for errors of type `E`. A layer over a backend that can fail does not compile without one.
#[diagnostic::on_unimplemented(
    message = "this backend can fail with `{E}`, and no failure policy is chosen",
    label = "add `.on_backend_error(FailurePolicy::FailClosed)`, `::FailOpen` or `::Fallback(..)` to this layer"
)]
pub trait HandleFailure<E>: Clone {
    /// Decides a check of this policy, key and cost after a failure.
    fn handle(&self, error: E, policy: &Policy, key: &Key, cost: Cost) -> CheckOutcome;

    /// Decides a request for a permit, or an [`acquire`](super::WithFailurePolicy::acquire) of tokens, after a failure.
    fn on_failure(&self, error: &E) -> Failure<'_>;

    /// Returns the backend that decides after a failure, if any. Requests wait there, and charges are settled there.
    fn fallback(&self) -> Option<&LocalBackend> {
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
            Self::Local(local) => CheckOutcome::Decided(local.check(policy, key, cost)),
        }
    }

    fn on_failure(&self, _: &E) -> Failure<'_> {
        match self {
            Self::FailOpen => Failure::FailOpen,
            Self::FailClosed => Failure::FailClosed,
            Self::Local(local) => Failure::Fallback(local),
        }
    }

    fn fallback(&self) -> Option<&LocalBackend> {
        match self {
            Self::Local(local) => Some(local),
            Self::FailOpen | Self::FailClosed => None,
        }
    }
}
