//! What limiters do when Redis, or the way to it, fails: with real servers and failures that are really injected.

mod access;
mod contents;
mod corrupt;
mod distance;
mod drops;
mod foreign;
mod harness;
mod network;
mod outage;
mod runtimes;
mod server_states;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod word_size;
