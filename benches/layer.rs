//! The time that a layer adds to a raw `http` service: ours beside tower_governor and a layer that does nothing, in one
//! run.
//!
//! Every row builds each request with the address of its peer. The cost of a limit is its row less "nothing".
//!
//! Run: `cargo bench --bench layer`

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;
use tower_sluice::response::HeaderFormat;
use tower_sluice::{ClientIp, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};

/// Answers at once with an empty response.
#[derive(Clone)]
struct Inner;

impl Service<Request<()>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Body::empty())))
    }
}

/// A layer that does nothing.
#[derive(Clone)]
struct Nothing<S>(S);

impl<S: Service<R>, R> Service<R> for Nothing<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    let peer = SocketAddr::from(([198, 51, 100, 7], 50_000));
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

fn bench<S, B>(c: &mut Criterion, group: &str, name: &str, expected: StatusCode, mut service: S)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let mut call = || {
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(service.poll_ready(&mut context).is_ready());
        let Some(Ok(response)) = service.call(request()).now_or_never() else {
            panic!("the backend replies at once")
        };
        response
    };
    call(); // uses up a limit of one
    assert_eq!(call().status(), expected, "{group}, {name}");
    let mut group = c.benchmark_group(group);
    group
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group.bench_function(name, |b| b.iter(&mut call));
    group.finish();
}

const PLENTY: u64 = 1_000_000_000;

fn ours(quota: Quota) -> RateLimitLayer<PeerIp, MemoryBackend> {
    RateLimitLayer::new(
        Policy::new("default", quota),
        PeerIp::new(),
        MemoryBackend::new(),
    )
}

fn layers(c: &mut Criterion) {
    let ok = StatusCode::OK;
    bench(c, "allowed", "nothing", ok, Nothing(Inner));
    let plenty = Quota::per_second(PLENTY);
    bench(
        c,
        "allowed",
        "ours, bare",
        ok,
        ours(plenty)
            .headers(HeaderFormat::None)
            .extensions(false)
            .layer(Inner),
    );
    let by_client = RateLimitLayer::new(
        Policy::new("default", plenty),
        ClientIp::new(),
        MemoryBackend::new(),
    );
    bench(
        c,
        "allowed",
        "ours, bare, by ClientIp",
        ok,
        by_client
            .headers(HeaderFormat::None)
            .extensions(false)
            .layer(Inner),
    );
    bench(
        c,
        "allowed",
        "ours, headers",
        ok,
        ours(plenty).extensions(false).layer(Inner),
    );
    bench(
        c,
        "allowed",
        "ours, headers and extensions",
        ok,
        ours(plenty).layer(Inner),
    );
    let config = GovernorConfigBuilder::default()
        .per_nanosecond(1)
        .burst_size(PLENTY as u32)
        .finish()
        .expect("valid");
    bench(
        c,
        "allowed",
        "tower_governor, bare",
        ok,
        GovernorLayer::new(Arc::new(config)).layer(Inner),
    );
    let config = GovernorConfigBuilder::default()
        .per_nanosecond(1)
        .burst_size(PLENTY as u32)
        .use_headers()
        .finish();
    bench(
        c,
        "allowed",
        "tower_governor, headers",
        ok,
        GovernorLayer::new(config.expect("valid")).layer(Inner),
    );

    let denied = StatusCode::TOO_MANY_REQUESTS;
    bench(
        c,
        "refused",
        "ours, headers, body and extensions",
        denied,
        ours(Quota::per_hour(1)).layer(Inner),
    );
    let config = GovernorConfigBuilder::default()
        .per_second(3_600)
        .burst_size(1)
        .finish()
        .expect("valid");
    bench(
        c,
        "refused",
        "tower_governor, bare",
        denied,
        GovernorLayer::new(config).layer(Inner),
    );
    let config = GovernorConfigBuilder::default()
        .per_second(3_600)
        .burst_size(1)
        .use_headers()
        .finish();
    bench(
        c,
        "refused",
        "tower_governor, headers",
        denied,
        GovernorLayer::new(config.expect("valid")).layer(Inner),
    );
}

criterion_group!(benches, layers);
criterion_main!(benches);
