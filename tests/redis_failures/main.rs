//! What limiters do when Redis, or the way to it, fails: with real servers and failures that are really injected.

mod harness;
mod servers;
#[path = "../support/mod.rs"]
mod support;
