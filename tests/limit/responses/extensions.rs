//! The decision in the extensions of requests and responses.

use http::Request;
use tower::{Layer, ServiceBuilder};
use tower_sluice::key::KeyError;
use tower_sluice::{Decision, Global, Policy, Quota, RateLimitLayer};

use super::{global, reports_remaining};
use crate::support::{by_user, from, hello, memory, now, seen};

#[test]
fn handlers_and_outer_services_see_the_decision() {
    let mut service = global()
        .response_extensions(true)
        .layer(reports_remaining());
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
fn responses_carry_no_extension_by_default() {
    let mut service = global().layer(reports_remaining());
    for status in [200, 200, 429] {
        let response = now(&mut service, Request::new(())).expect("no error");
        assert_eq!(response.status(), status);
        assert!(response.extensions().is_empty());
    }
    let response = now(&mut by_user().layer(hello()), Request::new(())).expect("no error");
    assert_eq!(response.status(), 400);
    assert!(response.extensions().is_empty());
}

#[test]
fn extensions_can_be_disabled() {
    let mut service = global()
        .extensions(false)
        .response_extensions(false)
        .layer(reports_remaining());
    let response = now(&mut service, Request::new(())).expect("no error");
    assert!(response.extensions().is_empty());
    assert_eq!(seen(&mut service, Request::new(())).body, "nothing");
    let rejected = now(&mut service, Request::new(())).expect("no error");
    assert_eq!(rejected.status(), 429);
    assert!(rejected.extensions().is_empty());
}

#[test]
fn handler_sees_the_innermost_charge_and_outer_services_the_outermost_decision() {
    let outer = Policy::new("outer", Quota::per_hour(10));
    let mut service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(outer, Global, memory()).response_extensions(true))
        .layer(by_user().response_extensions(true))
        .service(reports_remaining());
    let response = now(&mut service, from("ann")).expect("no error");
    let outermost = response.extensions().get::<Decision>().expect("a decision");
    assert_eq!(outermost.snapshot().remaining(), 9);
    assert_eq!(seen(&mut service, from("ann")).body, "0");
}

#[test]
fn outer_services_see_the_key_error() {
    let response = now(
        &mut by_user().response_extensions(true).layer(hello()),
        Request::new(()),
    )
    .expect("no error");
    let error = response.extensions().get::<KeyError>().expect("an error");
    assert_eq!(error.to_string(), "header `x-user` is missing");
}
