use std::convert::Infallible;

use crate::backend::MemoryBackend;
use crate::decision::Reply;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

/// What happens to a request whose backend gave no answer. There is no default: either one is wrong for half of all
/// users.
#[derive(Clone, Debug)]
pub enum FailurePolicy {
    /// The request passes, unlimited, without rate-limit header fields; where a permit is asked for, without one.
    FailOpen,
    /// The request is rejected with 503 and `Retry-After: 1`: the client did nothing wrong.
    FailClosed,
    /// A backend in this process decides instead, by the same policy and with its own state.
    Fallback(MemoryBackend),
}

/// No choice has been made: enough for backends that cannot fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unspecified;

/// What becomes of a request after a failure.
#[derive(Debug)]
pub enum CheckOutcome {
    /// Somebody else has decided.
    Decided(Reply),
    /// The request passes, uncounted.
    Uncounted,
    /// The request is rejected: the limiter cannot tell.
    Unavailable,
}

/// What becomes of one who asks for a permit, after a failure.
#[derive(Clone, Copy, Debug)]
pub enum Failure<'a> {
    /// He goes on without one, uncounted.
    FailOpen,
    /// He is rejected: the semaphore cannot tell.
    FailClosed,
    /// He asks for a permit of this process instead.
    Fallback(&'a MemoryBackend),
}

/// A choice for errors of type `E`; a layer over a backend that can fail does not compile without one.
#[diagnostic::on_unimplemented(
    message = "this backend can fail with `{E}`, and nothing says what happens to requests then",
    label = "add `.on_backend_error(FailurePolicy::FailClosed)`, `::Allow` or `::Fallback(..)` to this layer"
)]
pub trait HandleFailure<E>: Clone {
    /// Says what becomes of a request of this policy, key and cost.
    fn handle(&self, error: E, policy: &Policy, key: &Key, cost: Cost) -> CheckOutcome;

    /// Says what becomes of one who asked a semaphore.
    fn on_failure(&self, error: &E) -> Failure<'_>;

    /// The backend in this process that decides meanwhile, if one does: there a request waits that may wait, and its
    /// charge is settled there.
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
