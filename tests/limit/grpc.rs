//! The layer around tonic: a whole server, one service of it, and a client's channel, over real connections.

use std::convert::Infallible;
use std::net::SocketAddr;

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
use tower_sluice::{Global, RateLimitLayer};

use crate::places::by_peer;
use crate::support::{PATIENCE, memory, two_a_minute};

fn incoming() -> (TcpIncoming, SocketAddr) {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = incoming.local_addr().expect("bound");
    (incoming, address)
}

fn health() -> HealthServer<impl Health> {
    HealthServer::new(HealthService::from_health_reporter(Default::default()))
}

/// A channel with connections from `127.0.0.last`.
async fn channel(address: SocketAddr, last: u8) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("a URI")
        .local_address(Some([127, 0, 0, last].into()))
        .timeout(PATIENCE)
        .connect()
        .await
        .expect("a server")
}

/// What a gRPC client sees of one health check.
async fn check<T>(client: T) -> Code
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<BoxError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<BoxError> + Send,
{
    let request = HealthCheckRequest::default();
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
async fn tonic_server_refuses_with_resource_exhausted() {
    let (incoming, address) = incoming();
    let server = Server::builder().layer(by_peer()).add_service(health());
    tokio::spawn(server.serve_with_incoming(incoming));

    let (ann, bob) = (channel(address, 1).await, channel(address, 2).await);
    assert_eq!(check(ann.clone()).await, Code::Ok);
    assert_eq!(check(ann.clone()).await, Code::Ok);
    assert_eq!(check(ann).await, Code::ResourceExhausted);
    assert_eq!(check(bob).await, Code::Ok);
}

/// A gRPC service that denies permission, to be told from a limit.
#[derive(Clone)]
struct Other;

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
async fn tonic_client_is_refused_before_it_sends() {
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
