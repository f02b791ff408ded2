use std::convert::Infallible;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use tower_layer::Layer;
use tower_service::Service;

/// A layer that axum's routers accept: the short name of a long bound.
///
/// A function can return a layer whose type has no name, such as one with closures, and take any layer:
///
/// ```
/// use axum::Router;
/// use axum::response::IntoResponse;
/// use axum::routing::{get, post};
/// use tower::ServiceBuilder;
/// use tower_sluice::limit::RouteLayer;
/// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer, SemaphoreLayer, SemaphorePolicy};
///
/// fn uploads(backend: MemoryBackend) -> impl RouteLayer {
///     let in_flight = SemaphoreLayer::new(SemaphorePolicy::new("in-flight", 4), PeerIp::new(), backend.clone());
///     let rate = RateLimitLayer::new(Policy::new("uploads", Quota::per_minute(5)), PeerIp::new(), backend)
///         .respond_fn(|_head, rejection| (rejection.status(), "please wait").into_response());
///     ServiceBuilder::new().layer(in_flight).layer(rate)
/// }
///
/// fn routes(limit: impl RouteLayer) -> Router {
///     Router::new()
///         .route("/", get(|| async { "welcome" }))
///         .route("/upload", post(|| async { "kept" }).layer(limit))
/// }
///
/// let app = routes(uploads(MemoryBackend::new()));
/// ```
///
/// It is implemented for each layer with these bounds. With [`wrap_body`](crate::RateLimitLayer::wrap_body) a layer has
/// another type of response, and is not one of them. A layer in the state of an application has the type
/// [`RateLimitLayer`](crate::RateLimitLayer), or a box: `BoxCloneSyncServiceLayer` of Tower.
pub trait RouteLayer:
    Layer<
        Route,
        Service: Service<
            Request,
            Response = Response,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
                     + Send
                     + Sync
                     + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<L> RouteLayer for L
where
    L: Layer<Route> + Clone + Send + Sync + 'static,
    L::Service: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
{
}
