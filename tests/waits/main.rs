//! Waiting for a turn, in virtual time: who goes when, who is told no, and what is left behind by those who go away.

mod buckets;
mod crowd;
mod line;
mod windows;
