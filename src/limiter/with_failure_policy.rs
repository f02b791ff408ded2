use super::charge::Charge;
use super::failure::{CheckOutcome, FailurePolicy, HandleFailure};
use super::handle::Limiter;
use super::rejected::Rejected;
use crate::backend::Backend;
use crate::key::Key;
use crate::quota::Cost;
use crate::wait::MaxWait;

/// A [`Limiter`] with a choice for the failures of its backend: what [`RateLimitLayer`](crate::RateLimitLayer) does,
/// without Tower.
///
/// ```
/// use tower_sluice::limiter::{CheckOutcome, WithFailurePolicy};
/// use tower_sluice::{AnyBackend, Key, Limiter, FailurePolicy, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_sluice::backend::BackendError> {
/// let backend = AnyBackend::from_url("memory:")?; // or "redis://.."
/// let limiter = Limiter::new(Policy::new("jobs", Quota::per_minute(60)), backend);
/// let limiter = WithFailurePolicy::new(limiter, FailurePolicy::FailClosed);
/// match limiter.check(&Key::from("ann"), 1).await {
///     CheckOutcome::Decided(reply) => assert!(reply.decision.is_allowed()),
///     CheckOutcome::Uncounted => println!("passes uncounted"),        // by FailurePolicy::FailOpen
///     CheckOutcome::Unavailable => println!("nobody can tell"),  // by FailurePolicy::FailClosed
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct WithFailurePolicy<B> {
    limiter: Limiter<B>,
    on_error: FailurePolicy,
}

impl<B: Backend> WithFailurePolicy<B> {
    /// Treats the failures of `limiter`'s backend as `on_error` says.
    #[must_use]
    pub const fn new(limiter: Limiter<B>, on_error: FailurePolicy) -> Self {
        Self { limiter, on_error }
    }

    /// The limiter, whose other operations return errors as they are.
    #[must_use]
    pub const fn limiter(&self) -> &Limiter<B> {
        &self.limiter
    }

    /// Spends `cost` tokens of `key`, or says what becomes of the request without an answer of the backend.
    pub async fn check(&self, key: &Key, cost: impl Into<Cost>) -> CheckOutcome {
        let cost = cost.into();
        match self.limiter.check(key, cost.clone()).await {
            Ok(reply) => CheckOutcome::Decided(reply),
            Err(error) => self
                .on_error
                .handle(error, self.limiter.policy(), key, cost),
        }
    }

    /// Spends `cost` tokens of `key`, waiting for them for up to `max_wait`; `None` passes uncounted, by
    /// [`FailurePolicy::FailOpen`]. With a fallback it waits there for what is left of `max_wait`.
    ///
    /// # Errors
    ///
    /// [`Rejected::Denied`] as [`Limiter::acquire`]; [`Rejected::Backend`] by [`FailurePolicy::FailClosed`].
    ///
    /// # Cancel safety
    ///
    /// As [`Limiter::acquire`].
    pub async fn acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Option<Charge>, Rejected<B::Error>> {
        let (cost, max_wait) = (cost.into(), max_wait.into());
        let context = self.limiter.backend().context();
        let began = context.now();
        let waited = self.limiter.acquire(key, cost.clone(), max_wait).await;
        match (waited, &self.on_error) {
            (Ok(charge), _) => Ok(Some(charge)),
            (Err(Rejected::Backend(_)), FailurePolicy::FailOpen) => Ok(None),
            (Err(Rejected::Backend(_)), FailurePolicy::Fallback(local)) => {
                let left = max_wait.left(began, context.now());
                let local = Limiter::new(self.limiter.policy().clone(), local.clone());
                match local.acquire(key, cost, left).await {
                    Ok(charge) => Ok(Some(charge)),
                    Err(rejected) => Err(rejected.widen_error()),
                }
            }
            (Err(rejected), _) => Err(rejected),
        }
    }
}
