//! Graceful shutdown: background commands reach Redis before the process ends.

mod support;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::future::join_all;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tower_sluice::backend::{Backend, IdleReport};
use tower_sluice::{
    FailurePolicy, Global, Key, Limiter, Policy, Quota, RateLimitLayer, RedisBackend, Semaphore,
    SemaphoreLayer, SemaphorePolicy,
};

use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;

const REQUESTS: u32 = 60;

/// The longest time that a test waits for anything.
const TIMEOUT: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

fn policy() -> Policy {
    Policy::new("api", Quota::per_day(1).burst(1000))
}

fn permits() -> SemaphorePolicy {
    SemaphorePolicy::new("exports", 100).with_lease(Duration::from_secs(60))
}

fn key() -> Key {
    Key::from("global")
}

/// Every request holds a permit until the end of its body, and gets its token back after its response.
fn app(redis: &RedisBackend, gate: watch::Receiver<bool>) -> Router {
    let exports = SemaphoreLayer::new(permits(), Global, redis.clone())
        .on_backend_error(FailurePolicy::FailClosed);
    let limit = RateLimitLayer::new(policy(), Global, redis.clone())
        .on_backend_error(FailurePolicy::FailClosed)
        .on_response(|_, charge| {
            charge.cancel();
        });
    let slow = move || {
        let mut gate = gate.clone();
        async move {
            let opened = gate.wait_for(|is_open| *is_open).await.is_ok();
            if opened { "done" } else { "the test is over" }
        }
    };
    let endless = || async {
        Body::from_stream(stream::unfold((), |()| async {
            sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, Infallible>("line\n"), ()))
        }))
    };
    Router::new()
        .route("/slow", get(slow))
        .route("/endless", get(endless))
        .layer(limit)
        .layer(exports)
}

/// A server in its own runtime, which ends at once when `end` is called, like a process.
struct Service {
    runtime: Runtime,
    redis: RedisBackend,
    url: String,
    /// Lets the slow requests continue.
    gate: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

impl Service {
    fn start(redis_url: &str) -> Self {
        let runtime = runtime();
        let builder = RedisBackend::builder().deny_cache(Duration::ZERO);
        let redis = runtime.block_on(builder.connect(redis_url));
        let redis = redis.expect("the server runs");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (stop, stopped) = oneshot::channel::<()>();
        let (gate, closed) = watch::channel(false);
        let app = app(&redis, closed);
        let ended = runtime.spawn(async move {
            let serve = axum::serve(listener, app);
            let serve = serve.with_graceful_shutdown(async { drop(stopped.await) });
            serve.await.expect("the server runs");
        });
        Self {
            runtime,
            redis,
            url,
            gate,
            stop,
            ended,
        }
    }

    /// Stops the server, waits until it is idle, and ends its runtime at once.
    async fn end(self, limit: Duration) -> IdleReport {
        self.stop.send(()).expect("the receiver is open");
        self.gate.send_replace(true);
        let ended = timeout(TIMEOUT, self.ended).await;
        ended.expect("in time").expect("no panic");
        let redis = self.redis.clone();
        let idle = async move { redis.context().idle(limit).await };
        let report = self.runtime.spawn(idle).await.expect("no panic");
        self.runtime.shutdown_background();
        report
    }

