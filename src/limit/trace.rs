use crate::response::Refusal;

/// Tells the log of a refusal; keys do not get there. A server that is set up wrongly refuses every request: that is told
/// once at level error, with the way out, and at level debug from then on.
#[cfg(feature = "tracing")]
pub(super) fn refused(refusal: &Refusal) {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    static TOLD: AtomicBool = AtomicBool::new(false);

    match refusal {
        Refusal::Limited { policy, .. } => {
            tracing::debug!(policy = policy.name(), "request refused: over the limit")
        }
        Refusal::NoKey(error) if error.status().is_server_error() && !TOLD.swap(true, Relaxed) => {
            tracing::error!(%error, "request refused: it has no key, and the server is set up wrongly");
        }
        Refusal::NoKey(error) => tracing::debug!(%error, "request refused: it has no key"),
        Refusal::Unavailable => tracing::debug!("request refused: the backend gave no answer"),
    }
}

/// Tells the log why a request is treated as chosen for a failing backend.
#[cfg(feature = "tracing")]
pub(super) fn failed(error: &impl std::fmt::Display, policy: &crate::policy::Policy) {
    tracing::debug!(%error, policy = policy.name(), "the backend gave no answer");
}

/// Tells the log of a request that goes on after a wait.
#[cfg(feature = "tracing")]
pub(super) fn waited(waited: std::time::Duration, policy: &crate::policy::Policy) {
    if !waited.is_zero() {
        tracing::debug!(
            ?waited,
            policy = policy.name(),
            "request allowed after a wait"
        );
    }
}

#[cfg(not(feature = "tracing"))]
pub(super) fn waited(_: std::time::Duration, _: &crate::policy::Policy) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn failed<E>(_: &E, _: &crate::policy::Policy) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn refused(_: &Refusal) {}
