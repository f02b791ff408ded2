//! HTTP and gRPC on one port, under one layer: a client spends one budget with both.
//!
//! Run: `cargo run --example http_and_grpc`

use axum::Router;
use axum::routing::get;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower_sluice::{Header, MemoryBackend, Policy, Quota, RateLimitLayer};

async fn app() -> Router {
    // The fields of an HTTP request and the metadata of a gRPC call are the same.
    let key = Header::new("x-api-key");
    let policy = Policy::new("api", Quota::per_hour(2));
    let limit = RateLimitLayer::new(policy, key, MemoryBackend::new());
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("mails", tonic_health::ServingStatus::Serving)
        .await;
    Routes::new(health)
        .into_axum_router()
        .route("/", get(|| async { "hello" }))
        .layer(limit)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app().await).into_future());

    let http = reqwest::Client::new();
    let get = async || {
        let request = http.get(&url).header("x-api-key", "ann");
        request.send().await
    };
    let mut health = HealthClient::new(
        tonic::transport::Endpoint::from_shared(url.clone())?
            .connect()
            .await?,
    );
    let mut check = async || {
        let mut request = tonic::Request::new(HealthCheckRequest {
            service: "mails".into(),
        });
        let key = MetadataValue::from_static("ann");
        request.metadata_mut().insert("x-api-key", key);
        health.check(request).await.map(|_| ())
    };

    let first = get().await?;
    println!(
        "GET /: {}, {:?}",
        first.status(),
        first.headers()["ratelimit"]
    );
    assert_eq!(first.headers()["ratelimit"], "\"api\";r=1");
    println!("health check: {:?}", check().await);
    assert_eq!(
        get().await?.status(),
        429,
        "one request and one call are two"
    );
    let error = check().await.expect_err("a rejection");
    println!("health check: {:?}, {}", error.code(), error.message());
    assert_eq!(error.code(), tonic::Code::ResourceExhausted);
    assert!(error.metadata().contains_key("grpc-retry-pushback-ms"));
    Ok(())
}
