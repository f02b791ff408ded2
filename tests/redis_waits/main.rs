//! Waiting on a real Redis: reservations across processes, waiters that go away, settlements, and what becomes of them
//! all when it fails.

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
