//! The response of a rejected request, field by field.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::concurrency::SemaphoreLayer;
use tower_sluice::key::{Header, KeyError, KeyExt as _, KeyExtractor, Networks, PeerAddr};
use tower_sluice::response::{AsError, HeaderFormat, LimitError, Rejection};
use tower_sluice::{
    ClientIp, Decision, Global, Key, MemoryBackend, MemorySemaphore, Policy, Quota, RateLimitLayer,
    RetryAfter, SemaphorePolicy,
};

use crate::services::{endless, memory, two_each};
use crate::support::{ClientResponse, USER, clock, from, hello, now, seen};

pub(crate) const PROBLEM: &str = r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Request cannot be satisfied as assigned quota has been exceeded","status":429,"violated-policies":["exports"]}"#;
const REDUCED: &str = r#"{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Request cannot be satisfied due to temporary server capacity constraints","status":503}"#;

#[test]
fn user_over_its_capacity_gets_429_and_others_do_not() {
    let mut service = two_each(&memory()).layer(endless());
    let first = now(&mut service, from("ann")).expect("no error");
    let second = now(&mut service, from("ann")).expect("no error");
    let reported = |response: &Response<_>| {
        let field = |name: &str| response.headers()[name].to_str().expect("ASCII").to_owned();
        (field("ratelimit-policy"), field("ratelimit"))
    };
    let policy = "\"exports\";q=2;qu=\"concurrent-requests\"".to_owned();
    assert_eq!(reported(&first), (policy.clone(), "\"exports\";r=1".into()));
    assert_eq!(reported(&second), (policy, "\"exports\";r=0".into()));

    let third = rejected(&mut service, from("ann"));
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        third.head(),
        [
            ("cache-control", "no-store"),
            ("content-type", "application/problem+json"),
            ("ratelimit", "\"exports\";r=0;t=1"),
            (
                "ratelimit-policy",
                "\"exports\";q=2;qu=\"concurrent-requests\""
            ),
            ("retry-after", "1"),
        ]
    );
    assert_eq!(third.body, PROBLEM);
    assert_eq!(
        now(&mut service, from("bob")).expect("no error").status(),
        200
    );

    drop(first);
    assert_eq!(
        now(&mut service, from("ann")).expect("no error").status(),
        200
    );
}

/// A rejection, whatever the body type of the service is.
pub(crate) fn rejected<S, Req, B>(service: &mut S, request: Req) -> ClientResponse
where
    S: Service<Req, Response = Response<B>, Error: std::fmt::Debug>,
    B: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>,
{
    seen(service, request)
}

/// All requests of all users in one office.
#[derive(Clone)]
struct Office;

impl<R> KeyExtractor<R> for Office {
    fn key(&self, _: &R) -> Result<Key, KeyError> {
        Ok(Key::from("office"))
    }

    fn is_global(&self) -> bool {
        true
    }
}

fn full<K: KeyExtractor<Request<()>> + Clone>(key: K) -> ClientResponse {
    let permits = SemaphorePolicy::new("exports", 1);
    let mut service = SemaphoreLayer::new(permits, key, memory()).layer(endless());
    let _first = now(&mut service, from("ann")).expect("no error");
    rejected(&mut service, from("ann"))
}

#[test]
fn global_capacity_exceeded_is_503() {
    for seen in [full(Global), full((Global, Global)), full(Office)] {
        assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            seen.head(),
            [
                ("cache-control", "no-store"),
                ("content-type", "application/problem+json"),
                ("retry-after", "1"),
            ]
        );
        assert_eq!(seen.body, REDUCED);
    }
    // One part of the key differs by client.
    let both = full((Global, Header::new(USER)));
    assert_eq!(both.status, StatusCode::TOO_MANY_REQUESTS);
}

#[test]
fn fields_follow_the_settings_and_skip_redirects_by_default() {
    let moved = || {
        tower::service_fn(|_: Request<()>| async {
            Response::builder().status(302).body(String::new())
        })
    };
    let memory = memory();
    let limit = || two_each(&memory);
    assert!(seen(&mut limit().layer(moved()), from("ann")).has_no_rate_limit_fields());
    let mut on_redirects = limit().headers_on_redirects(true).layer(moved());
    assert_eq!(
        seen(&mut on_redirects, from("ann")).lines("ratelimit"),
        ["\"exports\";r=1"]
    );

    let mut silent = limit().headers(HeaderFormat::None).layer(endless());
    let held = [
        now(&mut silent, from("ann")).expect("no error"),
        now(&mut silent, from("ann")).expect("no error"),
    ];
    assert_eq!(held[0].headers().len(), 0);
    let seen = rejected(&mut silent, from("ann"));
    assert!(seen.has_no_rate_limit_fields());
    assert_eq!(seen.lines("retry-after"), ["1"]);
}

