//! What is told of what happens, to the log (feature `tracing`) and to metrics (feature `metrics`). Without both
//! nothing is done; keys get to neither.

#[cfg(feature = "tracing")]
mod log;
#[cfg(feature = "metrics")]
mod metrics;

#[cfg(feature = "redis")]
use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use crate::backend::TaskError;
use crate::key::KeyError;
use crate::policy::{Policy, SemaphorePolicy};
use crate::response::Rejection;
use crate::semaphore::Permit;

#[cfg(feature = "metrics")]
pub use self::metrics::describe;

/// What became of one who asked a policy or a semaphore.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) enum DecisionOutcome {
    /// He goes on.
    Allowed,
    /// He is rejected.
    Denied,
    /// He goes on although he is over the limit of a shadow policy.
    Shadow,
    /// There was no answer, and he goes on.
    Passed,
    /// There was no answer, and he is rejected.
    Unavailable,
}

/// Tells of a decision of `policy`.
#[inline]
pub(crate) fn decided(policy: &Policy, outcome: DecisionOutcome) {
    #[cfg(feature = "tracing")]
    if let DecisionOutcome::Shadow = outcome {
        log::unenforced(policy);
    }
    #[cfg(feature = "metrics")]
    metrics::decided(policy, outcome);
    let _ = (policy, outcome);
}

/// The same of one who asked `limiter` without a layer.
#[inline]
pub(crate) fn checked(policy: &Policy, is_allowed: bool) {
    let outcome = match is_allowed {
        true => DecisionOutcome::Allowed,
        false => DecisionOutcome::Denied,
    };
    decided(policy, outcome);
}

/// Tells of a request that goes on after a wait.
#[inline]
pub(crate) fn waited(waited: Duration, policy: &Policy) {
    if waited.is_zero() {
        return;
    }
    #[cfg(feature = "tracing")]
    log::waited(waited, policy);
    #[cfg(feature = "metrics")]
    metrics::waited(waited, policy);
    let _ = policy;
}

/// Tells why a request is treated as chosen for a failing backend.
pub(crate) fn backend_failed(error: &impl Display, policy: &Policy) {
    #[cfg(feature = "tracing")]
    log::backend_failed(error, policy);
    let _ = (error, policy);
}

/// Tells of a request that a layer rejects, or lets through for want of a key.
pub(crate) fn rejected(rejection: &Rejection) {
    #[cfg(feature = "tracing")]
    log::rejected(rejection);
    #[cfg(feature = "metrics")]
    metrics::rejected(rejection);
    let _ = rejection;
}

/// Tells of a request that goes on without a key.
pub(crate) fn unkeyed(error: &KeyError) {
    #[cfg(feature = "tracing")]
    log::unkeyed(error);
    let _ = error;
}

/// Tells what became of one who asked for a permit.
pub(crate) fn permit_decided(policy: &SemaphorePolicy, outcome: DecisionOutcome) {
    #[cfg(feature = "metrics")]
    metrics::permit_decided(policy, outcome);
    let _ = (policy, outcome);
}

/// Tells of a permit that has an owner from now on.
pub(crate) fn permit_acquired(permit: &Permit) {
    #[cfg(feature = "tracing")]
    log::permit_acquired(permit);
    #[cfg(feature = "metrics")]
    metrics::permit_acquired(permit);
    let _ = permit;
}

/// Tells of a permit that is given back.
pub(crate) fn permit_released(policy: &SemaphorePolicy, weight: u32) {
    #[cfg(feature = "metrics")]
    metrics::permit_released(policy, weight);
    let _ = (policy, weight);
}

/// Tells of a permit whose lease was lost: somebody else may be in its holder's place.
pub(crate) fn permit_lost(policy: &SemaphorePolicy) {
    #[cfg(feature = "tracing")]
    log::permit_lost(policy);
    #[cfg(feature = "metrics")]
    metrics::permit_lost(policy);
    let _ = policy;
}

/// Tells why one who asked for a permit is treated as chosen for a failing backend.
pub(crate) fn permit_backend_failed(error: &impl Display, policy: &SemaphorePolicy) {
    #[cfg(feature = "tracing")]
    log::permit_backend_failed(error, policy);
    let _ = (error, policy);
}

/// Tells of a settlement, or something else that is done for nobody's answer, which was not written down.
pub(crate) fn background_task_failed(fault: &TaskError) {
    #[cfg(feature = "tracing")]
    log::background_task_failed(fault);
    #[cfg(feature = "metrics")]
    metrics::background_task_failed();
    let _ = fault;
}

/// Tells of a key that was forgotten before its time, to make room.
#[inline]
pub(crate) fn evicted() {
    #[cfg(feature = "metrics")]
    metrics::evicted();
}

/// Tells of a circuit that has opened: once for each change, not for each failure.
#[cfg(feature = "redis")]
pub(crate) fn circuit_opened(failures: u32, pause: Duration, error: &dyn Error) {
    log::circuit_opened(failures, pause, error);
    #[cfg(feature = "metrics")]
    metrics::circuit(true);
}

/// Tells of a circuit that has closed, which `error` had opened.
#[cfg(feature = "redis")]
pub(crate) fn circuit_closed(error: Option<&dyn Error>) {
    log::circuit_closed(error);
    #[cfg(feature = "metrics")]
    metrics::circuit(false);
}

/// Tells of an open circuit that is no more, nor is its backend.
#[cfg(feature = "redis")]
pub(crate) fn circuit_dropped() {
    #[cfg(feature = "metrics")]
    metrics::circuit(false);
}

/// Sends an event about a server that is set up wrongly, at level error.
#[cfg(feature = "redis")]
pub(crate) fn misconfigured(error: &dyn Error, cause: &str, remedy: &str) {
    log::misconfigured(error, cause, remedy);
}

/// Tells how long Redis took to answer.
#[cfg(feature = "redis")]
pub(crate) fn round_trip(took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::round_trip(took);
    let _ = took;
}

/// Tells of an operation that Redis gave no answer to.
#[cfg(feature = "redis")]
pub(crate) fn backend_failure(error: &crate::backend::BackendError) {
    #[cfg(feature = "metrics")]
    metrics::backend_failure(error.kind());
    let _ = error;
}
