//! Settlements run in the background.

use std::convert::Infallible;

use axum::Router;
use axum::routing::get;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::{Charge, FailurePolicy, Global, Policy, Quota, RateLimitLayer};

use super::{app, fetch, key, limit, spent_tokens};
use crate::remote::Remote;
use crate::support::{ask, hello, run_other_tasks, spent};

#[tokio::test]
async fn response_does_not_wait_for_the_settlement() {
    // The check is answered, and the settlement is not.
    let remote = Remote::with_replies(1);
    let app = Router::new()
        .route("/", get(async |charge: Charge| drop(charge.settle(4))))
        .layer(limit(&remote));
    assert_eq!(fetch(&app, "/").await.status, StatusCode::OK);
    run_other_tasks().await;
    assert_eq!(remote.operations(), ["check 10", "refund 6"]);
    assert_eq!(
        (
            spent_tokens(&remote.memory),
            remote.context().stats().background_tasks
        ),
        (10, 1)
    );
    remote.release(1);
    run_other_tasks().await;
    assert_eq!(
        (
            spent_tokens(&remote.memory),
            remote.context().stats().background_tasks
        ),
        (4, 0)
    );
}

#[tokio::test]
async fn settlement_completes_after_its_handler_is_dropped() {
    let remote = Remote::delayed();
    struct Measured(Charge);
    impl Drop for Measured {
        fn drop(&mut self) {
            drop(self.0.settle(3));
        }
    }
    let mut service = limit(&remote).layer(tower::service_fn(|request: Request<()>| async move {
        let charge = request.extensions().get::<Charge>().expect("a charge");
        let _measured = Measured(charge.clone());
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    let ready = service.ready().await.expect("ready");
    let mut answer = Box::pin(ready.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    assert_eq!(spent_tokens(&remote.memory), 10);
    drop(answer);
    run_other_tasks().await;
    assert_eq!(spent_tokens(&remote.memory), 3);
}

#[tokio::test]
async fn running_settlements_are_bounded_and_failures_counted() {
    const MOST: usize = 1_024;
    let policy = Policy::new("api", Quota::per_hour(100_000));
    let remote = Remote::with_changes(0);
    let mut service = RateLimitLayer::new(policy.clone(), Global, remote.clone())
        .cost(10)
        .on_backend_error(FailurePolicy::FailClosed)
        .on_response(|_, charge| drop(charge.cancel()))
        .layer(hello());
    for _ in 0..MOST + 10 {
        let seen = ask(&mut service, Request::new(())).await;
        assert_eq!(seen.status, StatusCode::OK);
    }
    let context = remote.context();
    assert_eq!(
        (
            context.stats().background_tasks,
            context.stats().failed_background_tasks
        ),
        (MOST, 10)
    );
    remote.release(MOST);
    while remote.context().stats().background_tasks > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(spent(&remote.memory, &policy, &key()), [100]);
    assert_eq!(remote.context().stats().failed_background_tasks, 10);
}

#[tokio::test]
async fn failed_settlement_is_counted_and_affects_no_request() {
    for remote in Remote::each_kind() {
        remote.fail_after(1, 1);
        let app = app(&remote);
        let seen = fetch(&app, "/settle/4").await;
        assert_eq!(seen.status, StatusCode::OK);
        assert_eq!(seen.body, "the backend failed to settle the charge");
        assert_eq!(remote.context().stats().failed_background_tasks, 1);
        assert_eq!(spent_tokens(&remote.memory), 10);
    }
}
