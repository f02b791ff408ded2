//! What clients and handlers get to see.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceBuilder};
use tower_sluice::key::{Header, KeyError, key_fn};
use tower_sluice::response::{HeaderFormat, Rejection};
use tower_sluice::{
    Charge, Decision, Global, Key, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer,
};

use crate::support::{
    self, Memory, Seen, USER, by_user, client, clock, from, hello, listen, memory, now, seen,
    two_a_minute,
};

fn global() -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(two_a_minute(), Global, memory())
}

/// A service that answers with this status.
fn answers(
    status: u16,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone {
    tower::service_fn(move |_: Request<()>| async move {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        Ok(response)
    })
}

#[test]
fn rejection_is_429_with_exact_head_and_body() {
    let clock = clock();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let limit = RateLimitLayer::new(two_a_minute(), Header::new(USER), backend);
    let mut service = limit.layer(hello());
    seen(&mut service, from("ann"));
    seen(&mut service, from("ann"));

    let rejected = seen(&mut service, from("ann"));
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    let head = [
        ("cache-control", "no-store"),
        ("content-type", "application/problem+json"),
        ("ratelimit", "\"api\";r=0;t=30"),
        ("ratelimit-policy", "\"api\";q=2;w=60"),
        ("retry-after", "30"),
    ];
    assert_eq!(rejected.head(), head);
    let problem: Value = serde_json::from_str(&rejected.body).expect("JSON");
    let expected = json!({
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "violated-policies": ["api"],
    });
    assert_eq!(problem, expected);

    // Rounded up, never 0: a client that waits that long gets through.
    for (advance, said) in [
        (1, "30"),
        (999_999, "29"),
        (28_000_000, "1"),
        (999_999, "1"),
    ] {
        clock.advance(Duration::from_micros(advance));
        let rejected = seen(&mut service, from("ann"));
        assert_eq!(rejected.lines("retry-after"), [said]);
        assert_eq!(
            rejected.lines("ratelimit"),
            [format!("\"api\";r=0;t={said}")]
        );
    }
    clock.advance(Duration::from_micros(1));
    assert_eq!(seen(&mut service, from("ann")).status, StatusCode::OK);
}

#[test]
fn cost_above_the_limit_is_rejected_without_retry_after() {
    let rejected = seen(&mut global().cost(3).layer(hello()), Request::new(()));
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    let head = [
        ("cache-control", "no-store"),
        ("content-type", "application/problem+json"),
        ("ratelimit", "\"api\";r=2"),
        ("ratelimit-policy", "\"api\";q=2;w=60"),
    ];
    assert_eq!(rejected.head(), head);
}

#[test]
fn allowed_response_has_rate_limit_fields() {
    let mut service = global().layer(hello());
    let first = seen(&mut service, Request::new(()));
    let policy = ("ratelimit-policy", "\"api\";q=2;w=60");
    assert_eq!(first.head(), [("ratelimit", "\"api\";r=1"), policy]);
    assert_eq!((first.status, &*first.body), (StatusCode::OK, "hello"));
    let second = seen(&mut service, Request::new(()));
    assert_eq!(second.head(), [("ratelimit", "\"api\";r=0;t=30"), policy]);
}

#[test]
fn service_error_responses_have_rate_limit_fields() {
    for status in [204, 400, 404, 429, 500, 503] {
        let seen = seen(&mut global().layer(answers(status)), Request::new(()));
        assert_eq!(
            (seen.status.as_u16(), seen.lines("ratelimit").len()),
            (status, 1)
        );
    }
}

#[test]
fn redirects_have_fields_only_if_enabled() {
    for status in [301, 302, 303, 304, 307, 308] {
        let plain = seen(&mut global().layer(answers(status)), Request::new(()));
        assert!(plain.says_nothing_of_limits(), "{plain:?}");
        let limit = global().headers_on_redirects(true);
        let asked = seen(&mut limit.layer(answers(status)), Request::new(()));
        assert_eq!(asked.lines("ratelimit"), ["\"api\";r=1"], "{status}");
    }
}

#[test]
fn informational_responses_never_have_fields() {
    for status in [100, 101, 103] {
        let limit = global().headers_on_redirects(true);
        let seen = seen(&mut limit.layer(answers(status)), Request::new(()));
        assert_eq!(seen.status.as_u16(), status);
        assert!(seen.says_nothing_of_limits(), "{seen:?}");
    }
}

#[test]
fn rejected_head_request_has_the_fields_of_a_get_and_no_body() {
    let mut service = global().layer(hello());
    seen(&mut service, Request::new(()));
    seen(&mut service, Request::new(()));
    let got = seen(&mut service, Request::new(()));
    let head = Request::head("/").body(()).expect("a valid head");
    let response = now(&mut service, head).expect("no error");
    assert!(response.body().is_end_stream());
    let mut headers = response.headers().clone();
    let length = headers.remove("content-length").expect("a length");
    assert_eq!(length, got.body.len().to_string().as_str());
    assert_eq!(headers, got.headers);
}

#[tokio::test]
async fn head_and_get_rejections_are_equal_on_the_wire() {
    let (listener, address) = listen().await;
    let app = Router::new()
        .route("/", get(async || "hello"))
        .layer(global());
    tokio::spawn(axum::serve(listener, app).into_future());
    let client = client(1);
    let ask = async |method: &str| {
        let mut request = support::get(address, "/");
        *request.method_mut() = method.parse().expect("a method");
        Seen::of(client.request(request).await.expect("an answer")).await
    };
    ask("GET").await;
    ask("GET").await;
    let (mut got, mut headed) = (ask("GET").await, ask("HEAD").await);
    assert_eq!(
        (got.status, headed.status),
        (StatusCode::TOO_MANY_REQUESTS, got.status)
    );
    assert_eq!(got.lines("content-length"), [got.body.len().to_string()]);
    assert_eq!(headed.body, "");
    got.headers.remove("date");
    headed.headers.remove("date");
    assert_eq!(got.headers, headed.headers);
}

#[test]
fn format_none_writes_only_retry_after() {
    let mut service = global().headers(HeaderFormat::None).layer(hello());
    assert_eq!(seen(&mut service, Request::new(())).head(), []);
    seen(&mut service, Request::new(()));
    let rejected = seen(&mut service, Request::new(()));
    assert_eq!(rejected.status, 429);
    assert!(rejected.says_nothing_of_limits(), "{rejected:?}");
    assert_eq!(rejected.lines("retry-after"), ["30"]);
    assert_eq!(rejected.lines("cache-control"), ["no-store"]);
}

/// A service that tells what it found in its request.
fn tells_remaining()
-> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone {
    tower::service_fn(|request: Request<()>| async move {
        let charge = request.extensions().get::<Charge>();
        let text = match charge.and_then(Charge::decision) {
            Some(decision) => decision.snapshot().remaining().to_string(),
            None => "nothing".into(),
        };
        Ok(Response::new(Full::from(text)))
    })
}

#[test]
fn handlers_and_layers_outside_see_the_decision() {
    let mut service = global().layer(tells_remaining());
    let response = now(&mut service, Request::new(())).expect("no error");
    let decision = response.extensions().get::<Decision>().expect("a decision");
    assert!(decision.is_allowed());
    assert_eq!(decision.snapshot().remaining(), 1);
    assert_eq!(seen(&mut service, Request::new(())).body, "0");

    let rejected = now(&mut service, Request::new(())).expect("no error");
    let decision = rejected.extensions().get::<Decision>().expect("a decision");
    assert!(!decision.is_allowed());
}

#[test]
fn extensions_can_be_left_alone() {
    let mut service = global().extensions(false).layer(tells_remaining());
    let response = now(&mut service, Request::new(())).expect("no error");
    assert!(response.extensions().is_empty());
    assert_eq!(seen(&mut service, Request::new(())).body, "nothing");
    let rejected = now(&mut service, Request::new(())).expect("no error");
    assert_eq!(rejected.status(), 429);
    assert!(rejected.extensions().is_empty());
}

#[test]
fn nested_layers_append_their_lines() {
    let outer = Policy::new("outer", Quota::per_hour(10));
    let mut service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(outer, Global, memory()))
        .layer(by_user())
        .service(hello());
    let allowed = seen(&mut service, from("ann"));
    assert_eq!(allowed.lines("ratelimit"), ["\"api\";r=1", "\"outer\";r=9"]);
    let policies = ["\"api\";q=2;w=60", "\"outer\";q=10;w=3600"];
    assert_eq!(allowed.lines("ratelimit-policy"), policies);

    seen(&mut service, from("ann"));
    let rejected = seen(&mut service, from("ann"));
    assert_eq!(rejected.status, 429);
    assert_eq!(
        rejected.lines("ratelimit"),
        ["\"api\";r=0;t=30", "\"outer\";r=7"]
    );
    assert_eq!(rejected.lines("retry-after"), ["30"]);
}

