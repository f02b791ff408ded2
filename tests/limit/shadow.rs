//! Shadow policies decide, charge and report, and allow every request.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use tower::{Layer, Service};
use tower_sluice::key::{Header, Networks, PeerAddr, TrustedProxies};
use tower_sluice::response::HeaderFormat;
use tower_sluice::{
    Charge, ClientIp, Decision, FailurePolicy, Global, Key, MaxWait, MemoryBackend, Policy, Quota,
    RateLimitLayer, RetryAfter,
};

use crate::remote::Remote;
use crate::support::{
    ClientResponse, Memory, USER, ask, by_user, from, hello, memory, now, seen, spent, two_a_minute,
};

fn shadow() -> RateLimitLayer<Header, Memory> {
    RateLimitLayer::new(two_a_minute().shadow(), Header::new(USER), memory())
}

/// Answers whether the request was within its limit, and whether a settlement changed anything. A settlement never
/// returns an error here.
fn reports_charge()
-> impl Service<Request<()>, Response = Response<String>, Error = Infallible> + Clone {
    tower::service_fn(async |request: Request<()>| {
        let charge = request.extensions().get::<Charge>().expect("it must exist");
        let allowed = charge.decision().map(|decision| decision.is_allowed());
        let settled = charge.settle(2).await.map(|after| after.is_some());
        assert_eq!(charge.estimate(), None);
        Ok(Response::new(format!("{allowed:?} {settled:?}")))
    })
}

#[test]
fn shadow_allows_all_requests_and_exposes_decisions() {
    let backend = memory();
    let policy = Policy::new("api", Quota::per_minute(4)).shadow();
    let layer = RateLimitLayer::new(policy.clone(), Header::new(USER), backend.clone());
    let mut service = layer
        .shadow_header(true)
        .response_extensions(true)
        .layer(reports_charge());
    for round in 0..5 {
        let mut response = now(&mut service, from("ann")).expect("no error");
        let decision = response.extensions_mut().remove::<Decision>();
        let decision = decision.expect("it must exist");
        let passes = round < 2;
        assert_eq!(
            (response.status().as_u16(), decision.is_allowed()),
            (200, passes)
        );
        let reported: Vec<_> = response.headers().iter().collect();
        if passes {
            assert_eq!(reported, []);
        } else {
            let wait = RetryAfter::In(Duration::from_secs(15));
            assert_eq!(decision.retry_after(), Some(wait));
            assert_eq!(reported.len(), 1, "{reported:?}");
            assert_eq!(response.headers()["x-ratelimit-shadow"], "api");
        }
        // The settlement of a request that the limit would have denied charges nothing.
        let body = ClientResponse::of(response)
            .now_or_never()
            .expect("at once")
            .body;
        assert_eq!(body, format!("Some({passes}) Ok({passes})"));
    }
    assert_eq!(spent(&backend, &policy, &Key::secret("ann")), [4]);
    // The shadow policy shares state with the enforced policy of its name.
    let policy = Policy::new("api", Quota::per_minute(4));
    let enforced = RateLimitLayer::new(policy, Header::new(USER), backend);
    assert_eq!(seen(&mut enforced.layer(hello()), from("ann")).status, 429);
}

#[test]
fn shadow_writes_nothing_without_extensions() {
    let mut service = shadow()
        .extensions(false)
        .response_extensions(false)
        .layer(hello());
    for _ in 0..3 {
        let response = now(&mut service, from("ann")).expect("no error");
        assert_eq!(
            (response.status().as_u16(), response.headers().len()),
            (200, 0)
        );
        assert!(response.extensions().get::<Decision>().is_none());
    }
}

#[test]
fn shadow_requests_do_not_wait() {
    let mut service = shadow()
        .wait(MaxWait::Unbounded)
        .shadow_header(true)
        .layer(hello());
    let reported = [(); 4].map(|()| {
        seen(&mut service, from("ann"))
            .lines("x-ratelimit-shadow")
            .len()
    });
    assert_eq!(reported, [0, 0, 1, 1]);
}

#[test]
fn skip_unkeyed_allows_requests_without_a_key() {
    assert_eq!(
        seen(&mut shadow().layer(hello()), Request::new(())).status,
        200
    );
    // A key error allows the request. A deny-listed client is still rejected.
    let backend = memory();
    let client = || ClientIp::new().forwarded_for(TrustedProxies::hops(2));
    let with = |key: ClientIp| {
        let layer = RateLimitLayer::new(two_a_minute().shadow(), key, backend.clone());
        let mut request = Request::new(());
        let peer = PeerAddr(([127, 0, 0, 1], 4711).into());
        request.extensions_mut().insert(peer);
        seen(&mut layer.layer(hello()), request).status.as_u16()
    };
    assert_eq!(with(client()), 200);
    let denied = Networks::new(["127.0.0.0/8"]);
    assert_eq!(with(ClientIp::new().deny_list(denied)), 403);
    // Without a key no policy can be selected.
    let picked = shadow().policy_fn(|_, _| two_a_minute().shadow());
    assert_eq!(
        seen(&mut picked.layer(hello()), Request::new(())).status,
        400
    );
}

