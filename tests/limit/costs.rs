//! The costs of requests, and several policies of one name.

use std::time::Duration;

use http::Request;
use tower::Layer;
use tower_sluice::key::Header;
use tower_sluice::quota::Unit;
use tower_sluice::{Cost, Global, MemoryBackend, Policy, Quota, RateLimitLayer};

use crate::support::{USER, by_user, clock, from, hello, memory, seen};

fn ten_an_hour() -> Policy {
    Policy::new("api", Quota::per_hour(10))
}

#[test]
fn clone_with_another_cost_shares_the_buckets() {
    let limit = RateLimitLayer::new(ten_an_hour(), Global, memory());
    let mut cheap = limit.clone().layer(hello());
    let mut dear = limit.cost(4).layer(hello());
    assert_eq!(
        seen(&mut dear, Request::new(())).lines("ratelimit"),
        ["\"api\";r=6"]
    );
    assert_eq!(
        seen(&mut cheap, Request::new(())).lines("ratelimit"),
        ["\"api\";r=5"]
    );
    assert_eq!(
        seen(&mut dear, Request::new(())).lines("ratelimit"),
        ["\"api\";r=1"]
    );
    assert_eq!(seen(&mut dear, Request::new(())).status, 429);
    assert_eq!(seen(&mut cheap, Request::new(())).status, 200);
    assert_eq!(seen(&mut cheap, Request::new(())).status, 429);
}

#[test]
fn layers_of_one_policy_name_over_one_backend_share_their_buckets() {
    let backend = memory();
    let mut one = RateLimitLayer::new(ten_an_hour(), Global, backend.clone()).layer(hello());
    let mut two = RateLimitLayer::new(ten_an_hour(), Global, backend.clone()).layer(hello());
    let other = Policy::new("other", Quota::per_hour(10));
    let mut other = RateLimitLayer::new(other, Global, backend).layer(hello());
    assert_eq!(
        seen(&mut one, Request::new(())).lines("ratelimit"),
        ["\"api\";r=9"]
    );
    assert_eq!(
        seen(&mut two, Request::new(())).lines("ratelimit"),
        ["\"api\";r=8"]
    );
    assert_eq!(
        seen(&mut other, Request::new(())).lines("ratelimit"),
        ["\"other\";r=9"]
    );
}

#[test]
fn cost_fn_sets_the_cost_of_a_request() {
    let limit = RateLimitLayer::new(ten_an_hour(), Global, memory());
    let mut service = limit
        .cost_fn(|head| if head.method == "POST" { 5 } else { 1 })
        .layer(hello());
    let post = || Request::post("/").body(()).expect("a valid head");
    assert_eq!(
        seen(&mut service, post()).lines("ratelimit"),
        ["\"api\";r=5"]
    );
    assert_eq!(
        seen(&mut service, Request::new(())).lines("ratelimit"),
        ["\"api\";r=4"]
    );
    assert_eq!(seen(&mut service, post()).status, 429);
    assert_eq!(seen(&mut service, Request::new(())).status, 200);
}

#[test]
fn zero_cost_is_allowed_and_charges_nothing() {
    let limit = RateLimitLayer::new(ten_an_hour(), Global, memory());
    let mut free = limit.clone().cost(0).layer(hello());
    for _ in 0..20 {
        assert_eq!(
            seen(&mut free, Request::new(())).lines("ratelimit"),
            ["\"api\";r=10"]
        );
    }
    assert_eq!(
        seen(&mut limit.cost(10).layer(hello()), Request::new(())).status,
        200
    );
    let seen = seen(&mut free, Request::new(()));
    assert_eq!(
        (seen.status.as_u16(), seen.lines("ratelimit")),
        (200, vec!["\"api\";r=0;t=360"])
    );
}

