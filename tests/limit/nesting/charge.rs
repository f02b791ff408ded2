//! Nested layers make one charge: the cost of the innermost layer.

use std::sync::atomic::Ordering::SeqCst;

use http::{Request, StatusCode};
use tower::{ServiceBuilder, ServiceExt};
use tower_sluice::{Cost, Policy, Quota};

use super::{POLICY, counted, key, limit, over, request, spend, spent_tokens, with_charge};
use crate::remote::Remote;
use crate::support::{ClientResponse, ask, hello, spent};

#[tokio::test]
async fn cost_of_the_inner_layer_applies() {
    for (outer, inner, sent, left) in [
        // Equal costs: the inner layer checks nothing.
        (5, 5, &["check 5"][..], "\"api\";r=95"),
        (0, 0, &["check 0"], "\"api\";r=100"),
        // A higher inner cost: the inner layer charges the difference.
        (1, 5, &["check 1", "check 4"], "\"api\";r=95"),
        (0, 5, &["check 0", "check 5"], "\"api\";r=95"),
        (1, 100, &["check 1", "check 99"], "\"api\";r=0;t=36"),
        // A lower inner cost: the inner layer refunds the rest.
        (5, 2, &["check 5", "refund 3"], "\"api\";r=98"),
        (5, 0, &["check 5", "refund 5"], "\"api\";r=100"),
    ] {
        for remote in Remote::each_kind() {
            let mut service = ServiceBuilder::new()
                .layer(limit(&remote).cost(outer))
                .layer(limit(&remote).cost(inner))
                .service(hello());
            let seen = ask(&mut service, request()).await;
            assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "hello"));
            assert_eq!(seen.lines("ratelimit"), [left], "{outer} and {inner}");
            assert_eq!(seen.lines("ratelimit-policy"), POLICY);
            assert_eq!(remote.operations(), sent, "{outer} and {inner}");
            assert_eq!(spent_tokens(&remote), inner);
        }
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn route_cost_of_an_inner_layer_overrides_the_table() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower_sluice::RouteCosts;
    for remote in Remote::each_kind() {
        let ok = || get(|| async { "ok" });
        let table = RouteCosts::new().route("/dear/{id}", 7).otherwise(2);
        let app: Router = Router::new()
            .route("/dear/{id}", ok().layer(limit(&remote).cost(20)))
            .route("/free", ok().layer(limit(&remote).cost(0)))
            .route("/", ok())
            .layer(limit(&remote).cost(table));
        let asked = async |path: &str| {
            let request = Request::get(path).body(Body::empty());
            let Ok(response) = app.clone().oneshot(request.expect("valid")).await;
            ClientResponse::of(response).await
        };
        for (path, left) in [("/", 98), ("/dear/1", 78), ("/free", 78), ("/nowhere", 76)] {
            let seen = asked(path).await;
            assert_eq!(seen.lines("ratelimit"), [format!("\"api\";r={left}")]);
        }
        spend(&remote, 66);
        let rejected = asked("/dear/1").await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=10;t=360"]);
        assert_eq!(asked("/").await.lines("ratelimit"), ["\"api\";r=8"]);
    }
}

#[tokio::test]
async fn inner_rejection_refunds_the_outer_charge() {
    for remote in Remote::each_kind() {
        let (inner, calls) = counted();
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote))
            .layer(limit(&remote).cost(50))
            .service(inner);
        spend(&remote, 60);
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        // Ten tokens are missing.
        let head = [
            ("cache-control", "no-store"),
            ("content-type", "application/problem+json"),
            ("ratelimit", "\"api\";r=40;t=360"),
            ("ratelimit-policy", POLICY[0]),
            ("retry-after", "360"),
        ];
        assert_eq!(rejected.head(), head);
        assert_eq!(remote.operations(), ["check 1", "check 49", "refund 1"]);
        assert_eq!((spent_tokens(&remote), calls.load(SeqCst)), (60, 0));
    }
}

