//! Waiting for a turn, in virtual time: who goes when, who is told no, and what is left behind by those who go away.

mod books;
mod bounds;
mod buckets;
mod cancels;
mod charges;
mod crowd;
mod limiter;
mod line;
mod panics;
#[path = "../support/property.rs"]
mod property;
mod remote;
mod windows;
mod wire;
