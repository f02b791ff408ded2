//! Clients that disconnect while nested layers decide.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::{Cost, Limiter, MaxWait, Policy, Quota};

use super::{bucket, counted, key, limit, over, request, spend, spent_tokens};
use crate::remote::Remote;
use crate::support::{hello, run_other_tasks, spent};

#[tokio::test]
async fn refund_on_disconnect_applies_during_the_inner_check() {
    for (refunds, sent, left) in [(false, &[][..], 2), (true, &["refund 2", "refund 3"], 0)] {
        let remote = Remote::with_replies(1);
        let layer = |cost: u64| {
            let limit = limit(&remote).cost(cost);
            if refunds {
                limit.refund_on_disconnect()
            } else {
                limit
            }
        };
        let (inner, calls) = counted();
        let mut service = ServiceBuilder::new()
            .layer(layer(2))
            .layer(layer(5))
            .service(inner);
        let ready = service.ready().await.expect("ready");
        let mut answer = Box::pin(ready.call(request()));
        assert!(answer.as_mut().now_or_never().is_none());
        assert_eq!(remote.operations(), ["check 2", "check 3"]);
        drop(answer);
        remote.release(9);
        run_other_tasks().await;
        let mut asked = remote.operations();
        asked.sort_unstable();
        assert_eq!(asked, *sent);
        assert_eq!((spent_tokens(&remote), calls.load(SeqCst)), (left, 0));
    }
}

#[tokio::test]
async fn refund_on_disconnect_applies_during_the_inner_refund() {
    for (refunds, left) in [(false, 3), (true, 0)] {
        let remote = Remote::with_replies(1);
        let mut inner = limit(&remote).cost(3);
        if refunds {
            inner = inner.refund_on_disconnect();
        }
        let (counted, calls) = counted();
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote).cost(5))
            .layer(inner)
            .service(counted);
        let ready = service.ready().await.expect("ready");
        let mut answer = Box::pin(ready.call(request()));
        assert!(answer.as_mut().now_or_never().is_none());
        drop(answer);
        remote.release(9);
        run_other_tasks().await;
        assert_eq!((spent_tokens(&remote), calls.load(SeqCst)), (left, 0));
        assert_eq!(remote.context().stats().failed_background_tasks, 0);
    }
}

#[tokio::test]
async fn refund_on_disconnect_applies_during_a_partial_refund() {
    let policy = bucket().and("bytes", Quota::per_hour(100));
    for (refunds, left) in [(false, [5, 2]), (true, [0, 0])] {
        let remote = Remote::with_replies(2);
        let mut inner = over(&policy, &remote).cost(Cost::each([5, 2]));
        if refunds {
            inner = inner.refund_on_disconnect();
        }
        let (counted, calls) = counted();
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(Cost::each([1, 10])))
            .layer(inner)
            .service(counted);
        let ready = service.ready().await.expect("ready");
        let mut answer = Box::pin(ready.call(request()));
        assert!(answer.as_mut().now_or_never().is_none());
        run_other_tasks().await;
        assert_eq!(remote.operations(), ["check 1+10", "check 4+0", "refund 8"]);
        drop(answer);
        remote.release(9);
        run_other_tasks().await;
        assert_eq!(spent(&remote.memory, &policy, &key()), left);
        assert_eq!(calls.load(SeqCst), 0);
    }
}

#[tokio::test]
async fn refund_on_disconnect_of_the_inner_layer_refunds_all_layers() {
    for (outer, inner) in [(2, 5), (5, 5), (5, 2)] {
        let remote = Remote::immediate();
        let inner_layer = limit(&remote).cost(inner).refund_on_disconnect();
        let (counted, calls) = counted();
        let mut service = inner_layer.layer(counted);
        let limiter = Limiter::new(bucket(), remote.clone());
        let charge = limiter.try_acquire(&key(), outer).await.expect("allowed");
        let mut request = request();
        request.extensions_mut().insert(charge);
        let ready = service.ready().await.expect("ready");
        drop(ready.call(request));
        assert_eq!(spent_tokens(&remote), 0, "{outer} and {inner}");
        // A dropped response future may have called the service. The request has not started.
        assert!(calls.load(SeqCst) <= 1);
    }
}

