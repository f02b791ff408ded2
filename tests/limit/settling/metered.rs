//! A meter settles its charge at what a stream has counted, however the stream ends.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tower::ServiceExt;
use tower_sluice::charge::Meter;
use tower_sluice::cost::HeaderCost;
use tower_sluice::{Charge, Cost, Key, Limiter, Policy, Quota};

use super::{bucket, key, limit, spent_tokens};
use crate::remote::Remote;
use crate::support::{ClientResponse, memory, run_other_tasks, spent};

/// Sends the body to `/`.
async fn post_body(app: &Router, body: Body) -> StatusCode {
    let request = Request::post("/").body(body).expect("a valid head");
    let Ok(response) = app.clone().oneshot(request).await;
    ClientResponse::of(response).await.status
}

fn chunks(
    chunks: &'static [&'static str],
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    stream::iter(chunks).map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())))
}

/// Counts the bytes of each request's body, and settles with the end of the body.
async fn metered(charge: Charge, request: Request, next: Next) -> Response {
    let meter = charge.meter();
    next.run(request.map(|body| Body::new(meter.body(body))))
        .await
}

#[tokio::test]
async fn request_is_charged_the_bytes_that_were_read() {
    let memory = memory();
    let app = Router::new()
        .route("/", post(async |body: Bytes| assert_eq!(body, "abcdef")))
        .layer(from_fn(metered))
        .layer(limit(&memory));
    assert_eq!(
        post_body(&app, Body::from_stream(chunks(&["abc", "def"]))).await,
        200
    );
    assert_eq!(spent_tokens(&memory), 6);
}

#[tokio::test]
async fn body_that_nobody_reads_is_free() {
    let memory = memory();
    let app = Router::new()
        .route("/", post(async || "done"))
        .layer(from_fn(metered))
        .layer(limit(&memory));
    assert_eq!(post_body(&app, Body::from("abcdef")).await, 200);
    assert_eq!(spent_tokens(&memory), 0);
}

#[tokio::test]
async fn body_that_is_too_large_is_charged_what_was_read() {
    let memory = memory();
    let app = Router::new()
        .route("/", post(async |_: Bytes| ()))
        .layer(DefaultBodyLimit::max(4))
        .layer(from_fn(metered))
        .layer(limit(&memory));
    let body = Body::from_stream(chunks(&["abc", "def", "ghi"]));
    assert_eq!(post_body(&app, body).await, 413);
    assert_eq!(spent_tokens(&memory), 6);
}

#[tokio::test]
async fn response_is_charged_until_the_client_leaves() {
    let memory = memory();
    let app = Router::new()
        .route(
            "/",
            get(async |charge: Charge| {
                let lines = stream::repeat(Ok::<_, Infallible>(Bytes::from_static(b"line\n")));
                Response::new(Body::new(charge.meter().body(Body::from_stream(lines))))
            }),
        )
        .layer(limit(&memory));
    let Ok(response) = app.oneshot(Request::new(Body::empty())).await;
    let mut body = response.into_body();
    for _ in 0..5 {
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "line\n");
        assert_eq!(spent_tokens(&memory), 10, "the estimate");
    }
    drop(body);
    assert_eq!(spent_tokens(&memory), 25);
}

/// A body of three bytes whose end is known with the last of them, or that fails after them.
struct Three(u8, bool);

impl http_body::Body for Three {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.0 == 0 {
            return Poll::Ready(self.1.then(|| Err(std::io::Error::other("reset"))));
        }
        self.0 -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0 && !self.1
    }
}

#[tokio::test]
async fn meter_ends_with_the_last_byte_or_an_error_and_not_with_the_drop() {
    for fails in [false, true] {
        let memory = memory();
        let limiter = Limiter::new(bucket(), memory.clone());
        let charge = limiter.try_acquire(&key(), 10).await.expect("allowed");
        let mut body = charge.meter().body(Three(3, fails));
        for left in [2, 1, 0] {
            assert_eq!(spent_tokens(&memory), 10);
            assert!(body.frame().await.expect("a frame").is_ok());
            assert_eq!(http_body::Body::is_end_stream(&body), left == 0 && !fails);
        }
        if fails {
            assert_eq!(spent_tokens(&memory), 10);
            assert!(body.frame().await.expect("a frame").is_err());
        }
        assert_eq!(spent_tokens(&memory), 3, "the body still exists");
        drop(body);
        assert_eq!(spent_tokens(&memory), 3);
    }
}

