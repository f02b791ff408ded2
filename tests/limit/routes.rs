//! Route costs in every place of the layer, and costs that a middleware computes first.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use http::Method;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::{Cost, Global, Policy, Quota, RateLimitLayer, RouteCosts};

use crate::support::{ClientResponse, Memory, hello, memory, seen};

pub(crate) const ALL: u64 = 1_000;

/// One full bucket of 1000 tokens: the missing tokens were charged.
pub(crate) fn limit() -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(Policy::new("api", Quota::per_hour(ALL)), Global, memory())
}

/// The status, and the tokens charged, if a limit decided.
async fn ask<S, B>(app: &S, method: &str, uri: &str) -> (u16, Option<u64>)
where
    S: Service<Request, Response = http::Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let request = Request::builder().method(method).uri(uri);
    let request = request.body(Body::empty()).expect("a valid head");
    let Ok(response) = app.clone().oneshot(request).await;
    let seen = ClientResponse::of(response).await;
    (seen.status.as_u16(), remaining(&seen))
}

/// `r` of the only quota.
pub(crate) fn remaining(seen: &ClientResponse) -> Option<u64> {
    let lines = seen.lines("ratelimit");
    let line = lines.first()?.strip_prefix("\"api\";r=");
    let digits = line.and_then(|line| line.split(';').next());
    Some(digits.expect("the field").parse().expect("a number"))
}

/// The status and the charge of each request, each with a full bucket.
async fn costs<S, B>(app: impl Fn() -> S, requests: &[(&str, &str)]) -> Vec<(u16, u64)>
where
    S: Service<Request, Response = http::Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let mut costs = Vec::new();
    for (method, uri) in requests {
        let (status, remaining) = ask(&app(), method, uri).await;
        costs.push((status, ALL - remaining.unwrap_or(ALL)));
    }
    costs
}

/// Two routes, one with a parameter. Its literal path costs less where no template is matched.
fn table() -> RouteCosts {
    RouteCosts::new()
        .route("/search", 5)
        .route("/export/{id}", 50)
        .prefix("/export", 7)
        .otherwise(2)
}

fn ok() -> MethodRouter {
    get(|| async { "ok" })
}

/// Routes in the table, and one that is not.
fn routes() -> Router {
    Router::new()
        .route("/search", ok())
        .route("/export/{id}", ok())
        .route("/other/{id}", ok())
}

const REQUESTS: [(&str, &str); 4] = [
    ("GET", "/search?q=a"),
    ("GET", "/export/1"),
    ("GET", "/other/1"),
    ("GET", "/nowhere"),
];

#[tokio::test]
async fn router_layer_charges_by_the_template() {
    let app = || routes().layer(limit().cost(table()));
    let requests = costs(app, &REQUESTS).await;
    assert_eq!(requests, [(200, 5), (200, 50), (200, 2), (404, 2)]);
}

#[tokio::test]
async fn route_layer_charges_by_the_template_and_not_the_fallback() {
    let app = || routes().route_layer(limit().cost(table()));
    let requests = costs(app, &REQUESTS).await;
    assert_eq!(requests, [(200, 5), (200, 50), (200, 2), (404, 0)]);
}

#[tokio::test]
async fn router_fallback_is_charged_by_path() {
    let fallback = || async { "fallen" };
    let app = || {
        let app = Router::new().route("/export/{id}", ok()).fallback(fallback);
        app.layer(limit().cost(table()))
    };
    let requests = [
        ("GET", "/search"),
        ("GET", "/export/1"),
        ("GET", "/export/1/2"),
        ("GET", "/nowhere"),
    ];
    let requests = costs(app, &requests).await;
    assert_eq!(requests, [(200, 5), (200, 50), (200, 7), (200, 2)]);
}

/// Its routes are `/api/export/{id}` and `/api/files/{id}`.
fn nested(limit: impl Fn(Router) -> Router) -> Router {
    let routes = Router::new()
        .route("/export/{id}", ok())
        .route("/files/{id}", ok());
    Router::new().nest("/api", limit(routes))
}

/// The same table for a layer at any level of nested routers: whole paths, and some paths that nested routers see.
fn whole() -> RouteCosts {
    RouteCosts::new()
        .route("/api/export/{id}", 50)
        .prefix("/api/files", 20)
        .prefix("/files", 3)
        .route("/export/{id}", 4)
}

const NESTED: [(&str, &str); 2] = [("GET", "/api/export/1"), ("GET", "/api/files/1")];

#[tokio::test]
async fn a_layer_around_nested_routers_charges_by_the_whole_template_and_path() {
    let app = || nested(|routes| routes).layer(limit().cost(whole()));
    assert_eq!(costs(app, &NESTED).await, [(200, 50), (200, 20)]);
}

