//! What is told of what happens, to the log (feature `tracing`) and to metrics (feature `metrics`). Without both nothing is done;
//! keys get to neither.

#[cfg(feature = "tracing")]
mod log;
#[cfg(feature = "metrics")]
mod meter;

#[cfg(feature = "redis")]
use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use crate::backend::Fault;
use crate::key::KeyError;
use crate::policy::{Permits, Policy};
use crate::response::Refusal;
use crate::semaphore::Permit;

#[cfg(feature = "metrics")]
pub use self::meter::describe;

/// What became of one who asked a policy or a semaphore.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) enum Outcome {
    /// He goes on.
    Allowed,
    /// He is refused.
    Denied,
    /// He goes on although he is over the limit of a shadow policy.
    Shadow,
    /// There was no answer, and he goes on.
    Passed,
    /// There was no answer, and he is refused.
    Unavailable,
}

/// Tells of a decision of `policy`.
#[inline]
pub(crate) fn decided(policy: &Policy, outcome: Outcome) {
    #[cfg(feature = "tracing")]
    if let Outcome::Shadow = outcome {
        log::unenforced(policy);
    }
    #[cfg(feature = "metrics")]
    meter::decided(policy, outcome);
    let _ = (policy, outcome);
}

/// The same of one who asked `limiter` without a layer.
#[inline]
pub(crate) fn answered(policy: &Policy, is_allowed: bool) {
    let outcome = match is_allowed {
        true => Outcome::Allowed,
        false => Outcome::Denied,
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
    meter::waited(waited, policy);
    let _ = policy;
}

/// Tells why a request is treated as chosen for a failing backend.
pub(crate) fn failed(error: &impl Display, policy: &Policy) {
    #[cfg(feature = "tracing")]
    log::failed(error, policy);
    let _ = (error, policy);
}

/// Tells of a request that a layer refuses, or lets through for want of a key.
pub(crate) fn refused(refusal: &Refusal) {
    #[cfg(feature = "tracing")]
    log::refused(refusal);
    #[cfg(feature = "metrics")]
    meter::refused(refusal);
    let _ = refusal;
}

/// Tells of a request that goes on without a key.
pub(crate) fn skipped(error: &KeyError) {
    #[cfg(feature = "tracing")]
    log::skipped(error);
    let _ = error;
}

/// Tells what became of one who asked for a permit.
pub(crate) fn permit(permits: &Permits, outcome: Outcome) {
    #[cfg(feature = "metrics")]
    meter::permit(permits, outcome);
    let _ = (permits, outcome);
}

/// Tells of a permit that has an owner from now on.
pub(crate) fn held(permit: &Permit) {
    #[cfg(feature = "tracing")]
    log::held(permit);
    #[cfg(feature = "metrics")]
    meter::held(permit);
    let _ = permit;
}

/// Tells of a permit that is given back.
pub(crate) fn given_back(permits: &Permits, weight: u32) {
    #[cfg(feature = "metrics")]
    meter::given_back(permits, weight);
    let _ = (permits, weight);
}

/// Tells of a permit whose lease was lost: somebody else may be in its holder's place.
pub(crate) fn lost(permits: &Permits) {
    #[cfg(feature = "tracing")]
    log::lost(permits);
    #[cfg(feature = "metrics")]
    meter::lost(permits);
    let _ = permits;
}

/// Tells why one who asked for a permit is treated as chosen for a failing backend.
pub(crate) fn no_permit(error: &impl Display, permits: &Permits) {
    #[cfg(feature = "tracing")]
    log::no_permit(error, permits);
    let _ = (error, permits);
}

/// Tells of a settlement, or something else that is done for nobody's answer, which was not written down.
pub(crate) fn errand_lost(fault: &Fault) {
    #[cfg(feature = "tracing")]
    log::errand_lost(fault);
    #[cfg(feature = "metrics")]
    meter::errand_lost();
    let _ = fault;
}

/// Tells of a key that was forgotten before its time, to make room.
#[inline]
pub(crate) fn evicted() {
    #[cfg(feature = "metrics")]
    meter::evicted();
}

/// Tells of a circuit that has opened: once for each change, not for each failure.
#[cfg(feature = "redis")]
pub(crate) fn circuit_opened(failures: u32, pause: Duration, error: &dyn Error) {
    log::circuit_opened(failures, pause, error);
    #[cfg(feature = "metrics")]
    meter::circuit(true);
}

/// Tells of a circuit that has closed, which `error` had opened.
#[cfg(feature = "redis")]
pub(crate) fn circuit_closed(error: Option<&dyn Error>) {
    log::circuit_closed(error);
    #[cfg(feature = "metrics")]
    meter::circuit(false);
}

/// Tells of an open circuit that is no more, nor is its backend.
#[cfg(feature = "redis")]
pub(crate) fn circuit_dropped() {
    #[cfg(feature = "metrics")]
    meter::circuit(false);
}

/// Sends an event about a server that is set up wrongly, at level error.
#[cfg(feature = "redis")]
pub(crate) fn misconfigured(error: &dyn Error, cause: &str, remedy: &str) {
    log::misconfigured(error, cause, remedy);
}

/// Tells how long Redis took to answer.
#[cfg(feature = "redis")]
pub(crate) fn trip(took: Duration) {
    #[cfg(feature = "metrics")]
    meter::trip(took);
    let _ = took;
}

/// Tells of an operation that Redis gave no answer to.
#[cfg(feature = "redis")]
pub(crate) fn failure(error: &crate::backend::BackendError) {
    #[cfg(feature = "metrics")]
    meter::failure(error.kind());
    let _ = error;
}