#[tokio::test]
async fn clones_of_a_meter_settle_once_with_their_sum() {
    let memory = memory();
    let limiter = Limiter::new(bucket(), memory.clone());
    let charge = limiter.try_acquire(&key(), 10).await.expect("allowed");
    let meter = charge.meter();
    let other = meter.clone();
    meter.add(20);
    drop(meter);
    assert_eq!(spent_tokens(&memory), 10, "a clone is left");
    other.add(7);
    assert_eq!(other.counted(), 27);
    drop(other);
    assert_eq!(spent_tokens(&memory), 27);
    assert!(charge.cancel().await.is_err(), "the charge is settled");
}

#[tokio::test]
async fn first_settlement_takes_effect() {
    let memory = memory();
    let limiter = Limiter::new(bucket(), memory.clone());
    let charge = limiter.try_acquire(&key(), 10).await.expect("allowed");
    let meter = charge.meter();
    meter.add(50);
    charge.settle(4).await.expect("the first settlement");
    assert!(meter.settle().await.is_err());
    drop(meter);
    assert_eq!(spent_tokens(&memory), 4);

    let charge = limiter.try_acquire(&key(), 10).await.expect("allowed");
    let meter = charge.meter();
    meter.add(2);
    meter.settle().await.expect("the first settlement");
    meter.add(50);
    drop(meter);
    assert_eq!(spent_tokens(&memory), 6);
}

#[tokio::test]
async fn count_stops_at_the_largest_number() {
    let limiter = Limiter::new(bucket(), memory());
    let charge = limiter.try_acquire(&key(), 1).await.expect("allowed");
    let meter = charge.meter();
    meter.add(u64::MAX - 1);
    meter.add(5);
    assert_eq!(meter.counted(), u64::MAX);
    drop(meter);
    // The debt of a key is bounded by twice the limit.
    assert!(limiter.try_acquire(&key(), 1).await.is_err());
}

#[tokio::test]
async fn meter_converts_units_for_each_quota() {
    let policy = Policy::new("requests", Quota::per_hour(10)).and("kib", Quota::per_hour(100));
    let memory = memory();
    let limiter = Limiter::new(policy.clone(), memory.clone());
    let cost = Cost::each([1, 20]);
    let charge = limiter.try_acquire(&key(), cost).await.expect("allowed");
    let meter = charge.meter_by(|bytes| Cost::each([1, bytes.div_ceil(1_024)]));
    meter.add(5_000);
    drop(meter);
    assert_eq!(spent(&memory, &policy, &key()), [1, 5]);
}

#[tokio::test]
async fn meter_settles_in_the_background_when_a_task_is_aborted() {
    let remote = Remote::delayed();
    let limiter = Limiter::new(bucket(), remote.clone());
    let charge = limiter.try_acquire(&key(), 10).await.expect("allowed");
    let meter: Meter = charge.meter();
    let task = tokio::spawn(async move {
        meter.add(3);
        std::future::pending::<()>().await;
    });
    run_other_tasks().await;
    task.abort();
    run_other_tasks().await;
    assert_eq!(spent_tokens(&remote.memory), 3);
    assert_eq!(remote.operations(), ["check 10", "refund 7"]);
}

#[tokio::test]
async fn one_call_refunds_what_a_later_layer_rejects() {
    let memory = memory();
    let uploads = limit(&memory)
        .cost(HeaderCost::required(CONTENT_LENGTH))
        .refund_on_status(|status| status == StatusCode::PAYLOAD_TOO_LARGE);
    let app = Router::new()
        .route("/", post(async |body: Bytes| drop(body)))
        .layer(DefaultBodyLimit::max(4))
        .layer(uploads);
    let send = async |body: &'static str| {
        let request = Request::post("/").header(CONTENT_LENGTH, body.len());
        let request = request.body(Body::from(body)).expect("a valid head");
        let Ok(response) = app.clone().oneshot(request).await;
        response.status()
    };
    assert_eq!(send("abcdef").await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(spent_tokens(&memory), 0);
    assert_eq!(send("abcd").await, StatusCode::OK);
    assert_eq!(spent_tokens(&memory), 4);
    assert_eq!(
        post_body(&app, Body::from("abc")).await,
        StatusCode::LENGTH_REQUIRED
    );
    assert_eq!(spent_tokens(&memory), 4);
}

#[tokio::test]
async fn charge_of_a_key_with_personal_data_is_not_shown_by_a_meter() {
    let limiter = Limiter::new(bucket(), memory());
    let charge = limiter.try_acquire(&Key::from("ann@example.org"), 1).await;
    let text = format!("{:?}", charge.expect("allowed").meter());
    assert!(
        text.starts_with("Meter(Count") && !text.contains("ann"),
        "{text}"
    );
}