#[tokio::test]
async fn a_layer_in_a_nested_router_charges_by_the_whole_template_and_path() {
    let app = || nested(|routes| routes.layer(limit().cost(whole())));
    assert_eq!(costs(app, &NESTED).await, [(200, 50), (200, 20)]);
    let app = || nested(|routes| routes.route_layer(limit().cost(whole())));
    assert_eq!(costs(app, &NESTED).await, [(200, 50), (200, 20)]);
}

#[tokio::test]
async fn a_route_in_a_nested_router_charges_by_the_whole_template_and_path() {
    let app = || {
        let limit = limit().cost(whole());
        let routes = Router::new()
            .route("/export/{id}", ok().layer(limit.clone()))
            .route("/files/{id}", ok().layer(limit));
        Router::new()
            .nest("/{any}", Router::new())
            .nest("/api", routes)
    };
    assert_eq!(costs(app, &NESTED).await, [(200, 50), (200, 20)]);
}

#[tokio::test]
async fn a_layer_around_nest_service_charges_by_the_path() {
    let mounted = || Router::new().route("/files/{id}", ok());
    let app = || {
        let app = Router::new().nest_service("/api", mounted());
        let costs = whole()
            .route("/api/files/{id}", 9)
            .route("/api/files/1", 11);
        app.layer(limit().cost(costs))
    };
    let requests = [("GET", "/api/files/1"), ("GET", "/api/files/2")];
    assert_eq!(costs(app, &requests).await, [(200, 11), (200, 20)]);
}

#[tokio::test]
async fn a_layer_in_a_router_under_nest_service_charges_by_the_whole_template_and_path() {
    let mounted = || {
        let mounted = Router::new()
            .route("/export/{id}", ok())
            .route("/files/{id}", ok());
        mounted.layer(limit().cost(whole()))
    };
    let app = || Router::new().nest_service("/api", mounted());
    assert_eq!(costs(app, &NESTED).await, [(200, 50), (200, 20)]);
}

#[tokio::test]
async fn method_router_layer_charges_other_methods_too() {
    let app = || Router::new().route("/export/{id}", ok().layer(limit().cost(table())));
    let requests = [("GET", "/export/1"), ("DELETE", "/export/1")];
    assert_eq!(costs(app, &requests).await, [(200, 50), (405, 50)]);
}

#[tokio::test]
async fn method_router_route_layer_does_not_charge_other_methods() {
    let app = || Router::new().route("/export/{id}", ok().route_layer(limit().cost(table())));
    let requests = [("GET", "/export/1"), ("DELETE", "/export/1")];
    assert_eq!(costs(app, &requests).await, [(200, 50), (405, 0)]);
}

#[tokio::test]
async fn a_layer_around_a_whole_router_charges_by_the_path() {
    let requests = [(200, 5), (200, 7), (200, 2), (404, 2)];
    let app = || limit().cost(table()).layer(routes());
    assert_eq!(costs(app, &REQUESTS).await, requests);
    let app = || {
        let limit = limit().cost(table());
        ServiceBuilder::new().layer(limit).service(routes())
    };
    assert_eq!(costs(app, &REQUESTS).await, requests);
}

#[tokio::test]
async fn later_route_has_its_own_cost_in_the_same_buckets() {
    let limit = limit();
    let app = Router::new()
        .route("/search", ok())
        .layer(limit.clone().cost(table()))
        .route("/report", ok().layer(limit.cost(20)))
        .route("/free", ok());
    assert_eq!(ask(&app, "GET", "/search").await, (200, Some(ALL - 5)));
    assert_eq!(ask(&app, "GET", "/report").await, (200, Some(ALL - 25)));
    assert_eq!(ask(&app, "GET", "/free").await, (200, None));
    assert_eq!(ask(&app, "GET", "/search").await, (200, Some(ALL - 30)));
}

#[test]
fn a_service_without_a_router_is_charged_by_the_path() {
    let costs = RouteCosts::new()
        .route("/pkg.Dear/Export", 50)
        .prefix("/pkg.Dear", 5)
        .prefix("/pkg", 9);
    let mut service = limit().cost(costs).layer(hello());
    let mut remaining = |path: &str| {
        let request = http::Request::post(format!("http://[::1]:50051{path}"));
        remaining(&seen(&mut service, request.body(()).expect("a valid head")))
    };
    assert_eq!(remaining("/pkg.Dear/Export"), Some(ALL - 50));
    assert_eq!(remaining("/pkg.Dear/Other"), Some(ALL - 55));
    assert_eq!(remaining("/pkg.Dearest/Export"), Some(ALL - 56));
}

