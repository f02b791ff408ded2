//! Clients of rejected uploads see their responses: `DrainLayer` over real connections, and on bodies that count their
//! polls.
#![cfg(feature = "axum")]

mod bodies;
mod uploads;
mod waiters;
mod wire;
