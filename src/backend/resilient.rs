use super::{Backend, HandlesFailure, OnBackendError, Outcome};
use crate::key::Key;
use crate::limiter::Limiter;
use crate::quota::Cost;

/// A [`Limiter`] with a choice for the failures of its backend: what [`RateLimitLayer`](crate::RateLimitLayer) does, without
/// Tower.
///
/// ```
/// use tower_sluice::backend::{Outcome, Resilient};
/// use tower_sluice::{AnyBackend, Key, Limiter, OnBackendError, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_sluice::backend::BackendError> {
/// let backend = AnyBackend::from_url("memory:")?; // or "redis://.."
/// let limiter = Limiter::new(Policy::new("jobs", Quota::per_minute(60)), backend);
/// let limiter = Resilient::new(limiter, OnBackendError::Deny);
/// match limiter.check(&Key::from("ann"), 1).await {
///     Outcome::Decided(reply) => assert!(reply.decision.is_allowed()),
///     Outcome::Pass => println!("passes uncounted"),        // by OnBackendError::Allow
///     Outcome::Unavailable => println!("nobody can tell"),  // by OnBackendError::Deny
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Resilient<B> {
    limiter: Limiter<B>,
    on_error: OnBackendError,
}

impl<B: Backend> Resilient<B> {
    /// Treats the failures of `limiter`'s backend as `on_error` says.
    #[must_use]
    pub const fn new(limiter: Limiter<B>, on_error: OnBackendError) -> Self {
        Self { limiter, on_error }
    }

    /// The limiter, whose other operations return errors as they are.
    #[must_use]
    pub const fn limiter(&self) -> &Limiter<B> {
        &self.limiter
    }

    /// Spends `cost` tokens of `key`, or says what becomes of the request without an answer of the backend.
    pub async fn check(&self, key: &Key, cost: impl Into<Cost>) -> Outcome {
        let cost = cost.into();
        match self.limiter.check(key, cost).await {
            Ok(reply) => Outcome::Decided(reply),
            Err(error) => self
                .on_error
                .handle(error, self.limiter.policy(), key, cost),
        }
    }
}
