//! Semaphores: the order of waiters, the release of each permit, and permits whose holder pauses, dies, or loses its
//! Redis.

mod drops;
mod interleavings;
#[cfg(feature = "redis")]
mod late;
mod leases;
mod model;
#[cfg(feature = "redis")]
mod outage;
#[cfg(feature = "redis")]
mod processes;
mod properties;
#[cfg(not(feature = "redis"))]
#[path = "../support/property.rs"]
mod property;
mod queue;
mod renewal_interleavings;
mod runtimes;
#[cfg(feature = "redis")]
mod script;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "blocking")]
mod threads;
#[cfg(feature = "redis")]
mod waits;

use tokio::task::yield_now;

/// Lets all tasks run until they wait.
pub(crate) async fn settle() {
    for _ in 0..64 {
        yield_now().await;
    }
}
