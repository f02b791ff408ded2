//! The content length as the cost of a request.

use http::header::CONTENT_LENGTH;
use tower::Layer;
use tower_sluice::cost::HeaderCost;
use tower_sluice::quota::Unit;
use tower_sluice::{Cost, Global, Policy, Quota, RateLimitLayer};

use crate::routes::{ALL, limit, remaining};
use crate::support::{hello, memory, seen};

#[test]
fn body_length_is_charged_and_a_missing_length_as_configured() {
    let kibibytes = HeaderCost::new(CONTENT_LENGTH, 300 * 1_024).per(1_024);
    let mut service = limit().cost(kibibytes).layer(hello());
    let mut ask = |lengths: &[&str]| {
        let put = http::Request::put("/");
        let put = lengths
            .iter()
            .fold(put, |put, length| put.header(CONTENT_LENGTH, *length));
        let seen = seen(&mut service, put.body(()).expect("a valid head"));
        (seen.status.as_u16(), remaining(&seen))
    };
    assert_eq!(ask(&["2049"]), (200, Some(ALL - 3)));
    assert_eq!(ask(&["0"]), (200, Some(ALL - 3)));
    assert_eq!(ask(&[]), (200, Some(ALL - 303)));
    assert_eq!(ask(&["9", "9"]), (200, Some(ALL - 603)));
    assert_eq!(ask(&["-9"]), (200, Some(ALL - 903)));
    assert_eq!(ask(&["none"]), (429, Some(ALL - 903)));
}

#[test]
fn content_length_above_every_limit_is_rejected_for_good() {
    let mut service = limit()
        .cost(HeaderCost::new(CONTENT_LENGTH, u64::MAX))
        .layer(hello());
    for length in [Some("99999999999999999999"), None] {
        let put = http::Request::put("/");
        let put = length
            .into_iter()
            .fold(put, |put, length| put.header(CONTENT_LENGTH, length));
        let seen = seen(&mut service, put.body(()).expect("a valid head"));
        assert_eq!(seen.status, 429);
        assert_eq!(seen.lines("retry-after"), [""; 0]);
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=1000"]);
    }
}

#[test]
fn content_length_is_charged_beside_the_request() {
    let bytes = Quota::per_hour(1_000).with_unit(Unit::ContentBytes);
    let policy = Policy::new("requests", Quota::per_hour(10)).and("bytes", bytes);
    let length = HeaderCost::new(CONTENT_LENGTH, 500);
    let mut service = RateLimitLayer::new(policy, Global, memory())
        .cost_fn(move |head| Cost::each([1, length.cost_for(head)]))
        .layer(hello());
    let mut ask = |put: http::request::Builder| {
        let seen = seen(&mut service, put.body(()).expect("a valid head"));
        seen.lines("ratelimit").concat()
    };
    let put = || http::Request::put("/");
    assert_eq!(
        ask(put().header(CONTENT_LENGTH, 0)),
        "\"requests\";r=9, \"bytes\";r=1000"
    );
    assert_eq!(
        ask(put().header(CONTENT_LENGTH, 9)),
        "\"requests\";r=8, \"bytes\";r=991"
    );
    assert_eq!(ask(put()), "\"requests\";r=7, \"bytes\";r=491");
}
