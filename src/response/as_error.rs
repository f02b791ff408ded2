use std::fmt;

use super::context::{AllowedContext, RejectedContext};
use super::protocol::Protocol;
use super::rejection::Rejection;

/// The protocol of services that do not speak HTTP: it rejects with a [`LimitError`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AsError;

/// The error of a service that is limited with [`AsError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum LimitError<E> {
    /// The layer rejected the request. The inner service was not called.
    Rejected(Rejection),
    /// The inner service's error.
    Inner(E),
}

impl<E: fmt::Display> fmt::Display for LimitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for LimitError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(Rejection::NoKey(error)) => Some(error),
            Self::Rejected(Rejection::NoCost(error)) => Some(error),
            Self::Rejected(_) => None,
            // The message is the inner error's own, so its sources follow.
            Self::Inner(error) => error.source(),
        }
    }
}

impl<Req, Res, E> Protocol<Req, Res, E> for AsError {
    type Response = Res;
    type Error = LimitError<E>;
    type InFlight = ();

    fn reject(&self, _: &Req, rejected: RejectedContext<'_>) -> Result<Res, LimitError<E>> {
        Err(LimitError::Rejected(rejected.rejection))
    }

    fn allow(&self, _: &mut Req, _: AllowedContext<'_>) {}

    fn response((): &mut (), response: Res) -> Res {
        response
    }

    fn error(error: E) -> LimitError<E> {
        LimitError::Inner(error)
    }
}
