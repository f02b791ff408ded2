//! Log events (feature `tracing`) and metrics (feature `metrics`). Without these features the functions do nothing.
//!
//! The arguments are plain labels, so that every module can report. Keys appear in neither logs nor metrics.

#[cfg(feature = "metrics")]
mod keys;
mod labels;
#[cfg(feature = "tracing")]
mod log;
#[cfg(feature = "metrics")]
mod metrics;
mod outcome;

#[cfg(feature = "redis")]
use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::labels::Labels;
#[cfg(feature = "metrics")]
pub use self::metrics::describe;
pub(crate) use self::outcome::{DecisionOutcome, ServerFault};

/// Reports the decision of a policy.
#[inline]
pub(crate) fn decided(policy: &Labels, outcome: DecisionOutcome) {
    #[cfg(feature = "tracing")]
    if let DecisionOutcome::Shadow = outcome {
        log::unenforced(policy.name());
    }
    #[cfg(feature = "metrics")]
    metrics::decided(policy, outcome);
    let _ = (policy, outcome);
}

/// Reports the decision of a check without a layer.
#[inline]
pub(crate) fn checked(policy: &Labels, is_allowed: bool) {
    let outcome = match is_allowed {
        true => DecisionOutcome::Allowed,
        false => DecisionOutcome::Denied,
    };
    decided(policy, outcome);
}

/// Reports a request that is allowed after a wait.
#[inline]
pub(crate) fn waited(waited: Duration, policy: &Labels) {
    if waited.is_zero() {
        return;
    }
    #[cfg(feature = "tracing")]
    log::waited(waited, policy.name());
    #[cfg(feature = "metrics")]
    metrics::waited(waited, policy);
    let _ = policy;
}

/// Reports a failure of the backend that the failure policy handles.
pub(crate) fn backend_failed(error: &impl Display, policy: &Labels) {
    #[cfg(feature = "tracing")]
    log::backend_failed(error, policy.name());
    let _ = (error, policy);
}

/// Reports a request that a layer rejects because it exceeds a limit.
pub(crate) fn rejected(policy: &Labels, is_blocked: bool) {
    #[cfg(feature = "tracing")]
    log::rejected(policy.name(), is_blocked);
    #[cfg(feature = "metrics")]
    metrics::decided(policy, DecisionOutcome::Denied);
    let _ = (policy, is_blocked);
}

/// Reports a request that a layer rejects, or allows under a shadow policy, because it has no key.
pub(crate) fn rejected_without_key(error: &impl Display, fault: Option<ServerFault>) {
    #[cfg(feature = "tracing")]
    log::rejected_without_key(error, fault);
    #[cfg(feature = "metrics")]
    metrics::rejected_without_key();
    let _ = (error, fault);
}

/// Reports a request that a layer rejects, or allows under a shadow policy, because its cost is unknown.
pub(crate) fn rejected_without_cost(error: &impl Display) {
    #[cfg(feature = "tracing")]
    log::rejected_without_cost(error);
    let _ = error;
}

/// Reports a request that a layer rejects because the backend failed.
pub(crate) fn rejected_unavailable() {
    #[cfg(feature = "tracing")]
    log::rejected_unavailable();
}

/// Reports a request that is allowed without a key.
pub(crate) fn unkeyed(error: &impl Display, fault: Option<ServerFault>) {
    #[cfg(feature = "tracing")]
    log::unkeyed(error, fault);
    let _ = (error, fault);
}

/// Reports the decision of a semaphore.
pub(crate) fn permit_decided(permits: &Arc<str>, outcome: DecisionOutcome) {
    #[cfg(feature = "tracing")]
    if let DecisionOutcome::Shadow = outcome {
        log::permit_unenforced(permits);
    }
    #[cfg(feature = "metrics")]
    metrics::permit_decided(permits, outcome);
    let _ = (permits, outcome);
}

