//! Nested layers that wait.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::limit::ConcurrencyLimit;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_sluice::{Charge, Decision, Limiter, MaxWait, Policy, Quota};

use super::{
    SECOND, answer, assert_waits, call, each, key, limit, over, reports_its_wait, request, seconds,
};
use crate::support::{ClientResponse, ask, hello, run_other_tasks, spent};

#[tokio::test]
async fn inner_layer_waits_for_the_missing_tokens() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for waits_outside in [true, false] {
        for (clock, remote) in each() {
            let inner = over(&policy, &remote).cost(5);
            let mut outer = over(&policy, &remote).cost(2);
            if !waits_outside {
                outer = outer.wait(MaxWait::NONE);
            }
            let mut service = ServiceBuilder::new()
                .layer(outer)
                .layer(inner)
                .service(tower::service_fn(reports_its_wait));
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 7).decision.is_allowed());
            let mut waits = call(&mut service, request());
            assert_waits!(waits);
            clock.advance(seconds(2));
            let seen = answer(&mut waits)
                .await
                .expect("the reservation is due")
                .expect("no error");
            let seen = ClientResponse::of(seen).await;
            assert_eq!(seen.body, "2s");
            assert_eq!(seen.lines("ratelimit"), ["\"api\";r=0;t=1"]);
            assert_eq!(spent(&remote.memory, &policy, &key()), [10]);
            let outer = if waits_outside {
                "reserve 2"
            } else {
                "check 2"
            };
            assert_eq!(remote.operations(), [outer, "reserve 3"]);
        }
    }
}

#[tokio::test]
async fn inner_layer_without_a_wait_decides_at_once() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for (clock, remote) in each() {
        let inner = || over(&policy, &remote).wait(MaxWait::NONE);
        let limiter = Limiter::new(policy.clone(), remote.memory.clone());
        assert!(limiter.check_now(&key(), 10).decision.is_allowed());
        let mut denies = ServiceBuilder::new()
            .layer(over(&policy, &remote))
            .layer(inner().cost(5))
            .service(hello());
        let mut waits = call(&mut denies, request());
        assert_waits!(waits);
        clock.advance(SECOND);
        let rejected = answer(&mut waits)
            .await
            .expect("the reservation is due")
            .expect("no error");
        let rejected = ClientResponse::of(rejected).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=1;t=4"]);
        assert_eq!(spent(&remote.memory, &policy, &key()), [9]);

        let mut cheap = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(3))
            .layer(inner().cost(2))
            .service(tower::service_fn(reports_its_wait));
        let mut waits = call(&mut cheap, request());
        assert_waits!(waits);
        clock.advance(seconds(2));
        let seen = answer(&mut waits)
            .await
            .expect("the reservation is due")
            .expect("no error");
        let seen = ClientResponse::of(seen).await;
        assert_eq!(seen.body, "2s");
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=1"]);
    }
}

#[tokio::test]
async fn joined_layers_share_one_max_wait() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for (clock, remote) in each() {
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(6))
            .layer(over(&policy, &remote).cost(9))
            .layer(over(&policy, &remote).cost(10))
            .service(tower::service_fn(reports_its_wait));
        let limiter = Limiter::new(policy.clone(), remote.memory.clone());
        assert!(limiter.check_now(&key(), 10).decision.is_allowed());
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(seconds(6));
        assert_waits!(waits);
        clock.advance(seconds(3));
        assert_waits!(waits);
        clock.advance(SECOND);
        let seen = answer(&mut waits)
            .await
            .expect("ten seconds")
            .expect("no error");
        assert_eq!(ClientResponse::of(seen).await.body, "10s");

        // The wait is slightly above ten seconds, of which six have passed: the request is rejected and refunded.
        clock.advance(seconds(60));
        assert!(limiter.check_now(&key(), 10).decision.is_allowed());
        let mut service = ServiceBuilder::new()
            .layer(
                over(&policy, &remote)
                    .cost(6)
                    .wait(MaxWait::within(seconds(10))),
            )
            .layer(over(&policy, &remote).wait(seconds(9)).cost(10))
            .service(hello());
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(seconds(6));
        let rejected = answer(&mut waits)
            .await
            .expect("an answer")
            .expect("no error");
        let rejected = ClientResponse::of(rejected).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=6;t=4"]);
        assert_eq!(spent(&remote.memory, &policy, &key()), [4]);
    }
}

