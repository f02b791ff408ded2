//! Exact rate limits and concurrency limits for [Tower] services: per key, weighted, with five algorithms.
//!
//! A limiter applies a [`Policy`] (a name and its quotas) to a [`Key`] at a [`Cost`], using a backend that keeps the
//! state. Everything HTTP is a thin adapter around that one call.
//!
//! ```text
//! Request -> key -> cost -> Limiter { policy, backend } -> Decision -> header fields / 429 / grpc-status -> Response
//!            key/   cost/                backend/                      response/
//! ```
//!
//! ```
//! use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
//!
//! let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(2)), MemoryBackend::new());
//! let mut allowed = (0..3).map(|_| limiter.check_now(&Key::from("ann"), 1).decision.is_allowed());
//! assert!(allowed.by_ref().take(2).all(|allowed| allowed));
//! assert_eq!(allowed.next(), Some(false));
//! ```
//!
//! - [`limit`]: [`RateLimitLayer`] limits any Tower service: axum, tonic, hyper, or a service without HTTP. Start here.
//! - [`limiter`]: [`Limiter`] works without Tower. The module `blocking` (feature `blocking`) is for plain threads.
//! - [`quota`]: [`Quota`] has the five algorithms. Their decisions are exact to the microsecond.
//! - [`key`], [`cost`], [`response`]: the key of a request, its cost, and the response to a rejected request.
//! - [`wait`]: requests can wait. [`charge`]: the final cost can be settled later.
//! - [`concurrency`]: [`SemaphoreLayer`] bounds what is in flight for each key, in one process or across servers.
//!   [`semaphore`]: [`Semaphore`] is the same without Tower.
//! - [`drain`]: [`DrainLayer`] reads the rest of a rejected upload, so that the client sees the response.
//! - [`backend::memory`]: [`MemoryBackend`] keeps a bounded number of keys in this process.
//! - `backend::redis` (feature `redis`): `RedisBackend` shares limits in a fleet, with the same answers.
//!   [`AnyBackend`] chooses between the two by a URL.
//!
//! # Features
//!
//! - `axum` (default): [`PeerIp`] and [`ClientIp`] read axum's `ConnectInfo`, [`RouteCosts`] reads its `MatchedPath`.
//!   [`Charge`] is an extractor.
//! - `tonic`: [`PeerIp`] and [`ClientIp`] read the connect info of tonic's server.
//! - `redis`: limits in Redis, shared by a fleet. It implies `tracing`.
//! - `partition-key`: the header fields can contain a keyed hash of the key.
//! - `blocking`: the same limits in plain threads, without a runtime.
//! - `tls`: `rediss://` with rustls and the system's certificates.
//! - `serde`: [`Quota`] and [`Policy`] in configuration files, validated while they are read.
//! - `metrics`: counters, gauges and histograms for the `metrics` facade; see the module `metrics`.
//! - `tracing`: an event for each rejection, for each change of the circuit, and at level ERROR for a misconfigured
//!   server.
//!
//! [Tower]: https://docs.rs/tower
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
mod switch;
mod sync;
mod telemetry;
pub mod wait;

pub use self::backend::{AnyBackend, MemoryBackend, MemorySemaphore};
#[cfg(feature = "redis")]
pub use self::backend::{RedisBackend, RedisSemaphore};

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
