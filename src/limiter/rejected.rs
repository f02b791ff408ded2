use std::convert::Infallible;
use std::fmt;

use crate::decision::{Decision, NEVER, RetryAfter};

/// The error of a request that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejected<E> {
    /// The limit does not allow the request now or within the longest wait. Nothing was charged.
    Denied(Decision),
    /// The backend failed.
    Backend(E),
}

impl<E> Rejected<E> {
    /// Returns the wait after which the same request is allowed, if the limit denied it.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota, RetryAfter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// limiter.try_acquire(&Key::from("ann"), 10).await?;
    /// let rejected = limiter.try_acquire(&Key::from("ann"), 11).await.unwrap_err();
    /// assert_eq!(rejected.retry_after(), Some(RetryAfter::Never)); // 11 exceeds the limit
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Denied(decision) => decision.retry_after(),
            Self::Backend(_) => None,
        }
    }
}

impl Rejected<Infallible> {
    /// Converts to the error type of a backend that can fail.
    pub(crate) fn widen_error<E>(self) -> Rejected<E> {
        match self {
            Self::Denied(decision) => Rejected::Denied(decision),
            Self::Backend(never) => match never {},
        }
    }
}

impl<E: fmt::Display> fmt::Display for Rejected<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(decision) => match decision.retry_after() {
                Some(RetryAfter::In(wait)) => {
                    write!(f, "rate limit exceeded, allowed after {wait:?}")
                }
                Some(RetryAfter::Never) if decision.snapshot().governor().reset_after == NEVER => {
                    let snapshot = decision.snapshot();
                    let (remaining, limit) = (snapshot.remaining(), snapshot.limit());
                    write!(
                        f,
                        "the cost exceeds the {remaining} tokens left of a total of {limit}; no wait helps"
                    )
                }
                Some(RetryAfter::Never) => {
                    let limit = decision.snapshot().limit();
                    write!(
                        f,
                        "the cost exceeds the limit of {limit} and can never be allowed"
                    )
                }
                None => f.write_str("rate limit exceeded"),
            },
            Self::Backend(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Rejected<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied(_) => None,
            // The message is the backend error's own, so its sources follow.
            Self::Backend(error) => error.source(),
        }
    }
}
