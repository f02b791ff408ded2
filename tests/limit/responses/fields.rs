//! The responses that carry header fields.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceBuilder};
use tower_sluice::response::HeaderFormat;
use tower_sluice::{Global, Policy, Quota, RateLimitLayer};

use super::{answers, global};
use crate::support::{by_user, from, hello, memory, seen};

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
        assert!(plain.has_no_rate_limit_fields(), "{plain:?}");
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
        assert!(seen.has_no_rate_limit_fields(), "{seen:?}");
    }
}

#[test]
fn format_none_writes_only_retry_after() {
    let mut service = global().headers(HeaderFormat::None).layer(hello());
    assert_eq!(seen(&mut service, Request::new(())).head(), []);
    seen(&mut service, Request::new(()));
    let rejected = seen(&mut service, Request::new(()));
    assert_eq!(rejected.status, 429);
    assert!(rejected.has_no_rate_limit_fields(), "{rejected:?}");
    assert_eq!(rejected.lines("retry-after"), ["30"]);
    assert_eq!(rejected.lines("cache-control"), ["no-store"]);
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