#[test]
fn selected_policy_can_be_a_shadow() {
    let (real, tried) = (two_a_minute(), two_a_minute().shadow());
    let mut service = shadow()
        .policy_fn(move |_, key| {
            if key.as_bytes() == b"ann" {
                tried.clone()
            } else {
                real.clone()
            }
        })
        .layer(hello());
    let mut statuses = |user| [(); 3].map(|()| seen(&mut service, from(user)).status.as_u16());
    assert_eq!(statuses("ann"), [200; 3]);
    assert_eq!(statuses("bob"), [200, 200, 429]);
}

#[tokio::test]
async fn failing_backend_rejects_no_request() {
    for remote in Remote::each_kind() {
        remote.fail(usize::MAX);
        let policy = two_a_minute().shadow();
        let layer = RateLimitLayer::new(policy, Global, remote);
        let mut deny = layer
            .clone()
            .on_backend_error(FailurePolicy::FailClosed)
            .layer(hello());
        assert_eq!(ask(&mut deny, Request::new(())).await.status, 200);
        let local = FailurePolicy::Fallback(MemoryBackend::new());
        let mut falls_back = layer
            .on_backend_error(local)
            .shadow_header(true)
            .layer(hello());
        for reported in [0, 0, 1] {
            let seen = ask(&mut falls_back, Request::new(())).await;
            assert_eq!(seen.status, 200);
            assert_eq!(seen.lines("x-ratelimit-shadow").len(), reported);
        }
    }
}

#[tokio::test]
async fn nested_layers_allow_all_requests_over_a_remote_backend() {
    let backend = memory();
    let policy = two_a_minute().shadow();
    let layer = RateLimitLayer::new(policy.clone(), Header::new(USER), backend.clone());
    let mut nested = layer.clone().layer(layer.clone().cost(2).layer(hello()));
    for _ in 0..3 {
        assert_eq!(seen(&mut nested, from("ann")).status, 200);
    }
    assert_eq!(spent(&backend, &policy, &Key::secret("ann")), [2]);

    let layer = RateLimitLayer::new(policy, Global, Remote::delayed())
        .on_backend_error(FailurePolicy::FailClosed);
    let layer = layer.refund_on_disconnect().wait(Duration::from_secs(1));
    let mut nested = layer.clone().layer(layer.cost(2).layer(hello()));
    for _ in 0..3 {
        assert_eq!(ask(&mut nested, Request::new(())).await.status, 200);
    }
}

#[test]
fn shadow_layer_around_the_enforced_policy_charges_too() {
    let enforced = by_user();
    let shadow = enforced.clone().with_policy(two_a_minute().shadow());
    let mut nested = shadow.shadow_header(true).layer(enforced.layer(hello()));
    let first = seen(&mut nested, from("ann"));
    assert_eq!(first.status, 200);
    assert_eq!(first.lines("ratelimit"), ["\"api\";r=0;t=30"]);
    let second = seen(&mut nested, from("ann"));
    assert_eq!(second.status, 429);
    assert_eq!(second.lines("x-ratelimit-shadow"), ["api"]);
}

#[test]
fn outer_charge_can_be_settled_inside_a_rejecting_layer() {
    let backend = memory();
    let policy = two_a_minute().shadow();
    let layer = RateLimitLayer::new(policy.clone(), Header::new(USER), backend.clone());
    let mut nested = layer.clone().layer(layer.cost(3).layer(tower::service_fn(
        async |request: Request<()>| {
            let charge = request.extensions().get::<Charge>().expect("it must exist");
            assert!(charge.outer().is_none() && charge.estimate() == Some(1.into()));
            let settled = charge.cancel().await.expect("the first settlement");
            assert_eq!(settled.map(|after| after.remaining()), Some(2));
            Ok::<_, Infallible>(Response::new(String::new()))
        },
    )));
    assert_eq!(seen(&mut nested, from("ann")).status, 200);
    assert_eq!(spent(&backend, &policy, &Key::secret("ann")), [0]);
}

#[test]
fn shadow_header_is_sent_without_other_fields() {
    let silent = shadow().headers(HeaderFormat::None).extensions(false);
    let mut service = silent.shadow_header(true).layer(hello());
    let reported = [(); 3].map(|()| seen(&mut service, from("ann")).headers.len());
    assert_eq!(reported, [0, 0, 1]);
}

#[test]
fn nested_layers_log_once() {
    let layer = shadow().shadow_header(true);
    let mut nested = layer.clone().layer(layer.cost(3).layer(hello()));
    // The outer layer is within its limit, and the inner layer never is.
    let reported = seen(&mut nested, from("ann"));
    assert_eq!(reported.lines("x-ratelimit-shadow"), ["api"]);
    assert!(reported.has_no_rate_limit_fields(), "{reported:?}");
}

#[cfg(feature = "serde")]
#[test]
fn serde_reads_the_shadow_flag() {
    let text = r#"{"name":"api","quotas":[{"name":"api","quota":"2/m"}],"shadow":true}"#;
    let policy: Policy = serde_json::from_str(text).expect("a policy");
    assert!(policy.is_shadow() && policy == two_a_minute().shadow() && policy != two_a_minute());
    let written = serde_json::to_string(&policy).expect("JSON");
    assert_eq!(
        serde_json::from_str::<Policy>(&written).expect("a policy"),
        policy
    );
    let enforced = serde_json::to_string(&two_a_minute()).expect("JSON");
    assert!(!enforced.contains("shadow"), "{enforced}");
    assert!(policy.and("other", Quota::per_hour(9)).is_shadow());
}
