use super::error::AcquireError;
use super::handle::Semaphore;
use super::permit::Permit;
use crate::backend::{LocalBackend, PermitBackend};
use crate::key::Key;
use crate::limiter::{Failure, HandleFailure, WithFailurePolicy};
use crate::wait::MaxWait;

impl<B: PermitBackend, F: HandleFailure<B::Error>> WithFailurePolicy<Semaphore<B>, F> {
    /// Returns the semaphore. Its own operations return failures as errors.
    #[must_use]
    pub const fn semaphore(&self) -> &Semaphore<B> {
        &self.inner
    }

    /// Acquires a permit without waiting, as [`Semaphore::try_acquire`] does.
    ///
    /// Returns `None` if the backend fails and the policy is [`FailurePolicy::FailOpen`]. A fallback counts the permits
    /// of this process, up to the same capacity.
    ///
    /// # Errors
    ///
    /// Returns [`AcquireError::Denied`] if not enough permits are free, and [`AcquireError::Backend`] if the backend
    /// fails and the policy is [`FailurePolicy::FailClosed`].
    ///
    /// [`FailurePolicy::FailOpen`]: crate::FailurePolicy::FailOpen
    /// [`FailurePolicy::FailClosed`]: crate::FailurePolicy::FailClosed
    pub async fn try_acquire(
        &self,
        key: &Key,
        weight: u32,
    ) -> Result<Option<Permit>, AcquireError<B::Error>> {
        self.acquire(key, weight, MaxWait::NONE).await
    }

    /// Acquires a permit and waits for it for at most `max_wait`, as [`Semaphore::acquire`] does.
    ///
    /// Returns `None` if the backend fails and the policy is [`FailurePolicy::FailOpen`]. A fallback waits for the rest
    /// of `max_wait`.
    ///
    /// # Errors
    ///
    /// Returns [`AcquireError::Denied`] as [`Semaphore::acquire`] does, and [`AcquireError::Backend`] if the backend
    /// fails and the policy is [`FailurePolicy::FailClosed`].
    ///
    /// # Cancel safety
    ///
    /// The same as of [`Semaphore`].
    ///
    /// [`FailurePolicy::FailOpen`]: crate::FailurePolicy::FailOpen
    /// [`FailurePolicy::FailClosed`]: crate::FailurePolicy::FailClosed
    pub async fn acquire(
        &self,
        key: &Key,
        weight: u32,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Option<Permit>, AcquireError<B::Error>> {
        let (max_wait, context) = (max_wait.into(), self.inner.backend().context());
        let began = context.now();
        let error = match self.inner.acquire(key, weight, max_wait).await {
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
                let policy = self.inner.policy().clone();
                let local: Semaphore<LocalBackend> = Semaphore::new(policy, local.clone());
                let permit = local.acquire(key, weight, left).await;
                permit.map(Some).map_err(AcquireError::widen_error)
            }
        }
    }
}