/// Reports a request that a layer rejects because too many are in flight.
pub(crate) fn permit_rejected(permits: &Arc<str>) {
    #[cfg(feature = "tracing")]
    log::permit_rejected(permits);
    #[cfg(feature = "metrics")]
    metrics::permit_decided(permits, DecisionOutcome::Denied);
    let _ = permits;
}

/// Reports a permit that was acquired.
pub(crate) fn permit_acquired(permits: &Arc<str>, weight: u32, waited: Duration) {
    #[cfg(feature = "tracing")]
    log::permit_acquired(permits, waited);
    #[cfg(feature = "metrics")]
    metrics::permit_acquired(permits, weight, waited);
    let _ = (permits, weight, waited);
}

/// Reports a permit that is released.
pub(crate) fn permit_released(permits: &Arc<str>, weight: u32) {
    #[cfg(feature = "metrics")]
    metrics::permit_released(permits, weight);
    let _ = (permits, weight);
}

/// Reports a permit whose lease ended: another holder may have it.
pub(crate) fn permit_lost(permits: &Arc<str>) {
    #[cfg(feature = "tracing")]
    log::permit_lost(permits);
    #[cfg(feature = "metrics")]
    metrics::permit_lost(permits);
    let _ = permits;
}

/// Reports a failure of a semaphore's backend that the failure policy handles.
pub(crate) fn permit_backend_failed(error: &impl Display, permits: &Arc<str>) {
    #[cfg(feature = "tracing")]
    log::permit_backend_failed(error, permits);
    let _ = (error, permits);
}

/// Reports a background task that failed.
pub(crate) fn background_task_failed(error: &impl Display) {
    #[cfg(feature = "tracing")]
    log::background_task_failed(error);
    #[cfg(feature = "metrics")]
    metrics::background_task_failed();
    let _ = error;
}

/// Reports a key that a memory backend removed before its time, to make room.
#[inline]
pub(crate) fn evicted() {
    #[cfg(feature = "metrics")]
    metrics::evicted();
}

/// Reports that a memory backend has no room for another total. It is called once for each backend.
pub(crate) fn totals_full(max_totals: usize) {
    #[cfg(feature = "tracing")]
    log::totals_full(max_totals);
    #[cfg(not(feature = "tracing"))]
    let _ = max_totals;
}

/// Reports a circuit that opened. It is called once for each change, not for each failure.
#[cfg(feature = "redis")]
pub(crate) fn circuit_opened(failures: u32, pause: Duration, error: &dyn Error) {
    log::circuit_opened(failures, pause, error);
    #[cfg(feature = "metrics")]
    metrics::circuit(true);
}

/// Reports a circuit that closed. `error` is the one that had opened it.
#[cfg(feature = "redis")]
pub(crate) fn circuit_closed(error: Option<&dyn Error>) {
    log::circuit_closed(error);
    #[cfg(feature = "metrics")]
    metrics::circuit(false);
}

/// Reports that another server has become the primary.
#[cfg(feature = "sentinel")]
pub(crate) fn primary_changed(name: &str, before: &impl Display, now: &impl Display) {
    log::primary_changed(name, before, now);
}

/// Reports that a backend with an open circuit was dropped.
#[cfg(feature = "redis")]
pub(crate) fn circuit_dropped() {
    #[cfg(feature = "metrics")]
    metrics::circuit(false);
}

/// Reports a misconfigured server, at level error.
#[cfg(feature = "redis")]
pub(crate) fn misconfigured(error: &dyn Error, cause: &str, remedy: &str) {
    log::misconfigured(error, cause, remedy);
}

/// Reports how long Redis took to answer a batch.
#[cfg(feature = "redis")]
pub(crate) fn round_trip(took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::round_trip(took);
    let _ = took;
}

/// Reports an operation that Redis did not answer, by the kind of the failure.
#[cfg(feature = "redis")]
pub(crate) fn backend_failure(kind: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::backend_failure(kind);
    let _ = kind;
}
