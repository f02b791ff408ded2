//! The cost of a request: by route, by size, or settled after the response.
//!
//! Run: `cargo run --example variable_cost`

use std::io::Error;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header::CONTENT_LENGTH};
use axum::routing::{get, post};
use futures_util::stream;
use http_body_util::BodyExt as _;
use tower::ServiceExt;
use tower_sluice::cost::HeaderCost;
use tower_sluice::drain::DrainLayer;
use tower_sluice::{Charge, Global, MemoryBackend, Policy, Quota, RateLimitLayer, RouteCosts};

fn app() -> Router {
    let costs = RouteCosts::new() // other routes cost 1
        .route("/search", 5)
        .method(Method::POST, "/ask", 40); // an estimate, see `ask`
    let policy = Policy::new("api", Quota::per_hour(100));
    let limit = RateLimitLayer::new(policy, Global, MemoryBackend::new());
    // A clone spends from the same bucket: one token for each kilobyte begun, and 411 without a length.
    let by_size = limit
        .clone()
        .cost(HeaderCost::required(CONTENT_LENGTH).per(1_024));
    let limit = limit.cost(costs).on_response(|parts, charge| {
        if parts.status.is_server_error() {
            charge.cancel(); // our failures are free
        }
    });
    Router::new()
        .route("/search", get(|| async { "found" }))
        .route("/ask", post(ask))
        .route("/fail", get(|| async { StatusCode::BAD_GATEWAY }))
        .layer(limit)
        .route("/upload", post(upload).layer(by_size)) // after `.layer`, so only under its own limit
        .layer(DrainLayer::new()) // a client that is still sending sees its 429
}

/// Settles the actual cost, which is known when the answer is ready.
async fn ask(charge: Charge, question: String) -> &'static str {
    let tokens = question.len() as u64;
    charge.settle(tokens); // in memory at once; through Redis in the background
    "42"
}

/// Charges the bytes that arrive. The length in the head is an estimate: a client that disconnects has sent less.
async fn upload(charge: Charge, body: Body) -> Result<String, StatusCode> {
    let meter = charge.meter_by(|bytes| bytes.div_ceil(1_024));
    let mut body = meter.body(body);
    while let Some(frame) = body.frame().await {
        frame.map_err(|_| StatusCode::BAD_REQUEST)?;
    }
    Ok(format!("{} bytes", meter.counted()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A client that announces 5,000 bytes and disconnects after 3,000.
    let parts = [Ok("x".repeat(3_000)), Err(Error::other("disconnected"))];
    let upload = Request::post("/upload").header(CONTENT_LENGTH, 5_000);
    let requests = [
        (Request::get("/search").body(Body::empty())?, 5),
        (Request::post("/ask").body("why is it so?".into())?, 13),
        (Request::get("/fail").body(Body::empty())?, 0),
        (upload.body(Body::from_stream(stream::iter(parts)))?, 3),
    ];
    let app = app();
    for (request, cost) in requests {
        println!("{} {} costs {cost}", request.method(), request.uri());
        app.clone().oneshot(request).await?;
    }
    let last = app.oneshot(Request::get("/fail").body(Body::empty())?);
    assert_eq!(last.await?.headers()["ratelimit"], "\"api\";r=78"); // before the hook refunds the 1
    Ok(())
}
