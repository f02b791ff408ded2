//! Waiting on a real Redis: reservations of several processes, dropped waiters, settlements, and failures.

mod cancels;
mod denials;
mod harness;
mod monitor;
mod outage;
mod random_drops;
mod reservations;
mod server_clock;
mod settlements;
#[path = "../support/mod.rs"]
mod support;
