//! The limiter for plain threads shares buckets and replies with the asynchronous limiter.

mod memory;
#[cfg(feature = "redis")]
mod redis;
mod shared_checks;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;
mod waits;
