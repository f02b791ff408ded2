//! How long a request waits at most.

use std::time::Duration;

use http::StatusCode;
use tower::Layer;
use tower_sluice::backend::Backend;
use tower_sluice::{Limiter, MaxWait, Policy, Quota, RetryAfter};

use super::{
    SECOND, answer, assert_waits, call, each, key, limit, over, reports_its_wait, request, seconds,
    status,
};
use crate::support::{ClientResponse, ask, hello, spent};

#[tokio::test]
async fn request_waits_until_exactly_its_allowed_time() {
    for (clock, remote) in each() {
        let mut service = limit(&remote).layer(tower::service_fn(reports_its_wait));
        assert_eq!(ask(&mut service, request()).await.body, "0ns");
        let mut second = call(&mut service, request());
        assert_waits!(second);
        let mut third = call(&mut service, request());
        assert_waits!(third);
        clock.advance(SECOND - Duration::from_micros(1));
        assert_waits!(second);
        clock.advance(Duration::from_micros(1));
        let seen = ClientResponse::of(
            answer(&mut second)
                .await
                .expect("the reservation is due")
                .expect("no error"),
        )
        .await;
        assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "1s"));
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=0;t=1"]);
        assert_waits!(third);
        clock.advance(SECOND);
        let seen = ClientResponse::of(
            answer(&mut third)
                .await
                .expect("the reservation is due")
                .expect("no error"),
        )
        .await;
        assert_eq!(seen.body, "2s");
        assert_eq!(remote.operations(), ["reserve 1"; 3]);
    }
}

#[tokio::test]
async fn request_beyond_max_wait_is_rejected_at_once() {
    for (clock, remote) in each() {
        let policy = Policy::new("api", Quota::per_second(1).burst(100));
        let mut service = over(&policy, &remote).cost(40).layer(hello());
        for _ in 0..2 {
            assert_eq!(ask(&mut service, request()).await.status, StatusCode::OK);
        }
        // The wait is twenty seconds, and decreases to ten.
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("retry-after"), ["20"]);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=20;t=20"]);
        clock.advance(seconds(10) - Duration::from_micros(1));
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.lines("retry-after"), ["11"]);
        clock.advance(Duration::from_micros(1));
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(seconds(10));
        assert_eq!(status!(waits), 200);
        assert_eq!(spent(&remote.memory, &policy, &key()), [100]);
    }
}

#[tokio::test]
async fn impossible_cost_is_denied_at_once_and_zero_cost_allowed() {
    for (_, remote) in each() {
        let unbounded = || limit(&remote).wait(MaxWait::Unbounded);
        let rejected = ask(&mut unbounded().cost(2).layer(hello()), request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(rejected.lines("retry-after").is_empty());
        ask(&mut unbounded().layer(hello()), request()).await;
        let free = ask(&mut unbounded().cost(0).layer(hello()), request()).await;
        assert_eq!(free.status, StatusCode::OK);
        assert_eq!(remote.operations(), ["check 2", "reserve 1", "check 0"]);
    }
}

#[tokio::test]
async fn zero_max_wait_rejects_at_once() {
    for max_wait in [MaxWait::NONE, Duration::ZERO.into()] {
        for (_, remote) in each() {
            let mut service = limit(&remote).wait(max_wait).layer(hello());
            assert_eq!(ask(&mut service, request()).await.status, StatusCode::OK);
            let rejected = ask(&mut service, request()).await;
            assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(rejected.lines("retry-after"), ["1"]);
            assert_eq!(remote.operations(), ["check 1"; 2]);
        }
    }
}

#[tokio::test]
async fn unbounded_request_waits_as_long_as_needed() {
    for (clock, remote) in each() {
        let policy = Policy::new("api", Quota::per_day(1));
        let mut service = over(&policy, &remote)
            .wait(MaxWait::Unbounded)
            .layer(hello());
        ask(&mut service, request()).await;
        let mut waits: Vec<_> = (0..3).map(|_| call(&mut service, request())).collect();
        for waits in &mut waits {
            assert_waits!(*waits);
        }
        for waits in &mut waits {
            clock.advance(seconds(86_400));
            assert_eq!(status!(*waits), 200);
        }
    }
}

#[tokio::test]
async fn request_waits_for_the_next_window() {
    for quota in [
        Quota::fixed_window(2, seconds(5)),
        Quota::sliding_log(2, seconds(5)),
        Quota::sliding_window(2, seconds(5)),
    ] {
        let policy = Policy::new("api", quota);
        for (clock, remote) in each() {
            let mut service = over(&policy, &remote).layer(tower::service_fn(reports_its_wait));
            for _ in 0..2 {
                assert_eq!(ask(&mut service, request()).await.body, "0ns");
            }
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            let rejected = limiter.check_now(&key(), 1).decision;
            let Some(RetryAfter::In(wait)) = rejected.retry_after() else {
                panic!("{rejected:?}");
            };
            let mut waits = call(&mut service, request());
            assert_waits!(waits);
            clock.advance(wait - Duration::from_micros(1));
            assert_waits!(waits);
            clock.advance(Duration::from_micros(1));
            let seen = ClientResponse::of(
                answer(&mut waits)
                    .await
                    .expect("allowed")
                    .expect("no error"),
            );
            assert_eq!(seen.await.body, format!("{wait:?}"));

            // A maximum wait that is one microsecond too short is rejected at once.
            while limiter.check_now(&key(), 1).decision.is_allowed() {}
            let rejected = limiter.check_now(&key(), 1).decision;
            let Some(RetryAfter::In(wait)) = rejected.retry_after() else {
                panic!("{rejected:?}");
            };
            let soon = wait - Duration::from_micros(1);
            let mut service = over(&policy, &remote).wait(soon).layer(hello());
            let seen = ask(&mut service, request()).await;
            assert_eq!(seen.status, StatusCode::TOO_MANY_REQUESTS);
            let seconds = wait.as_micros().div_ceil(1_000_000).to_string();
            assert_eq!(seen.lines("retry-after"), [seconds]);
            assert_eq!(remote.context().stats().waiting, 0);
        }
    }
}
