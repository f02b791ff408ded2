//! Nested layers decide exactly like the inner layer by itself.

use std::time::Duration;

use futures_util::FutureExt;
use http::StatusCode;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::{Decision, Limiter, MemoryBackend, Policy, Quota, RetryAfter};

use super::{in_memory, key, over, policies, request};
use crate::remote::Remote;
use crate::support::{ClientResponse, clock, hello, now, spent};

/// Each request passes two layers on one backend, and a single layer on another backend with the same history.
#[tokio::test]
async fn two_layers_decide_like_the_inner_layer() {
    let (mut rejected, mut allowed) = (0, 0);
    for (seed, policy) in policies().into_iter().enumerate() {
        let mut random = StdRng::seed_from_u64(seed as u64);
        for is_near in [true, false] {
            let clock = clock();
            let remote = if is_near {
                Remote::immediate()
            } else {
                Remote::delayed()
            };
            let remote = remote.with_clock(&clock);
            let twin = MemoryBackend::builder().clock(clock.clone()).build();
            for step in 0..600 {
                clock.advance(Duration::from_micros(random.random_range(0..4_000_000)));
                let (outer, inner) = (random.random_range(0..4_u64), random.random_range(0..12));
                let left = Limiter::new(policy.clone(), twin.clone()).check_now(&key(), 0);
                // A request that the outer layer rejects never reaches the inner layer.
                let passes = outer <= left.decision.snapshot().remaining();
                let cost = if passes { inner } else { outer };
                let mut alone = in_memory(&policy, &twin).cost(cost).layer(hello());
                let alone = now(&mut alone, request()).expect("no error");
                let mut service = ServiceBuilder::new()
                    .layer(over(&policy, &remote).cost(outer))
                    .layer(over(&policy, &remote).cost(inner))
                    .service(hello());
                let ready = service.ready().await.expect("ready");
                let both = ready.call(request()).await.expect("no error");
                let reported = |response: &http::Extensions| response.get::<Decision>().cloned();
                assert_eq!(
                    reported(both.extensions()),
                    reported(alone.extensions()),
                    "{policy:?}, seed {seed}, step {step}, {outer} and {inner}"
                );
                assert_eq!(both.headers(), alone.headers());
                match both.status() {
                    StatusCode::OK => allowed += 1,
                    _ => rejected += 1,
                }
            }
        }
    }
    assert!(rejected > 2_000 && allowed > 2_000, "{rejected}, {allowed}");
}

#[tokio::test]
async fn two_layer_rejection_reports_an_exact_retry_after() {
    for policy in policies() {
        for remote in Remote::each_kind() {
            let clock = clock();
            let remote = remote.with_clock(&clock);
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &remote).cost(2))
                .layer(over(&policy, &remote).cost(7))
                .service(hello());
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            for round in 0..10 {
                // Three tokens are left: enough for the outer layer.
                clock.advance(Duration::from_micros(17_654_321));
                let left = limiter.check_now(&key(), 0).decision;
                let more = left.snapshot().remaining() - 3;
                assert!(limiter.check_now(&key(), more).decision.is_allowed());
                let mut ask = async || {
                    let ready = service.ready().await.expect("ready");
                    let response = ready.call(request()).await.expect("no error");
                    let decision = response.extensions().get::<Decision>();
                    decision.expect("a decision").retry_after()
                };
                let Some(RetryAfter::In(wait)) = ask().await else {
                    panic!("{policy:?}, round {round}: seven of three");
                };
                clock.advance(wait - Duration::from_micros(1));
                let soon = Some(RetryAfter::In(Duration::from_micros(1)));
                assert_eq!(ask().await, soon, "{policy:?}, round {round}");
                clock.advance(Duration::from_micros(1));
                assert_eq!(ask().await, None, "{policy:?}, round {round}");
            }
        }
    }
}

/// After a denied part, a sliding window checks the whole cost, whose wait is longer.
#[tokio::test]
async fn request_during_the_second_check_is_allowed() {
    let policy = Policy::new("api", Quota::sliding_window(10, Duration::from_secs(10)));
    let remote = Remote::with_replies(2);
    let inner = ServiceBuilder::new()
        .layer(over(&policy, &remote).cost(5))
        .service(hello());
    let mut service = over(&policy, &remote).layer(inner);
    let limiter = Limiter::new(policy.clone(), remote.memory.clone());
    assert!(limiter.check_now(&key(), 9).decision.is_allowed());
    let mut answer = Box::pin(service.call(request()));
    assert!(answer.as_mut().now_or_never().is_none());
    assert_eq!(remote.operations(), ["check 1", "check 4"]);
    // The key is reset before the check of the whole cost.
    assert!(matches!(
        tower_sluice::backend::Backend::ask(
            &remote.memory,
            tower_sluice::backend::Op::Reset,
            &policy,
            &key()
        ),
        tower_sluice::backend::Answer::Now(Ok(_))
    ));
    remote.release(2);
    let response = answer.await.expect("no error");
    let seen = ClientResponse::of(response).await;
    assert_eq!(seen.status, StatusCode::OK);
    assert_eq!(seen.lines("ratelimit"), ["\"api\";r=5;t=20"]);
    assert_eq!(remote.operations(), ["refund 1", "check 5"]);
    assert_eq!(spent(&remote.memory, &policy, &key()), [5]);
}
