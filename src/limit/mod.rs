//! [`RateLimitLayer`]: limits any Tower service, by key.
//!
//! Answers `429` to clients that ask too often, or lets them [wait](RateLimitLayer::wait). Behind a proxy every peer is
//! the proxy: use [`ClientIp`](crate::ClientIp) and name the proxies that you trust.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_sluice::key::Global;
//! use tower_sluice::{MemoryBackend, Policy, Quota, RateLimitLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
//! let limit = RateLimitLayer::new(Policy::new("mails", Quota::per_hour(1)), Global, MemoryBackend::new());
//! let mut service = ServiceBuilder::new()
//!     .layer(limit)
//!     .service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new(String::from("sent"))) });
//!
//! assert_eq!(service.ready().await?.call(Request::new(())).await?.status(), StatusCode::OK);
//! assert_eq!(service.ready().await?.call(Request::new(())).await?.status(), StatusCode::TOO_MANY_REQUESTS);
//! # Ok(()) }
//! ```
//!
//! In axum, with costs, tiers and answers by closures:
//!
//! ```
//! use axum::Router;
//! use axum::routing::get;
//! use http::{Response, StatusCode};
//! use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
//!
//! let free = Policy::new("api", Quota::per_minute(60));
//! let paid = Policy::new("api", Quota::per_minute(6_000));
//! let limit = RateLimitLayer::new(free.clone(), PeerIp::new(), MemoryBackend::new())
//!     .policy_fn(move |head, _key| if head.headers.contains_key("x-paid") { paid.clone() } else { free.clone() })
//!     .cost_fn(|head| if head.method == "POST" { 5 } else { 1 })
//!     .reject_fn(|_head, rejection| {
//!         let mut response = Response::new(format!("{rejection}\n"));
//!         *response.status_mut() = rejection.status();
//!         response
//!     });
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(limit.clone())
//!     .route("/report", get(|| async { "long" }).layer(limit.cost(20))); // after `.layer`: not under it, same buckets
//! ```
//!
//! Where clients upload, put a [`DrainLayer`](crate::DrainLayer) around the limit: without it an HTTP/1.1 client that
//! is still sending gets a reset connection in place of its 429.
//!
//! Waiting instead of rejecting, by reservations that are made at once; here on a clock that a test moves:
//!
//! ```
//! use std::time::Duration;
//! use futures_util::FutureExt;
//! use http::{Request, Response};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_sluice::clock::{ManualClock, Timestamp};
//! use tower_sluice::{Charge, Global, MaxWait, MemoryBackend, Policy, Quota, RateLimitLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
//! let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
//! let backend = MemoryBackend::builder().clock(clock.clone()).build();
//! let limit = RateLimitLayer::new(Policy::new("upstream", Quota::per_second(2).burst(1)), Global, backend)
//!     .wait(MaxWait::within(Duration::from_secs(1)));
//! let mut service = ServiceBuilder::new().layer(limit).service_fn(|request: Request<()>| async move {
//!     let waited = request.extensions().get::<Charge>().map(Charge::waited);
//!     Ok::<_, std::convert::Infallible>(Response::new(format!("{waited:?}")))
//! });
//! service.ready().await?.call(Request::new(())).await?;
//! let mut second = Box::pin(service.ready().await?.call(Request::new(())));
//! assert!((&mut second).now_or_never().is_none(), "its turn comes in half a second");
//! clock.advance(Duration::from_millis(500));
//! assert_eq!(second.await?.status(), 200);
//! # Ok(()) }
//! ```

mod admission;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod http;
mod layer;
mod pending;
mod policy_of;
mod service;

use crate::backend::AnyBackend;
use crate::key::ArcKey;
use crate::limiter::FailurePolicy;
use crate::quota::Cost;

#[cfg(feature = "axum")]
pub use self::extract::MissingCharge;
pub use self::future::ResponseFuture;
pub use self::layer::RateLimitLayer;
pub use self::policy_of::{PolicyFn, PolicyOf};
pub use self::service::RateLimit;

/// A [`RateLimitLayer`] whose key and backend are chosen at run time, for requests of type `Req`.
///
/// See [above](self#the-type-of-a-layer) for an example.
pub type AnyRateLimitLayer<Req, C = Cost> =
    RateLimitLayer<ArcKey<Req>, AnyBackend, C, FailurePolicy>;
