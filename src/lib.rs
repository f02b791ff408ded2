//! Exact rate limits for [Tower] services: per key, weighted, with five algorithms.
//!
//! A limiter is a [`Policy`] (a name and its quotas) applied to a [`Key`] at a [`Cost`] by a backend; everything HTTP
//! is a thin adapter around that one call.
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
//! - [`RateLimitLayer`] limits any Tower service: axum, tonic, hyper, or one that speaks no HTTP. Start at [`limit`].
//! - [`Limiter`] is the same without Tower: [`limiter`]; for plain threads there is `blocking` (feature `blocking`).
//! - [`Quota`] has the five algorithms: [`quota`]. What they answer is exact, to the microsecond and without floats.
//! - [`key`] says whose limit it is, [`cost`] what a request spends, [`response`] what clients are told.
//! - [`wait`] lets requests wait; [`charge`] settles what they cost when it is known.
//! - [`SemaphoreLayer`] bounds what is in flight at a time, for each key and across servers: [`concurrency`].
//!   [`Semaphore`] is the same without Tower: [`semaphore`].
//! - [`DrainLayer`] reads on when an upload is rejected, so that its client sees the answer: [`drain`].
//! - [`MemoryBackend`] keeps the state in this process, within a bound: [`backend::memory`].
//! - `RedisBackend` shares it among a fleet, with the same answers: `backend::redis` (feature `redis`). [`AnyBackend`]
//!   is either, chosen by a URL.
//!
//! # Features
//!
//! - `axum` (default): [`PeerIp`] and [`ClientIp`] read axum's `ConnectInfo`, [`RouteCosts`] its `MatchedPath`;
//!   [`Charge`] is an extractor.
//! - `tonic`: [`PeerIp`] and [`ClientIp`] read the connect info of tonic's server.
//! - `redis`: buckets in Redis, shared by a fleet.
//! - `partition-key`: clients can be told which share of a limit is theirs, by a keyed hash.
//! - `blocking`: the same limits from plain threads, without a runtime.
//! - `tls`: `rediss://`, by rustls and the certificates that the system trusts.
//! - `serde`: [`Quota`] and [`Policy`] in configuration files, checked while they are read.
//! - `metrics`: counters, gauges and histograms for the facade of that name; see the module `metrics`.
//! - `tracing`: an event for each rejection, one at level error if the server is set up wrongly, and one whenever Redis
//!   is given up or taken back.
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
pub use self::wait::{Deadline, MaxWait};

/// The README's examples are compiled as they stand there.
#[cfg(all(doctest, feature = "axum", feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
