//! Events. What a server that is set up wrongly is told is at level error, once; what is lost or changes at warn or
//! info, and what happens to single requests at debug.

#[cfg(feature = "redis")]
use std::error::Error;
#[cfg(feature = "redis")]
use std::fmt;
use std::fmt::Display;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use crate::backend::TaskError;
use crate::key::KeyError;
use crate::policy::{Policy, SemaphorePolicy};
use crate::response::Rejection;
use crate::semaphore::Permit;

/// Tells the log of a rejection; keys do not get there. A server that is set up wrongly rejects every request, or a
/// shadow policy would: that is told once at level error, with the way out, and at level debug from then on.
pub(super) fn rejected(rejection: &Rejection) {
    match rejection {
        Rejection::Limited { policy, .. } => {
            tracing::debug!(policy = policy.name(), "request refused: over the limit")
        }
        Rejection::Busy { policy, .. } => {
            tracing::debug!(
                policy = policy.name(),
                "request refused: too many in flight"
            )
        }
        Rejection::NoKey(error) if is_first(error) => {
            tracing::error!(%error, "request without a key: the server is set up wrongly");
        }
        Rejection::NoKey(error) => tracing::debug!(%error, "request without a key"),
        Rejection::Unavailable => tracing::debug!("request refused: the backend gave no answer"),
    }
}

/// Tells the log of a request that goes on without a key because the server is set up wrongly: nobody is limited then.
pub(super) fn unkeyed(error: &KeyError) {
    if is_first(error) {
        tracing::error!(%error, "request without a key: the server is set up wrongly");
    }
}

/// Whether the server is at fault, in a way of which nothing was told yet.
fn is_first(error: &KeyError) -> bool {
    /// A bit for each kind of fault.
    static LOGGED: AtomicU8 = AtomicU8::new(0);

    let fault = match error {
        KeyError::MissingPeer => 1,
        KeyError::MissingExtension(_) => 2,
        KeyError::Server(_) => 4,
        _ => return false,
    };
    LOGGED.fetch_or(fault, Relaxed) & fault == 0
}

/// Tells the log of a rejection that is not enforced.
pub(super) fn unenforced(policy: &Policy) {
    tracing::debug!(
        policy = policy.name(),
        "request allowed by a shadow policy: over the limit"
    );
}

/// Tells the log why a request is treated as chosen for a failing backend.
pub(super) fn backend_failed(error: &impl Display, policy: &Policy) {
    tracing::debug!(%error, policy = policy.name(), "the backend gave no answer");
}

/// Tells the log of a request that goes on after a wait.
pub(super) fn waited(waited: Duration, policy: &Policy) {
    let policy = policy.name();
    tracing::debug!(?waited, policy, "request allowed after a wait");
}

/// Tells the log of a request that goes on after a wait for a permit.
pub(super) fn permit_acquired(permit: &Permit) {
    let waited = permit.waited();
    if !waited.is_zero() {
        let policy = permit.policy().name();
        tracing::debug!(?waited, policy, "a permit was given after a wait");
    }
}

/// Tells the log why a request that asked for a permit is treated as chosen for a failing backend.
pub(super) fn permit_backend_failed(error: &impl Display, policy: &SemaphorePolicy) {
    tracing::debug!(%error, policy = policy.name(), "the backend gave no answer");
}

/// Tells the log of a permit whose lease was lost: somebody else may be in its holder's place.
pub(super) fn permit_lost(policy: &SemaphorePolicy) {
    tracing::warn!(
        policy = policy.name(),
        "a permit was lost: its lease could not be renewed"
    );
}

/// Tells the log of what is done for nobody's answer, and was not.
pub(super) fn background_task_failed(fault: &TaskError) {
    tracing::debug!(
        ?fault,
        "a settlement, or a turn that was given up, was not written down"
    );
}

#[cfg(feature = "redis")]
pub(super) fn circuit_opened(failures: u32, pause: Duration, error: &dyn Error) {
    tracing::warn!(
        error = %Chain(error),
        "Redis circuit opened after {failures} consecutive failures; next attempt in {pause:?}"
    );
}

/// `error` is the one that had opened it.
#[cfg(feature = "redis")]
pub(super) fn circuit_closed(error: Option<&dyn Error>) {
    let error = error.map(|error| tracing::field::display(Chain(error)));
    tracing::info!(error, "Redis circuit closed");
}

#[cfg(feature = "redis")]
pub(super) fn misconfigured(error: &dyn Error, cause: &str, remedy: &str) {
    tracing::error!(error = %Chain(error), "{cause}; {remedy}");
}

/// An error and its causes. A cause that repeats what was said before it is left out.
#[cfg(feature = "redis")]
struct Chain<'a>(&'a dyn Error);

#[cfg(feature = "redis")]
impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !told.contains(&words) {
                told = format!("{told}: {words}");
            }
            cause = error.source();
        }
        f.write_str(&told)
    }
}
