//! Waiting requests whose backend fails.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceBuilder};
use tower_sluice::backend::Backend;
use tower_sluice::{Charge, FailurePolicy, Limiter, MemoryBackend, Policy, Quota};

use super::{
    answer, assert_waits, call, each, key, limit, over, reports_its_wait, request, seconds,
};
use crate::remote::Remote;
use crate::support::{ask, clock, hello};

#[tokio::test]
async fn failure_policy_applies_to_waiting_requests() {
    for (_, remote) in each() {
        remote.fail(usize::MAX);
        let denied = ask(&mut limit(&remote).layer(hello()), request()).await;
        assert_eq!(denied.status, StatusCode::SERVICE_UNAVAILABLE);
        let mut allowed = limit(&remote)
            .on_backend_error(FailurePolicy::FailOpen)
            .layer(tower::service_fn(|request: Request<()>| async move {
                let charge = request.extensions().get::<Charge>().expect("a charge");
                assert!(charge.policy().is_none() && charge.decision().is_none());
                assert!(charge.settle(5).await.expect("no failure").is_none());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        let allowed = ask(&mut allowed, request()).await;
        assert_eq!(allowed.status, StatusCode::OK);
        assert!(allowed.has_no_rate_limit_fields());
        assert_eq!(remote.operations(), ["reserve 1"; 2]);
        assert_eq!(remote.context().stats().waiting, 0);
    }
}

/// The fallback uses the system clock: one of these requests waits for half a second.
#[tokio::test]
async fn request_waits_at_the_fallback_if_the_backend_fails() {
    let policy = Policy::new("api", Quota::per_second(2).burst(1));
    for (remote, longest) in Remote::each_kind().into_iter().zip([10_000_000, 10]) {
        remote.fail(usize::MAX);
        let local = MemoryBackend::new();
        let limit = over(&policy, &remote)
            .on_backend_error(FailurePolicy::Fallback(local.clone()))
            .wait(Duration::from_micros(longest));
        let mut service = limit.layer(tower::service_fn(reports_its_wait));
        assert_eq!(ask(&mut service, request()).await.body, "0ns");
        let second = ask(&mut service, request()).await;
        if longest > 10 {
            assert_eq!(second.status, StatusCode::OK);
            assert!(second.body.ends_with("ms"), "{}", second.body);
        } else {
            assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!(remote.operations(), ["reserve 1"; 2]);
    }
}

#[tokio::test]
async fn charge_after_a_wait_at_the_fallback_is_settled_there() {
    let policy = Policy::new("api", Quota::per_hour(100));
    for (_, remote) in each() {
        remote.fail(usize::MAX);
        let local = MemoryBackend::new();
        let limit = over(&policy, &remote).cost(10);
        let mut service = limit
            .on_backend_error(FailurePolicy::Fallback(local.clone()))
            .layer(tower::service_fn(|request: Request<()>| async move {
                let charge = request.extensions().get::<Charge>().expect("a charge");
                let after = charge.settle(3).await.expect("decided in memory");
                assert_eq!(after.expect("numbers").remaining(), 97);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        assert_eq!(ask(&mut service, request()).await.status, StatusCode::OK);
        assert_eq!(remote.operations(), ["reserve 10"]);
    }
}

#[tokio::test]
async fn layers_that_fall_back_to_one_backend_wait_there_for_one_charge() {
    let policy = Policy::new("api", Quota::per_hour(100));
    for (_, remote) in each() {
        remote.fail(usize::MAX);
        let local = MemoryBackend::new();
        let limit = |cost: u64| {
            let choice = FailurePolicy::Fallback(local.clone());
            over(&policy, &remote).cost(cost).on_backend_error(choice)
        };
        let mut service = ServiceBuilder::new()
            .layer(limit(1))
            .layer(limit(5))
            .service(hello());
        let passed = ask(&mut service, request()).await;
        assert_eq!(passed.lines("ratelimit"), ["\"api\";r=95"]);
        let mut dear = ServiceBuilder::new()
            .layer(limit(1))
            .layer(limit(96))
            .service(hello());
        let rejected = ask(&mut dear, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        let limiter = Limiter::new(policy.clone(), local);
        let left = limiter.check_now(&key(), 0).decision.snapshot().remaining();
        assert_eq!(left, 95);
    }
}

#[tokio::test]
async fn time_until_the_failure_counts_toward_max_wait() {
    let policy = Policy::new("api", Quota::per_hour(1));
    for (after, status) in [(7, None), (3_601, Some(429))] {
        let clock = clock();
        let remote = Remote::with_replies(0).with_clock(&clock);
        let local = MemoryBackend::new();
        let limiter = Limiter::new(policy.clone(), local.clone());
        assert!(limiter.check_now(&key(), 1).decision.is_allowed());
        let mut service = over(&policy, &remote)
            .wait(seconds(7_200))
            .on_backend_error(FailurePolicy::Fallback(local))
            .layer(hello());
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(seconds(after));
        remote.close();
        let seen = answer(&mut waits).await;
        let seen = seen.map(|response| response.expect("no error").status().as_u16());
        assert_eq!(seen, status, "after {after} s");
    }
}
