//! The readiness of the inner service.

use std::time::Duration;

use futures_util::FutureExt;
use http::StatusCode;
use tower::limit::ConcurrencyLimit;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_sluice::{Policy, Quota};

use super::{Strict, bucket, limit, over, request, spend, spent_tokens};
use crate::remote::Remote;
use crate::support::{ask, run_other_tasks};

#[tokio::test]
async fn ready_service_is_called_whatever_the_settlement_returns() {
    let sliding = Policy::new("api", Quota::sliding_window(100, Duration::from_secs(60)));
    for policy in [bucket(), sliding] {
        for remote in Remote::each_kind() {
            for (outer, inner, status) in [
                (1, 5, 200),
                (5, 5, 200),
                (5, 1, 200),
                (1, 99, 429),
                (1, 6, 200),
            ] {
                let mut service = ServiceBuilder::new()
                    .layer(over(&policy, &remote).cost(outer))
                    .layer(over(&policy, &remote).cost(inner))
                    .service(Strict::default());
                let seen = ask(&mut service, request()).await;
                assert_eq!(seen.status.as_u16(), status);
            }
        }
    }
}

#[tokio::test]
async fn rejection_releases_readiness_before_the_outer_refund_completes() {
    // The backend never answers the refund.
    let remote = Remote::with_replies(2);
    let inner = ConcurrencyLimit::new(Strict::default(), 1);
    let mut service = ServiceBuilder::new()
        .layer(limit(&remote))
        .layer(limit(&remote).cost(50))
        .service(inner.clone());
    let mut other = inner;
    spend(&remote, 60);
    service.ready().await.expect("ready");
    assert!(
        other.ready().now_or_never().is_none(),
        "there is only one slot"
    );
    let mut rejected = Box::pin(service.call(request()));
    assert!(rejected.as_mut().now_or_never().is_none());
    run_other_tasks().await;
    assert_eq!(remote.operations(), ["check 1", "check 49", "refund 1"]);
    assert!(other.ready().now_or_never().is_some());
    remote.release(1);
    let response = rejected.await.expect("no error");
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(spent_tokens(&remote), 60);
}
