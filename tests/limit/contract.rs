//! The contract between Tower services: readiness, its release, and errors by type. It also holds while a backend is
//! pending or fails.

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use http::{Request, Response};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::{FailurePolicy, Global, Policy, Quota, RateLimitLayer};

use crate::remote::Remote;
use crate::support::{self, by_user, from, memory, now, seen, two_a_minute};

/// Panics if it is called without having been polled ready. A clone is not ready.
struct Strict {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Strict {
    fn new() -> (Self, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let service = Self {
            ready: false,
            calls: calls.clone(),
        };
        (service, calls)
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            calls: self.calls.clone(),
        }
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<http_body_util::Empty<bytes::Bytes>>;
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
        std::future::ready(Ok(Response::default()))
    }
}

/// Fails without a future.
pub(crate) fn fails_at_once() -> Remote {
    let remote = Remote::immediate();
    remote.fail(usize::MAX);
    remote
}

fn over<B: Backend>(backend: B) -> RateLimitLayer<Global, B, tower_sluice::Cost, FailurePolicy> {
    RateLimitLayer::new(two_a_minute(), Global, backend).on_backend_error(FailurePolicy::FailClosed)
}

/// Whether one call of `poll_ready` returns ready.
fn is_ready<Req, S: Service<Req>>(service: &mut S) -> bool {
    let ready = poll_fn(|cx| service.poll_ready(cx)).now_or_never();
    matches!(ready, Some(Ok(())))
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    let (mut service, mut handle) =
        tower_test::mock::spawn_layer::<Request<()>, Response<String>, _>(by_user());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.is_woken());
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
}

#[derive(Debug, PartialEq)]
struct Broken;

