use crate::response::Refusal;

/// Tells the log of a refusal; keys do not get there. A server that is set up wrongly refuses every request: that is told
/// once at level error, with the way out, and at level debug from then on.
#[cfg(feature = "tracing")]
pub(crate) fn refused(refusal: &Refusal) {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    static TOLD: AtomicBool = AtomicBool::new(false);

    match refusal {
        Refusal::Limited { policy, .. } => {
            tracing::debug!(policy = policy.name(), "request refused: over the limit")
        }
        Refusal::Busy { permits, .. } => {
            tracing::debug!(
                permits = permits.name(),
                "request refused: too many in flight"
            )
        }
        Refusal::NoKey(error) if error.status().is_server_error() && !TOLD.swap(true, Relaxed) => {
            tracing::error!(%error, "request refused: it has no key, and the server is set up wrongly");
        }
        Refusal::NoKey(error) => tracing::debug!(%error, "request refused: it has no key"),
        Refusal::Unavailable => tracing::debug!("request refused: the backend gave no answer"),
    }
}

/// Tells the log of a refusal that is not enforced.
#[cfg(feature = "tracing")]
pub(crate) fn unenforced(policy: &crate::policy::Policy) {
    tracing::debug!(
        policy = policy.name(),
        "request allowed by a shadow policy: over the limit"
    );
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn unenforced(_: &crate::policy::Policy) {}

/// Tells the log why a request is treated as chosen for a failing backend.
#[cfg(feature = "tracing")]
pub(crate) fn failed(error: &impl std::fmt::Display, policy: &crate::policy::Policy) {
    tracing::debug!(%error, policy = policy.name(), "the backend gave no answer");
}

/// Tells the log of a request that goes on after a wait.
#[cfg(feature = "tracing")]
pub(crate) fn waited(waited: std::time::Duration, policy: &crate::policy::Policy) {
    if !waited.is_zero() {
        tracing::debug!(
            ?waited,
            policy = policy.name(),
            "request allowed after a wait"
        );
    }
}

/// Tells the log of a request that goes on after a wait for a permit.
#[cfg(feature = "tracing")]
pub(crate) fn held(permit: &crate::semaphore::Permit) {
    let waited = permit.waited();
    if !waited.is_zero() {
        let permits = permit.permits().name();
        tracing::debug!(?waited, permits, "request has a permit after a wait");
    }
}

/// Tells the log why a request that asked for a permit is treated as chosen for a failing backend.
#[cfg(feature = "tracing")]
pub(crate) fn no_permit(error: &impl std::fmt::Display, permits: &crate::semaphore::Permits) {
    tracing::debug!(%error, permits = permits.name(), "the backend gave no answer");
}

/// Tells the log of a permit whose lease was lost: somebody else may be in its holder's place.
#[cfg(feature = "tracing")]
pub(crate) fn lost(permits: &crate::semaphore::Permits) {
    tracing::warn!(
        permits = permits.name(),
        "a permit was lost: its lease could not be renewed"
    );
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn held(_: &crate::semaphore::Permit) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn no_permit<E>(_: &E, _: &crate::semaphore::Permits) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn lost(_: &crate::semaphore::Permits) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn waited(_: std::time::Duration, _: &crate::policy::Policy) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn failed<E>(_: &E, _: &crate::policy::Policy) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn refused(_: &Refusal) {}
