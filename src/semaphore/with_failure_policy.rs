use super::handle::{AcquireError, Semaphore};
use super::permit::Permit;
use crate::backend::{MemoryBackend, PermitBackend};
use crate::key::Key;
use crate::limiter::{Failure, FailurePolicy, HandleFailure};
use crate::wait::MaxWait;

/// A [`Semaphore`] with a choice for the failures of its backend.
///
/// ```
/// use tower_sluice::semaphore::SemaphoreWithFailurePolicy;
/// use tower_sluice::{AnyBackend, Key, FailurePolicy, SemaphorePolicy, Semaphore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = AnyBackend::from_url("memory:")?; // or "redis://.."
/// let exports = Semaphore::new(SemaphorePolicy::new("exports", 5), backend);
/// let exports = SemaphoreWithFailurePolicy::new(exports, FailurePolicy::FailOpen);
/// match exports.try_acquire(&Key::from("ann"), 1).await? {
///     Some(permit) => drop(permit),
///     None => println!("goes on without a permit"), // by FailurePolicy::FailOpen
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SemaphoreWithFailurePolicy<B, F = FailurePolicy> {
    semaphore: Semaphore<B>,
    on_error: F,
}

impl<B: PermitBackend, F: HandleFailure<B::Error>> SemaphoreWithFailurePolicy<B, F> {
    /// Treats the failures of `semaphore`'s backend as `on_error` says. A fallback counts the permits of this process,
    /// by the same capacity.
    #[must_use]
    pub const fn new(semaphore: Semaphore<B>, on_error: F) -> Self {
        Self {
            semaphore,
            on_error,
        }
    }

    /// The semaphore, whose own operations return errors as they are.
    #[must_use]
    pub const fn semaphore(&self) -> &Semaphore<B> {
        &self.semaphore
    }

    /// As [`Semaphore::try_acquire`]; `None` goes on without a permit, by [`FailurePolicy::FailOpen`].
    ///
    /// # Errors
    ///
    /// [`AcquireError::Denied`] if it is not there; [`AcquireError::Backend`] by [`FailurePolicy::FailClosed`].
    pub async fn try_acquire(
        &self,
        key: &Key,
        weight: u32,
    ) -> Result<Option<Permit>, AcquireError<B::Error>> {
        self.acquire(key, weight, MaxWait::NONE).await
    }

    /// As [`Semaphore::acquire`]; `None` goes on without a permit, by [`FailurePolicy::FailOpen`]. With a fallback it
    /// waits there for what is left of `max_wait`.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Denied`] as [`Semaphore::acquire`]; [`AcquireError::Backend`] by [`FailurePolicy::FailClosed`].
    ///
    /// # Cancel safety
    ///
    /// As [`Semaphore`].
    pub async fn acquire(
        &self,
        key: &Key,
        weight: u32,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Option<Permit>, AcquireError<B::Error>> {
        let (max_wait, context) = (max_wait.into(), self.semaphore.backend().context());
        let began = context.now();
        let error = match self.semaphore.acquire(key, weight, max_wait).await {
            Ok(permit) => return Ok(Some(permit)),
            Err(AcquireError::Backend(error)) => error,
            Err(denied) => return Err(denied),
        };
        match self.on_error.on_failure(&error) {
            Failure::FailOpen => {
                context.count_unpermitted();
                Ok(None)
            }
            Failure::FailClosed => Err(AcquireError::Backend(error)),
            Failure::Fallback(local) => {
                let left = max_wait.left(began, context.now());
                let policy = self.semaphore.policy().clone();
                let local: Semaphore<MemoryBackend> = Semaphore::new(policy, local.clone());
                let permit = local.acquire(key, weight, left).await;
                permit.map(Some).map_err(AcquireError::widen_error)
            }
        }
    }
}
