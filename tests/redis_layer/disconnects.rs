//! Settlements by Redis: connections that close, and clients that disconnect.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tower::ServiceBuilder;
use tower_sluice::backend::Backend;
use tower_sluice::{Charge, Limiter, RedisBackend, RetryAfter};

use crate::support::redis::RedisServer;
use crate::{
    DAY, TIMEOUT, ask, bucket, connect, hello, key, limit, spend, spent_tokens, wait_until_spent,
};

async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

/// A connection on which a request was sent.
async fn send(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a server");
    let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("a connection");
    stream
}

#[tokio::test]
async fn settlement_completes_after_the_connection_closes() {
    let server = Arc::new(RedisServer::start());
    let backend = connect(&server).await;
    let stops = Arc::clone(&server);
    let handler = async move |charge: Charge| {
        stops.pause();
        drop(charge.settle(4));
        "done"
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(limit(&backend).cost(10));
    let address = serve(app).await;
    let mut stream = send(address, "/").await;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    drop(stream);
    assert_eq!(backend.context().stats().background_tasks, 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.resume();
    wait_until_spent(&backend, 4).await;
    assert_eq!(backend.context().stats().failed_background_tasks, 0);
}

#[tokio::test]
async fn client_disconnect_keeps_the_handlers_settlement() {
    struct Measured(Charge);
    impl Drop for Measured {
        fn drop(&mut self) {
            drop(self.0.settle(3));
        }
    }
    let server = RedisServer::start();
    let backend = connect(&server).await;
    let begun = Arc::new(Notify::new());
    let signal = Arc::clone(&begun);
    let handler = async move |charge: Charge| {
        let _measured = Measured(charge);
        signal.notify_one();
        std::future::pending::<()>().await;
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(limit(&backend).cost(10));
    let address = serve(app).await;
    let stream = send(address, "/").await;
    begun.notified().await;
    assert_eq!(spent_tokens(&backend).await, 10);
    drop(stream);
    wait_until_spent(&backend, 3).await;
}

/// Signals its drop.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn refund_on_disconnect_applies_during_a_redis_check() {
    for (refunds, left) in [(false, 10), (true, 0)] {
        let server = RedisServer::start();
        let backend = connect(&server).await;
        let mut limit = limit(&backend).cost(10);
        if refunds {
            limit = limit.refund_on_disconnect();
        }
        let limited = get(async || "never").layer(limit);
        let dropped = Arc::new(Notify::new());
        let signal = Arc::clone(&dropped);
        let watched = from_fn(move |request: axum::extract::Request, next: Next| {
            let dropped = Dropped(Arc::clone(&signal));
            async move {
                let response = next.run(request).await;
                drop(dropped);
                response
            }
        });
        let app = Router::new().route("/", limited).layer(watched);
        // The script is loaded, and the connection is open.
        spend(&backend, 1).await;
        server.pause();
        let address = serve(app).await;
        let stream = send(address, "/").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(stream);
        dropped.notified().await;
        server.resume();
        wait_until_spent(&backend, 1 + left).await;
        assert_eq!(backend.context().stats().failed_background_tasks, 0);
    }
}

#[tokio::test]
async fn client_disconnect_while_waiting_cancels_its_reservation() {
    let server = RedisServer::start();
    let backend = connect(&server).await;
    spend(&backend, 100).await;
    let app = Router::new()
        .route("/", get(async || "never"))
        .layer(limit(&backend).wait(DAY));
    let address = serve(app).await;
    let stream = send(address, "/").await;
    let waiters = async |count: usize| {
        let start = Instant::now();
        while backend.context().stats().waiting != count {
            assert!(start.elapsed() < TIMEOUT);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    waiters(1).await;
    // Reserved: a later request has to wait longer.
    let limiter = Limiter::new(bucket(), backend.clone());
    let wait = async || {
        let reply = limiter.check(&key(), 1).await.expect("an answer");
        match reply.decision.retry_after() {
            Some(RetryAfter::In(wait)) => wait,
            other => panic!("{other:?}"),
        }
    };
    let reservation = DAY / 100;
    let start = Instant::now();
    while wait().await <= reservation {
        assert!(start.elapsed() < TIMEOUT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(stream);
    waiters(0).await;
    let start = Instant::now();
    while wait().await > reservation {
        assert!(start.elapsed() < TIMEOUT);
        // A denial is cached for up to a second.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn unanswered_settlement_is_counted_and_delays_no_client() {
    let server = Arc::new(RedisServer::start());
    let backend = RedisBackend::connect(server.url()).await;
    let backend = backend.expect("a server");
    let stops = Arc::clone(&server);
    let mut service = ServiceBuilder::new()
        .layer(limit(&backend).on_response(move |_, charge| {
            stops.pause();
            drop(charge.cancel());
        }))
        .service_fn(hello);
    let start = Instant::now();
    assert_eq!(ask(&mut service).await.0, 200);
    assert!(start.elapsed() < Duration::from_millis(200));
    assert_eq!(
        (
            backend.context().stats().background_tasks,
            backend.context().stats().failed_background_tasks
        ),
        (1, 0)
    );
    while backend.context().stats().background_tasks > 0 {
        assert!(start.elapsed() < TIMEOUT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(backend.context().stats().failed_background_tasks, 1);
    server.resume();
}
