//! Which waiters leave their queue on a disconnect: what an HTTP/1.1 server notices of a closed connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::any;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower_sluice::backend::Backend;
use tower_sluice::clock::ManualClock;
use tower_sluice::drain::DrainLayer;
use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};

use crate::wire::{Memory, TIMEOUT, UPLOAD, Wire, blocking, clock, head, serve};

/// One request a second is allowed, and the others wait.
async fn waiting() -> (SocketAddr, Memory, ManualClock) {
    let clock = clock();
    let memory = MemoryBackend::builder().clock(clock.clone()).build();
    let policy = Policy::new("uploads", Quota::per_second(1));
    let limit = RateLimitLayer::new(policy, Global, memory.clone()).wait(Duration::from_secs(60));
    let app = Router::new()
        .fallback(any(async |body: Bytes| body.len().to_string()))
        .layer(limit)
        .layer(DrainLayer::new());
    let address = serve(app).await;
    let first = blocking(move || {
        let mut wire = Wire::open(address);
        wire.write(crate::wire::GET).expect("written");
        wire.status()
    });
    assert_eq!(first.await, Some(200));
    (address, memory, clock)
}

async fn waiters(memory: &Memory, count: usize) {
    let start = Instant::now();
    while memory.context().stats().waiting != count {
        assert!(
            start.elapsed() < TIMEOUT,
            "{} wait",
            memory.context().stats().waiting
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn upload(bytes: usize) -> Vec<u8> {
    let mut upload = head(&format!("content-length: {bytes}\r\n"));
    upload.resize(upload.len() + bytes, b'x');
    upload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_an_unread_body_leaves_the_queue() {
    let (address, memory, _clock) = waiting().await;
    for request in [crate::wire::GET.to_vec(), upload(100)] {
        let mut wire = Wire::open(address);
        wire.write(&request).expect("written");
        waiters(&memory, 1).await;
        drop(wire);
        waiters(&memory, 0).await;
    }
}

/// The server does not read the connection. The waiter leaves when its wait ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_an_unread_body_stays_in_the_queue_until_its_wait_ends() {
    let (address, memory, clock) = waiting().await;
    let writer = std::thread::spawn(move || {
        let mut wire = Wire::open(address);
        // More than the sockets can buffer: the rest is never read.
        wire.write(&upload(UPLOAD)[..UPLOAD / 4]).ok();
        wire
    });
    waiters(&memory, 1).await;
    drop(writer.join().expect("no panic"));
    let (other, _) = (Wire::open(address), ());
    let mut other = other;
    other.write(crate::wire::GET).expect("written");
    waiters(&memory, 2).await;
    clock.advance(Duration::from_secs(1));
    waiters(&memory, 1).await;
    clock.advance(Duration::from_secs(1));
    assert_eq!(blocking(move || other.status()).await, Some(200));
    waiters(&memory, 0).await;
}

/// HTTP/2 says that a stream is reset, whatever is unread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http_2_leaves_the_queue_with_its_body_unread() {
    let (address, memory, _clock) = waiting().await;
    let call = |body: usize| {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http::<Full<Bytes>>();
        let request = Request::post(format!("http://{address}/upload"));
        let request = request.body(Full::from(vec![b'x'; body]));
        let call = client.request(request.expect("a valid head"));
        (client, tokio::spawn(call))
    };
    for body in [0, 100, UPLOAD] {
        // The stream ends, and its connection stays.
        let (client, stream) = call(body);
        waiters(&memory, 1).await;
        stream.abort();
        waiters(&memory, 0).await;
        drop(client);
    }
    // Of two streams on one connection, the other one keeps its place.
    let (client, left) = call(UPLOAD);
    waiters(&memory, 1).await;
    let request = Request::get(format!("http://{address}/")).body(Full::default());
    let stays = tokio::spawn(client.request(request.expect("a valid head")));
    waiters(&memory, 2).await;
    left.abort();
    waiters(&memory, 1).await;
    assert!(!stays.is_finished());
    stays.abort();
    waiters(&memory, 0).await;
}
