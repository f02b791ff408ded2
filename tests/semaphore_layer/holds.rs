//! How long a permit lasts: to the last byte, the error or the drop of the body, whichever way a request ends.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt};
use tower_sluice::concurrency::{HeldPermit, Hold, KeptPermit, SemaphoreLayer};
use tower_sluice::{Global, MemorySemaphore, SemaphorePolicy};

use crate::requests::{Feed, endless, fed, memory, reported, two_each};
use crate::support::{self, PATIENCE, from, get as request, hello, listen, now, others};

fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// A response whose body is fed by the test, through the layer.
async fn streaming(
    hold: Hold,
) -> (
    Feed,
    Response<impl http_body::Body<Data = Bytes, Error = &'static str>>,
    crate::requests::Memory,
) {
    let memory = memory();
    let (service, mut called) = reported();
    let mut service = two_each(&memory).hold(hold).layer(service);
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
        feed.send(data(text)).expect("it listens");
        assert!(body.frame().await.expect("a frame").is_ok());
        assert_eq!(memory.held(), 1);
    }
    assert!(body.frame().now_or_never().is_none());
    assert_eq!(memory.held(), 1);
    let trailers = Frame::trailers(http::HeaderMap::new());
    feed.send(Ok(trailers)).expect("it listens");
    assert!(body.frame().await.expect("a frame").is_ok());
    assert_eq!(memory.held(), 1, "there could be more");
    drop(feed);
    assert!(body.frame().await.is_none());
    assert_eq!(memory.held(), 0, "although the body is still there");
    drop(body);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn failing_body_releases_its_permit() {
    let (feed, response, memory) = streaming(Hold::Body).await;
    let mut body = Box::pin(response.into_body());
    feed.send(Err("cut off")).expect("it listens");
    assert!(body.frame().await.expect("an error").is_err());
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn body_dropped_half_way_releases_its_permit() {
    let (feed, response, memory) = streaming(Hold::Body).await;
    let mut body = Box::pin(response.into_body());
    feed.send(data("half")).expect("it listens");
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
    assert_eq!(memory.held(), 1, "in memory it is taken at once");
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

    /// Requests that wait for one another, each dropped after a random number of polls, before its answer, in its body
    /// or after it: nothing stays, and whoever asks afterwards gets everything.
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
                            // A client that has gone hears nothing.
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
                others().await;
            }
            drop(futures);
            drop(bodies);
            others().await;
            assert_eq!(memory.held(), 0);
            assert_eq!(memory.keys(), 0);
        });
    }
}

/// The permits of everything served at `address` by `app`, over real connections.
async fn serve(app: Router) -> std::net::SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// A stream of numbers, one every 20 ms, until nobody listens.
async fn numbers() -> Body {
    Body::from_stream(stream::iter(0_u64..).then(|number| async move {
        sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(format!("{number}\n"))
    }))
}

fn in_memory(capacity: u32) -> (MemorySemaphore, SemaphoreLayer<Global, MemorySemaphore>) {
    let memory = MemorySemaphore::new();
    let layer = SemaphoreLayer::new(
        SemaphorePolicy::new("exports", capacity),
        Global,
        memory.clone(),
    );
    (memory, layer)
}

