//! The bodies of rejections.

use axum::Router;
use axum::body::Body;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};
use tower_sluice::key::{Header, KeyError, Part, key_fn};
use tower_sluice::response::{ProblemType, Rejection};
use tower_sluice::{
    FailurePolicy, Global, Head, Key, MemorySemaphore, Policy, Quota, RateLimitLayer, Semaphore,
    SemaphoreLayer, SemaphorePolicy,
};

use crate::remote::Remote;
use crate::support::{
    ClientResponse, Memory, client, from, hello, listen, memory, now, seen, two_a_minute,
};

/// Rejects every request: its cost exceeds the limit.
fn rejecting() -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(two_a_minute(), Global, memory()).cost(3)
}

fn problem(seen: &ClientResponse) -> Value {
    assert_eq!(seen.lines("content-type"), ["application/problem+json"]);
    serde_json::from_str(&seen.body).expect("JSON")
}

#[test]
fn abuse_limit_uses_its_problem_type() {
    let policy = two_a_minute().and("never \"more\"", Quota::per_hour(3));
    let limit = RateLimitLayer::new(policy, Global, memory()).cost(4);
    let limit = limit.problem_type(ProblemType::AbnormalUsageDetected);
    let rejected = seen(&mut limit.layer(hello()), Request::new(()));
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    let expected = json!({
        "type": "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
        "title": "Request not satisifed due to detection of abnormal request pattern",
        "status": 429,
        "violated-policies": ["api", "never \"more\""],
    });
    assert_eq!(problem(&rejected), expected);
    assert!(!rejected.has_no_rate_limit_fields());
}

#[test]
fn plain_text_is_one_generic_line() {
    let check = |seen: ClientResponse, status: u16, text: &str| {
        assert_eq!((seen.status.as_u16(), &*seen.body), (status, text));
        assert_eq!(seen.lines("content-type"), ["text/plain; charset=utf-8"]);
    };
    let limited = rejecting().plain_text().layer(hello());
    check(
        seen(&mut limited.clone(), Request::new(())),
        429,
        "rate limit exceeded\n",
    );
    let keyless = |error: fn() -> KeyError| {
        let key = key_fn(move |_| Err(error()));
        let limit = RateLimitLayer::new(two_a_minute(), key, memory());
        seen(&mut limit.plain_text().layer(hello()), Request::new(()))
    };
    check(
        keyless(|| KeyError::client("the reason")),
        400,
        "bad request\n",
    );
    check(
        keyless(|| KeyError::server("the reason")),
        500,
        "internal server error\n",
    );
    check(keyless(|| KeyError::Denied), 403, "forbidden\n");
    let unrouted = || KeyError::Missing(Part::MatchedPath);
    check(keyless(unrouted), 404, "not found\n");
    let down = Remote::immediate();
    down.fail(1);
    let failing = RateLimitLayer::new(two_a_minute(), Global, down)
        .on_backend_error(FailurePolicy::FailClosed);
    check(
        seen(&mut failing.plain_text().layer(hello()), Request::new(())),
        503,
        "service unavailable\n",
    );
    let permits = || SemaphorePolicy::new("in-flight", 1);
    let of_one = SemaphoreLayer::new(permits(), Header::new("x-user"), MemorySemaphore::new());
    let mut of_one = of_one.plain_text().weight(2).layer(hello());
    check(
        seen(&mut of_one, from("ann")),
        429,
        "too many requests in flight\n",
    );
    let memory = MemorySemaphore::new();
    let semaphore = Semaphore::new(permits(), memory.clone());
    let key = Key::from("global");
    let held = semaphore.try_acquire(&key, 1);
    let _held = held.now_or_never().expect("at once").expect("free");
    let of_all = SemaphoreLayer::new(permits(), Global, memory);
    let mut of_all = of_all.plain_text().layer(hello());
    check(seen(&mut of_all, from("ann")), 503, "service unavailable\n");
    let head = Request::head("/").body(()).expect("a valid head");
    let response = now(&mut limited.clone(), head).expect("no error");
    assert_eq!(response.headers()["content-length"], "20");
    assert!(response.body().is_end_stream());
}