/// Services are mounted like tonic's `Routes::into_axum_router` does it.
#[tokio::test]
async fn path_of_an_unlisted_template_is_matched_by_path() {
    let costs_of = RouteCosts::new()
        .route("/pkg.Dear/Export", 50)
        .prefix("/pkg.Dear", 5);
    let app = || {
        let app = Router::new().route_service("/pkg.Dear/{*rest}", ok());
        app.layer(limit().cost(costs_of.clone()))
    };
    let requests = [("GET", "/pkg.Dear/Export"), ("GET", "/pkg.Dear/Other")];
    assert_eq!(costs(app, &requests).await, [(200, 50), (200, 5)]);
}

#[tokio::test]
async fn template_takes_precedence_over_a_path() {
    let costs_of = RouteCosts::new()
        .route("/users/{id}", 5)
        .route("/users/me", 1);
    let app = || {
        let app = Router::new().route("/users/{id}", ok());
        app.layer(limit().cost(costs_of.clone()))
    };
    assert_eq!(costs(app, &[("GET", "/users/me")]).await, [(200, 5)]);
    assert_eq!(costs_of.unmatched(), ["/users/me"]);
}

#[tokio::test]
async fn template_text_in_a_request_path_is_a_path() {
    let app = || limit().cost(table()).layer(routes());
    // Around the router the path is charged as written, and is served like any other path.
    let requests = [("GET", "/export/{id}"), ("GET", "/export/%7Bid%7D")];
    assert_eq!(costs(app, &requests).await, [(200, 50), (200, 7)]);
}

#[tokio::test]
async fn methods_have_costs_and_head_costs_like_get() {
    let costs_of = || {
        let any = RouteCosts::new().route("/export/{id}", 2);
        any.method(Method::GET, "/export/{id}", 50)
            .method(Method::POST, "/export/{id}", 9)
    };
    let app = || {
        let handler = || async { "ok" };
        let app = Router::new().route("/export/{id}", get(handler).post(handler).put(handler));
        app.layer(limit().cost(costs_of()))
    };
    let requests = ["GET", "HEAD", "POST", "PUT", "DELETE"].map(|method| (method, "/export/1"));
    assert_eq!(
        costs(app, &requests).await,
        [(200, 50), (200, 50), (200, 9), (200, 2), (405, 2)]
    );
}

#[tokio::test]
async fn unmatched_routes_are_listed() {
    let kept = RouteCosts::new()
        .method(Method::POST, "/serach", 5)
        .route("/export/{id}", 50)
        .route("/export/:id", 50)
        .prefix("/assets", 0);
    let app = routes().layer(limit().cost(kept.clone()));
    assert_eq!(kept.unmatched().len(), 4);
    for path in ["/search", "/export/1", "/nowhere"] {
        ask(&app, "GET", path).await;
    }
    assert_eq!(
        kept.unmatched(),
        ["POST /serach", "/export/:id", "prefix /assets"]
    );
}

#[tokio::test]
async fn each_quota_has_a_cost_by_route() {
    let policy = Policy::new("requests", Quota::per_hour(10)).and("rows", Quota::per_hour(100));
    let costs = RouteCosts::new()
        .route("/export/{id}", Cost::each([1, 70]))
        .otherwise(Cost::each([1, 0]));
    let app = routes().layer(RateLimitLayer::new(policy, Global, memory()).cost(costs));
    let ask = async |path: &str| {
        let request = Request::get(path)
            .body(Body::empty())
            .expect("a valid head");
        let Ok(response) = app.clone().oneshot(request).await;
        let seen = ClientResponse::of(response).await;
        (seen.status.as_u16(), seen.lines("ratelimit").concat())
    };
    let left = |text: &str| text.to_owned();
    assert_eq!(
        ask("/export/1").await,
        (200, left("\"requests\";r=9, \"rows\";r=30"))
    );
    assert_eq!(
        ask("/search").await,
        (200, left("\"requests\";r=8, \"rows\";r=30"))
    );
    assert_eq!(ask("/export/1").await.0, 429);
    assert_eq!(
        ask("/search").await,
        (200, left("\"requests\";r=7, \"rows\";r=30"))
    );
}

#[tokio::test]
async fn outer_layer_leaves_an_awaited_key_in_the_extensions() {
    async fn price(mut request: Request, next: Next) -> Response {
        tokio::task::yield_now().await;
        if let Some(rows) = request.uri().query().and_then(|rows| rows.parse().ok()) {
            request.extensions_mut().insert(Cost::new(rows));
        }
        next.run(request).await
    }
    let app = || {
        let limit = limit().cost_fn(|head| {
            let cost = head.extensions.get::<Cost>().cloned();
            cost.unwrap_or(Cost::new(100))
        });
        Router::new()
            .route("/query", post(|| async { "rows" }))
            .layer(limit)
            .layer(from_fn(price))
    };
    let requests = [
        ("POST", "/query?7"),
        ("POST", "/query?0"),
        ("POST", "/query"),
    ];
    assert_eq!(
        costs(app, &requests).await,
        [(200, 7), (200, 0), (200, 100)]
    );
}
