//! Redis Cluster and Sentinel with real servers that move, fail and come back under a steady load.
//!
//! Each test prints one line: the checks, the checks that failed, the longest time that a key got no answer, the
//! charges that a failover forgot, and the charges that were made twice.
//!
//! `SLUICE_TOPOLOGY_SECONDS=5` makes each load last for 5 s before and after its event, in place of 0.25 s.

mod cluster;
mod load;
mod moving_blocks;
mod sentinel;
mod settings;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Mutex, MutexGuard};

/// One topology at a time: the elections of many servers on a few cores would time out. The servers of the next test
/// start meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|lock| lock.into_inner())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}