/// A page for browsers, and problem details for other clients.
fn page(head: &Head<'_>, rejection: &Rejection) -> Response<Bytes> {
    let accepts = head.headers.get(ACCEPT);
    let accepts = accepts.and_then(|accepts| accepts.to_str().ok());
    if !accepts.is_some_and(|accepts| accepts.contains("text/html")) {
        return rejection.problem();
    }
    let path = head.uri.path();
    let mut page = Response::new(format!("<h1>{path}: {}</h1>", rejection.status()).into());
    *page.status_mut() = rejection.status();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    page.headers_mut().insert(CONTENT_TYPE, html);
    page
}

/// The response to a rejected client that sends `accept`, over a real connection.
async fn rejection_for(app: Router, method: Method, accept: &str) -> ClientResponse {
    let (listener, address) = listen().await;
    tokio::spawn(axum::serve(listener, app).into_future());
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{address}/x"));
    let request = request.header(ACCEPT, accept).body(Full::default());
    let response = client(1).request(request.expect("a valid head")).await;
    let mut seen = ClientResponse::of(response.expect("an answer")).await;
    seen.headers.remove("date");
    seen
}

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn routed() -> Router {
    Router::new().route("/x", get(async || "hello"))
}

#[tokio::test]
async fn browsers_get_a_page_and_other_clients_get_problem_details() {
    let app = || routed().layer(rejecting().reject_fn(page));
    let browser = rejection_for(app(), Method::GET, BROWSER).await;
    assert_eq!(browser.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(browser.lines("content-type"), ["text/html; charset=utf-8"]);
    assert_eq!(browser.body, "<h1>/x: 429 Too Many Requests</h1>");
    assert_eq!(browser.lines("cache-control"), ["no-store"]);
    assert_eq!(browser.lines("ratelimit"), ["\"api\";r=2"]);
    let curl = rejection_for(app(), Method::GET, "*/*").await;
    assert_eq!(problem(&curl)["violated-policies"], json!(["api"]));
    let bare = rejection_for(routed().layer(rejecting()), Method::GET, BROWSER).await;
    assert_eq!((bare.headers, bare.body), (curl.headers, curl.body));
}

/// `Retry-After` on a redirect is the wait before the redirect is followed (RFC 9110 §10.2.3).
#[test]
fn rejection_by_redirect_has_no_retry_after() {
    let limit = rejecting().cost(2).respond_fn(|_, _| {
        let response = Response::builder().status(303).header("location", "/busy");
        response.body(Full::from("")).expect("a valid head")
    });
    let rejected = |limit: RateLimitLayer<_, _, _, _, _>| {
        let mut service = limit.layer(hello());
        seen(&mut service, Request::new(()));
        let rejected = seen(&mut service, Request::new(()));
        assert_eq!(rejected.status, StatusCode::SEE_OTHER);
        assert_eq!(rejected.lines("cache-control"), ["no-store"]);
        (
            rejected.lines("retry-after").len(),
            rejected.has_no_rate_limit_fields(),
        )
    };
    assert_eq!(rejected(limit.clone()), (0, true));
    assert_eq!(rejected(limit.headers_on_redirects(true)), (1, false));
}

#[tokio::test]
async fn axum_response_passes_unchanged() {
    let limit = rejecting().respond_fn(|head, rejection| {
        let page = format!("<p>{} {}</p>", head.method, rejection.status().as_u16());
        let mut response = (rejection.status(), Html(page)).into_response();
        response
            .headers_mut()
            .insert("x-own", HeaderValue::from_static("yes"));
        response
    });
    let app = || routed().layer(limit.clone());
    let fetch = rejection_for(app(), Method::GET, BROWSER).await;
    assert_eq!(
        (fetch.status.as_u16(), &*fetch.body),
        (429, "<p>GET 429</p>")
    );
    let head = [
        ("cache-control", "no-store"),
        ("content-length", "14"),
        ("content-type", "text/html; charset=utf-8"),
        ("ratelimit", "\"api\";r=2"),
        ("ratelimit-policy", "\"api\";q=2;w=60"),
        ("x-own", "yes"),
    ];
    assert_eq!(fetch.head(), head);
    let headed = rejection_for(app(), Method::HEAD, BROWSER).await;
    assert_eq!((headed.status.as_u16(), &*headed.body), (429, ""));
    assert_eq!(headed.lines("content-length"), ["15"], "of `HEAD`");

    let (permits, memory) = (SemaphorePolicy::new("one", 1), MemorySemaphore::new());
    let semaphore = Semaphore::new(permits.clone(), memory.clone());
    let held = semaphore.try_acquire(&Key::from("global"), 1).await;
    let _held = held.expect("free");
    let bounded = SemaphoreLayer::new(permits, Global, memory)
        .respond_fn(|_, rejection| (rejection.status(), "busy").into_response());
    let busy = rejection_for(routed().layer(bounded), Method::GET, BROWSER).await;
    assert_eq!((busy.status.as_u16(), &*busy.body), (503, "busy"));
}

/// A body of the service's own type need not be complete at once.
#[tokio::test]
async fn a_body_of_the_services_type_may_be_a_stream() {
    let limit =
        rejecting().respond_fn(|_, rejection| (rejection.status(), unknown()).into_response());
    let app = routed().layer(limit);
    let answer = async |method: Method| {
        let request = Request::builder().method(method).uri("/x");
        let request = request.body(Body::empty()).expect("a valid head");
        app.clone().oneshot(request).await.expect("infallible")
    };
    let (head, body) = answer(Method::HEAD).await.into_parts();
    assert!(body.is_end_stream() && !head.headers.contains_key("content-length"));
    let body = answer(Method::GET).await.into_body().collect().await;
    assert_eq!(body.expect("a whole body").to_bytes(), "slow down");
}

#[test]
fn head_request_gets_no_body_from_respond_fn() {
    for (body, length) in [(Body::from("no"), Some("2")), (unknown(), None)] {
        let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
        let limit = rejecting().respond_fn(move |_, rejection| {
            let body = body.lock().expect("no panic").take().expect("once");
            (rejection.status(), body).into_response()
        });
        let service = tower::service_fn(async |_: Request<()>| {
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let head = Request::head("/").body(()).expect("a valid head");
        let response = now(&mut limit.layer(service), head).expect("no error");
        assert_eq!(response.status(), 429);
        assert!(response.body().is_end_stream());
        let reported = response.headers().get("content-length").cloned();
        assert_eq!(reported, length.map(HeaderValue::from_static));
        let body = response.into_body().collect();
        let body = futures_util::FutureExt::now_or_never(body).expect("at once");
        assert!(body.expect("no error").to_bytes().is_empty());
    }
}

/// A body of unknown length.
fn unknown() -> Body {
    let words = ["slow ", "down"].map(Ok::<_, std::convert::Infallible>);
    Body::from_stream(futures_util::stream::iter(words))
}

#[test]
fn respond_fn_uses_the_services_body_type_without_axum() {
    let limit = RateLimitLayer::new(Policy::new("p", Quota::per_hour(1)), Global, memory());
    let limit = limit.respond_fn(|_, rejection| {
        let mut response = Response::new(Full::from("no"));
        *response.status_mut() = rejection.status();
        response
    });
    let mut service = limit.layer(hello());
    assert_eq!(seen(&mut service, Request::new(())).body, "hello");
    let rejected = seen(&mut service, Request::new(()));
    assert_eq!((rejected.status.as_u16(), &*rejected.body), (429, "no"));
    assert_eq!(rejected.lines("retry-after"), ["3600"]);
    let call = Request::post("/").header("content-type", "application/grpc");
    let call = seen(&mut service, call.body(()).expect("a valid head"));
    assert_eq!(
        (call.status.as_u16(), &*call.body),
        (200, ""),
        "not for gRPC"
    );
}
