//! The limiter for plain threads shares buckets and replies with the asynchronous limiter.

mod laws;
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;
mod waits;