#[test]
fn readiness_error_keeps_its_type() {
    #[derive(Clone)]
    struct NeverReady;
    impl Service<Request<()>> for NeverReady {
        type Response = Response<String>;
        type Error = Broken;
        type Future = std::future::Pending<Result<Response<String>, Broken>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
            Poll::Ready(Err(Broken))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let mut service = by_user().layer(NeverReady);
    assert_eq!(now(&mut service, from("ann")).unwrap_err(), Broken);
}

#[test]
fn service_error_keeps_its_type() {
    let mut service = ServiceBuilder::new()
        .layer(by_user())
        .service_fn(|_: Request<()>| async { Err::<Response<String>, _>(Broken) });
    assert_eq!(now(&mut service, from("ann")).unwrap_err(), Broken);

    let mut service = ServiceBuilder::new()
        .layer(over(Remote::with_replies(1)))
        .service_fn(|_: Request<()>| async { Err::<Response<String>, _>(Broken) });
    assert_eq!(now(&mut service, Request::new(())).unwrap_err(), Broken);
}

#[test]
fn ready_service_is_the_one_called() {
    let (strict, calls) = Strict::new();
    let mut service = by_user().layer(strict);
    let statuses = ["ann", "ann", "ann", "bob", "ann", "bob"]
        .map(|user| seen(&mut service, from(user)).status.as_u16());
    assert_eq!(statuses, [200, 200, 429, 200, 429, 200]);
    assert_eq!(
        calls.load(SeqCst),
        4,
        "a rejected request must not reach the service"
    );
}

#[test]
fn a_request_without_a_key_does_not_reach_the_service() {
    let (strict, calls) = Strict::new();
    let mut service = by_user().layer(strict.clone());
    assert_eq!(seen(&mut service, Request::new(())).status, 400);
    assert_eq!(calls.load(SeqCst), 0);

    let mut service = by_user().skip_unkeyed().layer(strict);
    for _ in 0..3 {
        assert_eq!(seen(&mut service, Request::new(())).status, 200);
    }
    assert_eq!(calls.load(SeqCst), 3);
}

#[tokio::test]
async fn ready_service_is_called_after_a_late_reply() {
    let (strict, calls) = Strict::new();
    let remote = Remote::with_replies(0);
    let mut service = over(remote.clone()).layer(strict);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let ready = service.ready().await.expect("ready");
        let mut answer = pin!(ready.call(Request::new(())));
        let before = calls.load(SeqCst);
        assert!(answer.as_mut().now_or_never().is_none(), "no answer yet");
        assert_eq!(calls.load(SeqCst), before, "called before the reply");
        remote.release(1);
        statuses.push(answer.await.expect("no error").status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(calls.load(SeqCst), 2);
}

#[tokio::test]
async fn service_is_ready_while_a_late_reply_is_pending() {
    let (strict, calls) = Strict::new();
    let remote = Remote::with_replies(0);
    let mut service = over(remote.clone()).layer(strict);
    let first = service.ready().await.expect("ready").call(Request::new(()));
    let second = service.ready().await.expect("ready").call(Request::new(()));
    remote.release(2);
    let (first, second) = tokio::join!(second, first);
    assert_eq!(first.expect("no error").status(), 200);
    assert_eq!(second.expect("no error").status(), 200);
    assert_eq!(calls.load(SeqCst), 2);
}

/// Uses up the limit. The next rejection then holds and releases the only slot of the inner service.
async fn assert_rejection_releases_the_slot<S>(inner: S)
where
    S: Service<Request<()>, Response = Response<String>, Error: fmt::Debug> + Clone,
{
    let mut service = RateLimitLayer::new(two_a_minute(), Global, memory()).layer(inner);
    for _ in 0..2 {
        let ready = service.ready().await.expect("ready");
        assert_eq!(
            ready
                .call(Request::new(()))
                .await
                .expect("no error")
                .status(),
            200
        );
    }
    let mut other = service.clone();
    service.ready().await.expect("ready");
    assert!(!is_ready(&mut other), "there is only one slot");
    let rejected = service.call(Request::new(()));
    assert!(
        is_ready(&mut other),
        "the unpolled rejection holds the slot"
    );
    assert_eq!(rejected.await.expect("no error").status(), 429);
}

async fn empty(_: Request<()>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(String::new()))
}

#[tokio::test]
async fn rejection_releases_the_slot_of_a_concurrency_limit() {
    assert_rejection_releases_the_slot(ConcurrencyLimit::new(tower::service_fn(empty), 1)).await;
}

#[tokio::test]
async fn rejection_releases_the_slot_of_a_buffer() {
    assert_rejection_releases_the_slot(Buffer::new(tower::service_fn(empty), 1)).await;
}

#[tokio::test]
async fn late_rejection_releases_readiness() {
    let remote = Remote::with_replies(2);
    let inner = ConcurrencyLimit::new(tower::service_fn(empty), 1);
    let mut service = over(remote.clone()).layer(inner);
    for _ in 0..2 {
        let ready = service.ready().await.expect("ready");
        assert_eq!(
            ready
                .call(Request::new(()))
                .await
                .expect("no error")
                .status(),
            200
        );
    }
    let mut other = service.clone();
    let ready = service.ready().await.expect("ready");
    let mut rejected = pin!(ready.call(Request::new(())));
    assert!(!is_ready(&mut other), "the future was not polled");
    assert!(rejected.as_mut().now_or_never().is_none());
    assert!(
        is_ready(&mut other),
        "a request that is not decided holds no slot"
    );
    remote.release(1);
    let response = rejected.as_mut().now_or_never().expect("an answer");
    assert_eq!(response.expect("no error").status(), 429);
}

/// Sends five requests through a layer over a pending backend around two slots. No undecided request holds a slot.
async fn stalled(
    limit: impl Layer<
        ConcurrencyLimit<Strict>,
        Service: Service<
            Request<()>,
            Response: Send,
            Error = Infallible,
            Future: Future<Output: Send> + Send,
        > + Clone,
    >,
    remote: &Remote,
) {
    let (strict, calls) = Strict::new();
    let inner = ConcurrencyLimit::new(strict, 2);
    let mut slots = [inner.clone(), inner.clone()];
    let service = limit.layer(inner);
    let mut requests: Vec<_> = (0..5)
        .map(|_| Box::pin(service.clone().oneshot(Request::new(()))))
        .collect();
    for request in &mut requests {
        assert!(request.as_mut().now_or_never().is_none(), "no answer yet");
    }
    assert!(
        slots.iter_mut().all(is_ready),
        "a pending request holds a slot"
    );
    remote.release(usize::MAX >> 4);
    for request in &mut requests {
        assert!(request.as_mut().now_or_never().is_none(), "no slot");
    }
    assert_eq!(calls.load(SeqCst), 0);
    drop(slots);
    futures_util::future::join_all(requests).await;
    assert_eq!(calls.load(SeqCst), 5);
}

#[tokio::test]
async fn requests_hold_no_slot_during_a_check() {
    let policy = || Policy::new("five", Quota::per_hour(5));
    let deny = FailurePolicy::FailClosed;
    let remote = Remote::with_replies(0);
    let limit = RateLimitLayer::new(policy(), Global, remote.clone());
    stalled(limit.on_backend_error(deny.clone()), &remote).await;
    let remote = Remote::with_replies(0);
    let limit = RateLimitLayer::new(policy(), Global, remote.clone());
    let limit = limit.on_backend_error(deny).refund_on_disconnect();
    stalled(limit, &remote).await;
}

#[tokio::test]
async fn future_dropped_before_a_late_reply_releases_readiness_and_charges_nothing() {
    let remote = Remote::with_replies(0);
    let inner = ConcurrencyLimit::new(tower::service_fn(empty), 1);
    let mut service = over(remote.clone()).layer(inner);
    let dropped = service.ready().await.expect("ready").call(Request::new(()));
    assert!(!is_ready(&mut service));
    drop(dropped);
    remote.release(3);
    for status in [200, 200, 429] {
        let ready = service.ready().await.expect("ready");
        assert_eq!(
            ready
                .call(Request::new(()))
                .await
                .expect("no error")
                .status(),
            status
        );
    }
}

#[test]
fn a_future_dropped_after_call_keeps_its_charge() {
    let (strict, _) = Strict::new();
    let mut service = by_user().layer(strict);
    for _ in 0..2 {
        assert!(is_ready(&mut service));
        drop(service.call(from("ann")));
    }
    assert_eq!(seen(&mut service, from("ann")).status, 429);
}

#[test]
fn clones_on_many_threads_admit_exactly_the_limit() {
    let policy = Policy::new("shared", Quota::per_hour(1_000));
    let limit = RateLimitLayer::new(policy, Global, memory());
    let (strict, calls) = Strict::new();
    let service = limit.layer(strict);
    let admitted: usize = std::thread::scope(|scope| {
        let clones: Vec<_> = (0..8)
            .map(|_| {
                let mut service = service.clone();
                scope.spawn(move || {
                    (0..500)
                        .filter(|_| now(&mut service, Request::new(())).unwrap().status() == 200)
                        .count()
                })
            })
            .collect();
        clones.into_iter().map(|clone| clone.join().unwrap()).sum()
    });
    assert_eq!((admitted, calls.load(SeqCst)), (1_000, 1_000));
}

#[test]
fn two_services_of_one_layer_share_their_limit() {
    let limit = by_user();
    let mut one = limit.layer(support::hello());
    let mut two = limit.clone().layer(support::hello());
    assert_eq!(seen(&mut one, from("ann")).status, 200);
    assert_eq!(seen(&mut two, from("ann")).status, 200);
    assert_eq!(seen(&mut one, from("ann")).status, 429);
    assert_eq!(seen(&mut two, from("ann")).status, 429);
}
