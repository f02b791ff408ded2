//! Handlers settle the charge of their request.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, StatusCode};
use tower::ServiceExt;
use tower_sluice::backend::Backend;
use tower_sluice::key::Header;
use tower_sluice::limit::MissingCharge;
use tower_sluice::{
    Charge, Cost, Decision, FailurePolicy, Global, Limiter, MemoryBackend, Policy, Quota,
    RateLimitLayer,
};

use super::{app, bucket, fetch, key, limit, settle_handler, spent_tokens};
use crate::remote::Remote;
use crate::support::{ClientResponse, USER, memory, run_other_tasks, spent};

#[tokio::test]
async fn handler_settles_the_charge_of_its_request() {
    for (path, left, said, sent) in [
        ("/charge/5", 15, "85 left", &["penalty 5"][..]),
        ("/charge/0", 10, "as it was", &[]),
        ("/refund/3", 7, "93 left", &["refund 3"]),
        ("/refund/30", 0, "100 left", &["refund 10"]),
        ("/settle/25", 25, "75 left", &["penalty 15"]),
        ("/settle/10", 10, "as it was", &[]),
        ("/settle/4", 4, "96 left", &["refund 6"]),
        ("/settle/0", 0, "100 left", &["refund 10"]),
        ("/cancel/0", 0, "100 left", &["refund 10"]),
        ("/leave/0", 10, "untouched", &[]),
    ] {
        for remote in Remote::each_kind() {
            let seen = fetch(&app(&remote), path).await;
            assert_eq!((seen.status.as_u16(), &*seen.body), (200, said), "{path}");
            // The head shows the numbers before the settlement.
            assert_eq!(seen.lines("ratelimit"), ["\"api\";r=90"]);
            let asked = remote.operations();
            assert_eq!(asked[0], "check 10");
            assert_eq!(asked[1..], *sent, "{path}");
            assert_eq!(spent_tokens(&remote.memory), left, "{path}");
        }
    }
}

#[tokio::test]
async fn settlement_above_the_estimate_is_a_debt_of_at_most_twice_the_limit() {
    for remote in Remote::each_kind() {
        let app = app(&remote);
        assert_eq!(fetch(&app, "/settle/130").await.body, "0 left");
        // The debt is 30 tokens, and the check asks for 10 more.
        let rejected = fetch(&app, "/leave/0").await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=0;t=1440"]);

        let limiter = Limiter::new(bucket(), remote.memory.clone());
        let reset = limiter.reset(&key()).await;
        assert_eq!(reset.expect("memory").remaining(), 100);
        fetch(&app, "/charge/4000000000").await;
        let rejected = fetch(&app, "/leave/0").await;
        assert_eq!(rejected.lines("retry-after"), ["3960"]);
    }
}

#[tokio::test]
async fn each_quota_is_settled_by_its_own_cost() {
    let policy = bucket().and("bytes", Quota::fixed_window(1_000, Duration::from_secs(60)));
    for remote in Remote::each_kind() {
        let app = Router::new()
            .route(
                "/",
                get(async |charge: Charge| drop(charge.settle(Cost::each([3, 700])))),
            )
            .layer(
                RateLimitLayer::new(policy.clone(), Global, remote.clone())
                    .cost(Cost::each([5, 500]))
                    .on_backend_error(FailurePolicy::FailClosed),
            );
        fetch(&app, "/").await;
        run_other_tasks().await;
        assert_eq!(spent(&remote.memory, &policy, &key()), [3, 700]);
        assert_eq!(
            remote.operations(),
            ["check 5+500", "refund 2", "penalty 0+200"]
        );
    }
}

#[tokio::test]
async fn first_settlement_takes_effect_on_any_clone() {
    for remote in Remote::each_kind() {
        let app = Router::new()
            .route(
                "/",
                get(async |charge: Charge, again: Charge| {
                    let clone = charge.clone();
                    let settlement = again.settle(4);
                    for late in [charge.cancel(), clone.charge(9), again.settle(4)] {
                        assert!(late.await.expect_err("the second one").is_settled());
                    }
                    assert_eq!((charge.estimate(), again.estimate()), (None, None));
                    assert!(settlement.await.is_ok());
                }),
            )
            .layer(limit(&remote));
        assert_eq!(fetch(&app, "/").await.status, StatusCode::OK);
        assert_eq!(spent_tokens(&remote.memory), 4);
        assert_eq!(remote.operations(), ["check 10", "refund 6"]);
    }
}

