//! Which layers share a charge.

use futures_util::FutureExt;
use http::{Request, StatusCode};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::{Charge, Cost, Decision, Key, Limiter, Policy, Quota, RateLimitLayer, key_fn};

use super::{bucket, in_between, in_memory, key, limit, request, spent_tokens, with_charge};
use crate::remote::Remote;
use crate::support::{ClientResponse, ask, hello, memory, now, run_other_tasks, seen, spent};

#[test]
fn layers_with_different_keys_charge_separately() {
    let memory = memory();
    let by = |name: &'static str| {
        let key = key_fn(move |_| Ok(Key::from(name)));
        RateLimitLayer::new(bucket(), key, memory.clone())
    };
    let mut service = ServiceBuilder::new()
        .layer(by("user"))
        .layer(by("address").cost(3))
        .service(hello());
    let reported = ["\"api\";r=97", "\"api\";r=99"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);

    // A layer of another key in between is not joined and writes its own fields.
    let mut service = ServiceBuilder::new()
        .layer(by("user"))
        .layer(by("address").cost(3))
        .layer(by("user").cost(5))
        .service(hello());
    let reported = ["\"api\";r=94", "\"api\";r=94"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);
    let left = |name: &str| spent(&memory, &bucket(), &Key::from(name));
    assert_eq!((left("user"), left("address")), (vec![6], vec![6]));

    let mut service = ServiceBuilder::new()
        .layer(by("user"))
        .layer(by("address").cost(3))
        .layer(by("user").cost(95))
        .service(hello());
    let rejected = seen(&mut service, request());
    let reported = ["\"api\";r=94;t=36", "\"api\";r=91"];
    assert_eq!(rejected.lines("ratelimit"), reported);
    assert_eq!((left("user"), left("address")), (vec![6], vec![9]));
}

#[test]
fn layers_with_different_backends_or_policies_charge_separately() {
    let (one, two) = (memory(), memory());
    let mut service = ServiceBuilder::new()
        .layer(in_memory(&bucket(), &one))
        .layer(in_memory(&bucket(), &two).cost(5))
        .service(hello());
    let reported = ["\"api\";r=95", "\"api\";r=99"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);

    // Another policy of the same name spends from the same bucket.
    let tier = Policy::new("api", Quota::per_hour(1_000));
    let mut service = ServiceBuilder::new()
        .layer(in_memory(&bucket(), &one))
        .layer(in_memory(&tier, &one).cost(5))
        .service(hello());
    let reported = ["\"api\";r=993", "\"api\";r=98"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);

    // A policy built again from the same parts is equal.
    let mut service = ServiceBuilder::new()
        .layer(in_memory(&bucket(), &two))
        .layer(in_memory(&bucket(), &two).cost(5))
        .service(hello());
    let reported = ["\"api\";r=90"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);
}

#[test]
fn layer_without_extensions_is_not_joined_and_can_join() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    // The inner layer does not see the outer charge: both layers charge and write fields.
    let mut service = ServiceBuilder::new()
        .layer(limit().extensions(false))
        .layer(limit().cost(5))
        .service(hello());
    let reported = ["\"api\";r=94", "\"api\";r=99"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);
    let mut service = ServiceBuilder::new()
        .layer(limit().extensions(false))
        .layer(limit().extensions(false).cost(95))
        .service(hello());
    let rejected = seen(&mut service, request());
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    let reported = ["\"api\";r=93;t=72", "\"api\";r=93"];
    assert_eq!(rejected.lines("ratelimit"), reported);
    assert_eq!(
        spent(&memory, &bucket(), &key()),
        [7],
        "the outer layer keeps its charge"
    );

    // The inner layer finds the charge that the outer layer left in the extensions.
    let mut service = ServiceBuilder::new()
        .layer(limit())
        .layer(limit().extensions(false).cost(5))
        .service(with_charge(|charge| {
            assert_eq!(charge.estimate(), Some(Cost::each([5])));
        }));
    let response = now(&mut service, request()).expect("no error");
    let decision = response.extensions().get::<Decision>().expect("a decision");
    assert_eq!(decision.snapshot().remaining(), 88);
    let seen = ClientResponse::of(response)
        .now_or_never()
        .expect("at once");
    assert_eq!(seen.lines("ratelimit"), ["\"api\";r=88"]);
}

