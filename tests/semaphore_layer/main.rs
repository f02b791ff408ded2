//! `SemaphoreLayer` from outside: its responses, and permits that are held exactly until the end of a body, a
//! connection or a task.
#![cfg(feature = "axum")]

mod contract;
#[cfg(feature = "redis")]
mod failures;
mod holds;
mod observed;
mod responses;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod servers;
mod services;
mod shadow;
#[allow(dead_code, reason = "for all tests of layers")]
#[path = "../limit/support.rs"]
mod support;
mod switch;
mod upgrades;
mod waiting;
mod weights;