#[test]
fn nested_layers_write_fields_in_order() {
    let rates = RateLimitLayer::new(
        Policy::new("api", Quota::per_minute(9)),
        Header::new(USER),
        MemoryBackend::builder().clock(clock()).build(),
    );
    let memory = memory();
    let mut within = rates.clone().layer(two_each(&memory).layer(hello()));
    let reported = seen(&mut within, from("ann"));
    assert_eq!(
        reported.lines("ratelimit"),
        ["\"exports\";r=1", "\"api\";r=8"]
    );
    let mut around = two_each(&memory).layer(rates.layer(hello()));
    let reported = seen(&mut around, from("ann"));
    assert_eq!(
        reported.lines("ratelimit"),
        ["\"api\";r=7", "\"exports\";r=1"]
    );
}

#[test]
fn head_response_has_no_body() {
    let permits = SemaphorePolicy::new("exports", 1);
    let layer = SemaphoreLayer::new(permits, Header::new(USER), memory());
    let mut service = layer.layer(endless());
    let _held = now(&mut service, from("ann")).expect("no error");
    let mut head = from("ann");
    *head.method_mut() = Method::HEAD;
    let seen = rejected(&mut service, head);
    assert_eq!((seen.status.as_u16(), &*seen.body), (429, ""));
    assert_eq!(seen.lines("content-length"), [PROBLEM.len().to_string()]);
}

#[test]
fn reject_fn_sets_the_response() {
    let permits = SemaphorePolicy::new("exports", 1);
    let mut service = SemaphoreLayer::new(permits, Header::new(USER), memory())
        .reject_fn(|head, rejection| {
            assert!(matches!(
                rejection,
                Rejection::Busy {
                    is_global: false,
                    ..
                }
            ));
            assert_eq!(
                rejection.retry_after(),
                Some(RetryAfter::In(Duration::from_secs(30)))
            );
            let mut response = Response::new(format!("{} {rejection}", head.method));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            response
        })
        .layer(endless());
    let _held = now(&mut service, from("ann")).expect("no error");
    let seen = rejected(&mut service, from("ann"));
    assert_eq!(seen.status, StatusCode::IM_A_TEAPOT);
    assert_eq!(seen.body, "GET too many requests of `exports` in flight");
    assert_eq!(seen.lines("retry-after"), ["1"]);
}

#[test]
fn grpc_clients_get_grpc_status() {
    fn call<K: KeyExtractor<Request<()>> + Clone>(key: K) -> ClientResponse {
        let permits = SemaphorePolicy::new("exports", 1);
        let mut service = SemaphoreLayer::new(permits, key, memory()).layer(endless());
        let request = || {
            let mut request = from("ann");
            *request.method_mut() = Method::POST;
            let grpc = "application/grpc".parse().expect("a value");
            request.headers_mut().insert("content-type", grpc);
            request
        };
        let _held = now(&mut service, request()).expect("no error");
        rejected(&mut service, request())
    }
    for (seen, code) in [(call(Header::new(USER)), "8"), (call(Global), "14")] {
        assert_eq!(seen.status, 200);
        assert_eq!(seen.lines("grpc-status"), [code]);
        assert!(seen.has_no_rate_limit_fields());
    }
    let grpc = tower::service_fn(|_: Request<()>| async {
        Response::builder()
            .header("content-type", "application/grpc")
            .body(String::new())
    });
    let allowed = seen(&mut two_each(&memory()).layer(grpc), from("ann"));
    assert!(allowed.has_no_rate_limit_fields(), "{allowed:?}");
}

#[test]
fn unkeyed_requests_are_rejected_or_skip_the_permit() {
    let memory = memory();
    let mut strict = two_each(&memory).layer(hello());
    assert_eq!(seen(&mut strict, Request::new(())).status, 400);
    let mut lax = two_each(&memory).skip_unkeyed().layer(endless());
    let passed = now(&mut lax, Request::new(())).expect("no error");
    assert_eq!((passed.status().as_u16(), memory.held()), (200, 0));
    assert_eq!(passed.headers().len(), 0);
}