#[tokio::test]
async fn handler_sees_its_charge_and_policy() {
    let memory = memory();
    let two = Policy::new("outside", Quota::per_minute(2));
    let outside = RateLimitLayer::new(two.clone(), Global, memory.clone());
    let app = Router::new()
        .route(
            "/",
            get(
                async |again: Option<Charge>, charge: Charge, decision: Option<Decision>| {
                    assert_eq!(again.expect("one").estimate(), charge.estimate());
                    assert_eq!(charge.policy().expect("one").quotas(), bucket().quotas());
                    assert_eq!(charge.estimate(), Some(Cost::new(10)));
                    assert_eq!(charge.waited(), Duration::ZERO);
                    assert_eq!(charge.decision(), decision);
                    let decision = decision.expect("one");
                    assert!(decision.is_allowed());
                    assert_eq!(decision.snapshot().remaining(), 90);
                    let outer = charge.outer().expect("another limit");
                    assert_eq!(outer.estimate(), Some(Cost::ONE));
                    assert!(outer.outer().is_none());
                    assert!(!format!("{charge:?}").contains("global"), "{charge:?}");
                    outer.cancel().await.expect("open");
                },
            ),
        )
        .layer(limit(&memory))
        .layer(outside);
    assert_eq!(fetch(&app, "/").await.status, StatusCode::OK);
    assert_eq!(spent_tokens(&memory), 10);
    assert_eq!(spent(&memory, &two, &key()), [0]);
}

#[tokio::test]
async fn missing_charge_is_500_with_a_reason_in_the_extensions() {
    let app = Router::new()
        .route("/", get(async |_: Charge| "charged"))
        .route(
            "/perhaps",
            get(async |charge: Option<Charge>, decision: Option<Decision>| {
                format!("{} {}", charge.is_some(), decision.is_some())
            }),
        );
    let silent = app.clone().layer(limit(&memory()).extensions(false));
    for app in [app, silent] {
        let request = Request::get("/").body(Body::empty()).expect("valid");
        let Ok(response) = app.clone().oneshot(request).await;
        let why = response.extensions().get::<MissingCharge>();
        let why = why.expect("the reason").to_string();
        assert!(why.contains("`RateLimitLayer`"), "{why}");
        let seen = ClientResponse::of(response).await;
        assert_eq!(seen.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(seen.body, "");
        assert_eq!(fetch(&app, "/perhaps").await.body, "false false");
    }
}

#[tokio::test]
async fn uncounted_request_has_an_inert_charge() {
    let failing = Remote::failing();
    let uncounted = Router::new()
        .route("/{what}/{tokens}", get(settle_handler))
        .route(
            "/",
            get(async |charge: Charge, decision: Option<Decision>| {
                assert!(decision.is_none() && charge.decision().is_none());
                assert!(charge.policy().is_none() && charge.estimate().is_none());
                assert_eq!(charge.waited(), Duration::ZERO);
            }),
        );
    let by_failure = limit(&failing).on_backend_error(FailurePolicy::FailOpen);
    let memory = memory();
    let by_key = RateLimitLayer::new(bucket(), Header::new(USER), memory.clone()).skip_unkeyed();
    for app in [uncounted.clone().layer(by_failure), uncounted.layer(by_key)] {
        assert_eq!(fetch(&app, "/").await.status, StatusCode::OK);
        for what in ["charge", "refund", "settle", "cancel"] {
            let seen = fetch(&app, &format!("/{what}/7")).await;
            assert_eq!((seen.status.as_u16(), &*seen.body), (200, "as it was"));
        }
    }
    assert_eq!(failing.operations(), ["check 10"; 5]);
    assert!(memory.is_empty());
    assert_eq!(failing.context().stats().failed_background_tasks, 0);
}

#[tokio::test]
async fn charge_of_a_fallback_is_settled_there() {
    let local = MemoryBackend::new();
    let choice = FailurePolicy::Fallback(local.clone());
    for backend in [Remote::failing(), {
        let near = Remote::immediate();
        near.fail(usize::MAX);
        near
    }] {
        let app = Router::new()
            .route("/{what}/{tokens}", get(settle_handler))
            .layer(limit(&backend).on_backend_error(choice.clone()));
        assert!(fetch(&app, "/settle/3").await.body.ends_with(" left"));
        assert_eq!(backend.operations(), ["check 10"]);
    }
    let limiter = Limiter::new(bucket(), local);
    let left = limiter.check_now(&key(), 0).decision.snapshot().remaining();
    assert_eq!(left, 94);
}
