//! The forms in which an application composes layers: optional, in stacks and tuples, on method routers with closures
//! that reject, in a struct, in the state, in a box, and as the result of a function.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, Route, get, post};
use tower::util::{BoxCloneSyncServiceLayer, option_layer};
use tower::{ServiceBuilder, ServiceExt};
use tower_sluice::limit::RouteLayer;
use tower_sluice::{
    DrainLayer, Global, Header, MemorySemaphore, Policy, Quota, RateLimitLayer, SemaphoreLayer,
    SemaphorePolicy,
};

use crate::support::{Memory, USER, memory};

/// Allows `limit` requests.
fn limit(name: &str, limit: u64) -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(Policy::new(name, Quota::per_hour(limit)), Global, memory())
}

/// Allows one request at a time for each user.
fn in_flight() -> SemaphoreLayer<Header, MemorySemaphore> {
    let policy = SemaphorePolicy::new("in-flight", 1);
    SemaphoreLayer::new(policy, Header::new(USER), MemorySemaphore::new())
}

async fn hello() -> &'static str {
    "hello"
}

/// The statuses of three requests of a user.
async fn three(method: &str, app: Router) -> [u16; 3] {
    let mut statuses = [0; 3];
    for status in &mut statuses {
        let request = Request::builder().method(method).header(USER, "ann");
        let request = request.body(Body::empty()).expect("a valid head");
        let Ok(response) = app.clone().oneshot(request).await;
        *status = response.status().as_u16();
    }
    statuses
}

/// A route under these layers, with the router's type of error.
fn posts(route: MethodRouter) -> Router {
    Router::new().route("/", route)
}

#[tokio::test]
async fn axum_extra_makes_a_limit_optional() {
    use axum_extra::middleware::option_layer;

    for (chosen, expected) in [(Some(limit("a", 1)), [200, 429, 429]), (None, [200; 3])] {
        let app = Router::new().route("/", get(hello));
        assert_eq!(
            three("GET", app.clone().layer(option_layer(chosen.clone()))).await,
            expected
        );
        let route = get(hello).layer(option_layer(chosen.map(RateLimitLayer::wrap_body)));
        let expected = if expected == [200; 3] {
            [200; 3]
        } else {
            [429; 3]
        };
        assert_eq!(three("GET", posts(route)).await, expected, "one bucket");
    }
    let none: Option<SemaphoreLayer<Header, MemorySemaphore>> = None;
    for (chosen, expected) in [(Some(in_flight().weight(2)), [429; 3]), (none, [200; 3])] {
        let app = Router::new()
            .route("/", get(hello))
            .layer(option_layer(chosen));
        assert_eq!(three("GET", app).await, expected);
    }
}

#[tokio::test]
async fn optional_limit_fits_one_route() {
    for (chosen, expected) in [(Some(limit("a", 1)), [200, 429, 429]), (None, [200; 3])] {
        assert_eq!(
            three("GET", posts(get(hello).layer(option_layer(chosen)))).await,
            expected
        );
    }
}

#[tokio::test]
async fn several_layers_fit_one_service_builder() {
    let stack = ServiceBuilder::new()
        .layer(DrainLayer::new())
        .option_layer(Some(limit("wide", 2)))
        .layer(in_flight())
        .layer(limit("narrow", 1).reject_fn(|_, rejection| {
            let mut response = Response::new("narrow");
            *response.status_mut() = rejection.status();
            response
        }));
    let app = Router::new().route("/", get(hello)).layer(stack.clone());
    assert_eq!(three("GET", app).await, [200, 429, 429]);
    let app = posts(get(hello).layer(stack));
    assert_eq!(three("GET", app).await, [429; 3], "the same buckets");
}

#[tokio::test]
async fn method_router_takes_a_tuple_with_closures_that_reject() {
    let outer =
        limit("outer", 2).respond_fn(|_, _| (http::StatusCode::IM_A_TEAPOT, "tea").into_response());
    let inner = limit("inner", 1).reject_fn(|_, rejection| {
        let mut response = Response::new(rejection.to_string());
        *response.status_mut() = http::StatusCode::PAYMENT_REQUIRED;
        response
    });
    let in_flight = in_flight().respond_fn(|_, _| http::StatusCode::CONFLICT.into_response());
    let route = post(hello).layer((outer, in_flight, inner));
    assert_eq!(three("POST", posts(route)).await, [200, 402, 418]);
}

#[tokio::test]
async fn chained_layers_of_a_method_router_name_the_error() {
    let outer =
        limit("outer", 2).respond_fn(|_, _| (http::StatusCode::IM_A_TEAPOT, "tea").into_response());
    let inner = limit("inner", 1).plain_text();
    let route = post(hello).layer::<_, Infallible>(inner).layer(outer);
    assert_eq!(three("POST", posts(route)).await, [200, 429, 418]);
}

/// A layer whose closures have no name.
fn boxed() -> BoxCloneSyncServiceLayer<Route, Request, Response, Infallible> {
    let stack = ServiceBuilder::new().layer(in_flight()).layer(
        limit("boxed", 1)
            .cost_fn(|_| 1)
            .respond_fn(|_, rejection| rejection.status().into_response()),
    );
    BoxCloneSyncServiceLayer::new(stack)
}

/// The same, with the alias for what axum needs.
fn unnamed() -> impl RouteLayer {
    ServiceBuilder::new().layer(in_flight()).layer(
        limit("unnamed", 1)
            .cost_fn(|_| 1)
            .respond_fn(|_, rejection| rejection.status().into_response()),
    )
}

#[derive(Clone)]
struct AppState {
    named: RateLimitLayer<Global, Memory>,
    boxed: BoxCloneSyncServiceLayer<Route, Request, Response, Infallible>,
}

#[tokio::test]
async fn layers_fit_the_state_and_a_box() {
    async fn policy(State(state): State<AppState>) -> String {
        format!("{:?}", state.named)
    }

    let state = AppState {
        named: limit("named", 1),
        boxed: boxed(),
    };
    let app = Router::new()
        .route("/", get(policy).layer(state.named.clone()))
        .with_state(state.clone());
    assert_eq!(three("GET", app).await, [200, 429, 429]);
    let app = posts(post(hello).layer(state.boxed.clone()));
    assert_eq!(three("POST", app).await, [200, 429, 429]);
    let app = Router::new().route("/", get(hello)).layer(state.boxed);
    assert_eq!(three("GET", app).await, [429; 3], "the same buckets");
}

#[tokio::test]
async fn function_returns_an_unnamed_layer() {
    fn limited(route: MethodRouter, limit: impl RouteLayer) -> Router {
        posts(route.layer(limit))
    }

    let layer = unnamed();
    assert_eq!(
        three(
            "GET",
            Router::new().route("/", get(hello)).layer(layer.clone())
        )
        .await,
        [200, 429, 429]
    );
    assert_eq!(three("POST", limited(post(hello), layer)).await, [429; 3]);
    let app = limited(post(hello), limit("given", 1));
    assert_eq!(three("POST", app).await, [200, 429, 429]);
}
