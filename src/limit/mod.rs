//! Rate limits for Tower services: [`RateLimitLayer`].
//!
//! Guide: [getting started](crate::_guide::getting_started).
//!
//! The layer finds the key of a request, charges its cost, and calls the inner service if the policy allows it.
//! Otherwise it rejects the request with status 429, or lets it [wait](RateLimitLayer::wait). It does not limit how
//! many requests are in flight; see [`concurrency`](crate::concurrency).
//!
//! **Behind a proxy** every peer is the proxy. Use [`ClientIp`](crate::ClientIp) there, and name the trusted proxies.
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
//! # Costs, tiers and rejections
//!
//! In axum, with closures:
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
//! # Uploads
//!
//! An HTTP/1.1 client that is still sending its body can see a reset connection instead of its 429. A
//! [`DrainLayer`](crate::DrainLayer) around the limit prevents that.
//!
//! # Waiting
//!
//! A waiting request reserves its tokens at once, and continues when they are due. This example advances a manual
//! clock:
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
//! assert!((&mut second).now_or_never().is_none(), "its tokens are due in half a second");
//! clock.advance(Duration::from_millis(500));
//! assert_eq!(second.await?.status(), 200);
//! # Ok(()) }
//! ```
//!
//! # The type of a layer
//!
//! `RateLimitLayer<K, B>` is the type that [`new`](RateLimitLayer::new) returns. The other type parameters have
//! defaults, as do those of the service [`RateLimit`]. [`AnyRateLimitLayer`] is for a key and a backend
//! that are chosen at run time. A layer can then be a field, a return value and a part of axum's state:
//!
//! ```
//! use std::sync::Arc;
//! use axum::Router;
//! use axum::body::Body;
//! use axum::extract::State;
//! use axum::routing::{get, post};
//! use http::Request;
//! use tower_sluice::backend::BackendError;
//! use tower_sluice::key::ArcKey;
//! use tower_sluice::limit::AnyRateLimitLayer;
//! use tower_sluice::{AnyBackend, FailurePolicy, Header, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
//!
//! struct Limits {
//!     login: RateLimitLayer<PeerIp, MemoryBackend>,
//!     api: AnyRateLimitLayer<Request<Body>>,
//! }
//!
//! fn login() -> RateLimitLayer<PeerIp, MemoryBackend> {
//!     RateLimitLayer::new(Policy::new("login", Quota::per_minute(5)), PeerIp::new(), MemoryBackend::new())
//! }
//!
//! fn api(has_keys: bool, backend: &str) -> Result<AnyRateLimitLayer<Request<Body>>, BackendError> {
//!     let key: ArcKey<Request<Body>> =
//!         if has_keys { Arc::new(Header::new("x-api-key")) } else { Arc::new(PeerIp::new()) };
//!     let limit = RateLimitLayer::new(Policy::new("api", Quota::per_second(50)), key, AnyBackend::from_url(backend)?);
//!     Ok(limit.on_backend_error(FailurePolicy::FailClosed))
//! }
//!
//! #[derive(Clone)]
//! struct AppState {
//!     limits: Arc<Limits>,
//! }
//!
//! async fn policies(State(state): State<AppState>) -> String {
//!     format!("{:?}, {:?}", state.limits.login, state.limits.api)
//! }
//!
//! let state = AppState { limits: Arc::new(Limits { login: login(), api: api(true, "memory:")? }) };
//! let app: Router = Router::new()
//!     .route("/login", post(|| async { "welcome" }).layer(state.limits.login.clone()))
//!     .route("/policies", get(policies).layer(state.limits.api.clone()))
//!     .with_state(state);
//! # Ok::<(), BackendError>(())
//! ```
#![doc = include_str!("../docs/composition.md")]

mod admission;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod http;
mod layer;
mod pending;
mod policy_of;
mod rejected;
#[cfg(feature = "axum")]
mod route_layer;
mod scopes;
mod service;
mod within;

use crate::backend::AnyBackend;
use crate::key::ArcKey;
use crate::limiter::FailurePolicy;
use crate::quota::Cost;

#[cfg(feature = "axum")]
pub use self::extract::MissingCharge;
pub use self::future::ResponseFuture;
pub use self::layer::RateLimitLayer;
pub use self::policy_of::{PolicyFn, PolicyOf};
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use self::route_layer::RouteLayer;
pub use self::scopes::{KeyList, ReplacePolicy, WithinKey, WithinPolicy};
pub use self::service::RateLimit;

/// A [`RateLimitLayer`] whose key and backend are chosen at run time, for requests of type `Req`.
///
/// See [above](self#the-type-of-a-layer) for an example.
pub type AnyRateLimitLayer<Req, C = Cost> =
    RateLimitLayer<ArcKey<Req>, AnyBackend, C, FailurePolicy>;
