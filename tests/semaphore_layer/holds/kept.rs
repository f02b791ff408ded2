//! Handlers keep the permit of their request.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use futures_util::FutureExt;
use http::Request;
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::concurrency::{HeldPermit, Hold, KeptPermit, SemaphoreLayer};
use tower_sluice::{Global, MemorySemaphore, SemaphorePolicy};

use super::{in_memory, serve};
use crate::services::{endless, fed, memory, reported, two_each};
use crate::support::{self, TIMEOUT, from, get as request, now, run_other_tasks};

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
        .expect("it must exist");
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
        "although the request and the future still exist"
    );
    let late: KeptPermit = held.keep();
    assert_eq!(late.permits().count(), 0, "too late");
    assert!(
        lost.now_or_never().is_none(),
        "the permit was released, not lost"
    );
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
            .expect("it must exist");
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
fn kept_permit_includes_all_layers() {
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
        .expect("it must exist")
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
        .expect("it must exist");
    let mut lost = held.lost();
    run_other_tasks().await;
    assert!((&mut lost).now_or_never().is_none() && !held.is_lost());
    clock.advance(Duration::from_secs(30));
    timeout(TIMEOUT, lost)
        .await
        .expect("the short lease is over");
    let over: Vec<_> = held
        .keep()
        .permits()
        .map(|permit| permit.is_lost())
        .collect();
    assert_eq!(over, [false, true]);
}

#[tokio::test]
async fn handlers_extract_the_held_permit() {
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
            .expect("it must exist");
        let mut lost = held.lost();
        run_other_tasks().await;
        assert!((&mut lost).now_or_never().is_none());
        // The holder paused for longer than a lease, and another request got the permit.
        clock.advance(lease);
        let second = now(&mut service, Request::new(())).expect("no error");
        assert_eq!(second.status(), 200);
        run_other_tasks().await;
        assert!(held.is_lost() && lost.now_or_never().is_some());
        drop(call);
        assert_eq!(memory.held(), 1, "the permit of the second layer");
        drop(second);
        assert_eq!(memory.held(), 0);
    });
}
