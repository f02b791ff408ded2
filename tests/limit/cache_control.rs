//! No cache may store a rejection. Tested are the detection of gRPC calls, and `Cache-Control: no-store` on rejections
//! of both layers.

use http::{Method, Request, Response};
use http_body_util::Full;
use tower::Layer;
use tower_sluice::key::{KeyError, Part, key_fn};
use tower_sluice::{
    FailurePolicy, Global, Key, MemorySemaphore, RateLimitLayer, Semaphore, SemaphoreLayer,
    SemaphorePolicy,
};

use crate::remote::Remote;
use crate::support::{ClientResponse, hello, memory, seen, two_a_minute};

fn request(method: Method, kind: &str) -> Request<()> {
    let request = Request::builder()
        .method(method)
        .header("content-type", kind);
    request.body(()).expect("a valid head")
}

fn get() -> Request<()> {
    Request::new(())
}

fn call() -> Request<()> {
    request(Method::POST, "application/grpc")
}

/// The response to a request whose cost exceeds the limit.
fn over(request: Request<()>) -> ClientResponse {
    let limit = RateLimitLayer::new(two_a_minute(), Global, memory()).cost(3);
    seen(&mut limit.layer(hello()), request)
}

#[test]
fn only_a_post_with_a_grpc_content_type_is_a_grpc_call() {
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
    ] {
        let answer = over(request(Method::POST, kind));
        assert_eq!(
            (answer.status.as_u16(), answer.lines("grpc-status")),
            (200, vec!["8"]),
            "{kind}"
        );
        for method in [Method::GET, Method::HEAD, Method::PUT] {
            let answer = over(request(method.clone(), kind));
            assert_eq!(answer.status, 429, "{method} {kind}");
            assert_eq!(answer.lines("grpc-status"), [""; 0], "{method} {kind}");
        }
    }
    for kind in [
        "application/grpcxyz",
        "application/grpc/x",
        "application/grp",
    ] {
        for method in [Method::GET, Method::POST] {
            let answer = over(request(method.clone(), kind));
            assert_eq!(answer.status, 429, "{method} {kind}");
            assert_eq!(answer.lines("retry-after"), [""; 0], "never");
        }
    }
}

/// The responses of one layer to a plain request and to a gRPC call.
macro_rules! answers {
    ($($layer:expr),+ $(,)?) => {{
        let mut answers = Vec::new();
        $(
            let layer = $layer;
            answers.push(seen(&mut layer.clone().layer(hello()), get()));
            answers.push(seen(&mut layer.layer(hello()), call()));
        )+
        answers
    }};
}

fn faults() -> [(KeyError, u16); 4] {
    [
        (KeyError::client("no tenant"), 400),
        (KeyError::Denied, 403),
        (KeyError::Missing(Part::MatchedPath), 404),
        (KeyError::server("not set up"), 500),
    ]
}

#[test]
fn a_request_without_a_key_is_answered_with_no_store() {
    for (fault, status) in faults() {
        let key = key_fn(move |_| Err(fault.clone()));
        let permits = SemaphorePolicy::new("exports", 1);
        for answer in answers!(
            RateLimitLayer::new(two_a_minute(), key.clone(), memory()),
            SemaphoreLayer::new(permits, key, MemorySemaphore::new()),
        ) {
            assert_eq!(answer.lines("cache-control"), ["no-store"], "{answer:?}");
            let is_call = answer.headers.contains_key("grpc-status");
            assert_eq!(answer.status.as_u16(), if is_call { 200 } else { status });
        }
    }
}

#[tokio::test]
async fn a_denied_request_and_a_failed_backend_are_answered_with_no_store() {
    let permits = SemaphorePolicy::new("exports", 1);
    let full = MemorySemaphore::new();
    let semaphore = Semaphore::new(permits.clone(), full.clone());
    let of_all = semaphore.try_acquire(&Key::from("global"), 1).await;
    let of_ann = semaphore.try_acquire(&Key::from("ann"), 1).await;
    let ann = key_fn(|_| Ok(Key::from("ann")));
    let mut statuses = Vec::new();
    for answer in answers!(
        RateLimitLayer::new(two_a_minute(), Global, memory()).cost(3),
        RateLimitLayer::new(two_a_minute(), Global, Remote::failing())
            .on_backend_error(FailurePolicy::FailClosed),
        SemaphoreLayer::new(permits.clone(), ann, MemorySemaphore::new()).weight(3),
        SemaphoreLayer::new(permits.clone(), ann, full.clone()),
        SemaphoreLayer::new(permits, Global, full),
    ) {
        assert_eq!(answer.lines("cache-control"), ["no-store"], "{answer:?}");
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses, [429, 200, 503, 200, 429, 200, 429, 200, 503, 200]);
    drop((of_all, of_ann));
}

#[test]
fn closure_response_has_no_store_once() {
    for (own, sent) in [
        (None, "no-store"),
        (Some("private, max-age=60"), "no-store"),
        (Some("private, No-Store"), "private, No-Store"),
        (Some("no-stores"), "no-store"),
    ] {
        let response = move || {
            let mut response = Response::builder().status(418);
            if let Some(own) = own {
                response = response.header("cache-control", own);
            }
            response.body("teapot").expect("a valid head")
        };
        let key = key_fn(|_| Err(KeyError::client("no tenant")));
        let limit = RateLimitLayer::new(two_a_minute(), key, memory());
        let bound = SemaphoreLayer::new(SemaphorePolicy::new("p", 1), key, MemorySemaphore::new());
        let seen = [
            seen(
                &mut limit
                    .clone()
                    .reject_fn(move |_, _| response())
                    .layer(hello()),
                get(),
            ),
            seen(
                &mut limit
                    .respond_fn(move |_, _| response().map(Full::from))
                    .layer(hello()),
                get(),
            ),
            seen(
                &mut bound
                    .clone()
                    .reject_fn(move |_, _| response())
                    .layer(hello()),
                get(),
            ),
            seen(
                &mut bound
                    .respond_fn(move |_, _| response().map(Full::from))
                    .layer(hello()),
                get(),
            ),
        ];
        for seen in seen {
            assert_eq!((seen.status.as_u16(), &*seen.body), (418, "teapot"));
            assert_eq!(seen.lines("cache-control"), [sent], "{own:?}");
        }
    }
}

/// An allowed response belongs to the service.
#[test]
fn allowed_response_gets_no_cache_control() {
    let answer = seen(
        &mut RateLimitLayer::new(two_a_minute(), Global, memory()).layer(hello()),
        get(),
    );
    assert_eq!(
        (answer.status.as_u16(), answer.lines("cache-control")),
        (200, vec![])
    );
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn responses_to_handlers_without_a_layer_are_not_stored() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;
    use tower_sluice::Charge;
    use tower_sluice::concurrency::HeldPermit;

    let app = Router::new()
        .route("/charge", get(async |_: Charge| "charged"))
        .route("/permit", get(async |_: HeldPermit| "held"));
    for path in ["/charge", "/permit"] {
        let request = Request::get(path).body(Body::empty()).expect("valid");
        let Ok(response) = app.clone().oneshot(request).await;
        assert_eq!(response.status(), 500);
        let stored = response.headers().get("cache-control");
        assert_eq!(stored.expect("forbidden"), "no-store", "{path}");
    }
}