#[test]
fn handler_sees_the_innermost_charge_and_outer_services_the_outermost_decision() {
    let outer = Policy::new("outer", Quota::per_hour(10));
    let mut service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(outer, Global, memory()))
        .layer(by_user())
        .service(tells_remaining());
    let response = now(&mut service, from("ann")).expect("no error");
    let outermost = response.extensions().get::<Decision>().expect("a decision");
    assert_eq!(outermost.snapshot().remaining(), 9);
    assert_eq!(seen(&mut service, from("ann")).body, "0");
}

#[test]
fn fields_of_the_service_are_kept() {
    let mut service = global().layer(tower::service_fn(|_: Request<()>| async {
        let response = Response::builder().header("ratelimit", "\"own\";r=3");
        let response = response
            .header("retry-after", "7")
            .body(Full::<Bytes>::default());
        Ok::<_, Infallible>(response.expect("a valid head"))
    }));
    let seen = seen(&mut service, Request::new(()));
    assert_eq!(seen.lines("ratelimit"), ["\"own\";r=3", "\"api\";r=1"]);
    assert_eq!(seen.lines("retry-after"), ["7"]);
}

#[test]
fn reject_fn_builds_the_response() {
    let limit = global().reject_fn(|head, rejection| {
        let mut response = Response::new(format!("{} {}: {rejection}", head.method, head.uri));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
            .headers_mut()
            .insert("x-own", "yes".parse().expect("a value"));
        response
    });
    let mut service = limit.cost(2).layer(hello());
    assert_eq!(seen(&mut service, Request::new(())).body, "hello");
    let rejected = seen(&mut service, Request::new(()));
    assert_eq!(rejected.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(rejected.body, "GET /: rate limit `api` exceeded");
    let head = [
        ("cache-control", "no-store"),
        ("ratelimit", "\"api\";r=0;t=60"),
        ("ratelimit-policy", "\"api\";q=2;w=60"),
        ("retry-after", "60"),
        ("x-own", "yes"),
    ];
    assert_eq!(rejected.head(), head);
}

#[test]
fn reject_fn_accepts_static_text() {
    let limit = global().cost(3).reject_fn(|_, rejection| {
        let mut response = Response::new("slow down");
        *response.status_mut() = rejection.status();
        response
    });
    let rejected = seen(&mut limit.layer(hello()), Request::new(()));
    assert_eq!(
        (rejected.status.as_u16(), &*rejected.body),
        (429, "slow down")
    );
}

#[test]
fn longer_retry_after_of_reject_fn_is_kept() {
    let date = "Tue, 31 Dec 2199 23:59:59 GMT";
    for (own, said) in [("120", "120"), ("1", "60"), ("soon", "60"), (date, date)] {
        let limit = global().cost(2).reject_fn(move |_, rejection| {
            let response = Response::builder().status(rejection.status());
            response
                .header("retry-after", own)
                .body("")
                .expect("a valid head")
        });
        let mut service = limit.layer(hello());
        seen(&mut service, Request::new(()));
        assert_eq!(
            seen(&mut service, Request::new(())).lines("retry-after"),
            [said]
        );
    }
}

fn grpc(kind: &str) -> Request<()> {
    let request = Request::post("/grpc.health.v1.Health/Check").header("content-type", kind);
    request.body(()).expect("a valid head")
}

#[test]
fn grpc_rejection_is_trailers_only() {
    for (kind, answered) in [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc"),
        ("Application/gRPC", "application/grpc"),
        // A gRPC-Web client understands no other type than its own.
        ("application/grpc-web", "application/grpc-web"),
        ("application/grpc-web+proto", "application/grpc-web+proto"),
        (
            "application/grpc-web-text+json; charset=utf-8",
            "application/grpc-web-text+json",
        ),
        ("Application/gRPC-Web", "application/grpc-web"),
        // What a client writes is not sent back as it is.
        ("application/grpc-web, text/html", "application/grpc-web"),
        (
            "application/grpc-web-text<script>",
            "application/grpc-web-text",
        ),
    ] {
        let limit = global()
            .cost(3)
            .reject_fn(|_, _| Response::new("not for gRPC"));
        let response = now(&mut limit.layer(hello()), grpc(kind)).expect("no error");
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.body().is_end_stream());
        assert_eq!(response.body().size_hint().exact(), Some(0));
        assert!(response.extensions().get::<Decision>().is_some());
        let mut headers = response.headers().clone();
        assert_eq!(headers.remove("content-type").unwrap(), answered);
        assert_eq!(headers.remove("grpc-status").unwrap(), "8");
        assert_eq!(
            headers.remove("grpc-message").unwrap(),
            "rate limit exceeded"
        );
        // The cost is above the limit: never.
        assert_eq!(headers.remove("grpc-retry-pushback-ms").unwrap(), "-1");
        assert!(headers.remove("grpc-status-details-bin").is_some());
        assert_eq!(headers.remove("cache-control").unwrap(), "no-store");
        assert!(headers.is_empty(), "{headers:?}");
    }
}

