//! What is worth an event, whichever the backend. Without the feature these do nothing.

use super::lobby::Fault;

#[cfg(feature = "tracing")]
pub(super) fn errand_lost(fault: &Fault) {
    tracing::debug!(
        ?fault,
        "a settlement, or a turn that was given up, was not written down"
    );
}

#[cfg(not(feature = "tracing"))]
pub(super) fn errand_lost(_: &Fault) {}
