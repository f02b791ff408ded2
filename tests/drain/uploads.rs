//! Whole uploads over real connections.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use http::Request;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;
use tower_sluice::drain::DrainLayer;

use crate::wire::{GET, TIMEOUT, UPLOAD, Wire, app, blocking, denies, head, serve};

/// The statuses that clients see which write a whole upload before they read.
async fn statuses(address: SocketAddr, clients: usize, upload: Vec<u8>) -> Vec<Option<u16>> {
    blocking(move || {
        let seen = (0..clients).map(|_| {
            let mut wire = Wire::open(address);
            wire.write(&upload).ok()?;
            wire.status()
        });
        seen.collect()
    })
    .await
}

fn sized(bytes: usize) -> Vec<u8> {
    let mut upload = head(&format!("content-length: {bytes}\r\n"));
    upload.resize(upload.len() + bytes, b'x');
    upload
}

fn chunked(bytes: usize) -> Vec<u8> {
    let mut upload = head("transfer-encoding: chunked\r\n");
    for _ in 0..bytes / 0x1000 {
        upload.extend_from_slice(b"1000\r\n");
        upload.resize(upload.len() + 0x1000, b'x');
        upload.extend_from_slice(b"\r\n");
    }
    upload.extend_from_slice(b"0\r\nx-trailer: yes\r\n\r\n");
    upload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_sees_the_429_of_a_rejected_upload() {
    let address = serve(app().layer(DrainLayer::new())).await;
    for upload in [sized(UPLOAD), chunked(UPLOAD)] {
        assert_eq!(statuses(address, 10, upload).await, [Some(429); 10]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_drained_app_see_every_response() {
    let app = Router::new()
        .route("/upload", post(async |body: Bytes| body.len().to_string()))
        .layer(DefaultBodyLimit::max(1_000))
        .layer(DrainLayer::new());
    let address = serve(app).await;
    assert_eq!(statuses(address, 10, sized(UPLOAD)).await, [Some(413); 10]);
    let address = serve(
        Router::new()
            .fallback(async || "nothing read")
            .layer(DrainLayer::new()),
    )
    .await;
    assert_eq!(statuses(address, 10, sized(UPLOAD)).await, [Some(200); 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_usable_after_a_drain() {
    let address = serve(app().layer(DrainLayer::new())).await;
    for upload in [sized(UPLOAD), chunked(UPLOAD)] {
        let seen = blocking(move || {
            let mut wire = Wire::open(address);
            let mut seen = Vec::new();
            for _ in 0..3 {
                wire.write(&upload).expect("written");
                seen.push(wire.status());
                wire.write(GET).expect("written");
                seen.push(wire.status());
            }
            seen
        });
        let (denied, hello) = (Some(429), Some(200));
        assert_eq!(seen.await, [denied, hello, denied, hello, denied, hello]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hyper_client_sees_the_429() {
    let address = serve(app().layer(DrainLayer::new())).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    for _ in 0..10 {
        let request = Request::post(format!("http://{address}/upload"));
        let request = request
            .body(Full::from(vec![b'x'; UPLOAD]))
            .expect("a valid head");
        let response = timeout(TIMEOUT, client.request(request))
            .await
            .expect("in time");
        let response = response.expect("an answer");
        assert_eq!(response.status(), 429);
        let body = response.into_body().collect().await.expect("a whole body");
        assert!(body.to_bytes().starts_with(b"{\"type\":"));
    }
}

/// The client waits for the final status, and gets no other one: the service never polled its body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_100_continue_gets_the_429_first() {
    let address = serve(app().layer(DrainLayer::new())).await;
    let seen = blocking(move || {
        let mut wire = Wire::open(address);
        let fields = format!("expect: 100-continue\r\ncontent-length: {UPLOAD}\r\n");
        wire.write(&head(&fields)).expect("written");
        (wire.status(), wire.is_closed())
    });
    assert_eq!(seen.await, (Some(429), true));
}

/// The service has read a part: the client got `100 Continue`, and sends its body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_asked_to_continue_is_drained() {
    let reads_a_part = post(async |mut body: Body| {
        let frame = body.frame().await;
        assert!(frame.is_some());
        "enough"
    });
    let app = Router::new()
        .route("/upload", reads_a_part)
        .layer(DrainLayer::new());
    let address = serve(app).await;
    let seen = blocking(move || {
        let mut wire = Wire::open(address);
        let fields = format!("expect: 100-continue\r\ncontent-length: {UPLOAD}\r\n");
        wire.write(&head(&fields)).expect("written");
        let asked = wire.status();
        wire.write(&vec![b'x'; UPLOAD]).expect("written");
        let answered = wire.status();
        wire.write(&head("content-length: 0\r\n")).expect("written");
        (asked, answered)
    });
    assert_eq!(seen.await, (Some(100), Some(200)));
}

/// The response does not wait for the drain. The connection ends with its time limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_body_is_abandoned_after_the_time_limit() {
    let hours = DrainLayer::new().time_limit(Duration::from_secs(36_000));
    let short = DrainLayer::new().time_limit(Duration::from_millis(100));
    let slow = |layer: DrainLayer| async move {
        let address = serve(app().layer(layer)).await;
        blocking(move || {
            let mut wire = Wire::open(address);
            let mut upload = head(&format!("content-length: {UPLOAD}\r\n"));
            upload.resize(upload.len() + 100_000, b'x');
            wire.write(&upload).expect("written");
            (wire.status(), wire)
        })
        .await
    };
    let (status, _open) = slow(hours).await;
    assert_eq!(status, Some(429), "at once");
    let (status, mut wire) = slow(short).await;
    assert_eq!(status, Some(429));
    assert!(blocking(move || wire.is_closed()).await);
}

/// A client that reads while it writes sees the response. Another client is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_above_the_bound_ends_its_connection() {
    let address = serve(app().layer(DrainLayer::new().max_bytes(256 << 10))).await;
    let (status, is_closed) = blocking(move || {
        let mut wire = Wire::open(address);
        wire.write(&head("content-length: 1000000000000\r\n"))
            .expect("written");
        let status = wire.status();
        let piece = vec![b'x'; 1 << 20];
        let is_cut_off = (0..1_000).any(|_| wire.write(&piece).is_err());
        (status, is_cut_off)
    })
    .await;
    assert_eq!((status, is_closed), (Some(429), true));
}

/// An endless stream: HTTP/2 resets it without the layer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_answered_without_a_drain() {
    let address = serve(app().layer(DrainLayer::new())).await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    for _ in 0..10 {
        let frames = futures_util::stream::repeat_with(|| {
            Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(
                &[0; 1_000],
            )))
        });
        let request = Request::post(format!("http://{address}/upload"));
        let request = request.body(StreamBody::new(frames)).expect("a valid head");
        let response = timeout(TIMEOUT, client.request(request))
            .await
            .expect("in time");
        let response = response.expect("an answer");
        assert_eq!(
            (response.status().as_u16(), response.version()),
            (429, http::Version::HTTP_2)
        );
    }
}

/// A second layer around the first changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_layer_wraps_a_router() {
    let inner = Router::new()
        .route("/upload", post(async |body: Bytes| body.len().to_string()))
        .layer(denies())
        .layer(DrainLayer::new());
    let address = serve(inner.layer(DrainLayer::new())).await;
    assert_eq!(statuses(address, 5, sized(UPLOAD)).await, [Some(429); 5]);
}
