//! Nested layers whose backend fails between them.

use std::time::Duration;

use http::StatusCode;
use tower::ServiceBuilder;
use tower_sluice::backend::Backend;
use tower_sluice::{Cost, FailurePolicy, Limiter, MemoryBackend, Policy, Quota};

use super::{bucket, in_between, key, limit, over, request, spent_tokens, with_charge};
use crate::remote::Remote;
use crate::support::{ask, hello, run_other_tasks, spent};

#[tokio::test]
async fn outer_charge_is_refunded_or_kept_if_the_inner_backend_fails() {
    for remote in Remote::each_kind() {
        let layers = |choice: FailurePolicy| {
            let fails = remote.clone();
            ServiceBuilder::new()
                .layer(limit(&remote).cost(3))
                .layer(in_between(move |_| fails.fail(1)))
                .layer(limit(&remote).cost(5).on_backend_error(choice))
                .service(with_charge(|charge| {
                    assert_eq!(charge.estimate(), Some(Cost::new(3)));
                    drop(charge.settle(4));
                }))
        };
        let rejected = ask(&mut layers(FailurePolicy::FailClosed), request()).await;
        run_other_tasks().await;
        assert_eq!(rejected.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(remote.operations(), ["check 3", "check 2", "refund 3"]);
        assert_eq!(spent_tokens(&remote), 0);

        // The inner layer fails open, and the outer layer has charged the request.
        let passed = ask(&mut layers(FailurePolicy::FailOpen), request()).await;
        run_other_tasks().await;
        assert_eq!(passed.status, StatusCode::OK);
        assert_eq!(passed.lines("ratelimit"), ["\"api\";r=97"]);
        assert_eq!(remote.operations(), ["check 3", "check 2", "penalty 1"]);
        assert_eq!(spent_tokens(&remote), 4);
    }
}

#[tokio::test]
async fn backend_failure_does_not_wait_for_the_outer_refund() {
    // The backend never answers the refund.
    let remote = Remote::with_changes(0);
    remote.fail_after(1, 1);
    let mut service = ServiceBuilder::new()
        .layer(limit(&remote))
        .layer(limit(&remote).cost(5))
        .service(hello());
    let rejected = ask(&mut service, request()).await;
    assert_eq!(rejected.status, StatusCode::SERVICE_UNAVAILABLE);
    run_other_tasks().await;
    assert_eq!(remote.operations(), ["check 1", "check 4", "refund 1"]);
    assert_eq!(
        (
            spent_tokens(&remote),
            remote.context().stats().background_tasks
        ),
        (1, 1)
    );
    remote.release(1);
    run_other_tasks().await;
    assert_eq!(spent_tokens(&remote), 0);
}

#[tokio::test]
async fn rejection_is_sent_when_the_outer_refund_fails() {
    let sliding = Policy::new(
        "api",
        Quota::sliding_window(100, Duration::from_secs(3_600)),
    );
    for policy in [bucket(), sliding] {
        for remote in Remote::each_kind() {
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 60).decision.is_allowed());
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &remote))
                .layer(over(&policy, &remote).cost(50))
                .service(hello());
            remote.fail_after(2, 1);
            let rejected = ask(&mut service, request()).await;
            assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
            let [line] = rejected.lines("ratelimit")[..] else {
                panic!("{rejected:?}");
            };
            assert!(line.starts_with("\"api\";r=39;t="), "{line}");
            assert_eq!(remote.operations(), ["check 1", "check 49", "refund 1"]);
        }
    }
}

#[tokio::test]
async fn failure_policy_applies_if_the_second_check_fails() {
    let policy = Policy::new(
        "api",
        Quota::sliding_window(100, Duration::from_secs(3_600)),
    );
    let statuses = [
        (FailurePolicy::FailClosed, 503),
        (FailurePolicy::FailOpen, 200),
        (FailurePolicy::Fallback(MemoryBackend::new()), 200),
    ];
    for remote in Remote::each_kind() {
        for (choice, status) in statuses.clone() {
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            let left = limiter.check_now(&key(), 0).decision.snapshot().remaining();
            assert!(
                limiter
                    .check_now(&key(), left.saturating_sub(40))
                    .decision
                    .is_allowed()
            );
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &remote))
                .layer(over(&policy, &remote).cost(50).on_backend_error(choice))
                .service(hello());
            remote.fail_after(3, 1);
            let seen = ask(&mut service, request()).await;
            assert_eq!(seen.status.as_u16(), status);
            let sent = ["check 1", "check 49", "refund 1", "check 50"];
            assert_eq!(remote.operations(), sent);
            assert_eq!(spent(&remote.memory, &policy, &key()), [60]);
        }
    }
}
