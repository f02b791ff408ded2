//! Keys from axum: routes, and the awaited result of an extractor.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts};
use axum::middleware::{from_extractor, from_extractor_with_state};
use axum::routing::get;
use axum::{Extension, Router};
use http::request::Parts;
use http::{Request, StatusCode};
use tower::ServiceExt;
use tower_sluice::key::{
    self, ClientIp, Keep, KeyExt, MatchedPath, Path, PeerAddr, ToKey, first_of,
};
use tower_sluice::{Global, Key, RateLimitLayer};

use crate::support::{memory, two_a_minute};

/// Looks up sessions asynchronously.
#[derive(Clone)]
struct Sessions(Arc<HashMap<&'static str, u64>>);

#[derive(Clone)]
struct User(u64);

impl<S: Send + Sync> FromRequestParts<S> for User
where
    Sessions: FromRef<S>,
{
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, StatusCode> {
        let sessions = Sessions::from_ref(state);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let session = parts
            .headers
            .get("x-session")
            .and_then(|session| session.to_str().ok());
        let user = session.and_then(|session| sessions.0.get(session));
        user.copied().map(Self).ok_or(StatusCode::UNAUTHORIZED)
    }
}

impl ToKey for User {
    fn to_key(&self) -> Key {
        self.0.into()
    }
}

async fn status(app: &Router, request: http::request::Builder) -> u16 {
    let request = request.body(Body::empty()).expect("a valid head");
    let Ok(response) = app.clone().oneshot(request).await;
    response.status().as_u16()
}

#[tokio::test]
async fn awaited_extractor_value_is_the_key_and_reaches_the_handler() {
    let sessions = Sessions(Arc::new(HashMap::from([
        ("one", 1),
        ("uno", 1),
        ("two", 2),
    ])));
    let limit = RateLimitLayer::new(two_a_minute(), key::Extension::<User>::new(), memory());
    let app = Router::new()
        .route(
            "/",
            get(async |Extension(user): Extension<User>| user.0.to_string()),
        )
        .layer(limit)
        .layer(from_extractor_with_state::<Keep<User>, _>(sessions));
    let mut seen = Vec::new();
    for session in ["one", "uno", "one", "two", "stolen"] {
        seen.push(status(&app, Request::get("/").header("x-session", session)).await);
    }
    assert_eq!(seen, [200, 200, 429, 200, 401]);
}

#[tokio::test]
async fn missing_outer_layer_rejects_requests() {
    let limit = RateLimitLayer::new(two_a_minute(), key::Extension::<User>::new(), memory());
    let app = Router::new().route("/", get(async || "hello")).layer(limit);
    assert_eq!(status(&app, Request::get("/")).await, 500);
}

#[derive(Clone)]
struct Tenant(String);

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let host = parts
            .headers
            .get("host")
            .and_then(|host| host.to_str().ok());
        host.map(|host| Self(host.to_owned()))
            .ok_or(StatusCode::BAD_REQUEST)
    }
}

impl ToKey for Tenant {
    fn to_key(&self) -> Key {
        Key::new(&self.0)
    }
}

#[tokio::test]
async fn routes_have_buckets_of_their_own_for_each_client() {
    let limit = RateLimitLayer::new(two_a_minute(), (ClientIp::new(), MatchedPath), memory());
    let nested = Router::new().route("/{id}", get(async || "user"));
    let app = Router::new()
        .nest("/users", nested)
        .route("/", get(async || "home"))
        .layer(limit);
    let from = |last: u8, path: &str| {
        Request::get(path).extension(PeerAddr(([127, 0, 0, last], 1).into()))
    };
    let mut seen = Vec::new();
    for (last, path) in [
        (1, "/users/1"),
        (1, "/users/2"),
        (1, "/users/3"),
        (1, "/"),
        (2, "/users/3"),
        (1, "/nowhere"),
    ] {
        seen.push(status(&app, from(last, path)).await);
    }
    assert_eq!(seen, [200, 200, 429, 200, 200, 404]);
}

#[tokio::test]
async fn unmatched_routes_can_share_one_bucket() {
    let limit = RateLimitLayer::new(two_a_minute(), first_of((MatchedPath, Global)), memory());
    let app = Router::new().route("/", get(async || "home")).layer(limit);
    let mut seen = Vec::new();
    for path in ["/a", "/b", "/c", "/"] {
        seen.push(status(&app, Request::get(path)).await);
    }
    assert_eq!(seen, [404, 404, 429, 200]);
}

#[tokio::test]
async fn path_key_is_the_whole_path_in_nested_routers() {
    let limit = RateLimitLayer::new(
        two_a_minute(),
        Path.skip_if(|head| head.uri.path() == "/free"),
        memory(),
    );
    let nested = |limit: Option<_>| {
        let routes = Router::new()
            .route("/x", get(async || "x"))
            .route("/free", get(async || "free"));
        match limit {
            Some(limit) => routes.layer(limit),
            None => routes,
        }
    };
    let app = Router::new()
        .nest("/one", nested(Some(limit.clone())))
        .nest("/two", nested(Some(limit)))
        .layer(from_extractor::<Keep<Tenant>>());
    let mut seen = Vec::new();
    for path in ["/one/x", "/one/x?q", "/one/x", "/two/x"] {
        seen.push(status(&app, Request::get(path).header("host", "example.org")).await);
    }
    assert_eq!(seen, [200, 200, 429, 200]);
}