#[test]
fn allowed_grpc_response_has_no_rate_limit_fields() {
    let mut service = global().layer(tower::service_fn(|_: Request<()>| async {
        let response = Response::builder().header("content-type", "application/grpc");
        let response = response.body(Full::<Bytes>::default());
        Ok::<_, Infallible>(response.expect("a valid head"))
    }));
    let seen = seen(&mut service, grpc("application/grpc"));
    assert_eq!(seen.head(), [("content-type", "application/grpc")]);
}

#[test]
fn grpc_call_without_a_key_gets_a_grpc_rejection() {
    let call = || grpc("application/grpc");
    let status = |response: Response<_>| {
        let _: &tower_sluice::response::ResponseBody<Full<Bytes>> = response.body();
        assert_eq!(response.status(), 200);
        response.headers()["grpc-status"].clone()
    };
    let response = now(&mut by_user().layer(hello()), call());
    assert_eq!(status(response.expect("no error")), "3");
    let limit = RateLimitLayer::new(two_a_minute(), PeerIp::new(), memory());
    let response = now(&mut limit.layer(hello()), call());
    assert_eq!(status(response.expect("no error")), "13");
}

#[test]
fn request_without_a_key_is_rejected_without_details() {
    let problem =
        |title: &str, status: u16| json!({"type": "about:blank", "title": title, "status": status});
    let check = |seen: Seen, status: u16, title: &str| {
        assert_eq!(seen.status.as_u16(), status);
        let head = [
            ("cache-control", "no-store"),
            ("content-type", "application/problem+json"),
        ];
        assert_eq!(seen.head(), head);
        let body: Value = serde_json::from_str(&seen.body).expect("JSON");
        assert_eq!(body, problem(title, status));
    };
    let peer = RateLimitLayer::new(two_a_minute(), PeerIp::new(), memory());
    check(
        seen(&mut peer.layer(hello()), Request::new(())),
        500,
        "Internal Server Error",
    );
    check(
        seen(&mut by_user().layer(hello()), Request::new(())),
        400,
        "Bad Request",
    );
    check(
        seen(&mut by_user().layer(hello()), from("")),
        400,
        "Bad Request",
    );
    let mut repeated = from("hunter2");
    repeated
        .headers_mut()
        .append(USER, "hunter3".parse().expect("a value"));
    check(
        seen(&mut by_user().layer(hello()), repeated),
        400,
        "Bad Request",
    );
    let own = key_fn(|_| Err(KeyError::client("the secret reason")));
    let own = RateLimitLayer::new(two_a_minute(), own, memory());
    check(
        seen(&mut own.layer(hello()), Request::new(())),
        400,
        "Bad Request",
    );
}

