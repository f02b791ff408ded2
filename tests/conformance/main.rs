//! Every vector of `tests/vectors` against the pure algorithms and the backends, to the microsecond. Only sliding logs
//! in a Redis without scripts are left out. The manual clock moves back where a case requires it.

mod blocks;
mod client_ip;
mod quota_strings;
#[cfg(feature = "redis")]
mod redis;
mod runner;
mod semaphore;
mod subject;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;

macro_rules! on_all {
    ($($(#[$condition:meta])* $name:ident: $file:literal)*) => {$(
        $(#[$condition])*
        mod $name {
            use crate::subject::{Cores, Memories, runtime};

            #[test]
            fn core() {
                crate::runner::run_file($file, Cores);
            }

            #[test]
            fn memory() {
                crate::runner::run_file($file, Memories(runtime()));
            }

            #[cfg(feature = "blocking")]
            #[test]
            fn memory_from_plain_threads() {
                crate::runner::run_file($file, crate::subject::BlockingMemories);
            }

            #[cfg(feature = "redis")]
            #[test]
            fn redis() {
                crate::runner::run_file($file, crate::redis::Scripted::start());
            }

            #[cfg(all(feature = "redis", feature = "blocking"))]
            #[test]
            fn redis_from_plain_threads() {
                crate::runner::run_file($file, crate::redis::Blocking::start());
            }
        }
    )*};
}

on_all! {
    token_bucket: "token_bucket.json"
    token_bucket_interval: "token_bucket_interval.json"
    gcra: "gcra.json"
    fixed_window: "fixed_window.json"
    sliding_log: "sliding_log.json"
    sliding_counter: "sliding_counter.json"
    multi_limit: "multi_limit.json"
    total: "total.json"
    #[cfg(feature = "calendar")] calendar_window: "calendar_window.json"
}

#[cfg(all(feature = "cluster", feature = "sentinel"))]
#[test]
fn redis_cluster() {
    let mut topology = redis::Topology::cluster();
    topology.run_files();
    topology.run_blocks();
    semaphore::run_on("Redis Cluster", &topology.backend, &topology.clock);
    // The keys spread over all nodes, and none was redirected.
    for node in topology.servers.primaries() {
        assert!(node.calls("evalsha") > 100, "{}", node.calls("evalsha"));
    }
    assert_eq!(topology.servers.errors("MOVED"), 0);
}

#[cfg(all(feature = "cluster", feature = "sentinel"))]
#[test]
fn redis_sentinel() {
    let mut topology = redis::Topology::sentinel();
    topology.run_files();
    semaphore::run_on("Redis behind Sentinel", &topology.backend, &topology.clock);
    assert!(topology.servers.servers[0].calls("evalsha") > 300);
}

/// Without scripts Redis supports all algorithms except sliding logs.
#[cfg(feature = "redis")]
macro_rules! optimistic {
    ($($(#[$condition:meta])* $name:ident: $file:literal)*) => {
        mod optimistic {$(
            $(#[$condition])*
            #[test]
            fn $name() {
                crate::runner::run_file($file, crate::redis::Optimistic::start());
            }
        )*}
    };
}

#[cfg(feature = "redis")]
optimistic! {
    token_bucket: "token_bucket.json"
    token_bucket_interval: "token_bucket_interval.json"
    gcra: "gcra.json"
    fixed_window: "fixed_window.json"
    sliding_counter: "sliding_counter.json"
    multi_limit: "multi_limit.json"
    total: "total.json"
    #[cfg(feature = "calendar")] calendar_window: "calendar_window.json"
}