#[test]
fn exempt_requests_and_preflights_take_no_permit() {
    let memory = memory();
    let key = Header::new(USER).skip_if(|head| head.uri.path() == "/health");
    let layer = SemaphoreLayer::new(SemaphorePolicy::new("exports", 1), key, memory.clone());
    let mut service = layer.clone().layer(endless());
    let mut health = from("ann");
    *health.uri_mut() = "/health".parse().expect("a path");
    let _healthy = now(&mut service, health).expect("no error");
    let preflight = || {
        let request = Request::builder().method(Method::OPTIONS);
        let request = request.header("origin", "https://example.org");
        let request = request.header("access-control-request-method", "PUT");
        request.header(USER, "ann").body(()).expect("a valid head")
    };
    let _asked = now(&mut service, preflight()).expect("no error");
    assert_eq!(memory.held(), 0);
    let mut counts = layer.count_preflights(true).layer(endless());
    let _asked = now(&mut counts, preflight()).expect("no error");
    assert_eq!(memory.held(), 1);
    assert_eq!(rejected(&mut service, from("ann")).status, 429);

    let denied = ClientIp::new().deny_list(Networks::new(["127.0.0.0/8"]));
    let key = Global.guarded_by(denied);
    assert!(KeyExtractor::<Request<()>>::is_global(&key));
    let layer = SemaphoreLayer::new(SemaphorePolicy::new("exports", 1), key, memory);
    let mut request = from("ann");
    let peer = PeerAddr(([127, 0, 0, 1], 4711).into());
    request.extensions_mut().insert(peer);
    let mut service = layer.skip_unkeyed().layer(endless());
    assert_eq!(
        rejected(&mut service, request).status,
        StatusCode::FORBIDDEN
    );
}

#[test]
fn the_decision_is_in_responses_if_turned_on() {
    let memory = memory();
    let decision = |limit: SemaphoreLayer<Header, _>| {
        let mut service = limit.layer(endless());
        let first = now(&mut service, from("ann")).expect("no error");
        let second = now(&mut service, from("ann")).expect("no error");
        let third = now(&mut service, from("ann")).expect("no error");
        [first, second, third].map(|response| response.extensions().get::<Decision>().cloned())
    };
    let [first, second, third] = decision(two_each(&memory).response_extensions(true));
    let remaining = |decision: Option<Decision>| decision.map(|it| it.snapshot().remaining());
    assert_eq!((remaining(first), remaining(second)), (Some(1), Some(0)));
    let third = third.expect("a decision");
    assert!(!third.is_allowed());
    let hint = Some(RetryAfter::In(Duration::from_secs(30)));
    assert_eq!(
        third.retry_after(),
        hint,
        "the wait must assume renewed leases"
    );
    assert_eq!(decision(two_each(&memory)), [const { None }; 3]);
}

#[test]
fn non_http_service_gets_errors() {
    let (go, _keep) = tokio::sync::watch::channel(false);
    let slow = tower::service_fn(move |word: &'static str| {
        let mut gone = go.subscribe();
        async move {
            gone.wait_for(|go| *go).await.map_err(|_| "gone")?;
            Ok::<_, &str>(word.len())
        }
    });
    let memory = MemorySemaphore::new();
    let mut service = SemaphoreLayer::new(SemaphorePolicy::new("words", 1), Global, memory.clone())
        .protocol(AsError)
        .layer(slow);
    let mut first = Box::pin(now_ready(&mut service).call("first"));
    assert!((&mut first).now_or_never().is_none());
    let second = now(&mut service, "second");
    assert!(matches!(
        second,
        Err(LimitError::Rejected(Rejection::Busy {
            is_global: true,
            ..
        }))
    ));
    assert_eq!(memory.held(), 1);
    drop(first);
    assert_eq!(memory.held(), 0);
    let mut at_once = SemaphoreLayer::new(SemaphorePolicy::new("words", 1), Global, memory.clone())
        .protocol(AsError)
        .layer(tower::service_fn(async |word: &'static str| {
            Ok::<_, Infallible>(word.len())
        }));
    assert_eq!(now(&mut at_once, "five!").expect("allowed"), 5);
    assert_eq!(memory.held(), 0, "the permit ends with the response");
}

fn now_ready<S: Service<Req>, Req>(service: &mut S) -> &mut S
where
    S::Error: std::fmt::Debug,
{
    service
        .ready()
        .now_or_never()
        .expect("at once")
        .expect("no error")
}

#[test]
fn middleware_can_answer_with_an_empty_body() {
    // A layer for CORS or timeouts around this one.
    let mut service = two_each(&memory()).wrap_body().layer(hello());
    let response = now(&mut service, from("ann")).expect("no error");
    let empty: Response<tower_sluice::response::ResponseBody<Full<bytes::Bytes>>> =
        Response::default();
    assert_eq!(
        std::mem::size_of_val(&response),
        std::mem::size_of_val(&empty)
    );
}
