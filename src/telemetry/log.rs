//! Log events. A misconfigured server is logged at level error, once. Losses and changes of state are logged at level
//! warn or info, and single requests at level debug.

#[cfg(feature = "redis")]
use std::error::Error;
use std::fmt::Display;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use super::outcome::ServerFault;

pub(super) fn rejected(policy: &str, is_blocked: bool) {
    if is_blocked {
        tracing::debug!(policy, "request rejected: the key is blocked");
    } else {
        tracing::debug!(policy, "request rejected: over the limit");
    }
}

pub(super) fn permit_rejected(permits: &str) {
    tracing::debug!(permits, "request rejected: too many in flight");
}

pub(super) fn rejected_unavailable() {
    tracing::debug!("request rejected: the backend failed");
}

/// A misconfigured server leaves every request without a key. So the first event of each kind has level error and names
/// the remedy, and all later ones have level debug.
pub(super) fn rejected_without_key(error: &impl Display, fault: Option<ServerFault>) {
    if is_first(fault) {
        tracing::error!(%error, "request without a key: the server is misconfigured");
    } else {
        tracing::debug!(%error, "request without a key");
    }
}

pub(super) fn rejected_without_cost(error: &impl Display) {
    tracing::debug!(%error, "request without a cost");
}

/// No limit applies to a request without a key. A misconfigured server thus limits no request.
pub(super) fn unkeyed(error: &impl Display, fault: Option<ServerFault>) {
    if is_first(fault) {
        tracing::error!(%error, "request without a key: the server is misconfigured");
    }
}

/// Whether the server is at fault, and no fault of this kind was logged before.
fn is_first(fault: Option<ServerFault>) -> bool {
    /// A bit for each kind of fault.
    static LOGGED: AtomicU8 = AtomicU8::new(0);

    fault.is_some_and(|fault| LOGGED.fetch_or(fault as u8, Relaxed) & fault as u8 == 0)
}

pub(super) fn unenforced(policy: &str) {
    tracing::debug!(policy, "request allowed by a shadow policy: over the limit");
}

pub(super) fn permit_unenforced(permits: &str) {
    tracing::debug!(
        permits,
        "request allowed by a shadow policy: too many requests in flight"
    );
}

pub(super) fn backend_failed(error: &impl Display, policy: &str) {
    tracing::debug!(%error, policy, "the backend failed");
}

pub(super) fn totals_full(max_totals: usize) {
    tracing::error!(
        max_totals,
        "no room for another total: requests of new keys are denied; raise `max_totals`, or use Redis"
    );
}

pub(super) fn permit_backend_failed(error: &impl Display, permits: &str) {
    tracing::debug!(%error, permits, "the backend failed");
}

pub(super) fn waited(waited: Duration, policy: &str) {
    tracing::debug!(?waited, policy, "request allowed after a wait");
}

pub(super) fn permit_acquired(permits: &str, waited: Duration) {
    if !waited.is_zero() {
        tracing::debug!(?waited, permits, "permit acquired after a wait");
    }
}

pub(super) fn permit_lost(permits: &str) {
    tracing::warn!(permits, "permit lost: its lease could not be renewed");
}

pub(super) fn background_task_failed(error: &impl Display) {
    tracing::debug!(%error, "background task failed");
}

#[cfg(feature = "redis")]
pub(super) fn circuit_opened(failures: u32, pause: Duration, error: &dyn Error) {
    tracing::warn!(
        error = %Chain(error),
        "Redis circuit opened after {failures} consecutive failures; next attempt in {pause:?}"
    );
}

#[cfg(feature = "redis")]
pub(super) fn circuit_closed(error: Option<&dyn Error>) {
    let error = error.map(|error| tracing::field::display(Chain(error)));
    tracing::info!(error, "Redis circuit closed");
}

#[cfg(feature = "sentinel")]
pub(super) fn primary_changed(name: &str, before: &impl Display, now: &impl Display) {
    tracing::warn!("the Redis primary {name:?} has changed from {before} to {now}");
}

#[cfg(feature = "redis")]
pub(super) fn misconfigured(error: &dyn Error, cause: &str, remedy: &str) {
    tracing::error!(error = %Chain(error), "{cause}; {remedy}");
}

/// An error and its causes. A cause that the text already contains is left out.
#[cfg(feature = "redis")]
struct Chain<'a>(&'a dyn Error);

#[cfg(feature = "redis")]
impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let message = error.to_string();
            if !text.contains(&message) {
                text = format!("{text}: {message}");
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}
