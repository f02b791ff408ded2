//! The layer fits every place of a service stack. In each place two requests of a key are allowed and the third is
//! denied. Other keys are unaffected.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::time::timeout;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_sluice::key::PeerAddr;
use tower_sluice::quota::Quota;
use tower_sluice::response::{AsError, LimitError, Rejection};
use tower_sluice::{Global, PeerIp, Policy, RateLimitLayer, RetryAfter};

use crate::support::{
    self, ClientResponse, TIMEOUT, USER, by_user, client, listen, memory, two_a_minute,
};

/// The statuses of one request for each of `users`, in order.
async fn statuses(app: &Router, method: &str, path: &str, users: &[&str]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for user in users {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(USER, *user).body(Body::empty());
        let answer = app.clone().oneshot(request.expect("a valid head")).await;
        let Ok(response) = answer;
        statuses.push(response.status().as_u16());
    }
    statuses
}

const THREE_AND_ONE: [&str; 4] = ["ann", "ann", "ann", "bob"];
const THIRD_DENIED: [u16; 4] = [200, 200, 429, 200];

async fn ok() -> &'static str {
    "ok"
}

#[tokio::test]
async fn router_layer_limits_every_route_and_the_fallback() {
    let app = Router::new()
        .route("/", get(ok))
        .route("/other", get(ok))
        .layer(by_user());
    assert_eq!(
        statuses(&app, "GET", "/", &THREE_AND_ONE).await,
        THIRD_DENIED
    );
    let users = ["ann", "bob", "bob"];
    assert_eq!(
        statuses(&app, "GET", "/other", &users).await,
        [429, 200, 429]
    );
    let users = ["cid", "cid", "cid"];
    assert_eq!(
        statuses(&app, "GET", "/nowhere", &users).await,
        [404, 404, 429]
    );
}

#[tokio::test]
async fn route_layer_limits_routes_and_not_the_fallback() {
    let app = Router::new().route("/", get(ok)).route_layer(by_user());
    assert_eq!(
        statuses(&app, "GET", "/nowhere", &["ann"; 3]).await,
        [404; 3]
    );
    assert_eq!(
        statuses(&app, "GET", "/", &THREE_AND_ONE).await,
        THIRD_DENIED
    );
}

#[tokio::test]
async fn method_router_layer_limits_one_route_with_all_its_methods() {
    let app = Router::new()
        .route("/", get(ok).layer(by_user()))
        .route("/free", get(ok));
    assert_eq!(
        statuses(&app, "GET", "/", &THREE_AND_ONE).await,
        THIRD_DENIED
    );
    assert_eq!(statuses(&app, "GET", "/free", &["ann"; 3]).await, [200; 3]);
    assert_eq!(
        statuses(&app, "DELETE", "/", &["cid"; 3]).await,
        [405, 405, 429]
    );
}

#[tokio::test]
async fn a_method_before_the_layer_is_limited_and_one_after_it_is_not() {
    let app = Router::new().route("/", get(ok).layer(by_user()).merge(post(ok)));
    assert_eq!(
        statuses(&app, "GET", "/", &THREE_AND_ONE).await,
        THIRD_DENIED
    );
    assert_eq!(statuses(&app, "POST", "/", &["ann"; 3]).await, [200; 3]);
}

#[tokio::test]
async fn routes_added_after_the_layer_are_not_under_it() {
    let app = Router::new()
        .route("/before", get(ok))
        .layer(by_user())
        .route("/after", get(ok));
    assert_eq!(
        statuses(&app, "GET", "/before", &THREE_AND_ONE).await,
        THIRD_DENIED
    );
    assert_eq!(statuses(&app, "GET", "/after", &["ann"; 3]).await, [200; 3]);
}

#[tokio::test]
async fn limit_of_a_nested_router_applies_only_to_it() {
    let nested = Router::new().route("/in", get(ok)).layer(by_user());
    let app = Router::new().nest("/api", nested).route("/out", get(ok));
    assert_eq!(
        statuses(&app, "GET", "/api/in", &THREE_AND_ONE).await,
        THIRD_DENIED
    );
    assert_eq!(statuses(&app, "GET", "/out", &["ann"; 3]).await, [200; 3]);
}

#[tokio::test]
async fn a_router_around_nested_routers_limits_them_together() {
    let nested = Router::new().route("/in", get(ok));
    let app = Router::new()
        .nest("/one", nested.clone())
        .nest_service("/two", nested)
        .layer(by_user());
    assert_eq!(statuses(&app, "GET", "/one/in", &["ann"]).await, [200]);
    assert_eq!(
        statuses(&app, "GET", "/two/in", &THREE_AND_ONE).await,
        [200, 429, 429, 200]
    );
}

