//! The field `Retry-After`.

use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderValue, RETRY_AFTER};

use super::draft11::seconds;
use super::existing::ExistingHeaders;
use crate::clock::Timestamp;
use crate::decision::{Decision, RetryAfter};

/// The wait for a permit. It is at most one second, because releases come sooner than leases end.
pub(super) fn busy_retry_after(decision: &Decision) -> RetryAfter {
    match decision.retry_after() {
        Some(RetryAfter::In(wait)) => RetryAfter::In(wait.min(A_SECOND)),
        _ => RetryAfter::Never,
    }
}

/// The wait if its end is unknown.
pub(super) const A_SECOND: Duration = Duration::from_secs(1);

/// Writes the wait of a rejection plus `jitter` µs.
pub(super) fn write_wait(
    retry_after: RetryAfter,
    jitter: u64,
    existing: ExistingHeaders,
    now: impl FnOnce() -> Timestamp,
    headers: &mut HeaderMap,
) {
    if let RetryAfter::In(wait) = retry_after {
        // Waits are whole microseconds.
        let wait = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let wait = wait.saturating_add(jitter);
        write_retry_after(seconds(wait), existing, now, headers);
    }
}

/// Writes `Retry-After` in whole seconds (RFC 9110 §10.2.3), unless the existing one stays.
pub(super) fn write_retry_after(
    seconds: u64,
    existing: ExistingHeaders,
    now: impl FnOnce() -> Timestamp,
    headers: &mut HeaderMap,
) {
    if !existing.replaces_retry_after(seconds, now, headers) {
        return;
    }
    // Formatted by hand, because `HeaderValue::from` a number allocates twice.
    if let Ok(value) = HeaderValue::from_str(itoa::Buffer::new().format(seconds)) {
        headers.insert(RETRY_AFTER, value);
    }
}
