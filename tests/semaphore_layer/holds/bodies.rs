//! A permit is held until the response ends: by its last byte, an error, a panic or a drop.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::concurrency::Hold;

use crate::services::{Feed, fed, memory, reported, two_each};
use crate::support::{from, hello, now, run_other_tasks};

fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// A response through the layer, whose body the test feeds.
async fn streaming(
    hold: Hold,
) -> (
    Feed,
    Response<impl http_body::Body<Data = Bytes, Error = &'static str>>,
    crate::services::Memory,
) {
    let memory = memory();
    let (service, mut called) = reported();
    let mut service = two_each(&memory).hold(hold).wrap_body().layer(service);
    let response = service.ready().await.expect("ready").call(from("ann"));
    let (feed, body) = fed();
    let answer = async {
        let (_, answer) = called.recv().await.expect("a call");
        assert!(answer.send(Ok(body)).is_ok());
    };
    let (response, ()) = tokio::join!(response, answer);
    (feed, response.expect("no error"), memory)
}

#[tokio::test]
async fn body_holds_its_permit_until_its_last_byte() {
    let (feed, response, memory) = streaming(Hold::Body).await;
    let mut body = Box::pin(response.into_body());
    assert_eq!(memory.held(), 1);
    for text in ["a", "b"] {
        feed.send(data(text)).expect("the receiver is open");
        assert!(body.frame().await.expect("a frame").is_ok());
        assert_eq!(memory.held(), 1);
    }
    assert!(body.frame().now_or_never().is_none());
    assert_eq!(memory.held(), 1);
    let trailers = Frame::trailers(http::HeaderMap::new());
    feed.send(Ok(trailers)).expect("the receiver is open");
    assert!(body.frame().await.expect("a frame").is_ok());
    assert_eq!(memory.held(), 1, "the body may have more frames");
    drop(feed);
    assert!(body.frame().await.is_none());
    assert_eq!(memory.held(), 0, "although the body still exists");
    drop(body);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn failing_body_releases_its_permit() {
    let (feed, response, memory) = streaming(Hold::Body).await;
    let mut body = Box::pin(response.into_body());
    feed.send(Err("cut off")).expect("the receiver is open");
    assert!(body.frame().await.expect("an error").is_err());
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn body_dropped_half_way_releases_its_permit() {
    let (feed, response, memory) = streaming(Hold::Body).await;
    let mut body = Box::pin(response.into_body());
    feed.send(data("half")).expect("the receiver is open");
    assert!(body.frame().await.expect("a frame").is_ok());
    assert_eq!(memory.held(), 1);
    drop(body);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn body_that_reports_its_last_frame_releases_its_permit() {
    let memory = memory();
    let mut service = two_each(&memory).layer(hello());
    let response = now(&mut service, from("ann")).expect("no error");
    let mut body = response.into_body();
    assert_eq!(memory.held(), 1);
    assert!(body.frame().await.expect("a frame").is_ok());
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn hold_head_releases_the_permit_with_the_head() {
    let (_feed, response, memory) = streaming(Hold::Head).await;
    assert_eq!(memory.held(), 0);
    assert_eq!(response.headers()["ratelimit"], "\"exports\";r=1");
}

#[tokio::test]
async fn service_error_releases_the_permit() {
    let memory = memory();
    let (service, mut called) = reported();
    let mut service = two_each(&memory).layer(service);
    let response = service.ready().await.expect("ready").call(from("ann"));
    let answer = async {
        let (_, answer) = called.recv().await.expect("a call");
        assert_eq!(memory.held(), 1);
        assert!(answer.send(Err("broken")).is_ok());
    };
    let (response, ()) = tokio::join!(response, answer);
    assert_eq!(response.map(drop), Err("broken"));
    assert_eq!(memory.held(), 0);
}

#[test]
fn panic_in_call_or_future_releases_the_permit() {
    let memory = memory();
    let in_call = tower::service_fn(|request: Request<()>| {
        assert!(request.headers().is_empty(), "on purpose");
        std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
    });
    let mut service = two_each(&memory).layer(in_call);
    let answer = catch_unwind(AssertUnwindSafe(|| drop(now(&mut service, from("ann")))));
    assert!(answer.is_err());
    assert_eq!(memory.held(), 0);

    let in_future = tower::service_fn(async |request: Request<()>| {
        assert!(request.headers().is_empty(), "on purpose");
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let mut service = two_each(&memory).layer(in_future);
    let answer = catch_unwind(AssertUnwindSafe(|| drop(now(&mut service, from("ann")))));
    assert!(answer.is_err());
    assert_eq!(memory.held(), 0);
}

#[test]
fn request_dropped_at_any_point_releases_its_permit() {
    let memory = memory();
    let (service, mut called) = reported();
    let mut service = two_each(&memory).layer(service);
    let mut call = || {
        let ready = service.ready().now_or_never().expect("at once");
        Box::pin(ready.expect("ready").call(from("ann")))
    };
    let unpolled = call();
    assert_eq!(memory.held(), 1, "memory decides at once");
    drop(unpolled);
    assert_eq!(memory.held(), 0);
    drop(called.try_recv());
    let mut begun = call();
    assert!((&mut begun).now_or_never().is_none());
    assert_eq!(memory.held(), 1);
    drop(begun);
    assert_eq!(memory.held(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Requests that wait for each other, each dropped after a random number of polls: before its response, in its body
    /// or after it. Nothing is left, and all permits are free afterwards.
    #[test]
    fn requests_dropped_at_random_points_leak_nothing(
        steps in prop::collection::vec((0_u8..6, 1_u32..=2, any::<bool>()), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let memory = memory();
            let (service, mut called) = reported();
            let layer = two_each(&memory)
                .weight_fn(|head| head.headers.len() as u64)
                .wait(Duration::from_secs(3_600));
            let mut service = layer.layer(service);
            let (mut futures, mut bodies, mut feeds) = (Vec::new(), Vec::new(), Vec::new());
            for (step, weight, last) in steps {
                match step {
                    0 | 1 => {
                        let mut request = from("ann");
                        if weight == 2 {
                            let value = "1".parse().expect("a value");
                            request.headers_mut().insert("x-weight", value);
                        }
                        let ready = service.ready().await.expect("ready");
                        futures.push(Box::pin(ready.call(request)));
                    }
                    2 => {
                        for place in (0..futures.len()).rev() {
                            if let Some(answer) = (&mut futures[place]).now_or_never() {
                                drop(futures.remove(place));
                                bodies.extend(answer.ok());
                            }
                        }
                    }
                    3 => {
                        if let Ok((_, answer)) = called.try_recv() {
                            let (feed, body) = fed();
                            feeds.push(feed);
                            // A dropped client receives nothing.
                            let _ = answer.send(if last { Err("broken") } else { Ok(body) });
                        }
                    }
                    4 => {
                        let gone = if last { futures.pop() } else {
                            (!futures.is_empty()).then(|| futures.remove(0))
                        };
                        drop(gone);
                    }
                    _ => drop(if last { bodies.pop() } else {
                        (!bodies.is_empty()).then(|| bodies.remove(0))
                    }),
                }
                assert!(memory.held() <= 2);
                run_other_tasks().await;
            }
            drop(futures);
            drop(bodies);
            run_other_tasks().await;
            assert_eq!(memory.held(), 0);
            assert_eq!(memory.keys(), 0);
        });
    }
}
