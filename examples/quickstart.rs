//! An axum server that allows each client a burst of 5 requests, then 1 request per second.
//!
//! Run: `cargo run --example quickstart`
//! Then: `for i in 1 2 3 4 5 6; do curl -s -w '%{http_code}\n' localhost:3000; done`

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};

fn app() -> Router {
    let policy = Policy::new("per-ip", Quota::per_second(1).burst(5));
    let limit = RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new());
    Router::new()
        .route("/", get(|| async { "hello\n" }))
        .layer(limit)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    // `PeerIp` needs the address of the peer. `into_make_service_with_connect_info` inserts it into each request.
    axum::serve(
        listener,
        app().into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await
}
