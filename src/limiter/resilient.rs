use super::{HandlesFailure, Limiter, OnBackendError, Outcome, Rejected};
use crate::backend::Backend;
use crate::charge::Charge;
use crate::key::Key;
use crate::quota::Cost;
use crate::wait::MaxWait;

/// A [`Limiter`] with a choice for the failures of its backend: what [`RateLimitLayer`](crate::RateLimitLayer) does, without
/// Tower.
///
/// ```
/// use tower_sluice::limiter::{Outcome, Resilient};
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
        match self.limiter.check(key, cost.clone()).await {
            Ok(reply) => Outcome::Decided(reply),
            Err(error) => self
                .on_error
                .handle(error, self.limiter.policy(), key, cost),
        }
    }

    /// Spends `cost` tokens of `key`, waiting for them for up to `max_wait`; `None` passes uncounted, by
    /// [`OnBackendError::Allow`]. With a fallback it waits there for what is left of `max_wait`.
    ///
    /// # Errors
    ///
    /// [`Rejected::Denied`] as [`Limiter::wait`]; [`Rejected::Backend`] by [`OnBackendError::Deny`].
    ///
    /// # Cancel safety
    ///
    /// As [`Limiter::wait`].
    pub async fn wait(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Option<Charge>, Rejected<B::Error>> {
        let (cost, max_wait) = (cost.into(), max_wait.into());
        let lobby = self.limiter.backend().lobby();
        let began = lobby.now();
        let waited = self.limiter.wait(key, cost.clone(), max_wait).await;
        match (waited, &self.on_error) {
            (Ok(charge), _) => Ok(Some(charge)),
            (Err(Rejected::Backend(_)), OnBackendError::Allow) => Ok(None),
            (Err(Rejected::Backend(_)), OnBackendError::Fallback(local)) => {
                let left = max_wait.left(began, lobby.now());
                let local = Limiter::new(self.limiter.policy().clone(), local.clone());
                match local.wait(key, cost, left).await {
                    Ok(charge) => Ok(Some(charge)),
                    Err(rejected) => Err(rejected.of_infallible()),
                }
            }
            (Err(rejected), _) => Err(rejected),
        }
    }
}
