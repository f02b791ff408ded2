//! The layer over a real Redis: the commands that it sends, and the final charges after disconnects.

mod disconnects;
#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use redis::Value;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::backend::{Answer, Backend, Op};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::{
    Charge, Cost, Decision, FailurePolicy, Global, Key, Limiter, MemoryBackend, Policy, Quota,
    RateLimitLayer, RedisBackend, RetryAfter,
};

use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

const DAY: Duration = Duration::from_secs(86_400);

/// The longest time that a test waits for anything.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One bucket of 100 tokens that refills one token in a quarter of an hour.
fn bucket() -> Policy {
    Policy::new("api", Quota::per_day(100))
}

fn key() -> Key {
    Key::from("global")
}

/// With enough time for a stopped server.
fn builder() -> RedisBuilder {
    RedisBackend::builder().time_limit(Duration::from_secs(4))
}

async fn connect(server: &RedisServer) -> RedisBackend {
    builder().connect(server.url()).await.expect("a server")
}

type Limit = RateLimitLayer<Global, RedisBackend, Cost, FailurePolicy>;

fn over(policy: &Policy, backend: &RedisBackend) -> Limit {
    RateLimitLayer::new(policy.clone(), Global, backend.clone())
        .on_backend_error(FailurePolicy::FailClosed)
        .response_extensions(true)
}

fn limit(backend: &RedisBackend) -> Limit {
    over(&bucket(), backend)
}

/// The tokens spent from the bucket.
async fn spent_tokens(backend: &RedisBackend) -> u64 {
    let limiter = Limiter::new(bucket(), backend.clone());
    100 - limiter.peek(&key()).await.expect("an answer").remaining()
}

async fn spend(backend: &RedisBackend, tokens: u64) {
    let limiter = Limiter::new(bucket(), backend.clone());
    let reply = limiter.check(&key(), tokens).await.expect("an answer");
    assert!(reply.decision.is_allowed());
}

/// Waits until this much is spent, and no background task runs.
async fn wait_until_spent(backend: &RedisBackend, tokens: u64) {
    let start = Instant::now();
    while backend.context().stats().background_tasks > 0 || spent_tokens(backend).await != tokens {
        let late = start.elapsed() > TIMEOUT;
        assert!(!late, "{} are spent", spent_tokens(backend).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Loads all scripts, and leaves no debt.
async fn warm_up(server: &RedisServer, backend: &RedisBackend) {
    let limiter = Limiter::new(bucket(), backend.clone());
    for actual in [1, 3] {
        let charge = limiter.try_acquire(&key(), 2).await.expect("allowed");
        charge.settle(actual).await.expect("an answer");
    }
    limiter.reset(&key()).await.expect("an answer");
    scripts(server);
}

/// The script calls since the last read.
fn scripts(server: &RedisServer) -> u64 {
    let scripts = ["evalsha", "eval"].map(|command| server.calls(command));
    let _: Value = server.get(&["CONFIG", "RESETSTAT"]);
    scripts.iter().sum()
}

/// The status, and the numbers of the head.
async fn ask<S, B>(service: &mut S) -> (u16, Vec<String>)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let Ok(ready) = service.ready().await;
    let Ok(response) = ready.call(Request::new(())).await;
    let lines = response.headers().get_all("ratelimit").iter();
    let lines = lines.map(|line| line.to_str().expect("ASCII").to_owned());
    (response.status().as_u16(), lines.collect())
}

async fn hello(_: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello")))
}

#[tokio::test]
async fn unused_charge_sends_no_command() {
    let server = RedisServer::start();
    let backend = connect(&server).await;
    let policy = Policy::new("api", Quota::per_day(100_000));
    let mut service = ServiceBuilder::new()
        .layer(over(&policy, &backend).cost(7))
        .service_fn(async |request: Request<()>| {
            let charge = request.extensions().get::<Charge>().expect("a charge");
            assert_eq!(charge.estimate(), Some(Cost::new(7)));
            hello(request).await
        });
    warm_up(&server, &backend).await;
    for _ in 0..100 {
        assert_eq!(ask(&mut service).await.0, 200);
    }
    assert_eq!(backend.context().stats().background_tasks, 0);
    assert_eq!(scripts(&server), 100);

    // A settlement of the exact estimate sends no command either. Another one sends one.
    for (actual, count) in [(7, 100), (5, 200), (9, 200)] {
        let limit = over(&policy, &backend).cost(7);
        let mut service = ServiceBuilder::new()
            .layer(limit.on_response(move |_, charge| drop(charge.settle(actual))))
            .service_fn(hello);
        for _ in 0..100 {
            assert_eq!(ask(&mut service).await.0, 200);
        }
        while backend.context().stats().background_tasks > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(scripts(&server), count, "settled at {actual}");
    }
}

#[tokio::test]
async fn nested_layers_send_the_fewest_commands() {
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        let server = RedisServer::start();
        let backend = builder().atomicity(atomicity).connect(server.url()).await;
        let backend = backend.expect("a server");
        warm_up(&server, &backend).await;
        for (outer, inner, sent, spent) in
            [(5, 5, 1, 5), (1, 5, 2, 10), (5, 2, 2, 12), (0, 0, 1, 12)]
        {
            let mut service = ServiceBuilder::new()
                .layer(limit(&backend).cost(outer))
                .layer(limit(&backend).cost(inner))
                .service_fn(hello);
            let line = format!("\"api\";r={}", 100 - spent);
            assert_eq!(
                ask(&mut service).await,
                (200, vec![line]),
                "{outer}, {inner}"
            );
            if atomicity == Atomicity::Script {
                assert_eq!(scripts(&server), sent, "{outer} and {inner}");
            }
            assert_eq!(spent_tokens(&backend).await, spent);
            scripts(&server);
        }
        // Denied by the inner layer: the outer charge is refunded before the client gets its response.
        spend(&backend, 48).await;
        let mut service = ServiceBuilder::new()
            .layer(limit(&backend))
            .layer(limit(&backend).cost(41))
            .service_fn(hello);
        scripts(&server);
        let (status, lines) = ask(&mut service).await;
        assert_eq!(status, 429);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("\"api\";r=40;t="), "{lines:?}");
        if atomicity == Atomicity::Script {
            assert_eq!(scripts(&server), 3);
        }
        assert_eq!(spent_tokens(&backend).await, 60);
    }
}