#[test]
fn layers_outside_see_why_there_was_no_key() {
    let response = now(&mut by_user().layer(hello()), Request::new(())).expect("no error");
    let error = response.extensions().get::<KeyError>().expect("an error");
    assert_eq!(error.to_string(), "header `x-user` is missing");
}

#[test]
fn skip_unkeyed_allows_unkeyed_requests() {
    let mut by_user = by_user().skip_unkeyed().layer(tells_remaining());
    let by_peer = RateLimitLayer::new(two_a_minute(), PeerIp::new(), memory());
    let mut by_peer = by_peer.skip_unkeyed().layer(tells_remaining());
    for _ in 0..3 {
        for seen in [
            seen(&mut by_user, Request::new(())),
            seen(&mut by_peer, Request::new(())),
        ] {
            assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "nothing"));
            assert_eq!(seen.head(), []);
        }
    }
    let statuses = [(); 3].map(|()| seen(&mut by_user, from("ann")).status.as_u16());
    assert_eq!(
        statuses,
        [200, 200, 429],
        "those with a key are limited as ever"
    );
}

#[test]
fn no_response_contains_the_key() {
    let secret = "hunter2";
    let by_secret = key_fn(|head| {
        let secret = head.headers.get(USER).ok_or(KeyError::MissingPeer)?;
        Ok(Key::new(secret))
    });
    let refusals: [fn(&Rejection) -> String; 2] = [
        |rejection| rejection.to_string(),
        |rejection| format!("{rejection:?}"),
    ];
    for shown in refusals {
        let limit = RateLimitLayer::new(two_a_minute(), by_secret, memory()).cost(2);
        let mut plain = limit.clone().layer(hello());
        let mut reported = limit
            .reject_fn(move |_, rejection| {
                let mut response = Response::new(shown(rejection));
                *response.status_mut() = rejection.status();
                response
            })
            .layer(hello());
        assert_eq!(seen(&mut plain, from(secret)).status, 200);
        for seen in [
            seen(&mut plain, from(secret)),
            seen(&mut reported, from(secret)),
        ] {
            assert_eq!(seen.status, 429);
            assert!(!format!("{seen:?}").contains(secret), "{seen:?}");
        }
    }
}

#[test]
fn bodies_pass_through_with_their_length() {
    let mut service = global().layer(hello());
    let response = now(&mut service, Request::new(())).expect("no error");
    assert_eq!(response.body().size_hint().exact(), Some(5));
    now(&mut service, Request::new(())).expect("no error");
    let rejected = now(&mut service, Request::new(())).expect("no error");
    let length = rejected.body().size_hint().exact().expect("a length");
    let body = futures_util::FutureExt::now_or_never(rejected.into_body().collect());
    let body = body.expect("at once").expect("no error").to_bytes();
    assert_eq!(body.len() as u64, length);
}

#[test]
fn layers_that_answer_with_an_empty_body_of_the_services_type_fit_around() {
    fn empty<S: Service<Request<()>, Response = Response<B>>, B: Default + http_body::Body>(
        _: &S,
    ) -> B {
        B::default()
    }
    assert!(empty(&global().layer(hello())).is_end_stream());
}