#[test]
fn service_builder_limits_a_function() {
    let mut service = ServiceBuilder::new()
        .layer(by_user())
        .service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(String::new())) });
    let statuses = THREE_AND_ONE.map(|user| {
        let Ok(response) = support::now(&mut service, support::from(user));
        response.status().as_u16()
    });
    assert_eq!(statuses, THIRD_DENIED);
}

/// One request from each of these loopback addresses, over real connections.
async fn statuses_from(address: SocketAddr, hosts: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for host in hosts {
        // A new connection for each request: the port must not matter.
        let response = client(*host).request(support::get(address, "/"));
        let response = timeout(TIMEOUT, response)
            .await
            .expect("in time")
            .expect("an answer");
        statuses.push(response.status().as_u16());
    }
    statuses
}

pub(crate) fn by_peer() -> RateLimitLayer<PeerIp, support::Memory> {
    RateLimitLayer::new(two_a_minute(), PeerIp::new(), memory())
}

#[tokio::test]
async fn hyper_server_limits_by_an_inserted_peer_address() {
    let (listener, address) = listen().await;
    let service = ServiceBuilder::new()
        .layer(by_peer())
        .service(support::hello::<Incoming>());
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let service = service
                .clone()
                .map_request(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(PeerAddr(peer));
                    request
                });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)),
            );
        }
    });
    assert_eq!(statuses_from(address, &[1, 1, 1, 2]).await, THIRD_DENIED);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_server_limits_by_its_connect_info() {
    let (listener, address) = listen().await;
    let app = Router::new()
        .route("/", get(ok))
        .layer(by_peer())
        .into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, app).into_future());
    assert_eq!(statuses_from(address, &[1, 1, 1, 2]).await, THIRD_DENIED);
}

#[tokio::test]
async fn axum_server_without_connect_info_rejects_with_500() {
    let (listener, address) = listen().await;
    let app = Router::new().route("/", get(ok)).layer(by_peer());
    tokio::spawn(axum::serve(listener, app).into_future());
    assert_eq!(statuses_from(address, &[1]).await, [500]);
}

#[tokio::test]
async fn hyper_client_is_limited() {
    let (listener, address) = listen().await;
    let arrived = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = arrived.clone();
    let app = Router::new().route(
        "/",
        get(async move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            "from afar"
        }),
    );
    tokio::spawn(axum::serve(listener, app).into_future());

    let mut limited = ServiceBuilder::new().layer(by_user()).service(client(1));
    let mut statuses = Vec::new();
    for user in THREE_AND_ONE {
        let mut request = support::get(address, "/");
        request
            .headers_mut()
            .insert(USER, user.parse().expect("a value"));
        let response = limited.ready().await.expect("ready").call(request).await;
        let seen = ClientResponse::of(response.expect("an answer")).await;
        assert_eq!(
            seen.body == "from afar",
            seen.status == StatusCode::OK,
            "{seen:?}"
        );
        statuses.push(seen.status.as_u16());
    }
    assert_eq!(statuses, THIRD_DENIED);
    assert_eq!(arrived.load(std::sync::atomic::Ordering::SeqCst), 3);
}

#[derive(Debug, PartialEq)]
struct Odd(u64);

#[test]
fn non_http_service_is_rejected_with_an_error() {
    let policy = Policy::new("sums", Quota::per_minute(2));
    let limit = RateLimitLayer::new(policy.clone(), Global, memory()).protocol(AsError);
    let mut service = ServiceBuilder::new()
        .layer(limit)
        .service_fn(|n: u64| async move {
            if n.is_multiple_of(2) {
                Ok(n + 1)
            } else {
                Err(Odd(n))
            }
        });

    assert_eq!(support::now(&mut service, 2).expect("even"), 3);
    match support::now(&mut service, 5) {
        Err(LimitError::Inner(Odd(5))) => {}
        other => panic!("{other:?} is not the service's own error"),
    }
    match support::now(&mut service, 2) {
        Err(LimitError::Rejected(Rejection::Limited {
            policy: named,
            decision,
            ..
        })) => {
            assert_eq!(named, policy);
            let wait = RetryAfter::In(std::time::Duration::from_secs(30));
            assert_eq!(decision.retry_after(), Some(wait));
        }
        other => panic!("{other:?} is not a rejection"),
    }
}

#[test]
fn custom_extractor_limits_non_http_requests() {
    #[derive(Clone)]
    struct Parity;
    impl tower_sluice::key::KeyExtractor<u64> for Parity {
        fn key(&self, n: &u64) -> Result<tower_sluice::Key, tower_sluice::key::KeyError> {
            Ok((n % 2).into())
        }
    }
    let limit = RateLimitLayer::new(two_a_minute(), Parity, memory()).protocol(AsError);
    let mut service = ServiceBuilder::new()
        .layer(limit)
        .service_fn(|n: u64| async move { Ok::<_, Infallible>(n) });
    let passed = [2, 4, 6, 1].map(|n| support::now(&mut service, n).is_ok());
    assert_eq!(passed, [true, true, false, true]);
}
