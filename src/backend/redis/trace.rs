//! What is worth an event: once for each change of the circuit, not for each failure. Without the feature these do nothing.

#[cfg(feature = "tracing")]
pub(super) fn circuit_opened() {
    tracing::warn!(
        "Redis fails: it is left alone, and requests are treated as chosen for a failing backend"
    );
}

#[cfg(feature = "tracing")]
pub(super) fn circuit_closed() {
    tracing::info!("Redis answers again");
}

#[cfg(not(feature = "tracing"))]
pub(super) fn circuit_opened() {}

#[cfg(not(feature = "tracing"))]
pub(super) fn circuit_closed() {}
