//! `refund_on_disconnect` refunds requests of disconnected clients.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::response::AsError;
use tower_sluice::{FailurePolicy, Global, Limiter, MemoryBackend, RateLimitLayer};

use super::{bucket, key, limit, spent_tokens};
use crate::remote::Remote;
use crate::support::{ask, clock, hello, run_other_tasks, seen, two_a_minute};

/// Never completes. `ready` sets its readiness.
#[derive(Clone)]
struct NeverCompletes {
    ready: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
}

impl NeverCompletes {
    fn new() -> Self {
        Self {
            ready: Arc::new(AtomicUsize::new(1)),
            calls: Arc::default(),
        }
    }
}

impl Service<Request<()>> for NeverCompletes {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.ready.load(SeqCst) {
            0 => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.calls.fetch_add(1, SeqCst);
        std::future::pending()
    }
}

async fn ready<S: Service<Request<()>, Error = Infallible>>(service: &mut S) {
    let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
}

#[tokio::test]
async fn refund_on_disconnect_refunds_before_the_service_is_called() {
    for (refunds, left) in [(false, 10), (true, 0)] {
        for extensions in [true, false] {
            let remote = Remote::immediate();
            let mut limit = limit(&remote).extensions(extensions);
            if refunds {
                limit = limit.refund_on_disconnect();
            }
            let mut service = limit.layer(NeverCompletes::new());
            ready(&mut service).await;
            let answer = service.call(Request::new(()));
            assert_eq!(spent_tokens(&remote.memory), 10);
            drop(answer);
            assert_eq!(spent_tokens(&remote.memory), left);
        }
    }
}

#[tokio::test]
async fn request_dropped_in_the_service_stays_charged() {
    for remote in Remote::each_kind() {
        let inner = NeverCompletes::new();
        let mut service = limit(&remote).refund_on_disconnect().layer(inner.clone());
        ready(&mut service).await;
        let mut answer = Box::pin(service.call(Request::new(())));
        assert!(answer.as_mut().now_or_never().is_none());
        assert_eq!(inner.calls.load(SeqCst), 1);
        drop(answer);
        run_other_tasks().await;
        assert_eq!(spent_tokens(&remote.memory), 10);
    }
}

#[tokio::test]
async fn request_dropped_during_its_check_is_refunded_by_the_reply() {
    for (refunds, sent) in [(false, &[][..]), (true, &["refund 10"])] {
        let remote = Remote::with_replies(0);
        let inner = NeverCompletes::new();
        let mut limit = limit(&remote);
        if refunds {
            limit = limit.refund_on_disconnect();
        }
        let mut service = limit.layer(inner.clone());
        ready(&mut service).await;
        let mut answer = Box::pin(service.call(Request::new(())));
        assert!(answer.as_mut().now_or_never().is_none());
        assert_eq!(remote.operations(), ["check 10"]);
        drop(answer);
        run_other_tasks().await;
        remote.release(9);
        run_other_tasks().await;
        assert_eq!(remote.operations(), *sent);
        assert_eq!(
            spent_tokens(&remote.memory),
            0,
            "the check was dropped or refunded"
        );
        assert_eq!(inner.calls.load(SeqCst), 0);
        assert_eq!(remote.context().stats().background_tasks, 0);
    }
}

#[test]
fn refund_on_disconnect_survives_later_settings() {
    let remote = Remote::immediate();
    let limit = RateLimitLayer::new(two_a_minute(), Global, remote.clone()).refund_on_disconnect();
    let policy = bucket();
    let limit = limit
        .cost_fn(|_| 10)
        .on_backend_error(FailurePolicy::FailClosed)
        .policy_fn(move |_, _| policy.clone())
        .on_response(|_, _| {})
        .reject_fn(|_, _| Response::new(""));
    let mut service = limit.layer(NeverCompletes::new());
    ready(&mut service).now_or_never().expect("ready");
    drop(service.call(Request::new(())));
    assert_eq!(remote.operations(), ["check 10", "refund 10"]);
}