#[tokio::test]
async fn dropped_rejection_still_refunds_the_outer_charge() {
    for remote in Remote::each_kind() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote).cost(2))
            .layer(limit(&remote).cost(50))
            .service(hello());
        spend(&remote, 60);
        let ready = service.ready().await.expect("ready");
        let mut answer = Box::pin(ready.call(request()));
        let _ = answer.as_mut().now_or_never();
        drop(answer);
        run_other_tasks().await;
        assert_eq!(spent_tokens(&remote), 60);
    }
}

/// Requests through three layers, with replies, failures and disconnects in random order. Exactly the requests are
/// charged whose service was started.
#[tokio::test]
async fn only_started_requests_are_charged_after_a_drop() {
    let day = Duration::from_secs(86_400);
    let policies = [
        bucket(),
        Policy::new("api", Quota::sliding_window(100, day)),
        Policy::new("api", Quota::sliding_log(100, day)),
        bucket().and("window", Quota::fixed_window(90, day)),
    ];
    let (mut begun_in_all, mut refused_in_all) = (0, 0);
    for seed in 0..400_u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let policy = &policies[random.random_range(0..policies.len())];
        let policy_is_bucket = *policy == bucket();
        let remote = match random.random_range(0..4) {
            0 => Remote::immediate(),
            _ => Remote::with_replies(0),
        };
        let is_near = remote.is_immediate();
        let begun = Arc::new(AtomicUsize::new(0));
        let mut requests = Vec::new();
        for _ in 0..random.random_range(1..8) {
            let costs = [0; 3].map(|_| random.random_range(0..40_u64));
            let (counter, cost) = (Arc::clone(&begun), costs[2]);
            let stays = random.random_bool(0.5);
            let handler = tower::service_fn(move |_: Request<()>| {
                let counter = Arc::clone(&counter);
                async move {
                    counter.fetch_add(cost as usize, SeqCst);
                    if !stays {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            // Reservations of windows are denied. A reservation followed by another one is not refunded.
            let waits = !policy_is_bucket && random.random_bool(0.3);
            let max_wait = if waits {
                MaxWait::Unbounded
            } else {
                MaxWait::NONE
            };
            let layer = |cost: u64| {
                let limit = over(policy, &remote).cost(cost);
                limit.refund_on_disconnect().wait(max_wait)
            };
            let mut service = ServiceBuilder::new()
                .layer(layer(costs[0]))
                .layer(layer(costs[1]))
                .layer(layer(costs[2]))
                .service(handler);
            let ready = service.ready().await.expect("ready");
            requests.push(Box::pin(ready.call(request())));
        }
        while !requests.is_empty() {
            let which = random.random_range(0..requests.len());
            match random.random_range(0..10) {
                0 => drop(requests.swap_remove(which)),
                1 => run_other_tasks().await,
                2..=5 if !is_near => remote.release(random.random_range(1..3)),
                _ => {
                    if let Some(response) = requests[which].as_mut().now_or_never() {
                        if response.expect("no error").status() != StatusCode::OK {
                            refused_in_all += 1;
                        }
                        drop(requests.swap_remove(which));
                    }
                }
            }
        }
        if !is_near {
            remote.release(1_000);
        }
        run_other_tasks().await;
        let begun = begun.load(SeqCst);
        begun_in_all += begun;
        let left = spent(&remote.memory, policy, &key());
        assert!(
            left.iter().all(|spent| *spent as usize == begun),
            "seed {seed}, {begun} has begun, {left:?} is spent: {:?}",
            remote.operations()
        );
        let context = remote.context();
        let idle = (
            context.stats().waiting,
            context.stats().background_tasks,
            context.stats().failed_background_tasks,
        );
        assert_eq!(idle, (0, 0, 0), "seed {seed}");
    }
    assert!(begun_in_all > 1_000 && refused_in_all > 100);
}
