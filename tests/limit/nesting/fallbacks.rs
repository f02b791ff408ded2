//! Nested layers whose backend fails, with a fallback.

use std::time::Duration;

use http::StatusCode;
use tower::ServiceBuilder;
use tower_sluice::{Cost, FailurePolicy, Limiter, MemoryBackend, Policy, Quota};

use super::{
    bucket, falling_back, in_between, key, limit, over, request, spend, spent_locally,
    spent_tokens, with_charge,
};
use crate::remote::Remote;
use crate::support::{ask, hello, run_other_tasks, spent};

#[tokio::test]
async fn layers_that_fall_back_to_one_backend_charge_once_there() {
    for (costs, left) in [([1, 5], 95), ([5, 5], 95), ([5, 2], 98), ([0, 5], 95)] {
        for remote in Remote::each_kind() {
            remote.fail(usize::MAX);
            let local = MemoryBackend::new();
            let mut service = falling_back(&remote, &local, costs, || {});
            let seen = ask(&mut service, request()).await;
            let line = format!("\"api\";r={left}");
            assert_eq!(seen.lines("ratelimit"), [line], "{costs:?}");
            assert_eq!(spent_locally(&local), costs[1]);
        }
    }
}

#[tokio::test]
async fn rejection_by_the_inner_fallback_refunds_its_outer_charge() {
    let sliding = Policy::new(
        "api",
        Quota::sliding_window(100, Duration::from_secs(3_600)),
    );
    for policy in [bucket(), sliding] {
        for remote in Remote::each_kind() {
            remote.fail(usize::MAX);
            let local = MemoryBackend::new();
            let limiter = Limiter::new(policy.clone(), local.clone());
            assert!(limiter.check_now(&key(), 60).decision.is_allowed());
            let limit = |cost: u64| {
                let choice = FailurePolicy::Fallback(local.clone());
                over(&policy, &remote).cost(cost).on_backend_error(choice)
            };
            let mut service = ServiceBuilder::new()
                .layer(limit(1))
                .layer(limit(50))
                .service(hello());
            let rejected = ask(&mut service, request()).await;
            assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
            let [line] = rejected.lines("ratelimit")[..] else {
                panic!("{rejected:?}");
            };
            assert!(line.starts_with("\"api\";r=40;t="), "{line}");
            assert_eq!(remote.operations(), ["check 1", "check 50"]);
            let left = limiter.check_now(&key(), 0).decision;
            assert_eq!(left.snapshot().remaining(), 40);
        }
    }
}

#[tokio::test]
async fn inner_layer_charges_in_full_after_an_outer_fallback() {
    for remote in Remote::each_kind() {
        remote.fail(1);
        let local = MemoryBackend::new();
        let mut service = falling_back(&remote, &local, [1, 5], || {});
        let seen = ask(&mut service, request()).await;
        assert_eq!(remote.operations(), ["check 1", "check 5"]);
        assert_eq!((spent_tokens(&remote), spent_locally(&local)), (5, 1));
        let reported = ["\"api\";r=95", "\"api\";r=99"];
        assert_eq!(seen.lines("ratelimit"), reported);
    }
}

#[tokio::test]
async fn inner_fallback_charges_the_missing_tokens() {
    for remote in Remote::each_kind() {
        let local = MemoryBackend::new();
        let fails = remote.clone();
        let mut service = falling_back(&remote, &local, [1, 5], move || fails.fail(1));
        let seen = ask(&mut service, request()).await;
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=96"]);
        assert_eq!((spent_tokens(&remote), spent_locally(&local)), (1, 4));

        // The inner layer rejects. The charge of the outer layer is refunded, and the numbers are those of the inner
        // layer.
        let fails = remote.clone();
        let mut service = falling_back(&remote, &local, [1, 100], move || fails.fail(1));
        let rejected = ask(&mut service, request()).await;
        run_other_tasks().await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=96;t=108"]);
        assert_eq!((spent_tokens(&remote), spent_locally(&local)), (1, 4));
    }
}

#[tokio::test]
async fn charge_of_an_inner_fallback_stays_when_the_rest_is_settled() {
    for remote in Remote::each_kind() {
        let (local, fails) = (MemoryBackend::new(), remote.clone());
        let limit = |cost: u64| {
            let choice = FailurePolicy::Fallback(local.clone());
            limit(&remote).cost(cost).on_backend_error(choice)
        };
        let mut service = ServiceBuilder::new()
            .layer(limit(2))
            .layer(in_between(move |_| fails.fail(1)))
            .layer(limit(5))
            .service(with_charge(|charge| {
                assert_eq!(charge.estimate(), Some(Cost::each([5])));
                drop(charge.cancel());
            }));
        // The refund does not return tokens that other requests have spent at the remote backend.
        spend(&remote, 10);
        ask(&mut service, request()).await;
        run_other_tasks().await;
        assert_eq!((spent_tokens(&remote), spent_locally(&local)), (10, 3));
        assert_eq!(remote.operations(), ["check 2", "check 3", "refund 2"]);
    }
}

#[tokio::test]
async fn inner_fallback_writes_its_own_numbers() {
    let policy = bucket().and("bytes", Quota::per_hour(100));
    for remote in Remote::each_kind() {
        let (local, fails) = (MemoryBackend::new(), remote.clone());
        let choice = FailurePolicy::Fallback(local.clone());
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(Cost::each([1, 10])))
            .layer(in_between(move |_| fails.fail(1)))
            .layer(
                over(&policy, &remote)
                    .cost(Cost::each([5, 2]))
                    .on_backend_error(choice),
            )
            .service(hello());
        let seen = ask(&mut service, request()).await;
        run_other_tasks().await;
        let left = ["\"api\";r=96, \"bytes\";r=100"];
        assert_eq!(seen.lines("ratelimit"), left);
        assert_eq!(spent(&remote.memory, &policy, &key()), [1, 2]);
    }
}
