//! Blocked keys in a layer.

use std::time::Duration;

use http::StatusCode;
use tower::Layer;
use tower_sluice::key::Header;
use tower_sluice::{
    Cost, FailurePolicy, Key, Limiter, MaxWait, MemoryBackend, Policy, Quota, RateLimitLayer,
    Switch,
};

use crate::remote::Remote;
use crate::support::{Memory, USER, clock, from, hello, memory, seen, spent, two_a_minute};

const HOUR: Duration = Duration::from_secs(3_600);

fn block(backend: &Memory, policy: Policy, user: &str, duration: Duration) {
    let limiter = Limiter::new(policy, backend.clone());
    let key = Key::secret(user);
    let blocked = async { limiter.block(&key, duration).await };
    let Ok(()) = futures_util::FutureExt::now_or_never(blocked).expect("memory answers at once");
}

#[test]
fn layers_of_a_name_reject_a_blocked_key_without_further_setup() {
    let backend = memory();
    let layer = |quota: Quota, cost: u64| {
        let policy = Policy::new("api", quota);
        RateLimitLayer::new(policy, Header::new(USER), backend.clone()).cost(Cost::new(cost))
    };
    block(&backend, two_a_minute(), "ann", HOUR);
    for (quota, cost) in [
        (Quota::per_minute(2), 1),
        (Quota::fixed_window(9, HOUR), 1),
        // A free request, and one of another tier.
        (Quota::per_minute(200), 0),
    ] {
        let limit = quota.limit();
        let rejected = seen(&mut layer(quota, cost).layer(hello()), from("ann"));
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("retry-after"), ["3600"]);
        assert_eq!(
            rejected.lines("ratelimit"),
            ["\"api\";r=0;t=3600"],
            "{limit}"
        );
        // By default a block looks like any other denial.
        assert!(!rejected.body.contains("blocked"), "{}", rejected.body);
        assert!(rejected.body.contains("quota-exceeded"));
        let other = seen(&mut layer(quota, cost).layer(hello()), from("bob"));
        assert_eq!(other.status, StatusCode::OK);
    }
}

#[test]
fn problem_document_names_a_block_only_if_configured() {
    let backend = memory();
    let layer = RateLimitLayer::new(two_a_minute(), Header::new(USER), backend.clone());
    let mut service = layer.show_blocks(true).layer(hello());
    let reason = |body: &str| -> serde_json::Value {
        let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(problem["violated-policies"], serde_json::json!(["api"]));
        problem["reason"].clone()
    };
    for _ in 0..2 {
        assert_eq!(seen(&mut service, from("ann")).status, StatusCode::OK);
    }
    assert!(reason(&seen(&mut service, from("ann")).body).is_null());
    block(&backend, two_a_minute(), "ann", HOUR);
    assert_eq!(reason(&seen(&mut service, from("ann")).body), "blocked");
}

#[test]
fn block_of_an_outer_scope_is_named_in_the_denial() {
    let backend = memory();
    let org = Policy::new("org", Quota::per_minute(9));
    let layer = RateLimitLayer::new(two_a_minute(), Header::new(USER), backend.clone());
    let mut service = layer
        .within(org.clone(), Header::new("x-org"))
        .layer(hello());
    let request = || {
        let mut request = from("ann");
        let org = http::HeaderValue::from_static("acme");
        request.headers_mut().insert("x-org", org);
        request
    };
    block(&backend, org, "acme", HOUR);
    let denied = seen(&mut service, request());
    assert_eq!(denied.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(denied.lines("retry-after"), ["3600"]);
    assert_eq!(denied.lines("ratelimit"), [r#""org";r=0;t=3600"#]);
    assert!(
        denied.body.contains(r#""violated-policies":["org"]"#),
        "{}",
        denied.body
    );
    assert_eq!(spent(&backend, &two_a_minute(), &Key::secret("ann")), [0]);
}

#[test]
fn blocked_request_does_not_wait() {
    let backend = memory();
    for quota in [Quota::per_minute(2), Quota::fixed_window(2, HOUR)] {
        let policy = Policy::new("api", quota);
        block(&backend, policy.clone(), "ann", HOUR);
        let layer = RateLimitLayer::new(policy.clone(), Header::new(USER), backend.clone());
        let mut service = layer.wait(MaxWait::Unbounded).layer(hello());
        let denied = seen(&mut service, from("ann"));
        assert_eq!(denied.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(denied.lines("retry-after"), ["3600"]);
        let limiter = Limiter::new(policy, backend.clone());
        let key = Key::secret("ann");
        let acquired = futures_util::FutureExt::now_or_never(limiter.acquire(&key, 1, 9 * HOUR));
        let rejected = acquired.expect("an answer at once").unwrap_err();
        assert_eq!(
            rejected.retry_after(),
            Some(tower_sluice::RetryAfter::In(HOUR))
        );
    }
}

#[test]
fn shadow_and_a_switched_off_limit_let_a_blocked_key_through() {
    let (backend, switch) = (memory(), Switch::new(true));
    block(&backend, two_a_minute(), "ann", HOUR);
    let layer = |policy| RateLimitLayer::new(policy, Header::new(USER), backend.clone());
    let mut shadow = layer(two_a_minute().shadow()).layer(hello());
    assert_eq!(seen(&mut shadow, from("ann")).status, StatusCode::OK);
    let mut service = layer(two_a_minute()).enabled(&switch).layer(hello());
    assert_eq!(
        seen(&mut service, from("ann")).status,
        StatusCode::TOO_MANY_REQUESTS
    );
    switch.set(false);
    assert_eq!(seen(&mut service, from("ann")).status, StatusCode::OK);
}

#[test]
fn fallback_has_its_own_blocks() {
    let remote = Remote::immediate();
    let local = memory();
    let layer = RateLimitLayer::new(two_a_minute(), Header::new(USER), remote.clone());
    let layer = layer.on_backend_error(FailurePolicy::Fallback(local.clone()));
    let mut service = layer.layer(hello());
    block(&remote.memory, two_a_minute(), "ann", HOUR);
    block(&local, two_a_minute(), "bob", HOUR);
    let mut statuses = || ["ann", "bob"].map(|user| seen(&mut service, from(user)).status.as_u16());
    assert_eq!(statuses(), [429, 200]);
    remote.fail(usize::MAX);
    assert_eq!(statuses(), [200, 429]);
    // A block never falls back: its caller gets the error.
    let limiter = Limiter::new(two_a_minute(), remote.clone());
    let key = Key::secret("ann");
    let blocked = futures_util::FutureExt::now_or_never(limiter.block(&key, HOUR));
    assert!(blocked.expect("an answer at once").is_err());
}

#[test]
fn full_backend_of_totals_rejects_as_an_unavailable_service() {
    let one = std::num::NonZeroUsize::new(1).expect("not 0");
    let backend = MemoryBackend::builder()
        .max_totals(one)
        .clock(clock())
        .build();
    let policy = Policy::new("trial", Quota::total(5));
    let layer = |policy| RateLimitLayer::new(policy, Header::new(USER), backend.clone());
    let mut service = layer(policy.clone()).layer(hello());
    assert_eq!(seen(&mut service, from("ann")).status, StatusCode::OK);
    let rejected = seen(&mut service, from("bob"));
    assert_eq!(rejected.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(rejected.lines("retry-after"), ["1"]);
    assert!(rejected.has_no_rate_limit_fields());
    let mut shadow = layer(policy.shadow()).layer(hello());
    assert_eq!(seen(&mut shadow, from("bob")).status, StatusCode::OK);
}
