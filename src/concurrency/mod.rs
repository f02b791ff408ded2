//! Concurrency limits for Tower services: [`SemaphoreLayer`].
//!
//! Guide: [limit what is in flight](crate::_guide::concurrency).
//!
//! The layer bounds how many requests of each key are in flight at a time, in one process or across servers. A request
//! counts until its response was sent completely. A client with too many requests gets status 429, or
//! [waits](SemaphoreLayer::wait). [`semaphore`](crate::semaphore) has the same without Tower, and explains leases.
//!
//! ```
//! use std::time::Duration;
//! use axum::Router;
//! use axum::routing::get;
//! use tower_sluice::concurrency::{Hold, SemaphoreLayer};
//! use tower_sluice::{Header, MemorySemaphore, SemaphorePolicy};
//!
//! let customer = Header::new("x-api-key");
//! let exports = SemaphoreLayer::new(SemaphorePolicy::new("exports", 5), customer.clone(), MemorySemaphore::new());
//! let renders = SemaphoreLayer::new(SemaphorePolicy::new("renders", 8), customer, MemorySemaphore::new())
//!     .weight_fn(|head| if head.path().ends_with("/large") { 4 } else { 1 })
//!     .wait(Duration::from_secs(2))
//!     .hold(Hold::Head);
//! let app: Router = Router::new()
//!     .route("/export", get(|| async { "a long file" }).layer(exports))
//!     .route("/render/{size}", get(|| async { "a picture" }).layer(renders));
//! ```
//!
//! # The end of a permit
//!
//! [`Hold`] sets when a permit is released. By default that is the last byte of the response body, so a stream counts
//! until it ends. An error or a panic of the service releases the permit earlier. So does a client that disconnects,
//! because the server then drops the future or the body. A permit is released once.
//!
//! **Upgrades.** The response to a WebSocket handshake has no body, so its permit would end while the connection lives
//! on. The handler must move the permit into the task of the connection with [`HeldPermit::keep`].
//!
//! **Leases.** The layer cannot stop work that has lost its lease; see [`semaphore`](crate::semaphore#leases). Work
//! that must not overlap watches [`HeldPermit::lost`], and checks once more before it commits.
//!
//! # Responses
//!
//! | case | status | fields |
//! |---|---|---|
//! | too many requests of this key in flight | 429 | `Retry-After: 1`, `Cache-Control: no-store`, rate-limit fields, problem body |
//! | weight above the capacity | 429 | the same without `Retry-After` and `t`: no wait helps |
//! | too many requests in flight in total: the extractor [is global](crate::key::KeyExtractor::is_global) | 503 | `Retry-After: 1`, `Cache-Control: no-store`, problem body |
//! | backend failed, [`FailClosed`](crate::FailurePolicy::FailClosed) | 503 | as for rate limits |
//! | allowed | the service's own | rate-limit fields, with `qu="concurrent-requests"` |
//!
//! The end of a request is unknown, so `Retry-After` is always 1 second. The decision in the extensions of the response
//! has the time at which enough leases would expire. gRPC clients get `grpc-status` 8, or 14 in place of 503.
//!
//! # Together with rate limits
//!
//! - Put this layer around a [`RateLimitLayer`](crate::RateLimitLayer) to charge nothing for a request without a
//!   permit.
//! - Put it inside to hold no permit while a request waits for tokens.
//!
//! One [`Http`](crate::response::Http) value configures the responses of both.
#![doc = include_str!("../docs/in_flight.md")]

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
pub use self::extract::MissingPermit;
pub use self::future::ResponseFuture;
pub use self::layer::SemaphoreLayer;
pub use self::policy_of::{SemaphorePolicyFn, SemaphorePolicyOf};
pub use self::service::SemaphoreService;
pub use crate::semaphore::{AnyLost, HeldPermit, Hold, KeptPermit};

/// A [`SemaphoreLayer`] whose key and backend are chosen at run time, for requests of type `Req`.
///
/// ```
/// use std::sync::Arc;
/// use axum::body::Body;
/// use http::Request;
/// use tower_sluice::backend::BackendError;
/// use tower_sluice::concurrency::AnySemaphoreLayer;
/// use tower_sluice::{AnyBackend, FailurePolicy, Header, SemaphoreLayer, SemaphorePolicy};
///
/// fn exports(url: &str) -> Result<AnySemaphoreLayer<Request<Body>>, BackendError> {
///     let (policy, key) = (SemaphorePolicy::new("exports", 5), Arc::new(Header::new("x-api-key")));
///     let limit = SemaphoreLayer::new(policy, key as _, AnyBackend::from_url(url)?);
///     Ok(limit.on_backend_error(FailurePolicy::FailClosed))
/// }
///
/// let app: axum::Router = axum::Router::new().layer(exports("memory:")?);
/// # Ok::<(), BackendError>(())
/// ```
pub type AnySemaphoreLayer<Req, W = Cost> =
    SemaphoreLayer<ArcKey<Req>, AnyBackend, W, FailurePolicy>;
