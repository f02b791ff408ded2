//! [`SemaphoreLayer`]: bounds what any Tower service has in flight at a time, by key, in one process or across servers.
//!
//! "At most 5 exports in flight for each customer, over all replicas, also while the file is still being sent, also
//! after a replica was killed." Answers `429` to a client that has too many, or lets it [wait](SemaphoreLayer::wait).
//! How permits are kept, renewed and lost is said at [`semaphore`](crate::semaphore), which is the same without Tower.
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
//! # When a permit ends
//!
//! [`Hold`] says with what: by default with the last byte of the response's body, so that a stream counts until it
//! ends. It ends sooner with the service's error or panic, and with a client that goes away: server and layer then drop
//! the future or the body. It is given back once, whichever of these comes first.
//!
//! **The trap: upgrades.** The response to a WebSocket handshake has no body: for every layer it is over at once, while
//! the connection lives on. The handler has to keep the permit and move it into the task that lives on:
//! [`HeldPermit::keep`].
//!
//! **Leases.** Work goes on that has lost its permit (see [`semaphore`](crate::semaphore#leases)); the layer cannot
//! stop it. Work that must not overlap watches [`HeldPermit::lost`], and needs a check of its own at its end.
//!
//! # What clients are told
//!
//! | case | status | fields |
//! |---|---|---|
//! | too many of this key in flight | 429 | `Retry-After: 1`, `Cache-Control: no-store`, rate-limit fields, problem body |
//! | weight above the capacity, also that of all | 429 | the same without `Retry-After` and `t`: waiting does not help |
//! | too many in flight in all: the extractor [is global](crate::key::KeyExtractor::is_global) | 503 | `Retry-After: 1`, `Cache-Control: no-store`, problem body: the client did nothing wrong |
//! | no answer from the backend, and `Deny` chosen | 503 | as for rates |
//! | allowed | the service's own | rate-limit fields appended, with `qu="concurrent-requests"` |
//!
//! Nobody knows when a request will end, so a second is what clients are told; the decision in the response's
//! extensions has the time at which enough leases would end by themselves. gRPC clients are told `grpc-status` 8, or 14
//! in place of 503.
//!
//! # With rate limits
//!
//! Put this layer around a [`RateLimitLayer`](crate::RateLimitLayer), outside, if a request that is rejected for want
//! of a permit should cost nothing; within it, if requests that are over the rate should hold nothing while they wait.
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
