//! The layer with tonic, over real connections: around a whole server, around one service of it, and around a client's
//! channel.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use tonic::Code;
use tonic::service::LayerExt;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::{Global, Key, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};

use crate::placement::by_peer;
use crate::support::{TIMEOUT, clock, memory, spent, two_a_minute};

pub(crate) fn incoming() -> (TcpIncoming, SocketAddr) {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = incoming.local_addr().expect("bound");
    (incoming, address)
}

pub(crate) fn health() -> HealthServer<impl Health> {
    HealthServer::new(HealthService::from_health_reporter(Default::default()))
}

/// A channel whose connections come from `127.0.0.last`.
pub(crate) async fn channel(address: SocketAddr, last: u8) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("a URI")
        .local_address(Some([127, 0, 0, last].into()))
        .timeout(TIMEOUT)
        .connect()
        .await
        .expect("a server")
}

/// The status code of one health check.
async fn check<T>(client: T) -> Code
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<BoxError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<BoxError> + Send,
{
    check_within(client, None).await
}

/// Like [`check`], with a `grpc-timeout`.
async fn check_within<T>(client: T, timeout: Option<Duration>) -> Code
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<BoxError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<BoxError> + Send,
{
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    match HealthClient::new(client).check(request).await {
        Ok(_) => Code::Ok,
        Err(status) => {
            if status.code() == Code::ResourceExhausted {
                assert_eq!(status.message(), "rate limit exceeded");
            }
            status.code()
        }
    }
}

#[tokio::test]
async fn tonic_server_rejects_with_resource_exhausted() {
    let (incoming, address) = incoming();
    let server = Server::builder().layer(by_peer()).add_service(health());
    tokio::spawn(server.serve_with_incoming(incoming));

    let (ann, bob) = (channel(address, 1).await, channel(address, 2).await);
    assert_eq!(check(ann.clone()).await, Code::Ok);
    assert_eq!(check(ann.clone()).await, Code::Ok);
    assert_eq!(check(ann).await, Code::ResourceExhausted);
    assert_eq!(check(bob).await, Code::Ok);
}

/// A gRPC service that answers `PermissionDenied`, which no limit returns.
#[derive(Clone)]
pub(crate) struct Other;

impl tonic::server::NamedService for Other {
    const NAME: &'static str = "test.Other";
}

impl<B> Service<Request<B>> for Other {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        std::future::ready(Ok(tonic::Status::permission_denied("no").into_http()))
    }
}

#[tokio::test]
async fn tonic_server_limits_one_service_of_several() {
    let (incoming, address) = incoming();
    let limited = by_peer().named_layer(health());
    let server = Server::builder().add_service(limited).add_service(Other);
    tokio::spawn(server.serve_with_incoming(incoming));

    let (ann, bob) = (channel(address, 1).await, channel(address, 2).await);
    assert_eq!(check(ann.clone()).await, Code::Ok);
    assert_eq!(check(ann.clone()).await, Code::Ok);
    assert_eq!(check(ann.clone()).await, Code::ResourceExhausted);
    assert_eq!(check(bob).await, Code::Ok);
    for _ in 0..3 {
        let request = Request::post(format!("http://{address}/test.Other/Call"))
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::empty());
        let response = ann.clone().oneshot(request.expect("a valid head")).await;
        assert_eq!(response.expect("an answer").headers()["grpc-status"], "7");
    }
}

#[tokio::test]
async fn tonic_client_is_rejected_before_it_sends() {
    let (incoming, address) = incoming();
    tokio::spawn(
        Server::builder()
            .add_service(health())
            .serve_with_incoming(incoming),
    );

    let channel = channel(address, 1).await;
    let limit = RateLimitLayer::new(two_a_minute(), Global, memory());
    let limited = ServiceBuilder::new().layer(limit).service(channel.clone());
    assert_eq!(check(limited.clone()).await, Code::Ok);
    assert_eq!(check(limited.clone()).await, Code::Ok);
    assert_eq!(check(limited).await, Code::ResourceExhausted);
    assert_eq!(check(channel).await, Code::Ok);
}

/// The bucket has one token. The next tokens arrive every 30 s.
#[tokio::test]
async fn unary_call_waits_unless_its_timeout_is_sooner() {
    let (incoming, address) = incoming();
    let clock = clock();
    let memory = MemoryBackend::builder().clock(clock.clone()).build();
    let policy = Policy::new("api", Quota::per_minute(2).burst(1));
    let limit = RateLimitLayer::new(policy, PeerIp::new(), memory.clone());
    let limit = limit.wait(Duration::from_secs(90));
    let server = Server::builder().layer(limit).add_service(health());
    tokio::spawn(server.serve_with_incoming(incoming));

    let ann = channel(address, 1).await;
    assert_eq!(check(ann.clone()).await, Code::Ok);
    let waits = tokio::spawn(check(ann.clone()));
    let start = Instant::now();
    while memory.context().stats().waiting == 0 {
        assert!(start.elapsed() < TIMEOUT);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Its token would arrive after 60 s.
    let hasty = check_within(ann.clone(), Some(Duration::from_secs(59))).await;
    assert_eq!(hasty, Code::ResourceExhausted);
    let patient = tokio::spawn(check_within(ann, Some(Duration::from_secs(60))));
    while memory.context().stats().waiting < 2 {
        assert!(start.elapsed() < TIMEOUT);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    clock.advance(Duration::from_secs(30));
    assert_eq!(waits.await.expect("no panic"), Code::Ok);
    assert_eq!(memory.context().stats().waiting, 1);
    clock.advance(Duration::from_secs(30));
    assert_eq!(patient.await.expect("no panic"), Code::Ok);
}

#[tokio::test]
async fn hook_sees_grpc_responses() {
    let (incoming, address) = incoming();
    let (memory, calls) = (memory(), Arc::new(AtomicUsize::new(0)));
    let policy = Policy::new("api", Quota::per_hour(10));
    let limit = RateLimitLayer::new(policy.clone(), Global, memory.clone());
    let counter = Arc::clone(&calls);
    // Only failures are charged. A failure at the end of a stream is in the trailers, which the hook does not see.
    let limit = limit.on_response(move |parts, charge| {
        counter.fetch_add(1, SeqCst);
        if !parts.headers.contains_key("grpc-status") {
            drop(charge.cancel());
        }
    });
    let server = Server::builder()
        .layer(limit)
        .add_service(health())
        .add_service(Other);
    tokio::spawn(server.serve_with_incoming(incoming));

    let ann = channel(address, 1).await;
    let left = || spent(&memory, &policy, &Key::from("global"));
    assert_eq!(check(ann.clone()).await, Code::Ok);
    assert_eq!(left(), [0]);
    let request = Request::post(format!("http://{address}/test.Other/Call"))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::empty());
    let response = ann.oneshot(request.expect("a valid head")).await;
    assert_eq!(response.expect("an answer").headers()["grpc-status"], "7");
    assert_eq!((left(), calls.load(SeqCst)), (vec![1], 2));
}
