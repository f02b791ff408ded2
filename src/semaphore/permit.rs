use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::lease::Lease;
use super::release::{ReleaseError, ReleasePermit, ReleaseProgress};
use crate::backend::TaskError;
use crate::decision::{Decision, PermitId, PermitReply};
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::telemetry;

/// The right to be in flight. It is released once: when it is dropped, or by [`release`](Self::release).
///
/// A permit can be moved into a task, into the body of a response, or beside a connection. It lasts as long as it is
/// kept.
///
/// A remote backend releases a dropped permit in a background task. The task runs on the runtime that drops the permit,
/// or otherwise on the one that acquired it. If neither exists, the permit ends with its lease.
///
/// Guide: [limit what is in flight](crate::_guide::concurrency).
#[must_use = "a permit that is dropped is given back at once"]
pub struct Permit {
    lease: Arc<Lease>,
    /// `None` after the release, and if the semaphore was off.
    releaser: Option<Arc<dyn ReleasePermit>>,
}

impl Permit {
    pub(super) fn new(lease: Arc<Lease>, releaser: Arc<dyn ReleasePermit>) -> Self {
        telemetry::permit_acquired(lease.policy.label(), lease.weight, lease.waited);
        Self {
            lease,
            releaser: Some(releaser),
        }
    }

    /// The permit of a semaphore that is off. It occupies nothing and lasts as long as it is kept.
    pub(super) fn of_nothing(policy: &SemaphorePolicy, key: &Key, weight: u32) -> Self {
        let id = PermitId::from_bytes([0; 16]);
        let decision = PermitReply::of_unused_key(policy).decision;
        Self {
            lease: Arc::new(Lease::new(id, weight, policy, key, decision)),
            releaser: None,
        }
    }

    /// Returns the id.
    #[must_use]
    pub fn id(&self) -> PermitId {
        self.lease.id
    }

    /// Returns the policy of the semaphore.
    ///
    /// See the example of [`decision`](Self::decision).
    #[must_use]
    pub fn policy(&self) -> &SemaphorePolicy {
        &self.lease.policy
    }

    /// Returns the weight: the number of permits that it counts for.
    ///
    /// ```
    /// use tower_sluice::{Key, MemorySemaphore, Semaphore, SemaphorePolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let exports = Semaphore::new(SemaphorePolicy::new("exports", 2), MemorySemaphore::new());
    /// let permit = exports.try_acquire(&Key::from("ann"), 2).await?;
    /// assert_eq!(permit.weight(), 2);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.lease.weight
    }

    /// Returns the decision, with the numbers after the permit was acquired.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::{Key, MemorySemaphore, Semaphore, SemaphorePolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let exports = Semaphore::new(SemaphorePolicy::new("exports", 5), MemorySemaphore::new());
    /// let permit = exports.try_acquire(&Key::from("ann"), 2).await?;
    /// assert_eq!(permit.decision().snapshot().remaining(), 3);
    /// assert_eq!((permit.policy().name(), permit.waited()), ("exports", Duration::ZERO));
    /// assert!(!permit.is_lost());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.lease.decision
    }

    /// Returns how long the request waited for the permit. Zero if it did not wait.
    ///
    /// See the example of [`decision`](Self::decision).
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.lease.waited
    }

    /// Returns whether the lease was lost. Then another holder may have the permit.
    ///
    /// It also compares the time, so it is right even if no renewal could run for a whole lease.
    ///
    /// See the example of [`decision`](Self::decision).
    #[must_use]
    pub fn is_lost(&self) -> bool {
        if let Some(releaser) = &self.releaser {
            releaser.check_lease(&self.lease);
        }
        self.lease.is_lost()
    }

    /// Completes when the lease is lost. It never completes while the lease lasts, or after the release. The future
    /// does not borrow the permit. The renewal task completes it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn lost(&self) -> Lost {
        let lease = Arc::clone(&self.lease);
        Lost(Box::pin(async move { lease.lost().await }))
    }

    /// Releases the permit and returns whether it still lasted.
    ///
    /// It returns `false` if the lease had ended. It may also return `false` if a connection failed and the release was
    /// sent twice.
    ///
    /// ```
    /// use tower_sluice::{Key, MemorySemaphore, Semaphore, SemaphorePolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let exports = Semaphore::new(SemaphorePolicy::new("exports", 2), MemorySemaphore::new());
    /// let permit = exports.try_acquire(&Key::from("ann"), 1).await?;
    /// permit.release().await; // returns after the backend has released it
    /// assert_eq!(exports.peek(&Key::from("ann")).await?.remaining(), 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. The release is not repeated, so the permit may end with its lease.
    ///
    /// # Cancel safety
    ///
    /// The first poll, or the drop of the future, starts the release. It completes without further polls.
    pub async fn release(mut self) -> Result<bool, ReleaseError> {
        let Some(releaser) = self.releaser.take() else {
            return Ok(true);
        };
        telemetry::permit_released(self.lease.policy.label(), self.lease.weight);
        match releaser.release(&self.lease) {
            ReleaseProgress::Done(released) => released.map_err(ReleaseError),
            ReleaseProgress::UnderWay(answer) => match answer.await {
                Ok(released) => released.map_err(ReleaseError),
                Err(_) => Err(ReleaseError(TaskError::RuntimeEnded)),
            },
        }
    }
}

#[cfg(feature = "blocking")]
impl Permit {
    /// Releases the permit from a plain thread and returns whether it still lasted; see [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// The same as of [`release`](Self::release).
    pub fn release_blocking(self) -> Result<bool, ReleaseError> {
        crate::park::block_on(self.release())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(releaser) = self.releaser.take() {
            telemetry::permit_released(self.lease.policy.label(), self.lease.weight);
            drop(releaser.release(&self.lease));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("policy", &self.lease.policy)
            .field("weight", &self.weight())
            .field("is_lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

/// Completes when a lease is lost; see [`Permit::lost`].
#[must_use = "futures do nothing unless polled"]
pub struct Lost(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Future for Lost {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lost(..)")
    }
}
