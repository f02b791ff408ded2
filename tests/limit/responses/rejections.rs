//! The responses of rejected requests.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::{Layer, Service};
use tower_sluice::key::{Header, KeyError, key_fn};
use tower_sluice::response::Rejection;
use tower_sluice::{Key, MemoryBackend, RateLimitLayer};

use super::global;
use crate::support::{
    self, ClientResponse, USER, client, clock, from, hello, listen, memory, now, seen, two_a_minute,
};

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

    // Rounded up, and never 0: a client that waits this long is allowed.
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
fn rejected_head_request_has_the_fields_of_a_get_and_no_body() {
    let mut service = global().layer(hello());
    seen(&mut service, Request::new(()));
    seen(&mut service, Request::new(()));
    let fetch = seen(&mut service, Request::new(()));
    let head = Request::head("/").body(()).expect("a valid head");
    let response = now(&mut service, head).expect("no error");
    assert!(response.body().is_end_stream());
    let mut headers = response.headers().clone();
    let length = headers.remove("content-length").expect("a length");
    assert_eq!(length, fetch.body.len().to_string().as_str());
    assert_eq!(headers, fetch.headers);
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
        ClientResponse::of(client.request(request).await.expect("an answer")).await
    };
    ask("GET").await;
    ask("GET").await;
    let (mut fetch, mut headed) = (ask("GET").await, ask("HEAD").await);
    assert_eq!(
        (fetch.status, headed.status),
        (StatusCode::TOO_MANY_REQUESTS, fetch.status)
    );
    assert_eq!(
        fetch.lines("content-length"),
        [fetch.body.len().to_string()]
    );
    assert_eq!(headed.body, "");
    fetch.headers.remove("date");
    headed.headers.remove("date");
    assert_eq!(fetch.headers, headed.headers);
}

#[test]
fn no_response_contains_the_key() {
    let secret = "hunter2";
    let by_secret = key_fn(|head| {
        let secret = head.headers.get(USER).ok_or(KeyError::MissingPeer)?;
        Ok(Key::new(secret))
    });
    let texts: [fn(&Rejection) -> String; 2] = [
        |rejection| rejection.to_string(),
        |rejection| format!("{rejection:?}"),
    ];
    for text in texts {
        let limit = RateLimitLayer::new(two_a_minute(), by_secret, memory()).cost(2);
        let mut plain = limit.clone().layer(hello());
        let mut reported = limit
            .reject_fn(move |_, rejection| {
                let mut response = Response::new(text(rejection));
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
fn outer_layers_can_answer_with_an_empty_body() {
    fn empty<S: Service<Request<()>, Response = Response<B>>, B: Default + http_body::Body>(
        _: &S,
    ) -> B {
        B::default()
    }
    assert!(empty(&global().layer(hello())).is_end_stream());
}