#[test]
fn layers_without_shared_extensions_charge_separately() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    let mut service = ServiceBuilder::new()
        .layer(limit())
        .layer(in_between(|request| request.extensions_mut().clear()))
        .layer(limit().cost(5))
        .service(hello());
    let reported = ["\"api\";r=94", "\"api\";r=99"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);
}

#[tokio::test]
async fn settled_charge_is_not_joined() {
    for remote in Remote::each_kind() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote).cost(3))
            .layer(in_between(|request| {
                drop(request.extensions().get::<Charge>().expect("one").settle(2));
            }))
            .layer(limit(&remote).cost(5))
            .service(with_charge(|charge| {
                assert_eq!(charge.estimate(), Some(Cost::new(5)));
                assert_eq!(charge.outer().expect("one around it").estimate(), None);
            }));
        let seen = ask(&mut service, request()).await;
        run_other_tasks().await;
        assert_eq!(spent_tokens(&remote), 7);
        assert_eq!(seen.lines("ratelimit").len(), 2);
    }
}

/// A layer in between that retries sends the same request again.
#[tokio::test]
async fn request_retried_within_the_outer_layer_is_charged_once() {
    for remote in Remote::each_kind() {
        let inner = limit(&remote).cost(5).layer(hello::<()>());
        let twice = tower::service_fn(move |request: Request<()>| {
            let mut inner = inner.clone();
            async move {
                let mut again = Request::new(());
                *again.extensions_mut() = request.extensions().clone();
                ask(&mut inner, request).await;
                inner.ready().await?.call(again).await
            }
        });
        let mut service = limit(&remote).layer(twice);
        let seen = ask(&mut service, request()).await;
        assert_eq!(seen.status, StatusCode::OK);
        assert_eq!(spent_tokens(&remote), 5);
    }
}

/// Both copies charge the missing tokens. The second copy refunds them.
#[tokio::test]
async fn request_sent_twice_within_the_outer_layer_is_charged_once() {
    let remote = Remote::with_replies(1);
    let inner = limit(&remote).cost(5).layer(hello::<()>());
    let twice = tower::service_fn(move |request: Request<()>| {
        let (mut one, mut two) = (inner.clone(), inner.clone());
        async move {
            let mut again = Request::new(());
            *again.extensions_mut() = request.extensions().clone();
            let (one, two) =
                tokio::join!(async { one.ready().await?.call(request).await }, async {
                    two.ready().await?.call(again).await
                });
            drop(one?);
            two
        }
    });
    let mut service = limit(&remote).layer(twice);
    let mut answer = Box::pin(service.call(request()));
    assert!(answer.as_mut().now_or_never().is_none());
    assert_eq!(remote.operations(), ["check 1", "check 4", "check 4"]);
    remote.release(9);
    assert_eq!(answer.await.expect("no error").status(), StatusCode::OK);
    assert_eq!(remote.operations(), ["refund 4"]);
    assert_eq!(spent_tokens(&remote), 5);
}

#[test]
fn charge_made_by_an_outer_service_is_joined() {
    let memory = memory();
    let limiter = Limiter::new(bucket(), memory.clone());
    let charge = limiter
        .try_acquire(&key(), 3)
        .now_or_never()
        .expect("at once");
    let mut request = request();
    let charge = charge.expect("allowed");
    request.extensions_mut().insert(charge.clone());
    let mut service = in_memory(&bucket(), &memory).cost(5).layer(hello());
    assert_eq!(
        seen(&mut service, request).lines("ratelimit"),
        ["\"api\";r=95"]
    );
    assert_eq!(charge.estimate(), Some(Cost::each([5])));
}
