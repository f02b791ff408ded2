use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::release::{ReleaseError, ReleasePermit, ReleaseProgress};
use crate::backend::{Lease, TaskError};
use crate::decision::{Decision, PermitId};
use crate::policy::SemaphorePolicy;
use crate::telemetry;

/// The right to be in flight. It is given back once: when it is dropped, by whatever way (a return, a panic, a future
/// that is cancelled), or by [`release`](Self::release).
///
/// It may be moved anywhere, and lasts as long as it is kept: into a task, into the body of a response, beside a
/// connection.
///
/// From a backend that is remote it is given back in the background, by the runtime that drops it or else by the one it
/// was acquired in. If neither is there any more, it ends with its lease.
#[must_use = "a permit that is dropped is given back at once"]
pub struct Permit {
    lease: Arc<Lease>,
    /// None: it has been released.
    releaser: Option<Arc<dyn ReleasePermit>>,
    decision: Decision,
    waited: Duration,
}

impl Permit {
    pub(super) fn new(
        lease: Arc<Lease>,
        releaser: Arc<dyn ReleasePermit>,
        decision: Decision,
        waited: Duration,
    ) -> Self {
        let permit = Self {
            lease,
            releaser: Some(releaser),
            decision,
            waited,
        };
        let (policy, weight) = (permit.policy(), permit.weight());
        telemetry::permit_acquired(policy.label(), weight, waited);
        permit
    }

    /// What names it.
    #[must_use]
    pub fn id(&self) -> PermitId {
        self.lease.id
    }

    /// What it is one of.
    #[must_use]
    pub fn policy(&self) -> &SemaphorePolicy {
        &self.lease.policy
    }

    /// How many permits it counts for.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.lease.weight
    }

    /// The numbers when it was given.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }

    /// How long it was waited for; zero if it was there at once.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// Whether its lease was lost: somebody else may be in its place. It looks at the time, too, and so is right also
    /// where nothing else had a turn for a whole lease.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        if let Some(releaser) = &self.releaser {
            releaser.check_lease(&self.lease);
        }
        self.lease.is_lost()
    }

    /// Completes when its lease was lost; never, while it lasts or after it was given back. It lives by itself. What
    /// tells it is the task that renews.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn lost(&self) -> Lost {
        let lease = Arc::clone(&self.lease);
        Lost(Box::pin(async move { lease.lost().await }))
    }

    /// Gives it back, and tells whether it still lasted: `false` if its lease was over, or if a first answer was lost
    /// on the way and it had been given back already.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer. It is not asked again: if it has not released the permit, that ends with its
    /// lease.
    ///
    /// # Cancel safety
    ///
    /// It is given back by the first poll, or by the drop. Whoever waits for the answer may stop waiting.
    pub async fn release(mut self) -> Result<bool, ReleaseError> {
        let Some(releaser) = self.releaser.take() else {
            return Ok(false);
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
    /// Gives it back from a plain thread, and tells whether it still lasted; see [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
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

/// Completes when a lease was lost; see [`Permit::lost`].
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
