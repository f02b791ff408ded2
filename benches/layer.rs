//! The time that a limit adds to a service: ours beside tower_governor and a layer that does nothing, around a raw
//! `http` service and inside an axum router. All run in turns in one binary.
//!
//! Every row builds each request with the address of its peer. axum_gcra is no peer here, because it is built on
//! axum 0.7.
//!
//! Run: `cargo bench --bench layer`

mod interleaved;
mod services;

use std::convert::Infallible;
use std::hint::black_box;
use std::net::SocketAddr;
use std::task::{Context, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;
use tower_sluice::response::HeaderFormat;
use tower_sluice::{
    ClientIp, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer, SemaphoreLayer, SemaphorePolicy,
};

use self::interleaved::{Subject, measure};
use self::services::{Inner, Nothing};

const NOTHING: &str = "a layer that does nothing";
const SILENT: &str = "ours, no fields, no extensions";
const BY_CLIENT: &str = "ours, no fields, by ClientIp";
const FIELDS: &str = "ours, fields";
const DEFAULT: &str = "ours, as it comes";
const DENIED: &str = "ours, as it comes, denied";
const SEMAPHORE: &str = "our semaphore, no fields";
const THEIRS: &str = "tower_governor";
const THEIRS_FIELDS: &str = "tower_governor, fields";
const THEIRS_DENIED: &str = "tower_governor, denied";

/// Repeats one request. `expected` is the status of every request but the first.
fn subject<S, B: 'static, C: 'static>(
    name: &'static str,
    expected: StatusCode,
    mut service: S,
    body: fn() -> B,
) -> Subject<'static>
where
    S: Service<Request<B>, Response = Response<C>, Error = Infallible> + 'static,
{
    let mut call = move || {
        let mut request = Request::new(body());
        let peer = SocketAddr::from(([198, 51, 100, 7], 50_000));
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut context = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut context).is_ready());
        let Some(Ok(response)) = service.call(request).now_or_never() else {
            panic!("the service answers at once")
        };
        response
    };
    call(); // uses up a limit of one
    Subject::new(name, move || {
        let response = black_box(call());
        assert_eq!(response.status(), expected, "{name}");
    })
}

fn raw<L>(name: &'static str, expected: StatusCode, layer: L) -> Subject<'static>
where
    L: Layer<Inner>,
    L::Service: Service<Request<()>, Response = Response<Body>, Error = Infallible> + 'static,
{
    subject(name, expected, layer.layer(Inner), || ())
}

fn routed<L>(name: &'static str, layer: L) -> Subject<'static>
where
    L: Layer<axum::routing::Route> + Clone + Send + Sync + 'static,
    L::Service: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    <L::Service as Service<Request<Body>>>::Future: Send + 'static,
{
    let router = Router::new().route("/", get(|| async {})).layer(layer);
    subject(
        name,
        StatusCode::OK,
        router.with_state::<()>(()),
        Body::empty,
    )
}

/// A quota that no run uses up. It refills so slowly that the key owes something all the time.
fn plenty() -> Quota {
    Quota::token_bucket(4_000_000_000, 1, Duration::from_secs(1))
}

fn ours(quota: Quota) -> RateLimitLayer<PeerIp, MemoryBackend> {
    let policy = Policy::new("default", quota);
    RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new())
}

fn silent(quota: Quota) -> RateLimitLayer<PeerIp, MemoryBackend> {
    ours(quota).headers(HeaderFormat::None).extensions(false)
}

fn semaphore() -> SemaphoreLayer<PeerIp, MemoryBackend> {
    let policy = SemaphorePolicy::new("default", 1_000);
    SemaphoreLayer::new(policy, PeerIp::new(), MemoryBackend::new())
        .headers(HeaderFormat::None)
        .extensions(false)
}

/// The configuration of tower_governor: one token a second after a burst that no run uses up, or one an hour.
macro_rules! theirs {
    ($period:expr, $burst:expr $(, $fields:ident)?) => {{
        let mut config = GovernorConfigBuilder::default();
        config.per_second($period).burst_size($burst);
        $(let mut config = config.$fields();)?
        GovernorLayer::new(config.finish().expect("valid"))
    }};
}

fn main() {
    let (ok, denied) = (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS);
    let by_client = RateLimitLayer::new(
        Policy::new("default", plenty()),
        ClientIp::new(),
        MemoryBackend::new(),
    );
    let by_client = by_client.headers(HeaderFormat::None).extensions(false);
    println!("profile: bench, thin LTO, one codegen unit");
    let subjects = vec![
        raw(NOTHING, ok, Nothing(())),
        raw(SILENT, ok, silent(plenty())),
        raw(BY_CLIENT, ok, by_client),
        raw(THEIRS, ok, theirs!(1, 4_000_000_000)),
        raw(FIELDS, ok, ours(plenty()).extensions(false)),
        raw(THEIRS_FIELDS, ok, theirs!(1, 4_000_000_000, use_headers)),
        raw(DEFAULT, ok, ours(plenty())),
        raw(DENIED, denied, ours(Quota::per_hour(1))),
        raw(THEIRS_DENIED, denied, theirs!(3_600, 1)),
        raw(SEMAPHORE, ok, semaphore()),
    ];
    let table = measure("around a raw service", 200, 3_000, subjects);
    table.adds_at_most(1.2, SILENT, THEIRS, NOTHING);
    table.adds_at_most_nanos(250.0, DEFAULT, NOTHING);
    table.adds_at_most_nanos(250.0, DENIED, NOTHING);
    table.adds_at_most(0.02, DENIED, THEIRS_DENIED, NOTHING);
    table.adds_at_most_nanos(250.0, SEMAPHORE, NOTHING);

    let subjects = vec![
        routed(NOTHING, Nothing(())),
        routed(SILENT, silent(plenty())),
        routed(THEIRS, theirs!(1, 4_000_000_000)),
        routed(DEFAULT, ours(plenty())),
        routed(THEIRS_FIELDS, theirs!(1, 4_000_000_000, use_headers)),
    ];
    let table = measure("inside an axum router", 200, 2_000, subjects);
    table.adds_at_most(1.2, SILENT, THEIRS, NOTHING);
}
