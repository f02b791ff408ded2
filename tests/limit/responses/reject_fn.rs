//! `reject_fn` builds the responses of rejected requests.

use http::{Request, Response, StatusCode};
use tower::Layer;

use super::global;
use crate::support::{hello, seen};

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