/// A denial by the inner layer is cached for at most a second, and not beyond the refund that follows it.
#[tokio::test]
async fn refunded_tokens_are_available_after_an_inner_rejection() {
    let server = RedisServer::start();
    let backend = connect(&server).await;
    spend(&backend, 60).await;
    for _ in 0..10 {
        let mut dear = ServiceBuilder::new()
            .layer(limit(&backend))
            .layer(limit(&backend).cost(41))
            .service_fn(hello);
        assert_eq!(ask(&mut dear).await.0, 429);
        let mut just = ServiceBuilder::new()
            .layer(limit(&backend).cost(40))
            .service_fn(async |request: Request<()>| {
                let charge = request.extensions().get::<Charge>().expect("a charge");
                charge.cancel().await.expect("an answer");
                hello(request).await
            });
        assert_eq!(ask(&mut just).await.0, 200);
    }
    assert_eq!(spent_tokens(&backend).await, 60);
}

/// Each request passes two layers over Redis, and a single layer over memory, with the same clock.
#[tokio::test]
async fn two_layers_over_redis_answer_as_one_over_memory() {
    let server = RedisServer::start();
    let span = Duration::from_secs(10);
    let quotas = [
        Quota::token_bucket(10, 7, span),
        Quota::interval_bucket(10, 7, span),
        Quota::fixed_window(10, span),
        Quota::sliding_window(10, span),
        Quota::sliding_log(10, span),
    ];
    let mut denied = 0;
    for (number, quota) in quotas.into_iter().enumerate() {
        let policy = Policy::new(&format!("p{number}"), quota);
        let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
        let connection = Frozen::connect(&server.url(), &clock).await;
        // A cached denial would report its own wait to a higher cost.
        let builder = builder().clock(clock.clone()).deny_cache(Duration::ZERO);
        let backend = builder.from_transport(RedisConnection::new(connection));
        let twin = MemoryBackend::builder().clock(clock.clone()).build();
        for step in 0..150_u64 {
            clock.advance(Duration::from_micros((step * 7_919 % 4_001) * 997));
            let (outer, inner) = (step % 3, step * 31 % 12);
            let left = match twin.ask(Op::Check(Cost::ZERO), &policy, &key()) {
                Answer::Now(Ok(reply)) => reply.decision.snapshot().remaining(),
                _ => unreachable!("memory answers at once"),
            };
            let cost = if outer <= left { inner } else { outer };
            let alone = match twin.ask(Op::Check(cost.into()), &policy, &key()) {
                Answer::Now(Ok(reply)) => reply.decision,
                _ => unreachable!("memory answers at once"),
            };
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &backend).cost(outer))
                .layer(over(&policy, &backend).cost(inner))
                .service_fn(hello);
            let Ok(ready) = service.ready().await;
            let Ok(response) = ready.call(Request::new(())).await;
            let reported = response.extensions().get::<Decision>();
            assert_eq!(
                reported,
                Some(&alone),
                "{policy:?}, step {step}, {outer} and {inner}"
            );
            denied += u64::from(matches!(alone.retry_after(), Some(RetryAfter::In(_))));
        }
    }
    assert!(denied > 100, "{denied}");
}
