//! Every closure of a layer sees the target as the client sent it, in every place of a router.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{Request, Response};
use tower::{Layer, Service, ServiceExt};
use tower_sluice::concurrency::SemaphoreLayer;
use tower_sluice::key::{KeyError, KeyExt, KeyExtractor, Path, Query, key_fn};
use tower_sluice::{Cost, Head, Key, MemorySemaphore, RateLimitLayer, RouteCosts, SemaphorePolicy};

use crate::support::{memory, two_a_minute};

/// The target that each closure has seen.
#[derive(Clone, Default)]
struct Targets(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Targets {
    fn see(&self, closure: &'static str, head: &Head<'_>) {
        assert_eq!(head.path(), head.uri.path());
        let mut seen = self.0.lock().expect("no panic");
        seen.insert(closure, head.uri.to_string());
    }

    fn take(&self) -> BTreeMap<&'static str, String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// A custom extractor, which reads the head.
#[derive(Clone)]
struct Own(Targets);

impl<B> KeyExtractor<Request<B>> for Own {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        self.0.see("KeyExtractor", &Head::from(request));
        Ok(Key::from("own"))
    }
}

const TARGET: &str = "/api/v1/health?user=ann";

/// A key that calls every closure that reads a target.
macro_rules! key {
    ($targets:expr) => {{
        let [one, two, three] = [(); 3].map(|()| $targets.clone());
        let closure = key_fn(move |head| {
            one.see("key_fn", head);
            Ok(Key::from(head.path()))
        });
        let guard = key_fn(move |head| {
            two.see("guarded_by", head);
            Ok(Key::from("guard"))
        });
        let parts = (Path, Query::new("user"), closure, Own($targets.clone()));
        let is_whole = key_fn(|_| Ok(Key::from("whole")));
        let whole = SeesWhole(parts, is_whole);
        whole.guarded_by(guard).skip_if(move |head| {
            three.see("skip_if", head);
            false
        })
    }};
}

/// Checks that `Path` and `Query` read the whole target.
#[derive(Clone)]
struct SeesWhole<K, W>(K, W);

impl<K, W> KeyExt for SeesWhole<K, W> {}

impl<R, K: KeyExtractor<R>, W: KeyExtractor<R>> KeyExtractor<R> for SeesWhole<K, W> {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        let key = self.0.key(request)?;
        assert_eq!(
            key.as_bytes(),
            b"14:/api/v1/health3:ann14:/api/v1/health3:own"
        );
        self.1.key(request)
    }
}

type ClientResponse = BTreeMap<&'static str, String>;

fn all(closures: &[&'static str]) -> ClientResponse {
    closures
        .iter()
        .map(|closure| (*closure, TARGET.to_owned()))
        .collect()
}

const OF_RATES: [&str; 8] = [
    "KeyExtractor",
    "cost_fn",
    "guarded_by",
    "key_fn",
    "policy_fn",
    "reject_fn",
    "respond_fn",
    "skip_if",
];
const OF_PERMITS: [&str; 8] = [
    "KeyExtractor",
    "guarded_by",
    "key_fn",
    "permits_fn",
    "reject_fn",
    "respond_fn",
    "skip_if",
    "weight_fn",
];

async fn ok() -> &'static str {
    "ok"
}

/// The places of a layer that `TARGET` reaches.
macro_rules! places {
    ($layer:expr) => {{
        let inner = || Router::new().route("/health", get(ok));
        let nested = |inner: Router| Router::new().nest("/api", Router::new().nest("/v1", inner));
        [
            (
                "around the router",
                Router::new().fallback_service($layer.layer(nested(inner()))),
            ),
            ("Router::layer", nested(inner()).layer($layer)),
            ("nest", nested(inner().layer($layer))),
            (
                "nest, once",
                Router::new().nest("/api", Router::new().nest("/v1", inner()).layer($layer)),
            ),
            (
                "nest_service",
                Router::new().nest_service("/api/v1", $layer.layer(inner())),
            ),
            ("route_layer", nested(inner().route_layer($layer))),
            (
                "MethodRouter::layer",
                nested(Router::new().route("/health", get(ok).layer($layer))),
            ),
            (
                "MethodRouter::route_layer",
                nested(Router::new().route("/health", get(ok).route_layer($layer))),
            ),
            (
                "fallback",
                Router::new().nest("/api/v1", Router::new().fallback(ok).layer($layer)),
            ),
            (
                "fallback_service",
                Router::new().nest(
                    "/api/v1",
                    Router::new().fallback_service($layer.layer(get(ok))),
                ),
            ),
            (
                "fallback of the router",
                Router::new().route("/", get(ok)).fallback(ok).layer($layer),
            ),
        ]
    }};
}

async fn status(app: Router) -> u16 {
    let request = Request::get(TARGET)
        .body(Body::empty())
        .expect("a valid head");
    let Ok(response) = app.oneshot(request).await;
    response.status().as_u16()
}

