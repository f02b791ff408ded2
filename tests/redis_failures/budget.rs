//! The time budget of a request: several limits and settlements behind one stopped server wait as long as one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::semaphore::AcquireError;
use tower_sluice::{
    Charge, Cost, FailurePolicy, Global, Key, Limiter, Policy, Quota, RateLimitLayer, RedisBackend,
    Semaphore, SemaphoreLayer, SemaphorePolicy, TimeBudget,
};

use crate::support::redis::RedisServer;

const LIMIT: Duration = Duration::from_millis(400);

/// Less than two time limits.
const SHORT: Duration = Duration::from_millis(750);

async fn connect(server: &RedisServer) -> RedisBackend {
    let builder = RedisBackend::builder().time_limit(LIMIT);
    builder.connect(server.url()).await.expect("a server")
}

fn policy(name: &str) -> Policy {
    Policy::new(name, Quota::per_day(100))
}

fn limit(
    name: &str,
    redis: &RedisBackend,
) -> RateLimitLayer<Global, RedisBackend, Cost, FailurePolicy> {
    RateLimitLayer::new(policy(name), Global, redis.clone())
        .on_backend_error(FailurePolicy::FailOpen)
}

/// A service that answers with the rest of the budget, in µs.
fn reports_budget()
-> impl Service<Request<()>, Response = Response<String>, Error = Infallible, Future: Send> + Clone
{
    tower::service_fn(|request: Request<()>| async move {
        let budget = request
            .extensions()
            .get::<TimeBudget>()
            .expect("a layer sets it");
        Ok(Response::new(budget.remaining().as_micros().to_string()))
    })
}

async fn spent(name: &str, redis: &RedisBackend) -> u64 {
    let limiter = Limiter::new(policy(name), redis.clone());
    100 - limiter
        .peek(&Key::from("global"))
        .await
        .expect("an answer")
        .remaining()
}

/// Waits until the circuit permits the next attempt and has closed.
async fn recovers(redis: &RedisBackend) {
    let (limiter, since) = (Limiter::new(policy("probe"), redis.clone()), Instant::now());
    while limiter.peek(&Key::from("ann")).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(20));
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn several_limits_behind_a_stopped_server_wait_as_long_as_one() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let in_flight =
        SemaphoreLayer::new(SemaphorePolicy::new("in-flight", 9), Global, redis.clone())
            .on_backend_error(FailurePolicy::FailOpen);
    let (first, second) = (limit("first", &redis), limit("second", &redis));
    let waiting = limit("third", &redis).wait(Duration::from_secs(5));
    let service =
        first.layer(second.layer(waiting.layer(in_flight.wrap_body().layer(reports_budget()))));
    let body = |response: Response<_>| async move {
        let body: axum::body::Body = axum::body::Body::new(response.into_body());
        let bytes = axum::body::to_bytes(body, 99).await.expect("a body");
        String::from_utf8(bytes.into()).expect("text")
    };
    let response = service
        .clone()
        .oneshot(Request::new(()))
        .await
        .expect("no error");
    let full = LIMIT.as_micros().to_string();
    assert_eq!(body(response).await, full, "answers spend nothing");

    server.pause();
    let began = Instant::now();
    let response = service
        .clone()
        .oneshot(Request::new(()))
        .await
        .expect("no error");
    let waited = began.elapsed();
    assert!((LIMIT..SHORT).contains(&waited), "{waited:?}");
    assert_eq!(body(response).await, "0");

    let mut short = Request::new(());
    short.extensions_mut().insert(TimeBudget::new(LIMIT / 8));
    let began = Instant::now();
    let response = service.oneshot(short).await.expect("no error");
    let waited = began.elapsed();
    assert!((LIMIT / 8..LIMIT).contains(&waited), "{waited:?}");
    assert_eq!(body(response).await, "0");

    server.resume();
    recovers(&redis).await;
    let counts = (spent("second", &redis).await, spent("third", &redis).await);
    assert_eq!(counts, (1, 1), "without a budget nothing is sent");
}

#[tokio::test]
async fn settlements_behind_a_stopped_server_wait_as_long_as_one() {
    let server = Arc::new(RedisServer::start());
    let redis = connect(&server).await;
    let stopping = Arc::clone(&server);
    let handler = tower::service_fn(move |request: Request<()>| {
        let server = Arc::clone(&stopping);
        async move {
            let inner = request
                .extensions()
                .get::<Charge>()
                .expect("a layer sets it")
                .clone();
            let middle = inner.outer().expect("a layer sets it");
            let outer = middle.outer().expect("a layer sets it");
            server.pause();
            let began = Instant::now();
            let mut errors = Vec::new();
            for charge in [inner, middle, outer] {
                errors.push(charge.settle(5).await.expect_err("stopped").to_string());
            }
            let waited = began.elapsed();
            server.resume();
            assert!((LIMIT / 2..SHORT).contains(&waited), "{waited:?}");
            let late = "the request has no time left for the backend; \
                        the settlement continues in the background";
            assert_eq!(errors[1..], [late, late]);
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let (first, second) = (limit("first", &redis), limit("second", &redis));
    let service = first.layer(second.layer(limit("third", &redis).layer(handler)));
    service.oneshot(Request::new(())).await.expect("no error");
}

#[tokio::test]
async fn failures_of_one_limit_open_the_circuit_for_all_users_of_the_backend() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    server.pause();
    let service = limit("first", &redis).layer(reports_budget());
    let together = (0..8).map(|_| service.clone().oneshot(Request::new(())));
    futures_util::future::join_all(together).await;
    for _ in 0..4 {
        service
            .clone()
            .oneshot(Request::new(()))
            .await
            .expect("no error");
    }
    let began = Instant::now();
    let ann = Key::from("ann");
    let other = Limiter::new(policy("other"), redis.clone())
        .check(&ann, 1)
        .await;
    assert_eq!(
        other.expect_err("open").kind(),
        &BackendErrorKind::CircuitOpen
    );
    let semaphore = Semaphore::new(SemaphorePolicy::new("in-flight", 9), redis.clone());
    let Err(AcquireError::Backend(error)) = semaphore.try_acquire(&ann, 1).await else {
        panic!("the circuit is open");
    };
    assert_eq!(error.kind(), &BackendErrorKind::CircuitOpen);
    assert!(began.elapsed() < LIMIT);
    server.resume();
}
