//! Requests over HTTP while Redis is down, lost leases, and disconnected clients, with permits in Redis.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use http_body_util::BodyExt;
use tokio::time::sleep;
use tower_sluice::concurrency::{HeldPermit, SemaphoreLayer};
use tower_sluice::limiter::{HandleFailure, Unspecified};
use tower_sluice::response::Http;
use tower_sluice::semaphore::PermitBackend;
use tower_sluice::{
    Cost, FailurePolicy, Global, Key, MemoryBackend, PeerIp, RedisBackend, RedisSemaphore,
    Semaphore, SemaphorePolicy,
};

use crate::servers::redis::RedisServer;
use crate::support::{ClientResponse, TIMEOUT, client, get as request, listen};

const LEASE: Duration = Duration::from_secs(2);

fn permits(capacity: u32) -> SemaphorePolicy {
    SemaphorePolicy::new("exports", capacity).with_lease(LEASE)
}

async fn connect(server: &RedisServer) -> RedisSemaphore {
    let redis = RedisBackend::connect(&server.url())
        .await
        .expect("the server runs");
    RedisSemaphore::new(&redis)
}

async fn serve(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn ask(address: SocketAddr, path: &str) -> ClientResponse {
    let response = client(1).request(request(address, path)).await;
    ClientResponse::of(response.expect("an answer")).await
}

/// Waits until the circuit permits the next attempt, for a second or two.
async fn recovers(semaphore: &RedisSemaphore) {
    let (since, key) = (Instant::now(), Key::from("nobody"));
    let semaphore = Semaphore::new(permits(1), semaphore.clone());
    while semaphore.peek(&key).await.is_err() {
        assert!(since.elapsed() < TIMEOUT);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_policy_applies_while_redis_is_down() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    let (entered, go) = (
        std::sync::Arc::new(tokio::sync::Semaphore::new(0)),
        std::sync::Arc::new(tokio::sync::Semaphore::new(0)),
    );
    let (enter, wait) = (entered.clone(), go.clone());
    let slow = move || async move {
        enter.add_permits(1);
        wait.acquire().await.expect("open").forget();
        "done"
    };
    let limit = || SemaphoreLayer::new(permits(2), PeerIp::new(), redis.clone());
    let app = Router::new()
        .route(
            "/allow",
            get(|| async { "ok" }).layer(limit().on_backend_error(FailurePolicy::FailOpen)),
        )
        .route(
            "/deny",
            get(|| async { "ok" }).layer(limit().on_backend_error(FailurePolicy::FailClosed)),
        )
        .route(
            "/fallback",
            get(slow)
                .layer(limit().on_backend_error(FailurePolicy::Fallback(MemoryBackend::new()))),
        );
    let address = serve(app).await;
    assert_eq!(
        ask(address, "/deny").await.lines("ratelimit"),
        ["\"exports\";r=1"]
    );

    server.kill9();
    let context = redis.context();
    for round in 1..=5 {
        let passed = ask(address, "/allow").await;
        assert_eq!((passed.status.as_u16(), &*passed.body), (200, "ok"));
        assert!(passed.has_no_rate_limit_fields());
        assert_eq!(context.stats().unpermitted, round);
    }
    let rejected = ask(address, "/deny").await;
    assert_eq!(rejected.status, 503);
    let head: Vec<_> = rejected
        .head()
        .into_iter()
        .filter(|(name, _)| *name != "date")
        .collect();
    assert_eq!(
        head,
        [
            ("cache-control", "no-store"),
            ("content-length", "65"),
            ("content-type", "application/problem+json"),
            ("retry-after", "1"),
        ]
    );
    // This process has two permits of its own.
    let two: Vec<_> = (0..2)
        .map(|_| tokio::spawn(ask(address, "/fallback")))
        .collect();
    entered.acquire_many(2).await.expect("open").forget();
    let third = ask(address, "/fallback").await;
    assert_eq!(third.status, 429);
    assert_eq!(third.lines("ratelimit"), ["\"exports\";r=0;t=1"]);
    go.add_permits(2);
    for held in two {
        assert_eq!(held.await.expect("no panic").body, "done");
    }

    server.restart();
    recovers(&redis).await;
    let back = ask(address, "/deny").await;
    assert_eq!(
        back.lines("ratelimit"),
        ["\"exports\";r=1"],
        "Redis counts again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_learns_that_redis_lost_its_permit() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    let handler = |held: HeldPermit| async move {
        let kept = held.keep();
        tokio::select! {
            () = held.lost() => format!("lost {}", kept.is_lost()),
            () = sleep(TIMEOUT) => "never told".to_owned(),
        }
    };
    let limit = SemaphoreLayer::new(permits(1), Global, redis.clone())
        .on_backend_error(FailurePolicy::FailClosed);
    let address = serve(Router::new().route("/", get(handler)).layer(limit)).await;
    let call = tokio::spawn(ask(address, "/"));
    let semaphore = Semaphore::new(permits(1), redis.clone());
    let since = Instant::now();
    while semaphore
        .peek(&Key::from("global"))
        .await
        .expect("the backend replies")
        .remaining()
        > 0
    {
        assert!(since.elapsed() < TIMEOUT);
        sleep(Duration::from_millis(5)).await;
    }
    server.kill9();
    server.restart();
    assert_eq!(call.await.expect("no panic").body, "lost true");
    assert_eq!(redis.context().stats().lost_permits, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnected_clients_release_their_permits_before_the_lease_ends() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let long = permits(3).with_lease(Duration::from_secs(3_600));
    let limit = SemaphoreLayer::new(long.clone(), Global, redis.clone())
        .on_backend_error(FailurePolicy::FailClosed);
    let streams = || async {
        let never = futures_util::stream::pending::<Result<String, std::convert::Infallible>>();
        axum::body::Body::from_stream(never)
    };
    let address = serve(Router::new().route("/", get(streams)).layer(limit)).await;
    let semaphore = Semaphore::new(long, redis);
    let remaining = async || {
        let snapshot = semaphore.peek(&Key::from("global")).await;
        snapshot.expect("the backend replies").remaining()
    };
    for round in 0..20_u64 {
        let mut open = Vec::new();
        for left in (0..3).rev() {
            let client = client(1);
            let response = client.request(request(address, "/")).await.expect("a head");
            assert_eq!(response.status(), 200, "round {round}");
            let reported = format!("\"exports\";r={left}");
            assert_eq!(response.headers()["ratelimit"], reported);
            open.push((response.into_body(), client));
        }
        assert_eq!(ask(address, "/").await.status, 503);
        if round % 2 == 0 {
            let (body, _) = &mut open[0];
            assert!(futures_util::FutureExt::now_or_never(body.frame()).is_none());
        }
        drop(open);
        let since = Instant::now();
        while remaining().await < 3 {
            assert!(
                since.elapsed() < TIMEOUT,
                "round {round}: {}",
                remaining().await
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A layer over a backend that cannot fail needs no failure policy. Over Redis it needs one: the compiler says so where
/// the layer is documented.
#[test]
fn only_fallible_backends_need_a_failure_policy() {
    fn needs_no_policy<E>()
    where
        Unspecified: HandleFailure<E>,
    {
    }
    needs_no_policy::<std::convert::Infallible>();
    fn is_default<K, S>(_: Option<SemaphoreLayer<K, S, Cost, Unspecified, Http>>) {}
    is_default(None::<SemaphoreLayer<Global, RedisSemaphore>>);
}
