//! Waiting on a real Redis: reservations of several processes, dropped waiters, settlements, and failures.

mod books;
mod cancels;
mod denials;
mod harness;
mod monitor;
mod outage;
mod reservations;
mod server_clock;
mod settlements;
#[path = "../support/mod.rs"]
mod support;
