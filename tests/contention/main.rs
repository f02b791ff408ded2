//! Threads that read the clock in one order and take a lock in another.

mod held_clock;
mod late_readings;
mod late_semaphore;
mod scopes;
mod threads;
