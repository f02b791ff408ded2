//! Runs one path of a request many times, for `run.sh`, which counts the instructions inside [`measured`].

#[path = "../../services/mod.rs"]
mod services;

use std::convert::Infallible;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use futures_util::FutureExt;
use http::Request;
use tower_layer::Layer;
use tower_service::Service;
use tower_sluice::response::HeaderFormat;
use tower_sluice::{
    Key, Limiter, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer, Semaphore, SemaphoreLayer,
    SemaphorePolicy,
};

use self::services::{Inner, Nothing};

/// The repetitions of a measurement. `run.sh` divides by the same number.
const REPETITIONS: u32 = 10_000;

/// The segments of the clock are short at first, and each costs a correction. They are long after this time.
const WARM_UP: Duration = Duration::from_millis(600);

const KEY: &str = "198.51.100.77-ab";

/// Runs a path. The name is the mark at which the counting starts and ends.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured(path: &mut dyn FnMut()) {
    for _ in 0..REPETITIONS {
        path();
    }
}

/// A quota that no run uses up. It refills so slowly that every key owes something.
fn plenty() -> Quota {
    Quota::token_bucket(4_000_000_000, 1, Duration::from_secs(1))
}

fn limiter(quota: Quota) -> Limiter<MemoryBackend> {
    Limiter::new(Policy::new("bench", quota), MemoryBackend::new())
}

fn layer(quota: Quota) -> RateLimitLayer<PeerIp, MemoryBackend> {
    RateLimitLayer::new(
        Policy::new("bench", quota),
        PeerIp::new(),
        MemoryBackend::new(),
    )
}

fn calls<S, B>(mut service: S, body: fn() -> B) -> Box<dyn FnMut()>
where
    S: Service<Request<B>, Error = Infallible> + 'static,
    B: 'static,
{
    Box::new(move || {
        let mut request = Request::new(body());
        let peer = SocketAddr::from(([198, 51, 100, 7], 50_000));
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut context = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut context).is_ready());
        let response = service.call(request).now_or_never();
        assert!(response.is_some(), "the service answers at once");
        black_box(&response);
    })
}

fn raw<L>(layer: L) -> Box<dyn FnMut()>
where
    L: Layer<Inner>,
    L::Service: Service<Request<()>, Error = Infallible> + 'static,
{
    calls(layer.layer(Inner), || ())
}

fn router(limit: impl FnOnce(Router) -> Router) -> Box<dyn FnMut()> {
    calls(
        limit(Router::new().route("/", get(|| async {}))).with_state(()),
        Body::empty,
    )
}

/// The paths that are compared.
const PATHS: [&str; 14] = [
    "decision",
    "decision-owned-key",
    "decision-address",
    "decision-denied",
    "decision-two-quotas",
    "raw",
    "raw-no-fields",
    "raw-fields",
    "raw-default",
    "raw-denied",
    "router",
    "router-default",
    "semaphore",
    "raw-semaphore",
];

fn decision(quota: Quota, key: impl Fn() -> Key + 'static) -> Box<dyn FnMut()> {
    let limiter = limiter(quota);
    Box::new(move || {
        let key = key();
        black_box(limiter.check_now(&key, 1).decision.is_allowed());
    })
}

/// Returns the path of this name.
fn path(name: &str) -> Option<Box<dyn FnMut()>> {
    let silent = |quota| layer(quota).headers(HeaderFormat::None).extensions(false);
    let permits = SemaphorePolicy::new("bench", 1_000);
    Some(match name {
        "decision" => {
            let limiter = limiter(plenty());
            Box::new(move || {
                let reply = limiter.check_now(black_box(KEY), 1);
                black_box(reply.decision.is_allowed());
            })
        }
        "decision-owned-key" => decision(plenty(), || Key::from(black_box(KEY))),
        "decision-address" => {
            let address = IpAddr::from([198, 51, 100, 7]);
            decision(plenty(), move || Key::from(black_box(address)))
        }
        "decision-denied" => decision(Quota::per_hour(1), || Key::from(black_box(KEY))),
        "decision-two-quotas" => {
            let policy = Policy::new("bench", plenty()).and("second", plenty());
            let limiter = Limiter::new(policy, MemoryBackend::new());
            Box::new(move || {
                let reply = limiter.check_now(black_box(KEY), 1);
                black_box(reply.decision.is_allowed());
            })
        }
        "raw" => raw(Nothing(())),
        "raw-no-fields" => raw(silent(plenty())),
        "raw-fields" => raw(layer(plenty()).extensions(false)),
        "raw-default" => raw(layer(plenty())),
        "raw-denied" => raw(layer(Quota::per_hour(1))),
        "router" => router(|router| router.layer(Nothing(()))),
        "router-default" => router(|router| router.layer(layer(plenty()))),
        "semaphore" => {
            let semaphore = Semaphore::new(permits, MemoryBackend::new());
            let key = Key::from(KEY);
            Box::new(move || {
                let permit = semaphore.try_acquire(black_box(&key), 1).now_or_never();
                assert!(matches!(&permit, Some(Ok(_))), "a permit is free");
                drop(black_box(permit));
            })
        }
        "raw-semaphore" => {
            let layer = SemaphoreLayer::new(permits, PeerIp::new(), MemoryBackend::new());
            raw(layer.headers(HeaderFormat::None).extensions(false))
        }
        _ => return None,
    })
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "--list" {
        for path in PATHS {
            println!("{path}");
        }
        return;
    }
    let Some(mut path) = path(&name) else {
        panic!("no path is named {name:?}: `--list` prints their names");
    };
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        path();
    }
    measured(&mut *path);
}
