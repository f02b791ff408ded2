//! gRPC streams hold their permits until they end, whichever side ends them.

use std::time::{Duration, Instant};

use tonic::service::LayerExt;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_types::StatusExt;
use tower_sluice::concurrency::Hold;
use tower_sluice::{MemorySemaphore, PeerIp, SemaphoreLayer, SemaphorePolicy};

use crate::grpc::{Other, channel, incoming};
use crate::support::TIMEOUT;

fn one_at_a_time() -> SemaphoreLayer<PeerIp, MemorySemaphore> {
    SemaphoreLayer::new(
        SemaphorePolicy::new("streams", 1),
        PeerIp::new(),
        MemorySemaphore::new(),
    )
}

async fn watch(channel: &Channel) -> Result<Streaming<HealthCheckResponse>, Status> {
    let mut client = HealthClient::new(channel.clone());
    let stream = client.watch(HealthCheckRequest::default()).await?;
    Ok(stream.into_inner())
}

async fn is_rejected(channel: &Channel) -> bool {
    match watch(channel).await {
        Ok(_) => false,
        Err(status) => {
            assert_eq!(status.code(), Code::ResourceExhausted);
            true
        }
    }
}

/// Opens a stream as soon as a permit is free.
async fn watch_in_time(channel: &Channel) -> Streaming<HealthCheckResponse> {
    let start = Instant::now();
    loop {
        match watch(channel).await {
            Ok(stream) => return stream,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
        assert!(start.elapsed() < TIMEOUT, "the permit was not released");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An open stream excludes other streams. Its end releases its permit, whichever side ends it.
async fn assert_stream_holds_its_permit(
    channel: Channel,
    other: Channel,
    mut reporter: HealthReporter,
) {
    let mut stream = watch_in_time(&channel).await;
    assert!(stream.message().await.expect("open").is_some());
    let rejected = watch(&channel).await.expect_err("it is open");
    assert_eq!(rejected.code(), Code::ResourceExhausted);
    // The end of the stream is unknown: one second is an estimate, as in HTTP.
    let delay = rejected.get_details_retry_info().expect("a wait");
    assert_eq!(delay.retry_delay, Some(Duration::from_secs(1)));
    let pushback = rejected.metadata().get("grpc-retry-pushback-ms");
    assert_eq!(pushback.expect("a pushback"), "1000");
    assert!(watch(&other).await.is_ok(), "another client");
    // More messages release nothing.
    reporter
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    assert!(stream.message().await.expect("open").is_some());
    assert!(is_rejected(&channel).await, "while it is open");

    drop(stream);
    let mut stream = watch_in_time(&channel).await;
    assert!(stream.message().await.expect("open").is_some());
    assert!(is_rejected(&channel).await, "while the second one is open");

    reporter.clear_service_status("").await;
    assert!(stream.message().await.expect("no error").is_none(), "ended");
    // The stream object stays alive on purpose: the server ends the stream. A new check of the removed service fails
    // with another error.
    let start = Instant::now();
    while let Err(status) = watch(&channel).await {
        if status.code() == Code::NotFound {
            break;
        }
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(start.elapsed() < TIMEOUT, "the permit was not released");
    }
    drop(stream);
}

#[tokio::test]
async fn stream_holds_its_permit_until_its_end_around_a_server() {
    let (incoming, address) = incoming();
    let (reporter, health) = health_reporter();
    let server = Server::builder().layer(one_at_a_time()).add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));
    let (ann, bob) = (channel(address, 1).await, channel(address, 2).await);
    assert_stream_holds_its_permit(ann, bob, reporter).await;
}

#[tokio::test]
async fn stream_holds_its_permit_until_its_end_around_one_service() {
    let (incoming, address) = incoming();
    let (reporter, health) = health_reporter();
    let limited = one_at_a_time().named_layer(health);
    let server = Server::builder().add_service(limited).add_service(Other);
    tokio::spawn(server.serve_with_incoming(incoming));
    let (ann, bob) = (channel(address, 1).await, channel(address, 2).await);

    let stream = watch(&ann).await.expect("a free permit");
    assert!(is_rejected(&ann).await);
    let other = http::Request::post(format!("http://{address}/test.Other/Call"))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::empty());
    let call = tower::ServiceExt::oneshot(ann.clone(), other.expect("a valid head"));
    let response = call.await.expect("an answer");
    assert_eq!(
        response.headers()["grpc-status"],
        "7",
        "the other service is not bounded"
    );
    drop(stream);
    assert_stream_holds_its_permit(ann, bob, reporter).await;
}

#[tokio::test]
async fn hold_head_releases_a_stream_after_its_head() {
    let (incoming, address) = incoming();
    let (_reporter, health) = health_reporter();
    let server = Server::builder()
        .layer(one_at_a_time().hold(Hold::Head))
        .add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));
    let ann = channel(address, 1).await;
    let first = watch(&ann).await.expect("a free permit");
    let second = watch(&ann).await.expect("a free permit");
    drop((first, second));
}

#[tokio::test]
async fn lost_connection_releases_the_permits_of_its_streams() {
    let (incoming, address) = incoming();
    let (_reporter, health) = health_reporter();
    let server = Server::builder().layer(one_at_a_time()).add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));
    let first = channel(address, 1).await;
    let stream = watch(&first).await.expect("a free permit");
    let second = channel(address, 1).await; // the same peer address on another connection
    assert!(is_rejected(&second).await);
    drop((stream, first));
    drop(watch_in_time(&second).await);
}
