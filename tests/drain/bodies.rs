//! Which bodies are polled, and how far, with a paused clock.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::drain::{DrainBody, DrainLayer};

/// Frames of 1 000 bytes, then the end, or a stall.
struct Counted {
    left: usize,
    stalls: bool,
    seen: ClientResponse,
}

#[derive(Clone, Default)]
struct ClientResponse {
    polls: Arc<AtomicUsize>,
    is_dropped: Arc<AtomicBool>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.seen.polls.fetch_add(1, SeqCst);
        match self.left {
            0 if self.stalls => Poll::Pending,
            0 => Poll::Ready(None),
            _ => {
                self.left -= 1;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 1_000])))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && !self.stalls
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.seen.is_dropped.store(true, SeqCst);
    }
}

fn body(frames: usize, stalls: bool) -> (Counted, ClientResponse) {
    let seen = ClientResponse::default();
    let body = Counted {
        left: frames,
        stalls,
        seen: seen.clone(),
    };
    (body, seen)
}

fn request(body: Counted) -> Request<Counted> {
    Request::post("/upload").body(body).expect("a valid head")
}

/// A service that reads this many frames and answers.
fn reads(
    frames: usize,
) -> impl Service<Request<DrainBody<Counted>>, Response = Response<()>, Error = Infallible> + Clone
{
    tower::service_fn(move |request: Request<DrainBody<Counted>>| async move {
        let mut body = request.into_body();
        for _ in 0..frames {
            body.frame().await;
        }
        Ok(Response::new(()))
    })
}

/// How often the body is polled until the drain ends.
async fn polls(layer: DrainLayer, frames_read: usize, request: Request<Counted>) -> usize {
    let polls = Arc::clone(&request.body().seen.polls);
    let answer = layer.layer(reads(frames_read)).oneshot(request).await;
    answer.expect("no error");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    polls.load(SeqCst)
}

#[tokio::test(start_paused = true)]
async fn unread_body_is_drained_up_to_the_bound() {
    let layer = DrainLayer::new();
    // Ten frames, and no poll after the last one.
    for frames_read in [0, 1, 9, 10] {
        assert!((10..=11).contains(&polls(layer, frames_read, request(body(10, false).0)).await));
    }
    // The frame that exceeds the bound is the last one.
    for (max_bytes, expected) in [(3_000, 4), (3_001, 4), (2_999, 3), (1, 1), (0, 0)] {
        let layer = layer.max_bytes(max_bytes);
        assert_eq!(
            polls(layer, 0, request(body(10, false).0)).await,
            expected,
            "{max_bytes}"
        );
    }
    let off = layer.time_limit(Duration::ZERO);
    assert_eq!(polls(off, 0, request(body(10, false).0)).await, 0);
    let longest = layer.time_limit(Duration::MAX).max_bytes(u64::MAX);
    assert_eq!(polls(longest, 0, request(body(10, false).0)).await, 11);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_dropped_after_the_time_limit() {
    let (body, seen) = body(1, true);
    let start = tokio::time::Instant::now();
    let answer = DrainLayer::new()
        .layer(reads(0))
        .oneshot(request(body))
        .await;
    answer.expect("no error");
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "the response must not wait"
    );
    let after = async |time: u64| {
        tokio::time::sleep_until(start + Duration::from_millis(time)).await;
        seen.is_dropped.load(SeqCst)
    };
    assert!(!after(4_999).await);
    assert!(after(5_001).await);
}

#[tokio::test(start_paused = true)]
async fn http_2_grpc_and_expect_requests_are_not_drained() {
    let with = |name: &'static str, value: &'static str| {
        let mut request = request(body(10, false).0);
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
        request
    };
    let layer = DrainLayer::new();
    for version in [Version::HTTP_2, Version::HTTP_3] {
        let mut request = request(body(10, false).0);
        *request.version_mut() = version;
        assert_eq!(polls(layer, 0, request).await, 0, "{version:?}");
    }
    for kind in ["application/grpc", "application/grpc-web+proto"] {
        assert_eq!(
            polls(layer, 0, with("content-type", kind)).await,
            0,
            "{kind}"
        );
    }
    // No gRPC call: it is answered as HTTP, and the answer must be seen.
    let mut put = with("content-type", "application/grpc");
    *put.method_mut() = http::Method::PUT;
    assert_eq!(polls(layer, 0, put).await, 11);
    for expectation in ["100-continue", "100-Continue"] {
        assert_eq!(polls(layer, 0, with("expect", expectation)).await, 0);
        // The service has polled the body.
        assert_eq!(polls(layer, 1, with("expect", expectation)).await, 11);
    }
    let mut old = request(body(10, false).0);
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(polls(layer, 0, old).await, 11);
    assert_eq!(
        polls(layer, 0, with("content-type", "text/plain")).await,
        11
    );
}

#[test]
fn outside_of_a_runtime_a_body_is_dropped() {
    let (body, seen) = body(10, false);
    let service = DrainLayer::new().layer(reads(0));
    let answer = futures_util::FutureExt::now_or_never(service.oneshot(request(body)));
    answer.expect("at once").expect("no error");
    assert_eq!(seen.polls.load(SeqCst), 0);
    assert!(seen.is_dropped.load(SeqCst));
}