#[tokio::test]
async fn cancelled_inner_reservation_refunds_the_outer_charge() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for (_, remote) in each() {
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(2).wait(MaxWait::NONE))
            .layer(over(&policy, &remote).cost(5))
            .service(hello());
        let limiter = Limiter::new(policy.clone(), remote.memory.clone());
        assert!(limiter.check_now(&key(), 7).decision.is_allowed());
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        drop(waits);
        run_other_tasks().await;
        let asked = remote.operations();
        assert_eq!(asked[..2], ["check 2", "reserve 3"]);
        assert!(asked[2..].contains(&"cancel".to_owned()), "{asked:?}");
        assert!(asked[2..].contains(&"refund 2".to_owned()), "{asked:?}");
        assert_eq!(spent(&remote.memory, &policy, &key()), [7]);
    }
}

#[tokio::test]
async fn charge_stays_after_an_inner_reservation_by_default() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for (refunds, left) in [(false, [10]), (true, [5])] {
        for (clock, remote) in each() {
            let slots = ConcurrencyLimit::new(hello::<()>(), 1);
            let mut inner = over(&policy, &remote).cost(5);
            if refunds {
                inner = inner.refund_on_disconnect();
            }
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &remote).cost(2))
                .layer(inner)
                .service(slots.clone());
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 7).decision.is_allowed());
            let mut waits = call(&mut service, request());
            assert_waits!(waits);
            // Another request holds the slot when its reservation is due.
            let mut other = slots;
            other
                .ready()
                .now_or_never()
                .expect("free")
                .expect("no error");
            clock.advance(seconds(2));
            assert_waits!(waits);
            drop(waits);
            run_other_tasks().await;
            assert_eq!(spent(&remote.memory, &policy, &key()), left);
        }
    }
}

#[tokio::test]
async fn inner_layer_with_nothing_missing_does_not_wait() {
    for (_, remote) in each() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote))
            .layer(limit(&remote))
            .service(tower::service_fn(reports_its_wait));
        assert_eq!(ask(&mut service, request()).await.body, "0ns");
        assert_eq!(remote.operations(), ["reserve 1"]);
    }
}

#[tokio::test]
async fn layers_of_two_policies_wait_one_after_the_other() {
    let (api, other) = (
        Policy::new("api", Quota::per_second(1)),
        Policy::new("other", Quota::fixed_window(1, seconds(3))),
    );
    for (clock, remote) in each() {
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&other, &remote))
            .service(tower::service_fn(|request: Request<()>| async move {
                let charge = request.extensions().get::<Charge>().expect("a charge");
                let outer = charge.outer().expect("another slot");
                let text = format!("{:?} {:?}", outer.waited(), charge.waited());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
            }));
        assert_eq!(ask(&mut service, request()).await.body, "0ns 0ns");
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(SECOND);
        assert_waits!(waits);
        clock.advance(seconds(2));
        let seen = answer(&mut waits)
            .await
            .expect("allowed")
            .expect("no error");
        assert_eq!(ClientResponse::of(seen).await.body, "1s 2s");
    }
}

#[tokio::test]
async fn waiting_inner_layer_reports_the_wait_for_the_whole_cost() {
    let policy = Policy::new("api", Quota::sliding_window(10, seconds(10)));
    for (_, remote) in each() {
        let inner = over(&policy, &remote).wait(SECOND).cost(5);
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote))
            .layer(inner)
            .service(hello());
        let limiter = Limiter::new(policy.clone(), remote.memory.clone());
        assert!(limiter.check_now(&key(), 9).decision.is_allowed());
        let alone = limiter.check_now(&key(), 5).decision;
        let ready = service.ready().await.expect("ready");
        let rejected = ready.call(request()).await.expect("no error");
        let reported = rejected.extensions().get::<Decision>().expect("a decision");
        assert_eq!(*reported, alone);
        assert_eq!(spent(&remote.memory, &policy, &key()), [9]);
    }
}