#[tokio::test]
async fn cost_above_the_limit_is_not_split_across_layers() {
    for remote in Remote::each_kind() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote).cost(60))
            .layer(limit(&remote).cost(101))
            .service(hello());
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=100"]);
        assert!(rejected.lines("retry-after").is_empty());
        assert_eq!(remote.operations(), ["check 60", "check 101", "refund 60"]);
        assert_eq!(spent_tokens(&remote), 0);
    }
}

#[tokio::test]
async fn innermost_of_three_layers_decides() {
    for (costs, sent, left) in [
        (
            [1, 5, 9],
            &["check 1", "check 4", "check 4"][..],
            "\"api\";r=91",
        ),
        (
            [1, 5, 3],
            &["check 1", "check 4", "refund 2"],
            "\"api\";r=97",
        ),
        ([1, 5, 5], &["check 1", "check 4"], "\"api\";r=95"),
        ([1, 1, 5], &["check 1", "check 4"], "\"api\";r=95"),
        ([5, 5, 5], &["check 5"], "\"api\";r=95"),
        (
            [5, 1, 5],
            &["check 5", "refund 4", "check 4"],
            "\"api\";r=95",
        ),
        // The last charge is refunded first.
        (
            [2, 5, 1],
            &["check 2", "check 3", "refund 3", "refund 1"],
            "\"api\";r=99",
        ),
    ] {
        for remote in Remote::each_kind() {
            let mut service = ServiceBuilder::new()
                .layer(limit(&remote).cost(costs[0]))
                .layer(limit(&remote).cost(costs[1]))
                .layer(limit(&remote).cost(costs[2]))
                .service(hello());
            let seen = ask(&mut service, request()).await;
            assert_eq!(seen.lines("ratelimit"), [left], "{costs:?}");
            assert_eq!(seen.lines("ratelimit-policy"), POLICY);
            assert_eq!(remote.operations(), sent, "{costs:?}");
            assert_eq!(spent_tokens(&remote), costs[2]);
        }
    }
}

#[tokio::test]
async fn innermost_rejection_refunds_all_layers() {
    for remote in Remote::each_kind() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote))
            .layer(limit(&remote).cost(5))
            .layer(limit(&remote).cost(80))
            .service(hello());
        spend(&remote, 30);
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=70;t=360"]);
        let sent = ["check 1", "check 4", "check 75", "refund 4", "refund 1"];
        assert_eq!(remote.operations(), sent);
        assert_eq!(spent_tokens(&remote), 30);
    }
}

#[tokio::test]
async fn quotas_settle_up_and_down_independently() {
    let policy = Policy::new("api", Quota::per_hour(100)).and("bytes", Quota::per_hour(100));
    for remote in Remote::each_kind() {
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(Cost::each([1, 10])))
            .layer(over(&policy, &remote).cost(Cost::each([5, 2])))
            .service(with_charge(|charge| {
                assert_eq!(charge.estimate(), Some(Cost::each([5, 2])));
                let decision = charge.decision().expect("a decision");
                let left = decision
                    .snapshot()
                    .quotas()
                    .iter()
                    .map(|quota| quota.remaining());
                assert_eq!(left.collect::<Vec<_>>(), [95, 98]);
            }));
        let seen = ask(&mut service, request()).await;
        let left = ["\"api\";r=95, \"bytes\";r=98"];
        assert_eq!(seen.lines("ratelimit"), left);
        assert_eq!(remote.operations(), ["check 1+10", "check 4+0", "refund 8"]);
        assert_eq!(spent(&remote.memory, &policy, &key()), [5, 2]);

        // A rejection by either layer refunds both.
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(Cost::each([1, 10])))
            .layer(over(&policy, &remote).cost(Cost::each([96, 2])))
            .service(hello());
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=95;t=36"]);
        assert_eq!(spent(&remote.memory, &policy, &key()), [5, 2]);
    }
}