#[test]
fn each_quota_is_charged_its_own_cost() {
    let bytes = Quota::per_hour(1_000).with_unit(Unit::ContentBytes);
    let policy = Policy::new("requests", Quota::per_hour(10)).and("bytes", bytes);
    let mut service = RateLimitLayer::new(policy, Global, memory())
        .cost_fn(|head| {
            let length = head.headers.get("content-length");
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            Cost::each([1, length.unwrap_or(0)])
        })
        .layer(hello());
    let upload = |bytes: u64| {
        let request = Request::put("/").header("content-length", bytes);
        request.body(()).expect("a valid head")
    };
    let first = seen(&mut service, upload(600));
    assert_eq!(
        first.lines("ratelimit"),
        ["\"requests\";r=9, \"bytes\";r=400"]
    );
    let policy = "\"requests\";q=10;w=3600, \"bytes\";q=1000;qu=\"content-bytes\";w=3600";
    assert_eq!(first.lines("ratelimit-policy"), [policy]);

    // 200 bytes are missing, at 1000 an hour: 720 seconds. Only the violated quota is named, and nothing is charged.
    let second = seen(&mut service, upload(600));
    assert_eq!(second.status, 429);
    assert_eq!(second.lines("ratelimit"), ["\"bytes\";r=400;t=720"]);
    assert_eq!(second.lines("retry-after"), ["720"]);
    let problem: serde_json::Value = serde_json::from_str(&second.body).expect("JSON");
    assert_eq!(problem["violated-policies"], serde_json::json!(["bytes"]));

    let third = seen(&mut service, upload(0));
    assert_eq!(
        third.lines("ratelimit"),
        ["\"requests\";r=8, \"bytes\";r=400"]
    );
}

#[test]
fn policy_upgrade_keeps_spent_tokens() {
    let (free, paid) = (
        Policy::new("tier", Quota::per_hour(2)),
        Policy::new("tier", Quota::per_hour(10)),
    );
    let mut service = RateLimitLayer::new(free.clone(), Header::new(USER), memory())
        .policy_fn(move |head, _key| {
            let tier = if head.headers.contains_key("x-paid") {
                &paid
            } else {
                &free
            };
            tier.clone()
        })
        .layer(hello());
    let paying = || {
        let mut request = from("ann");
        request
            .headers_mut()
            .insert("x-paid", "yes".parse().expect("a value"));
        request
    };
    assert_eq!(
        seen(&mut service, from("ann")).lines("ratelimit"),
        ["\"tier\";r=1"]
    );
    assert_eq!(
        seen(&mut service, from("ann")).lines("ratelimit"),
        ["\"tier\";r=0;t=1800"]
    );
    assert_eq!(seen(&mut service, from("ann")).status, 429);
    let upgraded = seen(&mut service, paying());
    assert_eq!(upgraded.lines("ratelimit-policy"), ["\"tier\";q=10;w=3600"]);
    assert_eq!(upgraded.lines("ratelimit"), ["\"tier\";r=7"]);
    let stranger = seen(&mut service, from("bob"));
    assert_eq!(stranger.lines("ratelimit"), ["\"tier\";r=1"]);
}

#[test]
fn policy_fn_can_use_the_key() {
    let (free, paid) = (
        Policy::new("tier", Quota::per_hour(1)),
        Policy::new("tier", Quota::per_hour(2)),
    );
    let mut service = RateLimitLayer::new(free.clone(), Header::new(USER), memory())
        .policy_fn(move |_head, key| {
            if key.as_bytes() == b"ann" {
                paid.clone()
            } else {
                free.clone()
            }
        })
        .layer(hello());
    let statuses = ["ann", "ann", "ann", "bob", "bob"]
        .map(|user| seen(&mut service, from(user)).status.as_u16());
    assert_eq!(statuses, [200, 200, 429, 200, 429]);
}

#[test]
fn spent_tokens_refill_with_time() {
    let clock = clock();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let policy = Policy::new("api", Quota::per_minute(2));
    let mut service = RateLimitLayer::new(policy, Global, backend).layer(hello());
    let mut status = || seen(&mut service, Request::new(())).status.as_u16();
    assert_eq!([status(), status(), status()], [200, 200, 429]);
    clock.advance(Duration::from_micros(29_999_999));
    assert_eq!(status(), 429);
    clock.advance(Duration::from_micros(1));
    assert_eq!([status(), status()], [200, 429]);
}

#[test]
fn rejected_request_is_not_charged() {
    let limit = by_user();
    let mut service = limit.clone().layer(hello());
    let mut dear = limit.cost(2).layer(hello());
    assert_eq!(seen(&mut service, from("ann")).status, 200);
    for _ in 0..5 {
        assert_eq!(seen(&mut dear, from("ann")).status, 429);
    }
    assert_eq!(seen(&mut service, from("ann")).status, 200);
}
