//! One decision of a layer over several keys.

use http::{Request, StatusCode};
use tower::Layer;
use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::policy::ScopeError;
use tower_sluice::{
    Charge, Cost, FailurePolicy, Header, Key, MaxWait, MemoryBackend, Policy, Quota,
    RateLimitLayer, SemaphoreLayer, SemaphorePolicy,
};

use crate::support::{Memory, USER, hello, memory, seen, spent};

const ORG: &str = "x-org";

fn user(limit: u64) -> Policy {
    Policy::new("user", Quota::per_minute(limit))
}

fn org(limit: u64) -> Policy {
    Policy::new("org", Quota::per_minute(limit))
}

fn by_user(policy: Policy, backend: Memory) -> RateLimitLayer<Header, Memory> {
    RateLimitLayer::new(policy, Header::new(USER), backend)
}

fn of(user: &str, org: &str) -> Request<()> {
    let request = Request::builder().header(USER, user).header(ORG, org);
    request.body(()).expect("a valid head")
}

fn key(name: &str) -> Key {
    Key::secret(name)
}

#[test]
fn header_fields_list_the_quotas_of_all_scopes_the_outermost_last() {
    let backend = memory();
    let team = Policy::new("team", Quota::per_minute(5)).and("daily", Quota::per_day(50));
    let layer = by_user(user(3), backend.clone())
        .within(team.clone(), Header::new("x-team"))
        .within(org(4), Header::new(ORG));
    let mut service = layer.layer(hello());
    let request = |user: &str| {
        let mut request = of(user, "acme");
        request
            .headers_mut()
            .insert("x-team", http::HeaderValue::from_static("red"));
        request
    };
    let first = seen(&mut service, request("ann"));
    assert_eq!(
        first.lines("ratelimit-policy"),
        [r#""user";q=3;w=60, "team";q=5;w=60, "daily";q=50;w=86400, "org";q=4;w=60"#]
    );
    assert_eq!(
        first.lines("ratelimit"),
        [r#""user";r=2, "team";r=4, "daily";r=49, "org";r=3"#]
    );
    for _ in 0..3 {
        assert_eq!(seen(&mut service, request("bob")).status, 200);
    }
    let denied = seen(&mut service, request("ann"));
    assert_eq!(denied.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(denied.lines("ratelimit"), [r#""org";r=0;t=15"#]);
    assert_eq!(denied.lines("retry-after"), ["15"]);
    assert!(
        denied.body.contains(r#""violated-policies":["org"]"#),
        "{}",
        denied.body
    );
    let both = seen(&mut service, request("bob"));
    assert!(
        both.body.contains(r#""violated-policies":["user","org"]"#),
        "{}",
        both.body
    );
    // The denied requests have charged nothing.
    assert_eq!(spent(&backend, &user(3), &key("ann")), [1]);
    assert_eq!(spent(&backend, &team, &key("red")), [4, 4]);
    assert_eq!(spent(&backend, &org(4), &key("acme")), [4]);
}

#[test]
fn request_that_lacks_the_key_of_a_scope_has_no_key() {
    let backend = memory();
    let layer = || by_user(user(3), backend.clone()).within(org(4), Header::new(ORG));
    let without_org = || {
        Request::get("/")
            .header(USER, "ann")
            .body(())
            .expect("a head")
    };
    let mut service = layer().layer(hello());
    assert_eq!(seen(&mut service, without_org()).status, 400);
    let mut service = layer().skip_unkeyed().layer(hello());
    let passed = seen(&mut service, without_org());
    assert!(passed.status == 200 && passed.has_no_rate_limit_fields());
    assert_eq!(spent(&backend, &user(3), &key("ann")), [0]);
}

#[test]
fn every_scope_has_its_tiers_in_any_order_of_the_methods() {
    let has = |name: &'static str, policy: fn(u64) -> Policy| {
        let (low, high) = (policy(1), policy(2));
        move |head: &tower_sluice::Head<'_>, key: &Key| {
            // The closure gets the key of its own scope.
            assert!(key.as_bytes() == b"ann" || key.as_bytes() == b"acme");
            match head.headers.contains_key(name) {
                true => high.clone(),
                false => low.clone(),
            }
        }
    };
    let before = by_user(user(1), memory())
        .policy_fn(has("x-user-paid", user))
        .within(org(1), Header::new(ORG))
        .outer_policy_fn(has("x-org-paid", org));
    let after = by_user(user(1), memory())
        .within(org(1), Header::new(ORG))
        .outer_policy_fn(has("x-org-paid", org))
        .policy_fn(has("x-user-paid", user));
    let request = |paid: &[&'static str]| {
        let mut request = of("ann", "acme");
        for name in paid {
            let value = http::HeaderValue::from_static("yes");
            request.headers_mut().insert(*name, value);
        }
        request
    };
    let both = &["x-user-paid", "x-org-paid"];
    let steps: [(&[&str], u16); 4] = [(&[], 200), (both, 200), (both, 429), (&[], 429)];
    let mut before = before.layer(hello());
    let mut after = after.layer(hello());
    for (paid, status) in steps {
        assert_eq!(seen(&mut before, request(paid)).status, status, "{paid:?}");
        assert_eq!(seen(&mut after, request(paid)).status, status, "{paid:?}");
    }
    let only_org = seen(&mut before, request(&["x-org-paid"]));
    assert!(only_org.lines("ratelimit-policy")[0].contains(r#""user";q=1"#));
    assert!(only_org.lines("ratelimit-policy")[0].contains(r#""org";q=2"#));
}

#[test]
fn shadow_of_one_scope_applies_to_the_whole_decision() {
    let backend = memory();
    let shadow = by_user(user(9), backend.clone())
        .within(org(1).shadow(), Header::new(ORG))
        .shadow_header(true);
    let mut service = shadow.layer(hello());
    for expected in [None, Some("user/org")] {
        let response = seen(&mut service, of("ann", "acme"));
        assert_eq!(response.status, 200);
        let header = response.lines("x-ratelimit-shadow");
        assert_eq!(header.first().copied(), expected);
    }
    // The request that would be rejected is charged in no scope.
    assert_eq!(spent(&backend, &user(9), &key("ann")), [1]);
    assert_eq!(spent(&backend, &org(1), &key("acme")), [1]);
}

/// A backend that fails, and that needs one hash tag as a Redis Cluster does.
#[derive(Clone, Default)]
struct Failing(std::sync::Arc<BackendContext>, bool);

impl Backend for Failing {
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Reply, std::io::Error>>;

    fn ask(
        &self,
        _: Op,
        _: &Policy,
        _: &Key,
    ) -> Answer<Result<Reply, std::io::Error>, Self::Future> {
        Answer::Now(Err(std::io::Error::other("down")))
    }

    fn context(&self) -> &BackendContext {
        &self.0
    }

    fn needs_one_hash_tag(&self) -> bool {
        self.1
    }
}

#[test]
fn failure_policy_applies_to_the_whole_decision() {
    let local = MemoryBackend::new();
    let layer = |policy| {
        RateLimitLayer::new(user(9), Header::new(USER), Failing::default())
            .within(org(1), Header::new(ORG))
            .on_backend_error(policy)
    };
    let statuses = |policy| {
        let mut service = layer(policy).layer(hello());
        [(); 2].map(|()| seen(&mut service, of("ann", "acme")).status.as_u16())
    };
    assert_eq!(statuses(FailurePolicy::FailClosed), [503, 503]);
    assert_eq!(statuses(FailurePolicy::FailOpen), [200, 200]);
    assert_eq!(statuses(FailurePolicy::Fallback(local.clone())), [200, 429]);
    let limiter = tower_sluice::Limiter::new(user(9), local);
    assert_eq!(
        limiter
            .check_now(&key("ann"), 0)
            .decision
            .snapshot()
            .remaining(),
        8
    );
}

#[test]
fn layer_over_a_cluster_needs_one_hash_tag() {
    let cluster = Failing(std::sync::Arc::default(), true);
    let layer = || {
        RateLimitLayer::new(user(9), Header::new(USER), cluster.clone())
            .on_backend_error(FailurePolicy::FailClosed)
    };
    let _one_scope = layer().layer(hello::<()>());
    let scopes = || layer().within(org(1), Header::new(ORG));
    let _tagged = scopes().hash_by_outermost().layer(hello::<()>());
    let layered = std::panic::AssertUnwindSafe(|| drop(scopes().layer(hello::<()>())));
    let panic = std::panic::catch_unwind(layered).unwrap_err();
    let text = panic.downcast_ref::<&str>().expect("a text");
    assert!(text.ends_with("use `hash_by_outermost`"), "{text}");
}

#[test]
fn inner_keys_can_belong_to_the_outermost_key() {
    let layer = || by_user(user(1), memory()).within(org(9), Header::new(ORG));
    let statuses = |mut service| {
        ["acme", "umbrella"].map(|org| {
            seen::<_, _, _>(&mut service, of("ann", org))
                .status
                .as_u16()
        })
    };
    assert_eq!(statuses(layer().layer(hello())), [200, 429]);
    assert_eq!(
        statuses(layer().hash_by_outermost().layer(hello())),
        [200, 200]
    );
}

#[test]
fn charge_covers_all_scopes_and_is_settled_in_each() {
    let backend = memory();
    let layer = by_user(user(100), backend.clone())
        .within(org(1_000), Header::new(ORG))
        .cost(10);
    let spend = |settle: fn(&Charge)| {
        let service = tower::service_fn(move |request: Request<()>| {
            settle(request.extensions().get::<Charge>().expect("a charge"));
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(
                http_body_util::Full::<bytes::Bytes>::default(),
            )))
        });
        let response = seen(&mut layer.clone().layer(service), of("ann", "acme"));
        assert_eq!(response.status, 200);
        [
            spent(&backend, &user(100), &key("ann"))[0],
            spent(&backend, &org(1_000), &key("acme"))[0],
        ]
    };
    assert_eq!(spend(|_| ()), [10, 10]);
    assert_eq!(spend(|charge| drop(charge.cancel())), [10, 10]);
    assert_eq!(spend(|charge| drop(charge.settle(14))), [24, 24]);
    assert_eq!(
        spend(|charge| drop(charge.settle_each([Cost::new(1), Cost::new(30)]))),
        [25, 54]
    );
}

#[test]
fn nested_layers_of_the_same_scopes_charge_once() {
    let backend = memory();
    let layer = || by_user(user(9), backend.clone()).within(org(99), Header::new(ORG));
    let mut service = layer().layer(layer().cost(3).layer(hello()));
    assert_eq!(seen(&mut service, of("ann", "acme")).status, 200);
    assert_eq!(spent(&backend, &user(9), &key("ann")), [3]);
    assert_eq!(spent(&backend, &org(99), &key("acme")), [3]);
}

#[test]
fn permit_is_released_when_a_scope_denies() {
    let backend = memory();
    let permits = SemaphoreLayer::new(
        SemaphorePolicy::new("in-flight", 1),
        Header::new(ORG),
        backend.clone(),
    );
    let limit = by_user(user(1), backend).within(org(9), Header::new(ORG));
    let mut service = permits.layer(limit.layer(hello()));
    let statuses =
        ["ann", "ann", "bob"].map(|user| seen(&mut service, of(user, "acme")).status.as_u16());
    assert_eq!(statuses, [200, 429, 200]);
}

#[test]
fn scopes_of_a_layer_need_different_names_and_are_at_most_eight() {
    let twice = by_user(user(1), memory()).try_within(user(1), Header::new(ORG));
    assert_eq!(twice.err(), Some(ScopeError::Duplicate("user".to_owned())));
    let level = |number: usize| {
        let policy = Policy::new(&format!("level-{number}"), Quota::per_second(1));
        (policy, Header::new(ORG))
    };
    let of = |count| by_user(user(1), memory()).try_within_each((0..count).map(level));
    assert_eq!(of(0).err(), Some(ScopeError::Count(0)));
    assert!(of(1).is_ok() && of(7).is_ok());
    assert_eq!(of(8).err(), Some(ScopeError::Count(9)));
    let mut eight = of(7).expect("eight scopes").layer(hello());
    assert_eq!(seen(&mut eight, self::of("ann", "acme")).status, 200);
}

#[test]
fn waiting_request_reserves_in_all_scopes() {
    let backend = memory();
    let layer = by_user(user(9), backend.clone())
        .within(org(1), Header::new(ORG))
        .wait(MaxWait::within(std::time::Duration::from_secs(90)));
    let mut service = layer.layer(hello::<()>());
    assert_eq!(seen(&mut service, of("ann", "acme")).status, 200);
    let mut waiting = Box::pin(tower::Service::call(&mut service, of("bob", "acme")));
    assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
    assert_eq!(spent(&backend, &user(9), &key("bob")), [1]);
    drop(waiting);
    assert_eq!(spent(&backend, &user(9), &key("bob")), [0]);
    assert_eq!(spent(&backend, &org(1), &key("acme")), [1]);
}
