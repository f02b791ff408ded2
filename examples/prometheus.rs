//! Metrics of limits for Prometheus: an axum application that serves them at `/metrics`.
//!
//! Run: `cargo run --example prometheus --features metrics`
//! Then: `curl localhost:3000; curl -s localhost:3000/metrics | grep ^sluice`

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusBuilder;
use tower_sluice::{
    MemoryBackend, MemorySemaphore, PeerIp, Policy, Quota, RateLimitLayer, SemaphoreLayer,
    SemaphorePolicy,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prometheus = PrometheusBuilder::new().install_recorder()?;
    tower_sluice::metrics::describe();

    let policy = Policy::new("per-ip", Quota::per_minute(5));
    let trial = Policy::new("stricter", Quota::per_minute(2)).shadow(); // visible in the metrics, never enforced
    let exports = SemaphorePolicy::new("exports", 1);
    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .layer(RateLimitLayer::new(
            trial,
            PeerIp::new(),
            MemoryBackend::new(),
        ))
        .layer(RateLimitLayer::new(
            policy,
            PeerIp::new(),
            MemoryBackend::new(),
        ))
        .route(
            "/export",
            get(|| tokio::time::sleep(Duration::from_secs(2))).layer(SemaphoreLayer::new(
                exports,
                PeerIp::new(),
                MemorySemaphore::new(),
            )),
        )
        .route("/metrics", get(async move || prometheus.render()));

    let listen = std::env::args().nth(1).unwrap_or("127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}
