//! The contract between Tower services: readiness, its release, and the type of the inner error.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};

use tower_sluice::{Header, SemaphoreLayer, SemaphorePolicy};

use crate::services::{Endless, Later, endless, memory, reported, two_each};
use crate::support::{USER, from, now, run_other_tasks};

/// Panics if it is called without having been polled ready. A clone is not ready.
struct Strict {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        let calls = Arc::clone(&self.calls);
        Self {
            ready: false,
            calls,
        }
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<Endless>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(self.ready, "called without having been polled ready");
        self.ready = false;
        self.calls.fetch_add(1, SeqCst);
        std::future::ready(Ok(Response::new(Endless)))
    }
}

#[tokio::test]
async fn only_a_ready_service_is_called() {
    let calls = Arc::new(AtomicUsize::new(0));
    let strict = Strict {
        ready: false,
        calls: Arc::clone(&calls),
    };
    let (memory, second) = (memory(), Duration::from_secs(1));
    let mut service = two_each(&memory).layer(strict.clone());
    let held = [(); 2].map(|()| now(&mut service, from("ann")).expect("no error"));
    assert_eq!(
        now(&mut service, from("ann")).expect("no error").status(),
        429
    );
    assert_eq!(calls.load(SeqCst), 2);
    let mut skips = two_each(&memory).skip_unkeyed().layer(strict.clone());
    assert_eq!(
        now(&mut skips, Request::new(()))
            .expect("no error")
            .status(),
        200
    );

    let mut waits = two_each(&memory).wait(second).layer(strict);
    let call = tokio::spawn(waits.ready().await.expect("ready").call(from("ann")));
    run_other_tasks().await;
    drop(held);
    let response = call.await.expect("no panic").expect("no error");
    assert_eq!((response.status().as_u16(), calls.load(SeqCst)), (200, 4));
}

fn is_ready<Req, S: Service<Req>>(service: &mut S) -> bool {
    let ready = poll_fn(|cx| service.poll_ready(cx)).now_or_never();
    matches!(ready, Some(Ok(())))
}

#[tokio::test]
async fn rejected_and_waiting_requests_release_readiness_at_once() {
    let memory = memory();
    let inner = ConcurrencyLimit::new(endless(), 1);
    let (mut other, mut service) = (inner.clone(), two_each(&memory).layer(inner.clone()));
    let held = [(); 2].map(|()| now(&mut service, from("ann")).expect("no error"));
    assert!(is_ready(&mut service));
    assert!(!is_ready(&mut other), "the slot is taken");
    let rejected = service.call(from("ann"));
    let rejected = rejected.now_or_never().expect("at once").expect("no error");
    assert_eq!(rejected.status(), 429);
    assert!(is_ready(&mut other));
    drop(other);

    let mut waits = two_each(&memory)
        .wait(Duration::from_secs(1))
        .layer(inner.clone());
    assert!(is_ready(&mut waits));
    let mut call = Box::pin(waits.call(from("ann")));
    assert!((&mut call).now_or_never().is_none());
    let mut another = inner.clone();
    assert!(is_ready(&mut another), "a waiter holds a slot");
    drop(held);
    assert!(
        (&mut call).now_or_never().is_none(),
        "another request holds the slot"
    );
    assert_eq!(memory.held(), 1);
    drop(another);
    assert_eq!(call.await.expect("no error").status(), 200);
}

#[tokio::test]
async fn readiness_is_released_during_a_check_and_without_a_key() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let inner = ConcurrencyLimit::new(endless(), 1);
    let backend = Later(memory(), Arc::clone(&gate));
    let limit = SemaphoreLayer::new(
        SemaphorePolicy::new("exports", 2),
        Header::new(USER),
        backend,
    );
    let (mut service, mut other) = (limit.layer(inner.clone()), inner.clone());
    assert!(is_ready(&mut service));
    let mut call = Box::pin(service.call(from("ann")));
    assert!((&mut call).now_or_never().is_none());
    assert!(
        is_ready(&mut other),
        "a request without a permit holds no slot"
    );
    gate.add_permits(1);
    assert!(
        (&mut call).now_or_never().is_none(),
        "another request holds the slot"
    );
    drop(other);
    assert_eq!(call.await.expect("no error").status(), 200);

    let mut other = inner.clone();
    assert!(is_ready(&mut other), "the head is complete");
    drop(other);
    assert!(is_ready(&mut service));
    let rejected = service.call(Request::new(()));
    assert!(is_ready(&mut inner.clone()));
    assert_eq!(rejected.await.expect("no error").status(), 400);
}

#[tokio::test]
async fn readiness_and_its_error_come_from_the_inner_service() {
    #[derive(Clone)]
    struct Broken;
    impl Service<Request<()>> for Broken {
        type Response = Response<String>;
        type Error = &'static str;
        type Future = std::future::Ready<Result<Self::Response, &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("not today"))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let mut service = two_each(&memory()).layer(Broken);
    let ready = poll_fn(|cx| service.poll_ready(cx)).await;
    assert_eq!(ready, Err("not today"));
}

/// Ready once. Later calls of `poll_ready` fail.
struct FailsLater(bool);

impl Clone for FailsLater {
    fn clone(&self) -> Self {
        Self(true)
    }
}

impl Service<Request<()>> for FailsLater {
    type Response = Response<String>;
    type Error = &'static str;
    type Future = std::future::Ready<Result<Self::Response, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(if self.0 { Err("broken") } else { Ok(()) })
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        unreachable!("the service is no longer ready")
    }
}

#[tokio::test]
async fn service_that_fails_while_its_request_waits_leaks_nothing() {
    let memory = memory();
    let mut endless = two_each(&memory).layer(endless());
    let held = [(); 2].map(|()| now(&mut endless, from("ann")).expect("no error"));
    let limit = two_each(&memory).wait(Duration::from_secs(1));
    let mut service = limit.layer(FailsLater(false));
    assert!(is_ready(&mut service));
    let mut call = Box::pin(service.call(from("ann")));
    assert!((&mut call).now_or_never().is_none());
    drop(held);
    assert_eq!((&mut call).await.map(drop), Err("broken"));
    assert_eq!(memory.held(), 0, "although the future still exists");
    drop(call);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn failed_check_leaks_nothing() {
    let memory = memory();
    let (service, mut called) = reported();
    let mut service = two_each(&memory).layer(service);
    let mut call = Box::pin(service.ready().await.expect("ready").call(from("ann")));
    assert!((&mut call).now_or_never().is_none());
    let (_, answer) = called.recv().await.expect("a call");
    assert!(answer.send(Err("broken")).is_ok());
    assert_eq!((&mut call).await.map(drop), Err("broken"));
    assert_eq!(memory.held(), 0, "although the future still exists");
}

#[test]
fn inner_service_is_accessible() {
    let (inner, _called) = reported();
    let mut service = two_each(&memory()).layer((inner, 7));
    assert_eq!(service.get_ref().1, 7);
    service.get_mut().1 = 8;
    assert_eq!(service.into_inner().1, 8);
}
