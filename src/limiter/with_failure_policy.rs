use super::charge::Charge;
use super::failure::{CheckOutcome, Failure, FailurePolicy, HandleFailure};
use super::handle::Limiter;
use super::rejected::Rejected;
use crate::backend::Backend;
use crate::key::Key;
use crate::quota::Cost;
use crate::wait::MaxWait;

/// A [`Limiter`] or a [`Semaphore`](crate::Semaphore) with a policy for failures of its backend.
///
/// The layers have the same option, `on_backend_error`.
///
/// ```
/// use tower_sluice::limiter::{CheckOutcome, WithFailurePolicy};
/// use tower_sluice::{AnyBackend, FailurePolicy, Key, Limiter, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_sluice::backend::BackendError> {
/// let backend = AnyBackend::from_url("memory:")?; // or "redis://.."
/// let limiter = Limiter::new(Policy::new("jobs", Quota::per_minute(60)), backend);
/// let limiter = WithFailurePolicy::new(limiter, FailurePolicy::FailClosed);
/// match limiter.check(&Key::from("ann"), 1).await {
///     CheckOutcome::Decided(reply) => assert!(reply.decision.is_allowed()),
///     CheckOutcome::Uncounted => println!("allowed, not counted"), // by FailurePolicy::FailOpen
///     CheckOutcome::Unavailable => println!("rejected"),           // by FailurePolicy::FailClosed
/// }
/// # Ok(()) }
/// ```
///
/// With a semaphore:
///
/// ```
/// use tower_sluice::limiter::WithFailurePolicy;
/// use tower_sluice::{AnyBackend, FailurePolicy, Key, Semaphore, SemaphorePolicy};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = AnyBackend::from_url("memory:")?; // or "redis://.."
/// let exports = Semaphore::new(SemaphorePolicy::new("exports", 5), backend);
/// let exports = WithFailurePolicy::new(exports, FailurePolicy::FailOpen);
/// match exports.try_acquire(&Key::from("ann"), 1).await? {
///     Some(permit) => drop(permit),
///     None => println!("allowed without a permit"), // by FailurePolicy::FailOpen
/// }
/// # Ok(()) }
/// ```
/// A [`HandleFailure`] of your own decides by the error, here for a limiter:
///
/// ```
/// use tower_sluice::backend::{BackendError, BackendErrorKind};
/// use tower_sluice::limiter::{CheckOutcome, Failure, HandleFailure, WithFailurePolicy};
/// use tower_sluice::{AnyBackend, Cost, Key, Limiter, Policy, Quota};
///
/// /// Rejects while the configuration of the server is wrong, and allows requests during an outage.
/// #[derive(Clone)]
/// struct OpenDuringOutages;
///
/// impl HandleFailure<BackendError> for OpenDuringOutages {
///     fn handle(&self, error: BackendError, _: &Policy, _: &Key, _: Cost) -> CheckOutcome {
///         match self.on_failure(&error) {
///             Failure::FailOpen => CheckOutcome::Uncounted,
///             _ => CheckOutcome::Unavailable,
///         }
///     }
///
///     fn on_failure(&self, error: &BackendError) -> Failure<'_> {
///         if matches!(error.kind(), BackendErrorKind::Config(_)) { Failure::FailClosed } else { Failure::FailOpen }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::new(Policy::new("jobs", Quota::per_minute(60)), AnyBackend::from_url("memory:")?);
/// let limiter = WithFailurePolicy::new(limiter, OpenDuringOutages);
/// assert!(limiter.acquire(&Key::from("ann"), 1, tower_sluice::MaxWait::NONE).await?.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct WithFailurePolicy<T, F = FailurePolicy> {
    pub(crate) inner: T,
    pub(crate) on_error: F,
}

impl<T, F> WithFailurePolicy<T, F> {
    /// Handles the failures of the backend of `inner` by `on_error`.
    #[must_use]
    pub const fn new(inner: T, on_error: F) -> Self {
        Self { inner, on_error }
    }
}

impl<B: Backend, F: HandleFailure<B::Error>> WithFailurePolicy<Limiter<B>, F> {
    /// Returns the limiter. Its own operations return failures as errors.
    #[must_use]
    pub const fn limiter(&self) -> &Limiter<B> {
        &self.inner
    }

    /// Spends `cost` tokens of `key`. If the backend fails, the failure policy decides.
    pub async fn check(&self, key: &Key, cost: impl Into<Cost>) -> CheckOutcome {
        let cost = cost.into();
        match self.inner.check(key, cost.clone()).await {
            Ok(reply) => CheckOutcome::Decided(reply),
            Err(error) => self.on_error.handle(error, self.inner.policy(), key, cost),
        }
    }

    /// Spends `cost` tokens of `key`, and waits for them for at most `max_wait`.
    ///
    /// Returns `None` if the backend fails and the policy is [`FailurePolicy::FailOpen`]. A fallback waits for the rest
    /// of `max_wait`.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected::Denied`] as [`Limiter::acquire`] does, and [`Rejected::Backend`] if the backend fails and
    /// the policy is [`FailurePolicy::FailClosed`].
    ///
    /// # Cancel safety
    ///
    /// The same as of [`Limiter::acquire`].
    pub async fn acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Option<Charge>, Rejected<B::Error>> {
        let (cost, max_wait) = (cost.into(), max_wait.into());
        let context = self.inner.backend().context();
        let began = context.now();
        let error = match self.inner.acquire(key, cost.clone(), max_wait).await {
            Ok(charge) => return Ok(Some(charge)),
            Err(Rejected::Backend(error)) => error,
            Err(denied) => return Err(denied),
        };
        match self.on_error.on_failure(&error) {
            Failure::FailOpen => Ok(None),
            Failure::FailClosed => Err(Rejected::Backend(error)),
            Failure::Fallback(local) => {
                let left = max_wait.left(began, context.now());
                let local = Limiter::new(self.inner.policy().clone(), local.clone());
                let charge = local.acquire(key, cost, left).await;
                charge.map(Some).map_err(Rejected::widen_error)
            }
        }
    }
}
