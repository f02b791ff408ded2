//! Exact rate limits and concurrency limits for [Tower] services: per key, weighted, in one process or across a fleet.
//!
//! ```no_run
//! use std::net::SocketAddr;
//! use axum::{Router, routing::get};
//! use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
//!
//! # async fn serve() -> std::io::Result<()> {
//! let policy = Policy::new("per-ip", Quota::per_second(10).burst(30));
//! let limit = RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new());
//! let app = Router::new().route("/", get(|| async { "hello" })).layer(limit);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
//! # }
//! ```
//!
//! **Behind a proxy** every connection comes from the proxy. Use [`ClientIp`], and
//! [name the proxies that you trust](_guide::keys#behind-a-proxy).
//!
//! | to | read | types |
//! |---|---|---|
//! | limit an axum, hyper or tonic server | [getting started](_guide::getting_started) | [`RateLimitLayer`], [`Policy`] |
//! | limit jobs, messages and plain threads | [`limiter`] | [`Limiter`], `blocking::Limiter` |
//! | choose an algorithm | [algorithms](_guide::algorithms) | [`Quota`] |
//! | choose a key | [keys](_guide::keys) | [`PeerIp`], [`ClientIp`], [`Header`], [`key`] |
//! | charge by route or size; settle later | [costs](_guide::costs) | [`RouteCosts`], [`Cost`], [`Charge`] |
//! | have several quotas, or tiers | [quotas and tiers](_guide::quotas_and_tiers) | [`Policy`] |
//! | wait in place of a rejection | [waiting](_guide::waiting) | [`MaxWait`], [`Deadline`] |
//! | limit what is in flight | [concurrency](_guide::concurrency) | [`SemaphoreLayer`], [`Semaphore`] |
//! | share limits through Redis | [fleet](_guide::fleet), [failures](_guide::failures) | [`RedisBackend`], [`FailurePolicy`], [`AnyBackend`] |
//! | choose what clients see | [clients](_guide::clients) | [`response`], [`DrainLayer`] |
//! | try a limit, or switch it off | [rollout](_guide::rollout) | [`Switch`] |
//! | watch limits | [monitoring](_guide::monitoring) | `metrics` |
//! | test without sleeping | [testing](_guide::testing) | [`clock::ManualClock`] |
//! | move from another crate | [migration](_guide::migration) | |
//! | write a key, cost or backend | [extending](_guide::extending) | [`backend::Backend`] |
//!
//! # Features
//!
//! - `axum` (default): [`PeerIp`] and [`ClientIp`] read axum's `ConnectInfo`, [`RouteCosts`] reads its `MatchedPath`.
//!   [`Charge`] is an extractor.
//! - `tonic`: [`PeerIp`] and [`ClientIp`] read the connect info of tonic's server.
//! - `redis`: limits in Redis, shared by a fleet. It implies `tracing`.
//! - `cluster`, `sentinel`: Redis Cluster, and Redis behind Sentinel.
//! - `partition-key`: the header fields can contain a keyed hash of the key.
//! - `blocking`: the same limits in plain threads, without a runtime.
//! - `tls`: `rediss://` with rustls and the system's certificates.
//! - `serde`: [`Quota`] and [`Policy`] in configuration files, validated while they are read.
//! - `metrics`: counters, gauges and histograms for the `metrics` facade; see the module `metrics`.
//! - `tracing`: an event for each rejection, for each change of the circuit, and at level ERROR for a misconfigured
//!   server.
//!
//! [Tower]: https://docs.rs/tower
#![cfg_attr(feature = "redis", doc = "[`RedisBackend`]: crate::RedisBackend")]
#![cfg_attr(not(feature = "redis"), doc = "[`RedisBackend`]: _guide::fleet")]
#![doc = include_str!("docs/choices.md")]
#![doc = include_str!("docs/playground.md")]
#![forbid(unsafe_code)]
#![warn(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    rust_2018_idioms
)]
#![warn(clippy::await_holding_lock, clippy::incompatible_msrv)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        clippy::float_arithmetic
    )
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod _guide;
pub mod algorithm;
pub mod backend;
#[cfg(feature = "blocking")]
pub mod blocking;
mod budget;
pub mod clock;
pub mod concurrency;
pub mod cost;
pub mod decision;
pub mod drain;
mod head;
pub mod key;
pub mod limit;
pub mod limiter;
mod message;
#[cfg(feature = "metrics")]
pub mod metrics;
mod middleware;
#[cfg(sluice_model)]
#[doc(hidden)]
pub mod model;
#[cfg(feature = "blocking")]
mod park;
mod partition;
pub mod policy;
pub mod quota;
pub mod response;
pub mod semaphore;
mod slots;
mod switch;
mod sync;
mod telemetry;
pub mod wait;

#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use self::backend::test_util;
pub use self::backend::{AnyBackend, MemoryBackend, MemorySemaphore};
#[cfg(feature = "redis")]
pub use self::backend::{RedisBackend, RedisSemaphore};

pub use self::budget::TimeBudget;
pub use self::concurrency::SemaphoreLayer;
pub use self::cost::RouteCosts;
pub use self::decision::{Decision, Receipt, Reservation, RetryAfter, Snapshot};
pub use self::drain::DrainLayer;
pub use self::head::Head;
pub use self::key::{ClientIp, Global, Header, Key, PeerIp, key_fn};
pub use self::limit::RateLimitLayer;
pub use self::limiter::charge::{self, Charge};
pub use self::limiter::{FailurePolicy, Limiter};
pub use self::policy::{Policy, SemaphorePolicy};
pub use self::quota::{Cost, Quota};
pub use self::semaphore::{Permit, Semaphore};
pub use self::switch::Switch;
pub use self::wait::{Deadline, MaxWait};

/// Compiles the examples of README.md.
#[cfg(all(doctest, feature = "axum", feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
