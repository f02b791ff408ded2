//! Waiting requests and the readiness of the inner service.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::key::Header;
use tower_sluice::{FailurePolicy, Limiter, RateLimitLayer};

use super::{
    SECOND, answer, assert_waits, call, each, key, limit, memory_with_clock, one_a_second, request,
    seconds, status,
};
use crate::support::{USER, ask, clock, from, hello, run_other_tasks, spent};

#[tokio::test]
async fn waiting_request_holds_no_readiness() {
    for (clock, remote) in each() {
        let by_user = RateLimitLayer::new(one_a_second(), Header::new(USER), remote.clone());
        let mut service = by_user
            .on_backend_error(FailurePolicy::FailClosed)
            .wait(seconds(10))
            .layer(ConcurrencyLimit::new(hello::<()>(), 1));
        ask(&mut service, from("ann")).await;
        let mut waits: Vec<_> = Vec::new();
        for _ in 0..3 {
            let mut one = call(&mut service, from("ann"));
            assert_waits!(one);
            waits.push(one);
        }
        assert_eq!(remote.context().stats().waiting, 3);
        for user in ["bob", "cid", "dan"] {
            assert_eq!(ask(&mut service, from(user)).await.status, StatusCode::OK);
        }
        // When its reservation is due, the request competes for a slot like any other.
        let ready = service.ready().await.expect("ready");
        clock.advance(SECOND);
        assert_waits!(waits[0]);
        drop(ready.call(from("eve")));
        assert_eq!(status!(waits[0]), 200);
        drop(waits.remove(0));
        clock.advance(seconds(2));
        for mut waits in waits {
            assert_eq!(status!(waits), 200);
        }
    }
}

/// Panics if it is called without having been polled ready. A clone is not ready.
#[derive(Default)]
struct Strict {
    ready: bool,
    polls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            polls: Arc::clone(&self.polls),
        }
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.polls.fetch_add(1, SeqCst);
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "not ready");
        std::future::ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn called_service_was_ready_and_is_not_polled_again() {
    for (clock, remote) in each() {
        let strict = Strict::default();
        let mut service = limit(&remote).layer(strict.clone());
        let mut first = call(&mut service, request());
        assert_eq!(status!(first), 200);
        assert_eq!(strict.polls.load(SeqCst), 1);
        let mut second = call(&mut service, request());
        assert_waits!(second);
        clock.advance(SECOND);
        assert_eq!(status!(second), 200);
        assert_eq!(strict.polls.load(SeqCst), 3);
    }
}

#[tokio::test]
async fn request_waits_for_readiness_after_its_wait() {
    let clock = clock();
    let memory = memory_with_clock(&clock);
    let limiter = Limiter::new(one_a_second(), memory.clone());
    assert!(limiter.check_now(&key(), 1).decision.is_allowed());
    let (mut service, mut handle) =
        tower_test::mock::spawn_layer::<Request<()>, Response<String>, _>(limit(&memory));
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let answered = tokio::spawn(service.call(request()));
    run_other_tasks().await;
    handle.allow(0);
    clock.advance(SECOND);
    run_other_tasks().await;
    assert!(handle.next_request().now_or_never().is_none(), "not ready");
    handle.allow(1);
    let (_, send) = handle.next_request().await.expect("a request");
    send.send_response(Response::new(String::new()));
    let response = answered.await.expect("no panic").expect("no error");
    assert_eq!(response.status(), 200);
}

/// Ready once. Later `poll_ready` calls return an error, also on clones.
#[derive(Clone, Default)]
struct FailsLater(Arc<AtomicUsize>);

#[derive(Debug, PartialEq)]
struct Broken;

impl Service<Request<()>> for FailsLater {
    type Response = Response<Full<Bytes>>;
    type Error = Broken;
    type Future = std::future::Ready<Result<Self::Response, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self.0.fetch_add(1, SeqCst) {
            0 => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(Broken)),
        }
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn readiness_error_after_a_wait_keeps_its_type() {
    for (refunds, left) in [(false, [1]), (true, [0])] {
        for (clock, remote) in each() {
            let mut limit = limit(&remote);
            if refunds {
                limit = limit.refund_on_disconnect();
            }
            let limiter = Limiter::new(one_a_second(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 1).decision.is_allowed());
            let mut service = limit.layer(FailsLater::default());
            let ready = service.ready().await.expect("ready once");
            let mut waits = Box::pin(ready.call(request()));
            assert_waits!(waits);
            clock.advance(SECOND);
            let error = answer(&mut waits).await.expect("an answer");
            assert_eq!(error.map(|_| ()).expect_err("an error"), Broken);
            drop(waits);
            run_other_tasks().await;
            assert_eq!(spent(&remote.memory, &one_a_second(), &key()), left);
        }
    }
}

#[tokio::test]
async fn rejected_request_releases_readiness() {
    for (_, remote) in each() {
        let inner = ConcurrencyLimit::new(hello::<()>(), 1);
        let mut service = limit(&remote).wait(SECOND / 2).layer(inner);
        ask(&mut service, request()).await;
        for _ in 0..3 {
            let rejected = ask(&mut service, request()).await;
            assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        }
    }
}
