//! Responses for browsers: a page in place of problem details, and CORS that exposes `Retry-After` to scripts.
//!
//! Run: `cargo run --example browsers`

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, ORIGIN,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tower::ServiceExt;
use tower_sluice::response::Rejection;
use tower_sluice::{Global, Head, MemoryBackend, Policy, Quota, RateLimitLayer};

fn app() -> Router {
    let policy = Policy::new("site", Quota::per_hour(1));
    let limit = RateLimitLayer::new(policy, Global, MemoryBackend::new()).respond_fn(rejected);
    Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(limit)
        .layer(from_fn(cors)) // around the limit: rejections need its fields as well
}

/// The layer adds `Retry-After` and the rate-limit fields.
fn rejected(head: &Head<'_>, rejection: &Rejection) -> Response {
    let accepts = head.headers.get(ACCEPT);
    let accepts = accepts.and_then(|accepts| accepts.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("text/html")) {
        let page = "<!doctype html><title>Too fast</title><p>Please try again in a while.";
        (rejection.status(), Html(page)).into_response()
    } else {
        rejection.problem().map(Body::from)
    }
}

/// A minimal CORS layer. Use `tower_http::cors::CorsLayer` in a real app.
async fn cors(request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let exposed = HeaderValue::from_static("retry-after, ratelimit, ratelimit-policy");
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = app();
    let send = async |method: Method, accept: &str| {
        let request = Request::builder()
            .method(method)
            .header(ORIGIN, "https://example.org")
            .header(ACCESS_CONTROL_REQUEST_METHOD, "GET")
            .header(ACCEPT, accept);
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        let (head, body) = response.into_parts();
        let kind = head.headers.get(CONTENT_TYPE).cloned();
        println!("{} {kind:?}", head.status);
        assert!(head.headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS));
        let body = to_bytes(body, 1_000).await?;
        Ok::<_, Box<dyn std::error::Error>>((head, String::from_utf8(body.into())?))
    };
    let page = "text/html,application/xhtml+xml,*/*;q=0.8";

    let (head, _) = send(Method::OPTIONS, "*/*").await?; // a pre-flight request is not counted
    assert_eq!(head.status, 204);
    assert_eq!(send(Method::GET, page).await?.1, "hello");
    let (head, body) = send(Method::GET, page).await?;
    assert_eq!(head.status, 429);
    assert_eq!(head.headers["retry-after"], "3600");
    assert!(body.contains("Please try again"));
    let (head, body) = send(Method::GET, "application/json").await?;
    assert_eq!(head.headers[CONTENT_TYPE], "application/problem+json");
    assert!(body.contains("quota-exceeded"));
    Ok(())
}
