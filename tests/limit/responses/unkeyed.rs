//! Requests without a key.

use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::Layer;
use tower_sluice::key::{KeyError, key_fn};
use tower_sluice::{PeerIp, RateLimitLayer};

use super::reports_remaining;
use crate::support::{ClientResponse, USER, by_user, from, hello, memory, seen, two_a_minute};

#[test]
fn request_without_a_key_is_rejected_without_details() {
    let problem =
        |title: &str, status: u16| json!({"type": "about:blank", "title": title, "status": status});
    let check = |seen: ClientResponse, status: u16, title: &str| {
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
fn skip_unkeyed_allows_unkeyed_requests() {
    let mut by_user = by_user().skip_unkeyed().layer(reports_remaining());
    let by_peer = RateLimitLayer::new(two_a_minute(), PeerIp::new(), memory());
    let mut by_peer = by_peer.skip_unkeyed().layer(reports_remaining());
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
    assert_eq!(statuses, [200, 200, 429], "requests with a key are limited");
}
