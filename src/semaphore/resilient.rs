use super::{NoPermit, Permit, Semaphore};
use crate::backend::{MemoryBackend, PermitBackend};
use crate::key::Key;
use crate::limiter::{HandlesFailure, NoAnswer, OnBackendError};
use crate::wait::MaxWait;

/// A [`Semaphore`] with a choice for the failures of its backend.
///
/// ```
/// use tower_sluice::semaphore::Resilient;
/// use tower_sluice::{AnyBackend, Key, OnBackendError, Permits, Semaphore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = AnyBackend::from_url("memory:")?; // or "redis://.."
/// let exports = Semaphore::new(Permits::new("exports", 5), backend);
/// let exports = Resilient::new(exports, OnBackendError::Allow);
/// match exports.try_acquire(&Key::from("ann"), 1).await? {
///     Some(permit) => drop(permit),
///     None => println!("goes on without a permit"), // by OnBackendError::Allow
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Resilient<B, F = OnBackendError> {
    semaphore: Semaphore<B>,
    on_error: F,
}

impl<B: PermitBackend, F: HandlesFailure<B::Error>> Resilient<B, F> {
    /// Treats the failures of `semaphore`'s backend as `on_error` says. A fallback counts the permits of this process, by the
    /// same capacity.
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

    /// As [`Semaphore::try_acquire`]; `None` goes on without a permit, by [`OnBackendError::Allow`].
    ///
    /// # Errors
    ///
    /// [`NoPermit::Denied`] if it is not there; [`NoPermit::Backend`] by [`OnBackendError::Deny`].
    pub async fn try_acquire(
        &self,
        key: &Key,
        weight: u32,
    ) -> Result<Option<Permit>, NoPermit<B::Error>> {
        self.acquire(key, weight, MaxWait::NONE).await
    }

    /// As [`Semaphore::acquire`]; `None` goes on without a permit, by [`OnBackendError::Allow`]. With a fallback it waits there
    /// for what is left of `max_wait`.
    ///
    /// # Errors
    ///
    /// [`NoPermit::Denied`] as [`Semaphore::acquire`]; [`NoPermit::Backend`] by [`OnBackendError::Deny`].
    ///
    /// # Cancel safety
    ///
    /// As [`Semaphore`].
    pub async fn acquire(
        &self,
        key: &Key,
        weight: u32,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Option<Permit>, NoPermit<B::Error>> {
        let (max_wait, lobby) = (max_wait.into(), self.semaphore.backend().lobby());
        let began = lobby.now();
        let error = match self.semaphore.acquire(key, weight, max_wait).await {
            Ok(permit) => return Ok(Some(permit)),
            Err(NoPermit::Backend(error)) => error,
            Err(denied) => return Err(denied),
        };
        match self.on_error.without_answer(&error) {
            NoAnswer::Pass => {
                lobby.let_in();
                Ok(None)
            }
            NoAnswer::Refuse => Err(NoPermit::Backend(error)),
            NoAnswer::Ask(local) => {
                let left = max_wait.left(began, lobby.now());
                let permits = self.semaphore.permits().clone();
                let local: Semaphore<MemoryBackend> = Semaphore::new(permits, local.clone());
                let permit = local.acquire(key, weight, left).await;
                permit.map(Some).map_err(NoPermit::of_infallible)
            }
        }
    }
}
