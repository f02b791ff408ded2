//! Waiting for a reservation, in virtual time: who goes when, who is told no, and what is left behind by those who go
//! away.

mod bounds;
mod buckets;
mod cancels;
mod charges;
mod crowd;
mod limiter;
mod panics;
mod properties;
#[path = "../support/property.rs"]
mod property;
mod queue;
mod remote;
mod remote_charges;
mod windows;
mod wire;