#[tokio::test]
async fn refundable_request_holds_no_slot_during_its_check() {
    let remote = Remote::with_replies(0);
    let slots = ConcurrencyLimit::new(hello::<()>(), 1);
    let mut other = slots.clone();
    let mut service = limit(&remote).refund_on_disconnect().layer(slots);
    ready(&mut service).await;
    let mut answer = Box::pin(service.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    assert!(other.ready().now_or_never().is_some(), "the slot is free");
    remote.release(1);
    assert!(
        answer.as_mut().now_or_never().is_none(),
        "another request holds the slot"
    );
    drop(other);
    assert!(answer.as_mut().now_or_never().is_some());
}

#[tokio::test]
async fn request_dropped_before_its_first_poll_sends_nothing() {
    let remote = Remote::delayed();
    let mut service = limit(&remote)
        .refund_on_disconnect()
        .layer(NeverCompletes::new());
    ready(&mut service).await;
    drop(service.call(Request::new(())));
    run_other_tasks().await;
    assert!(remote.operations().is_empty());
}

#[tokio::test]
async fn request_dropped_between_wait_and_service_is_refunded() {
    for (refunds, left) in [(false, 100), (true, 90)] {
        for remote in Remote::each_kind() {
            let (clock, inner) = (clock(), NeverCompletes::new());
            let remote = remote.with_clock(&clock);
            let limiter = Limiter::new(bucket(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 100).decision.is_allowed());
            let mut limit = limit(&remote).wait(Duration::from_secs(360));
            if refunds {
                limit = limit.refund_on_disconnect();
            }
            let mut service = limit.layer(inner.clone());
            ready(&mut service).await;
            let mut answer = Box::pin(service.call(Request::new(())));
            assert!(answer.as_mut().now_or_never().is_none());
            // Its reservation is due, and the service is busy.
            inner.ready.store(0, SeqCst);
            clock.advance(Duration::from_secs(360));
            for _ in 0..3 {
                assert!(answer.as_mut().now_or_never().is_none());
                run_other_tasks().await;
            }
            assert_eq!(
                (remote.context().stats().waiting, inner.calls.load(SeqCst)),
                (0, 0)
            );
            drop(answer);
            run_other_tasks().await;
            assert_eq!(spent_tokens(&remote.memory), left);
        }
    }
}

#[tokio::test]
async fn rejection_is_not_refunded() {
    let remote = Remote::immediate();
    let limiter = Limiter::new(bucket(), remote.memory.clone());
    assert!(limiter.check_now(&key(), 95).decision.is_allowed());
    let mut service = limit(&remote).refund_on_disconnect().layer(hello());
    ready(&mut service).await;
    drop(service.call(Request::new(())));
    assert_eq!(remote.operations(), ["check 10"]);
    assert_eq!(spent_tokens(&remote.memory), 95);
}

#[tokio::test]
async fn connected_client_is_not_refunded() {
    for remote in Remote::each_kind() {
        let mut service = limit(&remote).refund_on_disconnect().layer(hello());
        ask(&mut service, Request::new(())).await;
        run_other_tasks().await;
        assert_eq!(remote.operations(), ["check 10"]);
        assert_eq!(spent_tokens(&remote.memory), 10);
    }
}

#[tokio::test]
async fn non_http_services_are_refunded() {
    let remote = Remote::immediate();
    let limit = limit(&remote).protocol(AsError).refund_on_disconnect();
    let mut service = limit.layer(tower::service_fn(
        |n: u64| async move { Ok::<_, Infallible>(n) },
    ));
    let ready = service.ready().await.expect("ready");
    drop(ready.call(1));
    assert_eq!(remote.operations(), ["check 10", "refund 10"]);
    let ready = service.ready().await.expect("ready");
    assert_eq!(ready.call(1).await.expect("allowed"), 1);
    assert_eq!(spent_tokens(&remote.memory), 10);
}

#[tokio::test]
async fn charge_of_a_fallback_is_refunded_there() {
    let local = MemoryBackend::new();
    let remote = Remote::immediate();
    remote.fail(usize::MAX);
    let limit = limit(&remote)
        .on_backend_error(FailurePolicy::Fallback(local.clone()))
        .refund_on_disconnect();
    let mut service = limit.layer(hello::<()>());
    let limiter = Limiter::new(bucket(), local);
    let left = || limiter.check_now(&key(), 0).decision.snapshot().remaining();
    ready(&mut service).await;
    let answer = service.call(Request::new(()));
    assert_eq!(left(), 90);
    drop(answer);
    assert_eq!(left(), 100);
    assert_eq!(remote.operations(), ["check 10"]);
}

#[tokio::test]
async fn failed_check_of_a_dropped_request_is_not_counted() {
    let remote = Remote::with_replies(0);
    let mut service = limit(&remote)
        .refund_on_disconnect()
        .layer(NeverCompletes::new());
    ready(&mut service).await;
    let mut answer = Box::pin(service.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    drop(answer);
    remote.close();
    run_other_tasks().await;
    assert_eq!(remote.operations(), ["check 10"]);
    assert_eq!(
        (
            remote.context().stats().background_tasks,
            remote.context().stats().failed_background_tasks
        ),
        (0, 0)
    );
}

#[test]
fn without_a_runtime_nothing_is_refunded_and_nothing_panics() {
    let remote = Remote::delayed();
    let mut service = limit(&remote)
        .refund_on_disconnect()
        .layer(NeverCompletes::new());
    ready(&mut service).now_or_never().expect("ready");
    let mut answer = Box::pin(service.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    drop(answer);

    let remote = Remote::with_replies(0);
    let mut service = limit(&remote)
        .refund_on_disconnect()
        .layer(NeverCompletes::new());
    ready(&mut service).now_or_never().expect("ready");
    let mut answer = Box::pin(service.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    drop(answer);
    assert_eq!(remote.context().stats().failed_background_tasks, 1);

    let mut service = limit(&remote)
        .on_response(|_, charge| {
            let why = charge.cancel().now_or_never().expect("at once");
            assert!(why.expect_err("no runtime").to_string().contains("runtime"));
        })
        .layer(hello());
    remote.release(1);
    assert_eq!(seen(&mut service, Request::new(())).status, StatusCode::OK);
}