#[tokio::test]
async fn rate_limit_closures_see_the_whole_target_in_every_place() {
    let targets = Targets::default();
    let limit = |cost: u64| {
        let [costs, policies] = [(); 2].map(|()| targets.clone());
        RateLimitLayer::new(two_a_minute(), key!(targets), memory())
            .cost_fn(move |head| {
                costs.see("cost_fn", head);
                Cost::from(cost)
            })
            .policy_fn(move |head, _| {
                policies.see("policy_fn", head);
                two_a_minute()
            })
    };
    let [rejected, responded] = [(); 2].map(|()| targets.clone());
    let by_text = limit(3).reject_fn(move |head, rejection| {
        rejected.see("reject_fn", head);
        let mut response = Response::new("text");
        *response.status_mut() = rejection.status();
        response
    });
    let by_response = limit(3).respond_fn(move |head, rejection| {
        responded.see("respond_fn", head);
        rejection.status().into_response()
    });
    for ((place, one), (_, two)) in places!(by_text.clone())
        .into_iter()
        .zip(places!(by_response.clone()))
    {
        assert_eq!([status(one).await, status(two).await], [429; 2], "{place}");
        assert_eq!(targets.take(), all(&OF_RATES), "{place}");
    }
}

#[tokio::test]
async fn semaphore_closures_see_the_whole_target_in_every_place() {
    let targets = Targets::default();
    let bound = || {
        let [weights, permits] = [(); 2].map(|()| targets.clone());
        SemaphoreLayer::new(
            SemaphorePolicy::new("p", 1),
            key!(targets),
            MemorySemaphore::new(),
        )
        .weight_fn(move |head| {
            weights.see("weight_fn", head);
            2
        })
        .policy_fn(move |head, _| {
            permits.see("permits_fn", head);
            SemaphorePolicy::new("p", 1)
        })
    };
    let [rejected, responded] = [(); 2].map(|()| targets.clone());
    let by_text = bound().reject_fn(move |head, rejection| {
        rejected.see("reject_fn", head);
        let mut response = Response::new("text");
        *response.status_mut() = rejection.status();
        response
    });
    let by_response = bound().respond_fn(move |head, rejection| {
        responded.see("respond_fn", head);
        rejection.status().into_response()
    });
    for ((place, one), (_, two)) in places!(by_text.clone())
        .into_iter()
        .zip(places!(by_response.clone()))
    {
        assert_eq!([status(one).await, status(two).await], [429; 2], "{place}");
        assert_eq!(targets.take(), all(&OF_PERMITS), "{place}");
    }
}

#[tokio::test]
async fn a_health_check_is_skipped_by_its_whole_path_in_every_place() {
    let key = key_fn(|_| Ok(Key::from("all"))).skip_if(|head| head.uri.path() == "/api/v1/health");
    let limit = RateLimitLayer::new(two_a_minute(), key, memory()).cost(3);
    for (place, app) in places!(limit.clone()) {
        assert_eq!(status(app).await, 200, "{place}");
    }
}

#[tokio::test]
async fn tenants_of_a_nested_router_have_a_bucket_each() {
    let tenant = key_fn(|head| match head.uri.path().split('/').nth(2) {
        Some(tenant) if !tenant.is_empty() => Ok(Key::from(tenant)),
        _ => Err(KeyError::client("no tenant in the path")),
    });
    let limit = RateLimitLayer::new(two_a_minute(), tenant, memory());
    let nested = Router::new()
        .route("/{tenant}/orders", get(ok))
        .layer(limit);
    let app = Router::new().nest("/api", nested);
    let mut statuses = Vec::new();
    for path in [
        "/api/acme/orders",
        "/api/acme/orders",
        "/api/acme/orders",
        "/api/umbrella/orders",
    ] {
        let request = Request::get(path)
            .body(Body::empty())
            .expect("a valid head");
        let Ok(response) = app.clone().oneshot(request).await;
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 200]);
}

#[tokio::test]
async fn route_costs_read_the_whole_path_in_every_place() {
    let key = key_fn(|_| Ok(Key::from("all")));
    let costs = RouteCosts::new().prefix("/api/v1", 3);
    let limit = RateLimitLayer::new(two_a_minute(), key, memory()).cost(costs);
    for (place, app) in places!(limit.clone()) {
        assert_eq!(status(app).await, 429, "{place}");
    }
}

#[tokio::test]
async fn local_target_of_a_nested_router_is_available() {
    let targets = Targets::default();
    let seen = targets.clone();
    let key = key_fn(move |head| {
        let mut seen = seen.0.lock().expect("no panic");
        seen.insert("local", head.local_uri.to_string());
        Ok(Key::from("all"))
    });
    let limit = RateLimitLayer::new(two_a_minute(), key, memory());
    let nested = Router::new().route("/health", get(ok)).layer(limit.clone());
    let app = Router::new().nest("/api", Router::new().nest("/v1", nested));
    assert_eq!(status(app).await, 200);
    assert_eq!(targets.take()["local"], "/health?user=ann");
    // Without a router both targets are equal.
    let mut plain = limit.layer(crate::support::hello::<()>());
    let request = Request::get(TARGET).body(()).expect("a valid head");
    plain.call(request).await.expect("no error");
    assert_eq!(targets.take()["local"], TARGET);
}
