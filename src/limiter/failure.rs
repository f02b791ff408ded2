use std::convert::Infallible;

use crate::backend::MemoryBackend;
use crate::decision::Reply;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

/// What happens to a request whose backend gave no answer. There is no default: either one is wrong for half of all users.
#[derive(Clone, Debug)]
pub enum OnBackendError {
    /// The request passes, unlimited, without rate-limit header fields; where a permit is asked for, without one.
    Allow,
    /// The request is refused with 503 and `Retry-After: 1`: the client did nothing wrong.
    Deny,
    /// A backend in this process decides instead, by the same policy and with its own state.
    Fallback(MemoryBackend),
}

/// No choice has been made: enough for backends that cannot fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoChoice;

/// What becomes of a request after a failure.
#[derive(Debug)]
pub enum Outcome {
    /// Somebody else has decided.
    Decided(Reply),
    /// The request passes, uncounted.
    Pass,
    /// The request is refused: the limiter cannot tell.
    Unavailable,
}

/// What becomes of one who asks for a permit, after a failure.
#[derive(Clone, Copy, Debug)]
pub enum NoAnswer<'a> {
    /// He goes on without one, uncounted.
    Pass,
    /// He is refused: the semaphore cannot tell.
    Refuse,
    /// He asks for a permit of this process instead.
    Ask(&'a MemoryBackend),
}

/// A choice for errors of type `E`; a layer over a backend that can fail does not compile without one.
#[diagnostic::on_unimplemented(
    message = "this backend can fail with `{E}`, and nothing says what happens to requests then",
    label = "add `.on_backend_error(OnBackendError::Deny)`, `::Allow` or `::Fallback(..)` to this layer"
)]
pub trait HandlesFailure<E>: Clone {
    /// Says what becomes of a request of this policy, key and cost.
    fn handle(&self, error: E, policy: &Policy, key: &Key, cost: Cost) -> Outcome;

    /// Says what becomes of one who asked a semaphore.
    fn without_answer(&self, error: &E) -> NoAnswer<'_>;

    /// The backend in this process that decides meanwhile, if one does: there a request waits that may wait, and its charge is
    /// settled there.
    fn fallback(&self) -> Option<&MemoryBackend> {
        None
    }
}

impl HandlesFailure<Infallible> for NoChoice {
    fn handle(&self, error: Infallible, _: &Policy, _: &Key, _: Cost) -> Outcome {
        match error {}
    }

    fn without_answer(&self, error: &Infallible) -> NoAnswer<'_> {
        match *error {}
    }
}

impl<E: std::error::Error> HandlesFailure<E> for OnBackendError {
    fn handle(&self, _: E, policy: &Policy, key: &Key, cost: Cost) -> Outcome {
        match self {
            Self::Allow => Outcome::Pass,
            Self::Deny => Outcome::Unavailable,
            Self::Fallback(local) => Outcome::Decided(local.check(policy, key, cost)),
        }
    }

    fn without_answer(&self, _: &E) -> NoAnswer<'_> {
        match self {
            Self::Allow => NoAnswer::Pass,
            Self::Deny => NoAnswer::Refuse,
            Self::Fallback(local) => NoAnswer::Ask(local),
        }
    }

    fn fallback(&self) -> Option<&MemoryBackend> {
        match self {
            Self::Fallback(local) => Some(local),
            Self::Allow | Self::Deny => None,
        }
    }
}
