//! The actual cost of a request, set by its handler, by a hook on the response, or after a disconnect.

mod background;
mod disconnects;
mod handlers;
mod hooks;
mod metered;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::get;
use http::Request;
use tower::ServiceExt;
use tower_sluice::backend::Backend;
use tower_sluice::{Charge, Cost, FailurePolicy, Global, Key, Policy, Quota, RateLimitLayer};

use crate::support::{ClientResponse, Memory, spent};

/// One bucket of 100 tokens for all requests.
pub(crate) fn bucket() -> Policy {
    Policy::new("api", Quota::per_hour(100))
}

pub(crate) fn key() -> Key {
    Key::from("global")
}

/// Ten tokens a request.
pub(crate) fn limit<B: Backend>(backend: &B) -> RateLimitLayer<Global, B, Cost, FailurePolicy> {
    RateLimitLayer::new(bucket(), Global, backend.clone())
        .cost(10)
        .on_backend_error(FailurePolicy::FailClosed)
}

pub(crate) fn spent_tokens(memory: &Memory) -> u64 {
    spent(memory, &bucket(), &key())[0]
}

pub(crate) async fn fetch(app: &Router, path: &str) -> ClientResponse {
    let request = Request::get(path).body(Body::empty()).expect("valid");
    let Ok(response) = app.clone().oneshot(request).await;
    ClientResponse::of(response).await
}

/// Settles the charge as the path says.
pub(crate) async fn settle_handler(
    charge: Charge,
    Path((what, tokens)): Path<(String, u64)>,
) -> String {
    let settlement = match &*what {
        "charge" => charge.charge(tokens),
        "refund" => charge.refund(tokens),
        "settle" => charge.settle(tokens),
        "cancel" => charge.cancel(),
        _ => return "untouched".to_owned(),
    };
    match settlement.await {
        Ok(Some(after)) => format!("{} left", after.remaining()),
        Ok(None) => "as it was".to_owned(),
        Err(error) => error.to_string(),
    }
}

pub(crate) fn app<B: Backend>(backend: &B) -> Router {
    Router::new()
        .route("/{what}/{tokens}", get(settle_handler))
        .layer(limit(backend))
}
