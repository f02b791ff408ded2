//! A `reqwest::Client` that stays within the quota of each server it calls. With Redis, all processes share the quotas.
//!
//! Run: `cargo run --example reqwest`, or `cargo run --features redis --example reqwest -- redis://127.0.0.1/`

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use reqwest::{Client, Method, Request};
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::Backend as _;
use tower_sluice::key::{KeyError, KeyExtractor};
use tower_sluice::response::AsError;
use tower_sluice::{
    AnyBackend, FailurePolicy, Key, MaxWait, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer,
};

/// One quota for each host.
#[derive(Clone)]
struct Host;

impl KeyExtractor<Request> for Host {
    fn key(&self, request: &Request) -> Result<Key, KeyError> {
        let host = request.url().host_str();
        host.map(Key::from)
            .ok_or_else(|| KeyError::client("a URL without a host"))
    }
}

/// An upstream that rejects more than 20 requests in a second.
async fn upstream() -> std::io::Result<String> {
    let policy = Policy::new("upstream", Quota::per_second(20).burst(5));
    let limit = RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new());
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(limit)
        .into_make_service_with_connect_info::<std::net::SocketAddr>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(url)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url: reqwest::Url = upstream().await?.parse()?;
    let backend = std::env::args().nth(1).unwrap_or("memory:".into());
    let backend = AnyBackend::from_url(&backend)?;

    // A burst of 1 spaces the requests evenly. `AsError` is for requests that are not of the crate `http`: a request
    // that cannot be sent within 10 s is an error.
    let policy = Policy::new("upstreams", Quota::per_second(20).burst(1));
    let limit = RateLimitLayer::new(policy, Host, backend.clone())
        .wait(MaxWait::within(Duration::from_secs(10)))
        .on_backend_error(FailurePolicy::FailClosed)
        .protocol(AsError);
    let mut client = limit.layer(Client::new());

    let start = Instant::now();
    for _ in 0..12 {
        let request = Request::new(Method::GET, url.clone());
        let response = client.ready().await?.call(request).await?;
        println!(
            "{:>6} ms {}",
            start.elapsed().as_millis(),
            response.status()
        );
        assert_eq!(response.status(), 200);
    }
    assert!(
        start.elapsed() >= Duration::from_millis(500),
        "11 waits of 50 ms"
    );
    // Refunds and cancelled reservations run in the background.
    let report = backend.context().idle(Duration::from_secs(5)).await;
    assert!(report.is_complete(), "{report}");
    Ok(())
}
