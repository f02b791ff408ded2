//! The header fields that a layer writes, by format.

#[cfg(feature = "calendar")]
mod calendars;
mod jitter;
mod nested_layers;
#[cfg(feature = "partition-key")]
mod partition_key;
mod quotas;
mod semaphores;

use tower_sluice::response::HeaderFormat;
use tower_sluice::response::Reset;
use tower_sluice::{Global, Policy, RateLimitLayer};

use crate::support::{ClientResponse, Memory, memory};

pub(crate) const EPOCH: HeaderFormat = HeaderFormat::XRateLimit {
    reset: Reset::Epoch,
};

pub(crate) const DELTA: HeaderFormat = HeaderFormat::XRateLimit {
    reset: Reset::Delta,
};

pub(crate) fn global(policy: Policy) -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(policy, Global, memory())
}

/// The rate limit fields, in alphabetical order.
pub(crate) fn reported(seen: &ClientResponse) -> Vec<(&str, &str)> {
    let mut head = seen.head();
    head.retain(|(name, _)| name.contains("ratelimit"));
    head
}
