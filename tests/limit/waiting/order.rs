//! The order and the number of waiting requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use http::StatusCode;
use tokio::task::JoinSet;
use tower::Layer;
use tower_sluice::backend::Backend;
use tower_sluice::{Charge, MemoryBackend, Policy, Quota};

use super::{
    SECOND, assert_waits, call, each, limit, memory_with_clock, one_a_second, over, request,
    seconds, status,
};
use crate::support::{ClientResponse, ask, client, clock, hello, listen, seen};

#[tokio::test]
async fn layer_waiters_are_served_in_order_of_arrival() {
    let window = Policy::new("api", Quota::fixed_window(1, SECOND));
    for policy in [one_a_second(), window] {
        for (clock, remote) in each() {
            let mut service = over(&policy, &remote).layer(hello());
            ask(&mut service, request()).await;
            let mut line: Vec<_> = (0..5).map(|_| call(&mut service, request())).collect();
            for waits in &mut line {
                assert_waits!(*waits);
            }
            for first in 0..5 {
                clock.advance(SECOND);
                assert_eq!(status!(line[first]), 200);
                for waits in &mut line[first + 1..] {
                    assert_waits!(*waits);
                }
            }
        }
    }
}

#[tokio::test]
async fn requests_above_max_waiters_are_rejected_at_once() {
    let clock = clock();
    let memory = MemoryBackend::builder()
        .clock(clock.clone())
        .max_waiters(2, 100)
        .build();
    let mut service = limit(&memory).layer(hello());
    seen(&mut service, request());
    let mut waits = [call(&mut service, request()), call(&mut service, request())];
    for waits in &mut waits {
        assert_waits!(*waits);
    }
    let rejected = seen(&mut service, request());
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(rejected.lines("retry-after"), ["3"]);
    assert_eq!(memory.context().stats().rejected_waiters, 1);
    clock.advance(seconds(2));
    for waits in &mut waits {
        assert_eq!(status!(*waits), 200);
    }
}

/// A server that records the order of service, with clients that arrive one after the other.
#[tokio::test]
async fn http_waiters_are_served_in_order_and_leave_on_disconnect() {
    let clock = clock();
    let memory = memory_with_clock(&clock);
    let served = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = Arc::clone(&served);
    let handler = async move |Path(number): Path<u64>, charge: Charge| {
        note.lock().expect("no panic").push(number);
        format!("{:?}", charge.waited())
    };
    let app = Router::new()
        .route("/{number}", get(handler))
        .layer(limit(&memory));
    let (listener, address) = listen().await;
    tokio::spawn(axum::serve(listener, app).into_future());

    let waiters = async |count: usize| {
        let start = Instant::now();
        while memory.context().stats().waiting != count {
            assert!(start.elapsed() < crate::support::TIMEOUT);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut clients = JoinSet::new();
    let come = |number: u64| {
        let request = crate::support::get(address, &format!("/{number}"));
        async move {
            let response = client(1).request(request).await.expect("an answer");
            (number, ClientResponse::of(response).await)
        }
    };
    assert_eq!(come(0).await.1.body, "0ns");
    let mut leaves = None;
    for number in 1..=6_u64 {
        let handle = clients.spawn(come(number));
        waiters(number as usize).await;
        if number == 6 {
            leaves = Some(handle);
        }
    }
    // The last client disconnects: the next client gets its reservation.
    leaves.expect("the last one").abort();
    waiters(5).await;
    clients.spawn(come(7));
    waiters(6).await;
    for waited in 1..=6 {
        clock.advance(SECOND);
        let done = loop {
            if let Ok(done) = clients.join_next().await.expect("a served client") {
                break done;
            }
        };
        let (number, seen) = done;
        let expected = if waited == 6 { 7 } else { waited };
        assert_eq!(number, expected);
        assert_eq!(seen.body, format!("{waited}s"));
    }
    assert_eq!(*served.lock().expect("no panic"), [0, 1, 2, 3, 4, 5, 7]);
}