    /// Waits until this many permits are held.
    async fn holds(&self, count: usize) {
        let start = Instant::now();
        while self.redis.context().stats().held_permits < count {
            assert!(start.elapsed() < TIMEOUT);
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn client() -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn request(service: &Service, path: &str) -> Request<Body> {
    let request = Request::get(format!("{}{path}", service.url));
    request.body(Body::empty()).expect("a request")
}

/// Sends all requests of a test in the background.
async fn send(service: &Service, path: &str) -> Vec<tokio::task::JoinHandle<(StatusCode, Bytes)>> {
    let client = client();
    let one = |_| {
        let answer = client.request(request(service, path));
        tokio::spawn(async move {
            let answer = answer.await.expect("an answer");
            let status = answer.status();
            let body = answer.into_body().collect().await.expect("a body");
            (status, body.to_bytes())
        })
    };
    let all = (0..REQUESTS).map(one).collect();
    service.holds(60).await;
    all
}

/// Permits in use and tokens spent, by Redis.
async fn in_redis(server: &RedisServer) -> (u32, u32) {
    let redis = RedisBackend::connect(server.url())
        .await
        .expect("the server runs");
    let spent = Limiter::new(policy(), redis.clone());
    let spent = spent.peek(&key()).await.expect("Redis");
    let used = Semaphore::new(permits(), redis);
    let used = used.peek(&key()).await.expect("Redis");
    let used = used.limit() - used.remaining();
    let spent = spent.limit() - spent.remaining();
    (
        u32::try_from(used).expect("a small number"),
        u32::try_from(spent).expect("a small number"),
    )
}

#[test]
fn permits_and_refunds_in_flight_arrive_before_the_process_ends() {
    let server = RedisServer::start();
    let outside = runtime();
    outside.block_on(async {
        // So far away that a process that ends at once loses its commands in flight.
        let proxy = Proxy::to(server.port()).await;
        proxy.set(Mode::Delay(Duration::from_millis(20))).await;
        let url = proxy.url();
        let service = tokio::task::spawn_blocking(move || Service::start(&url)).await;
        let service = service.expect("no panic");
        let answers = send(&service, "/slow").await;
        let (report, answers) = tokio::join!(service.end(TIMEOUT), join_all(answers));
        for answer in answers {
            let (status, body) = answer.expect("no panic");
            assert_eq!((status, &body[..]), (StatusCode::OK, &b"done"[..]));
        }
        assert!(report.is_complete(), "{report}");
        assert_eq!(in_redis(&server).await, (0, 0));
    });
}

/// The connections of such clients drop their responses after the disconnect.
#[test]
fn permits_of_disconnecting_clients_are_released() {
    let server = RedisServer::start();
    let outside = runtime();
    outside.block_on(async {
        let url = server.url();
        let service = tokio::task::spawn_blocking(move || Service::start(&url)).await;
        let service = service.expect("no panic");
        let answers = send(&service, "/endless").await;
        let leave = async {
            sleep(Duration::from_millis(100)).await;
            answers.iter().for_each(tokio::task::JoinHandle::abort);
        };
        let (report, ()) = tokio::join!(service.end(TIMEOUT), leave);
        assert!(report.is_complete(), "{report}");
        assert_eq!(in_redis(&server).await, (0, 0));
    });
}

#[test]
fn without_redis_the_wait_ends_and_reports_what_is_lost() {
    let mut server = RedisServer::start();
    let outside = runtime();
    outside.block_on(async {
        let url = server.url();
        let service = tokio::task::spawn_blocking(move || Service::start(&url)).await;
        let service = service.expect("no panic");
        let answers = send(&service, "/slow").await;
        server.kill9();
        let start = Instant::now();
        let (report, _) = tokio::join!(service.end(TIMEOUT), join_all(answers));
        assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
        assert_eq!((report.background_tasks, report.held_permits), (0, 0));
        assert!(report.failed_background_tasks >= 60, "{report}");
        assert!(!report.is_complete());
    });
}

#[test]
fn the_wait_never_takes_longer_than_its_limit() {
    let server = RedisServer::start();
    let outside = runtime();
    outside.block_on(async {
        let builder = RedisBackend::builder().time_limit(Duration::from_secs(10));
        let redis = builder
            .connect(server.url())
            .await
            .expect("the server runs");
        let semaphore = Semaphore::new(permits(), redis.clone());
        let ann = Key::from("ann");
        let acquire = || semaphore.try_acquire(&ann, 1);
        let (held, released) = (acquire().await.expect("free"), acquire().await);
        let limit = Duration::from_millis(200);
        let report = redis.context().idle(limit).await;
        assert_eq!((report.held_permits, report.background_tasks), (2, 0));
        server.pause();
        drop(released);
        let start = Instant::now();
        let report = redis.context().idle(limit).await;
        let took = start.elapsed();
        assert!(
            took >= limit && took < limit + Duration::from_secs(2),
            "{took:?}"
        );
        assert_eq!((report.held_permits, report.background_tasks), (1, 1));
        let reported = "background tasks: 1 unfinished, 0 failed; permits still held: 1";
        assert_eq!(report.to_string(), reported);
        server.resume();
        drop(held);
        let report = redis.context().idle(TIMEOUT).await;
        assert!(report.is_complete(), "{report}");
        assert_eq!(
            semaphore
                .peek(&Key::from("ann"))
                .await
                .expect("Redis")
                .remaining(),
            100
        );
    });
}
