//! A request whose cost must be known and is not: 411 or 400, before anything is charged.

use http::Request;
use http::header::{CONTENT_LENGTH, HeaderName};
use tower::Layer;
use tower_sluice::cost::{CostError, HeaderCost, try_cost_fn};
use tower_sluice::key::Header;
use tower_sluice::response::{AsError, LimitError, Rejection};
use tower_sluice::{Cost, FailurePolicy, Key, Policy, Quota, RateLimitLayer};

use crate::remote::Remote;
use crate::support::{USER, ask, by_user, from, hello, memory, now, seen, spent, two_a_minute};

fn required() -> HeaderCost {
    HeaderCost::required(CONTENT_LENGTH)
}

fn with_length(length: u64) -> Request<()> {
    let mut request = from("ann");
    request.headers_mut().insert(CONTENT_LENGTH, length.into());
    request
}

#[test]
fn request_without_a_length_gets_411_and_is_not_charged() {
    let backend = memory();
    let limit = RateLimitLayer::new(two_a_minute(), Header::new(USER), backend.clone());
    let mut service = limit.cost(required()).layer(hello());
    let rejected = seen(&mut service, from("ann"));
    assert_eq!(rejected.status, 411);
    assert_eq!(
        rejected.head(),
        [
            ("cache-control", "no-store"),
            ("content-type", "application/problem+json")
        ]
    );
    assert_eq!(
        rejected.body,
        r#"{"type":"about:blank","title":"Length Required","status":411}"#
    );
    assert_eq!(spent(&backend, &two_a_minute(), &Key::secret("ann")), [0]);
    assert_eq!(seen(&mut service, with_length(2)).status, 200);
    assert_eq!(seen(&mut service, with_length(1)).status, 429);
    assert_eq!(
        seen(&mut service, from("ann")).status,
        411,
        "whatever is left"
    );

    let mut plain = by_user().cost(required()).plain_text().layer(hello());
    assert_eq!(seen(&mut plain, from("ann")).body, "length required\n");
    let units = HeaderCost::required(HeaderName::from_static("x-units"));
    let mut plain = by_user().cost(units).plain_text().layer(hello());
    let rejected = seen(&mut plain, from("ann"));
    assert_eq!(
        (rejected.status.as_u16(), &*rejected.body),
        (400, "bad request\n")
    );
}

#[test]
fn other_protocols_express_an_unknown_cost() {
    let mut service = by_user()
        .cost(required())
        .response_extensions(true)
        .layer(hello());
    let call = Request::post("/mail.Mail/Send").header("content-type", "application/grpc");
    let call = call.header(USER, "ann").body(()).expect("a valid head");
    assert_eq!(seen(&mut service, call).headers["grpc-status"], "3");

    let response = now(&mut service, from("ann")).expect("no error");
    let error = response.extensions().get::<CostError>();
    assert_eq!(error, Some(&CostError::LengthRequired));

    let mut service = by_user().cost(required()).protocol(AsError).layer(hello());
    let Err(LimitError::Rejected(rejection)) = now(&mut service, from("ann")) else {
        panic!("it must be rejected");
    };
    assert_eq!(rejection, Rejection::NoCost(CostError::LengthRequired));
}

#[test]
fn shadow_policy_passes_a_request_without_a_length() {
    let shadow = by_user().with_policy(two_a_minute().shadow());
    let mut service = shadow.cost(required()).layer(hello());
    assert_eq!(seen(&mut service, from("ann")).status, 200);
}

#[test]
fn closure_can_reject_a_request_without_a_length() {
    let policy = Policy::new("requests", Quota::per_hour(10)).and("bytes", Quota::per_hour(100));
    let backend = memory();
    let bytes = required();
    let sized = try_cost_fn(move |head| Ok(Cost::each([1, bytes.try_cost_for(head)?])));
    let limit = RateLimitLayer::new(policy.clone(), Header::new(USER), backend.clone());
    let mut service = limit.cost(sized).layer(hello());
    assert_eq!(seen(&mut service, from("ann")).status, 411);
    assert_eq!(seen(&mut service, with_length(30)).status, 200);
    assert_eq!(spent(&backend, &policy, &Key::secret("ann")), [1, 30]);
}

/// Like any rejection by an inner layer of the same policy.
#[tokio::test]
async fn outer_charge_is_refunded_when_the_inner_cost_is_unknown() {
    for remote in Remote::each_kind() {
        let limit = RateLimitLayer::new(two_a_minute(), Header::new(USER), remote.clone())
            .on_backend_error(FailurePolicy::FailClosed);
        let mut nested = limit.clone().layer(limit.cost(required()).layer(hello()));
        assert_eq!(ask(&mut nested, from("ann")).await.status, 411);
        let ann = Key::secret("ann");
        assert_eq!(spent(&remote.memory, &two_a_minute(), &ann), [0]);
    }
}

#[test]
fn missing_number_costs_as_many_tokens_as_a_present_one() {
    let backend = memory();
    let policy = Policy::new("kib", Quota::per_hour(100));
    let limit = RateLimitLayer::new(policy.clone(), Header::new(USER), backend.clone());
    let size = HeaderCost::new(CONTENT_LENGTH, 10_000).per(1_024);
    let mut service = limit.cost(size).layer(hello());
    for (request, expected) in [(with_length(10_000), 10), (from("ann"), 20)] {
        assert_eq!(seen(&mut service, request).status, 200);
        assert_eq!(spent(&backend, &policy, &Key::secret("ann")), [expected]);
    }
}

/// The readiness of the inner service is released, as for any rejection.
#[test]
fn rejected_request_holds_no_slot() {
    let limited = tower::limit::ConcurrencyLimit::new(hello::<()>(), 1);
    let mut first = by_user().cost(required()).layer(limited);
    let mut second = first.clone();
    assert_eq!(seen(&mut first, from("ann")).status, 411);
    assert_eq!(seen(&mut second, with_length(1)).status, 200);
}