async fn until_held(memory: &MemorySemaphore, held: u64) {
    let wait = async {
        while memory.held() != held {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let reached = timeout(PATIENCE, wait).await;
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
    assert_eq!(memory.held(), 1, "this one is sent");
    drop(stream);
}

#[tokio::test]
async fn client_disconnect_before_the_head_releases_its_permit() {
    let (memory, layer) = in_memory(1);
    let app = Router::new()
        .route("/", get(|| sleep(Duration::from_secs(3_600))))
        .layer(layer);
    let address = serve(app).await;
    let mut client = TcpStream::connect(address).await.expect("it listens");
    let head = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(head).await.expect("it reads");
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
    let mut client = TcpStream::connect(address).await.expect("it listens");
    let head = b"GET / HTTP/1.0\r\n\r\n";
    client.write_all(head).await.expect("it reads");
    until_held(&memory, 1).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(memory.held(), 1, "32 MiB do not fit between them");
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.expect("all of it");
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

#[test]
fn held_permit_in_the_request_does_not_hold_the_permit() {
    let memory = memory();
    let (service, mut called) = reported();
    let mut service = two_each(&memory).layer(service);
    let ready = service
        .ready()
        .now_or_never()
        .expect("at once")
        .expect("ready");
    let mut call = Box::pin(ready.call(from("ann")));
    assert!((&mut call).now_or_never().is_none());
    let (request, answer) = called.try_recv().expect("a call");
    let held = request
        .extensions()
        .get::<HeldPermit>()
        .expect("it is there");
    assert!(!held.is_lost());
    let (held, lost) = (held.clone(), held.lost());
    let (_feed, body) = fed();
    assert!(answer.send(Ok(body)).is_ok());
    let response = call.now_or_never().expect("an answer");
    assert_eq!(memory.held(), 1);
    drop(response);
    assert_eq!(
        memory.held(),
        0,
        "although request and future are still there"
    );
    let late: KeptPermit = held.keep();
    assert_eq!(late.permits().count(), 0, "too late");
    assert!(lost.now_or_never().is_none(), "it was given back, not lost");
    drop(request);
}

#[test]
fn kept_permit_lasts_until_drop_and_end_of_response() {
    let memory = memory();
    for kept_first in [true, false] {
        let (service, mut called) = reported();
        let mut service = two_each(&memory).hold(Hold::Head).layer(service);
        let ready = service
            .ready()
            .now_or_never()
            .expect("at once")
            .expect("ready");
        let mut call = Box::pin(ready.call(from("ann")));
        assert!((&mut call).now_or_never().is_none());
        let (request, answer) = called.try_recv().expect("a call");
        let held = request
            .extensions()
            .get::<HeldPermit>()
            .expect("it is there");
        let kept = held.keep();
        assert_eq!(
            kept.permits()
                .map(|permit| permit.weight())
                .collect::<Vec<_>>(),
            [1]
        );
        let (_feed, body) = fed();
        if kept_first {
            drop(kept.clone());
            drop(kept);
            assert_eq!(memory.held(), 1, "the request goes on");
            assert!(answer.send(Ok(body)).is_ok());
            drop(call.now_or_never().expect("an answer"));
        } else {
            assert!(answer.send(Ok(body)).is_ok());
            drop(call.now_or_never().expect("an answer"));
            assert_eq!(memory.held(), 1, "it is kept");
            drop(kept);
        }
        assert_eq!(memory.held(), 0);
    }
}

#[test]
fn the_permits_of_all_layers_around_a_handler_are_kept_together() {
    let (memory, (whole, of_all)) = (memory(), in_memory(9));
    let (service, mut called) = reported();
    let mut service = of_all.weight(3).layer(two_each(&memory).layer(service));
    let ready = service
        .ready()
        .now_or_never()
        .expect("at once")
        .expect("ready");
    let mut call = Box::pin(ready.call(from("ann")));
    assert!((&mut call).now_or_never().is_none());
    let (request, _answer) = called.try_recv().expect("a call");
    let kept = request
        .extensions()
        .get::<HeldPermit>()
        .expect("it is there")
        .keep();
    drop(call);
    assert_eq!(
        kept.permits()
            .map(|permit| permit.weight())
            .collect::<Vec<_>>(),
        [3, 1]
    );
    assert_eq!((whole.held(), memory.held()), (3, 1));
    drop(kept);
    assert_eq!((whole.held(), memory.held()), (0, 0));
}

#[tokio::test]
async fn loss_of_any_held_permit_is_reported() {
    let clock = support::clock();
    let leased = |name, seconds| {
        let memory = MemorySemaphore::builder()
            .clock(clock.clone())
            .leases_end()
            .build();
        let permits = SemaphorePolicy::new(name, 1).with_lease(Duration::from_secs(seconds));
        SemaphoreLayer::new(permits, Global, memory)
    };
    let (service, mut called) = reported();
    let mut service = leased("long", 3_600).layer(leased("short", 30).layer(service));
    let mut call = Box::pin(service.ready().await.expect("ready").call(Request::new(())));
    assert!((&mut call).now_or_never().is_none());
    let (request, _answer) = called.recv().await.expect("a call");
    let held = request
        .extensions()
        .get::<HeldPermit>()
        .expect("it is there");
    let mut lost = held.lost();
    others().await;
    assert!((&mut lost).now_or_never().is_none() && !held.is_lost());
    clock.advance(Duration::from_secs(30));
    timeout(PATIENCE, lost)
        .await
        .expect("the short one is over");
    let over: Vec<_> = held
        .keep()
        .permits()
        .map(|permit| permit.is_lost())
        .collect();
    assert_eq!(over, [false, true]);
}

#[tokio::test]
async fn handlers_get_it_as_an_argument() {
    let (_, layer) = in_memory(1);
    let required = |held: HeldPermit| async move { held.keep().permits().count().to_string() };
    let optional = |held: Option<HeldPermit>| async move { held.is_some().to_string() };
    let routes = || {
        Router::new()
            .route("/required", get(required))
            .route("/optional", get(optional))
    };
    let bounded = serve(routes().layer(layer.clone())).await;
    let silent = serve(routes().layer(layer.extensions(false))).await;
    for (address, path, expected) in [
        (bounded, "/required", (200, "1")),
        (bounded, "/optional", (200, "true")),
        (silent, "/required", (500, "")),
        (silent, "/optional", (200, "false")),
    ] {
        let answer = support::client(1).request(request(address, path)).await;
        let answer = answer.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(
            (status, &*body),
            (expected.0, expected.1.as_bytes()),
            "{path}"
        );
    }
}

#[test]
fn handler_learns_of_a_lost_lease() {
    let clock = support::clock();
    let memory = MemorySemaphore::builder()
        .clock(clock.clone())
        .leases_end()
        .build();
    let lease = Duration::from_secs(30);
    let permits = SemaphorePolicy::new("exports", 1).with_lease(lease);
    let mut service = SemaphoreLayer::new(permits, Global, memory.clone()).layer(endless());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (inner, mut called) = reported();
        let layer = SemaphoreLayer::new(
            SemaphorePolicy::new("exports", 1).with_lease(lease),
            Global,
            memory.clone(),
        );
        let mut first = layer.layer(inner);
        let mut call = Box::pin(first.ready().await.expect("ready").call(Request::new(())));
        assert!((&mut call).now_or_never().is_none());
        let (request, _answer) = called.recv().await.expect("a call");
        let held = request
            .extensions()
            .get::<HeldPermit>()
            .expect("it is there");
        let mut lost = held.lost();
        others().await;
        assert!((&mut lost).now_or_never().is_none());
        // It stood still for longer than a lease, and somebody else came first.
        clock.advance(lease);
        let second = now(&mut service, Request::new(())).expect("no error");
        assert_eq!(second.status(), 200);
        others().await;
        assert!(held.is_lost() && lost.now_or_never().is_some());
        drop(call);
        assert_eq!(memory.held(), 1, "that of the second");
        drop(second);
        assert_eq!(memory.held(), 0);
    });
}
