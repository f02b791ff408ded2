//! Waiting for tokens in virtual time: the order of waiters, denials, and the state that dropped waiters leave.

mod bounds;
mod buckets;
mod cancels;
mod charges;
mod deadlines;
mod executor;
mod limiter;
mod panics;
mod properties;
#[path = "../support/property.rs"]
mod property;
mod queue;
mod remote;
mod remote_charges;
mod remote_queues;
mod windows;
mod wire;
