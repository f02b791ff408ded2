//! Limiters during failures of Redis and of the network, with real servers and injected failures.

mod access;
mod budget;
mod contents;
mod corrupt;
mod distance;
mod drops;
mod foreign;
mod harness;
mod network;
mod outage;
mod restarts;
mod runtimes;
mod server_states;
mod servers;
mod silence;
#[path = "../support/mod.rs"]
mod support;
mod word_size;
