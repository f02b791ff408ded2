//! Permits of real connections: clients that disconnect, read slowly, or whose handler panics.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tower::Layer;
use tower_sluice::MemorySemaphore;

use super::{in_memory, serve};
use crate::support::{self, TIMEOUT, get as request, listen};

/// A stream of numbers, one every 20 ms, until the client disconnects.
async fn numbers() -> Body {
    Body::from_stream(stream::iter(0_u64..).then(|number| async move {
        sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(format!("{number}\n"))
    }))
}

async fn until_held(memory: &MemorySemaphore, held: u64) {
    let wait = async {
        while memory.held() != held {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let reached = timeout(TIMEOUT, wait).await;
    assert!(reached.is_ok(), "{} are held, not {held}", memory.held());
}

#[tokio::test]
async fn client_disconnect_half_way_releases_its_permit() {
    let (memory, layer) = in_memory(1);
    let app = Router::new().route("/", get(numbers)).layer(layer);
    let address = serve(app).await;
    for _ in 0..3 {
        let client = support::client(1);
        let response = client.request(request(address, "/")).await.expect("a head");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        for _ in 0..3 {
            assert!(body.frame().await.expect("a frame").is_ok());
        }
        let second = support::client(1).request(request(address, "/")).await;
        assert_eq!(second.expect("an answer").status(), 503);
        drop((body, client));
        until_held(&memory, 0).await;
    }
}

#[tokio::test]
async fn body_that_is_never_sent_releases_its_permit_with_the_head() {
    let (memory, layer) = in_memory(1);
    let answer = async |request: Request<hyper::body::Incoming>| {
        let status = request.uri().path().trim_start_matches('/').parse();
        let response = Response::builder().status::<u16>(status.expect("a status"));
        let never = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        response.body(http_body_util::StreamBody::new(never))
    };
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = layer.clone().layer(tower::service_fn(answer));
            let service = hyper_util::service::TowerToHyperService::new(service);
            let stream = hyper_util::rt::TokioIo::new(stream);
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(stream, service));
        }
    });
    let client = support::client(1);
    for (method, path) in [("HEAD", "/200"), ("GET", "/204"), ("GET", "/304")] {
        let mut request = request(address, path);
        *request.method_mut() = method.parse().expect("a method");
        let response = client.request(request).await.expect("a head");
        assert_eq!(response.status().as_str(), &path[1..]);
        until_held(&memory, 0).await;
    }
    let stream = client.request(request(address, "/200")).await;
    assert_eq!(memory.held(), 1, "this body is sent");
    drop(stream);
}

#[tokio::test]
async fn client_disconnect_before_the_head_releases_its_permit() {
    let (memory, layer) = in_memory(1);
    let app = Router::new()
        .route("/", get(|| sleep(Duration::from_secs(3_600))))
        .layer(layer);
    let address = serve(app).await;
    let mut client = TcpStream::connect(address)
        .await
        .expect("the receiver is open");
    let head = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(head).await.expect("the reader is open");
    until_held(&memory, 1).await;
    drop(client);
    until_held(&memory, 0).await;
}

#[tokio::test]
async fn slow_reader_holds_its_permit_until_it_has_read_everything() {
    const CHUNK: usize = 1 << 20;
    let (memory, layer) = in_memory(1);
    let large = || async {
        let chunk = Bytes::from(vec![b'x'; CHUNK]);
        Body::from_stream(stream::iter(
            (0..32).map(move |_| Ok::<_, Infallible>(chunk.clone())),
        ))
    };
    let address = serve(Router::new().route("/", get(large)).layer(layer)).await;
    let mut client = TcpStream::connect(address)
        .await
        .expect("the receiver is open");
    let head = b"GET / HTTP/1.0\r\n\r\n";
    client.write_all(head).await.expect("the reader is open");
    until_held(&memory, 1).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(memory.held(), 1, "the sockets cannot buffer 32 MiB");
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.expect("the whole body");
    assert!(read.len() > 32 * CHUNK);
    until_held(&memory, 0).await;
}

#[tokio::test]
async fn panicking_handler_releases_its_permit() {
    let (memory, layer) = in_memory(1);
    let panics = || async {
        if Duration::ZERO.is_zero() {
            panic!("on purpose")
        }
    };
    let address = serve(Router::new().route("/", get(panics)).layer(layer)).await;
    for _ in 0..3 {
        let answer = support::client(1).request(request(address, "/")).await;
        assert!(answer.is_err(), "the connection was cut");
        until_held(&memory, 0).await;
    }
}
