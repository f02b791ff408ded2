//! The limiter for plain threads: the same answers and the same buckets as the asynchronous one.

mod laws;
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;
mod waits;
