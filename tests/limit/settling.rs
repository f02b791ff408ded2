//! What a request has cost in the end: by its handler, by a hook on the response, or because its client went away.

use std::convert::Infallible;
use std::future::{Ready, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::key::Header;
use tower_sluice::limit::MissingCharge;
use tower_sluice::response::{AsError, HeaderFormat};
use tower_sluice::{
    Charge, Cost, Decision, FailurePolicy, Global, Key, Limiter, MemoryBackend, Policy, Quota,
    RateLimitLayer,
};

use crate::remote::Remote;
use crate::support::{
    Memory, Seen, USER, ask, by_user, clock, hello, memory, now, others, seen, spent, two_a_minute,
};

/// One bucket of 100 tokens for all.
fn bucket() -> Policy {
    Policy::new("api", Quota::per_hour(100))
}

fn key() -> Key {
    Key::from("global")
}

/// Ten tokens a request.
fn limit<B: Backend>(backend: &B) -> RateLimitLayer<Global, B, Cost, FailurePolicy> {
    RateLimitLayer::new(bucket(), Global, backend.clone())
        .cost(10)
        .on_backend_error(FailurePolicy::FailClosed)
}

fn gone(memory: &Memory) -> u64 {
    spent(memory, &bucket(), &key())[0]
}

async fn got(app: &Router, path: &str) -> Seen {
    let request = Request::get(path).body(Body::empty()).expect("valid");
    let Ok(response) = app.clone().oneshot(request).await;
    Seen::of(response).await
}

// -- By the handler

/// What the path says is done with the charge.
async fn settles(charge: Charge, Path((what, tokens)): Path<(String, u64)>) -> String {
    let settlement = match &*what {
        "charge" => charge.charge(tokens),
        "refund" => charge.refund(tokens),
        "settle" => charge.settle(tokens),
        "cancel" => charge.cancel(),
        _ => return "untouched".to_owned(),
    };
    match settlement.await {
        Ok(Some(after)) => format!("{} left", after.remaining()),
        Ok(None) => "as it was".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn app<B: Backend>(backend: &B) -> Router {
    Router::new()
        .route("/{what}/{tokens}", get(settles))
        .layer(limit(backend))
}

#[tokio::test]
async fn handler_settles_the_charge_of_its_request() {
    for (path, left, said, sent) in [
        ("/charge/5", 15, "85 left", &["penalty 5"][..]),
        ("/charge/0", 10, "as it was", &[]),
        ("/refund/3", 7, "93 left", &["refund 3"]),
        ("/refund/30", 0, "100 left", &["refund 10"]),
        ("/settle/25", 25, "75 left", &["penalty 15"]),
        ("/settle/10", 10, "as it was", &[]),
        ("/settle/4", 4, "96 left", &["refund 6"]),
        ("/settle/0", 0, "100 left", &["refund 10"]),
        ("/cancel/0", 0, "100 left", &["refund 10"]),
        ("/leave/0", 10, "untouched", &[]),
    ] {
        for remote in Remote::both() {
            let seen = got(&app(&remote), path).await;
            assert_eq!((seen.status.as_u16(), &*seen.body), (200, said), "{path}");
            // The head tells the numbers of before.
            assert_eq!(seen.lines("ratelimit"), ["\"api\";r=90"]);
            let asked = remote.asked();
            assert_eq!(asked[0], "check 10");
            assert_eq!(asked[1..], *sent, "{path}");
            assert_eq!(gone(&remote.memory), left, "{path}");
        }
    }
}

#[tokio::test]
async fn settlement_above_the_estimate_is_a_debt_of_at_most_twice_the_limit() {
    for remote in Remote::both() {
        let app = app(&remote);
        assert_eq!(got(&app, "/settle/130").await.body, "0 left");
        // 30 tokens are owed, and 10 more are asked for.
        let rejected = got(&app, "/leave/0").await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=0;t=1440"]);

        let limiter = Limiter::new(bucket(), remote.memory.clone());
        let reset = limiter.reset(&key()).await;
        assert_eq!(reset.expect("memory").remaining(), 100);
        got(&app, "/charge/4000000000").await;
        let rejected = got(&app, "/leave/0").await;
        assert_eq!(rejected.lines("retry-after"), ["3960"]);
    }
}

#[tokio::test]
async fn each_quota_is_settled_by_its_own_cost() {
    let policy = bucket().and("bytes", Quota::fixed_window(1_000, Duration::from_secs(60)));
    for remote in Remote::both() {
        let app = Router::new()
            .route(
                "/",
                get(async |charge: Charge| drop(charge.settle(Cost::each([3, 700])))),
            )
            .layer(
                RateLimitLayer::new(policy.clone(), Global, remote.clone())
                    .cost(Cost::each([5, 500]))
                    .on_backend_error(FailurePolicy::FailClosed),
            );
        got(&app, "/").await;
        others().await;
        assert_eq!(spent(&remote.memory, &policy, &key()), [3, 700]);
        assert_eq!(remote.asked(), ["check 5+500", "refund 2", "penalty 0+200"]);
    }
}

#[tokio::test]
async fn first_settlement_takes_effect_on_any_clone() {
    for remote in Remote::both() {
        let app = Router::new()
            .route(
                "/",
                get(async |charge: Charge, again: Charge| {
                    let clone = charge.clone();
                    let settlement = again.settle(4);
                    for late in [charge.cancel(), clone.charge(9), again.settle(4)] {
                        assert!(late.await.expect_err("the second one").is_settled());
                    }
                    assert_eq!((charge.estimate(), again.estimate()), (None, None));
                    assert!(settlement.await.is_ok());
                }),
            )
            .layer(limit(&remote));
        assert_eq!(got(&app, "/").await.status, StatusCode::OK);
        assert_eq!(gone(&remote.memory), 4);
        assert_eq!(remote.asked(), ["check 10", "refund 6"]);
    }
}

#[tokio::test]
async fn handler_sees_its_charge_and_policy() {
    let memory = memory();
    let two = Policy::new("outside", Quota::per_minute(2));
    let outside = RateLimitLayer::new(two.clone(), Global, memory.clone());
    let app = Router::new()
        .route(
            "/",
            get(
                async |again: Option<Charge>, charge: Charge, decision: Option<Decision>| {
                    assert_eq!(again.expect("one").estimate(), charge.estimate());
                    assert_eq!(charge.policy().expect("one").quotas(), bucket().quotas());
                    assert_eq!(charge.estimate(), Some(Cost::new(10)));
                    assert_eq!(charge.waited(), Duration::ZERO);
                    assert_eq!(charge.decision(), decision);
                    let decision = decision.expect("one");
                    assert!(decision.is_allowed());
                    assert_eq!(decision.snapshot().remaining(), 90);
                    let outer = charge.outer().expect("another limit");
                    assert_eq!(outer.estimate(), Some(Cost::ONE));
                    assert!(outer.outer().is_none());
                    assert!(!format!("{charge:?}").contains("global"), "{charge:?}");
                    outer.cancel().await.expect("open");
                },
            ),
        )
        .layer(limit(&memory))
        .layer(outside);
    assert_eq!(got(&app, "/").await.status, StatusCode::OK);
    assert_eq!(gone(&memory), 10);
    assert_eq!(spent(&memory, &two, &key()), [0]);
}

#[tokio::test]
async fn missing_charge_is_500_with_a_reason_in_the_extensions() {
    let app = Router::new()
        .route("/", get(async |_: Charge| "charged"))
        .route(
            "/perhaps",
            get(async |charge: Option<Charge>, decision: Option<Decision>| {
                format!("{} {}", charge.is_some(), decision.is_some())
            }),
        );
    let silent = app.clone().layer(limit(&memory()).extensions(false));
    for app in [app, silent] {
        let request = Request::get("/").body(Body::empty()).expect("valid");
        let Ok(response) = app.clone().oneshot(request).await;
        let why = response.extensions().get::<MissingCharge>();
        let why = why.expect("the reason").to_string();
        assert!(why.contains("`RateLimitLayer`"), "{why}");
        let seen = Seen::of(response).await;
        assert_eq!(seen.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(seen.body, "");
        assert_eq!(got(&app, "/perhaps").await.body, "false false");
    }
}

#[tokio::test]
async fn uncounted_request_has_an_inert_charge() {
    let failing = Remote::failing();
    let uncounted = Router::new().route("/{what}/{tokens}", get(settles)).route(
        "/",
        get(async |charge: Charge, decision: Option<Decision>| {
            assert!(decision.is_none() && charge.decision().is_none());
            assert!(charge.policy().is_none() && charge.estimate().is_none());
            assert_eq!(charge.waited(), Duration::ZERO);
        }),
    );
    let by_failure = limit(&failing).on_backend_error(FailurePolicy::FailOpen);
    let memory = memory();
    let by_key = RateLimitLayer::new(bucket(), Header::new(USER), memory.clone()).skip_unkeyed();
    for app in [uncounted.clone().layer(by_failure), uncounted.layer(by_key)] {
        assert_eq!(got(&app, "/").await.status, StatusCode::OK);
        for what in ["charge", "refund", "settle", "cancel"] {
            let seen = got(&app, &format!("/{what}/7")).await;
            assert_eq!((seen.status.as_u16(), &*seen.body), (200, "as it was"));
        }
    }
    assert_eq!(failing.asked(), ["check 10"; 5]);
    assert!(memory.is_empty());
    assert_eq!(failing.context().failed_background_tasks(), 0);
}

#[tokio::test]
async fn charge_of_a_fallback_is_settled_there() {
    let local = MemoryBackend::new();
    let choice = FailurePolicy::Fallback(local.clone());
    for backend in [Remote::failing(), {
        let near = Remote::near();
        near.fail(usize::MAX);
        near
    }] {
        let app = Router::new()
            .route("/{what}/{tokens}", get(settles))
            .layer(limit(&backend).on_backend_error(choice.clone()));
        assert!(got(&app, "/settle/3").await.body.ends_with(" left"));
        assert_eq!(backend.asked(), ["check 10"]);
    }
    let limiter = Limiter::new(bucket(), local);
    let left = limiter.check_now(&key(), 0).decision.snapshot().remaining();
    assert_eq!(left, 94);
}

// -- In the background

#[tokio::test]
async fn response_does_not_wait_for_the_settlement() {
    // The check is answered, and what comes next is not.
    let remote = Remote::answering(1);
    let app = Router::new()
        .route("/", get(async |charge: Charge| drop(charge.settle(4))))
        .layer(limit(&remote));
    assert_eq!(got(&app, "/").await.status, StatusCode::OK);
    others().await;
    assert_eq!(remote.asked(), ["check 10", "refund 6"]);
    assert_eq!(
        (gone(&remote.memory), remote.context().background_tasks()),
        (10, 1)
    );
    remote.answer(1);
    others().await;
    assert_eq!(
        (gone(&remote.memory), remote.context().background_tasks()),
        (4, 0)
    );
}

#[tokio::test]
async fn settlement_completes_after_its_handler_is_dropped() {
    let remote = Remote::far();
    struct Measured(Charge);
    impl Drop for Measured {
        fn drop(&mut self) {
            drop(self.0.settle(3));
        }
    }
    let mut service = limit(&remote).layer(tower::service_fn(|request: Request<()>| async move {
        let charge = request.extensions().get::<Charge>().expect("a charge");
        let _measured = Measured(charge.clone());
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(Response::new(()))
    }));
    let ready = service.ready().await.expect("ready");
    let mut answer = Box::pin(ready.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    assert_eq!(gone(&remote.memory), 10);
    drop(answer);
    others().await;
    assert_eq!(gone(&remote.memory), 3);
}

#[tokio::test]
async fn running_settlements_are_bounded_and_failures_counted() {
    const MOST: usize = 1_024;
    let policy = Policy::new("api", Quota::per_hour(100_000));
    let remote = Remote::changing(0);
    let mut service = RateLimitLayer::new(policy.clone(), Global, remote.clone())
        .cost(10)
        .on_backend_error(FailurePolicy::FailClosed)
        .on_response(|_, charge| drop(charge.cancel()))
        .layer(hello());
    for _ in 0..MOST + 10 {
        let seen = ask(&mut service, Request::new(())).await;
        assert_eq!(seen.status, StatusCode::OK);
    }
    let context = remote.context();
    assert_eq!(
        (
            context.background_tasks(),
            context.failed_background_tasks()
        ),
        (MOST, 10)
    );
    remote.answer(MOST);
    while remote.context().background_tasks() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(spent(&remote.memory, &policy, &key()), [100]);
    assert_eq!(remote.context().failed_background_tasks(), 10);
}

#[tokio::test]
async fn failed_settlement_is_counted_and_affects_no_request() {
    for remote in Remote::both() {
        remote.fail_after(1, 1);
        let app = app(&remote);
        let seen = got(&app, "/settle/4").await;
        assert_eq!(seen.status, StatusCode::OK);
        assert_eq!(seen.body, "the backend failed to settle the charge");
        assert_eq!(remote.context().failed_background_tasks(), 1);
        assert_eq!(gone(&remote.memory), 10);
    }
}

// -- By the response

type Answer = Ready<Result<Response<Full<Bytes>>, Infallible>>;

/// A service that answers with this status and says what it has cost.
fn answers(
    status: u16,
    tokens: &'static str,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future = Answer>
+ Clone {
    tower::service_fn(move |_: Request<()>| {
        let response = Response::builder()
            .status(status)
            .header("x-tokens", tokens);
        std::future::ready(Ok(response.body(Full::default()).expect("a valid head")))
    })
}

#[tokio::test]
async fn hook_can_charge_only_failures() {
    for remote in Remote::both() {
        let limit = limit(&remote).on_response(|parts, charge| {
            if !parts.status.is_client_error() {
                drop(charge.cancel());
            }
        });
        for (status, left) in [(200, 0), (401, 10), (500, 10), (204, 10), (404, 20)] {
            let seen = ask(&mut limit.layer(answers(status, "")), Request::new(())).await;
            others().await;
            assert_eq!(seen.status.as_u16(), status);
            assert_eq!(gone(&remote.memory), left, "{status}");
        }
    }
}

#[tokio::test]
async fn hook_can_refund_server_errors() {
    for remote in Remote::both() {
        let limit = limit(&remote).on_response(|parts, charge| {
            if parts.status.is_server_error() {
                drop(charge.cancel());
            }
        });
        for (status, left) in [(200, 10), (500, 10), (503, 10), (404, 20)] {
            ask(&mut limit.layer(answers(status, "")), Request::new(())).await;
            others().await;
            assert_eq!(gone(&remote.memory), left, "{status}");
        }
    }
}

#[tokio::test]
async fn response_field_sets_the_actual_cost() {
    for remote in Remote::both() {
        let limit = limit(&remote).on_response(|parts, charge| {
            let tokens = parts.headers.get("x-tokens");
            let tokens = tokens.and_then(|tokens| tokens.to_str().ok()?.parse::<u64>().ok());
            if let Some(tokens) = tokens {
                drop(charge.settle(tokens));
            }
        });
        for (tokens, left) in [("3", 3), ("25", 28), ("0", 28), ("many", 38), ("10", 48)] {
            let seen = ask(&mut limit.layer(answers(200, tokens)), Request::new(())).await;
            others().await;
            assert_eq!(seen.lines("ratelimit").len(), 1);
            assert_eq!(gone(&remote.memory), left, "{tokens}");
        }
    }
}

#[tokio::test]
async fn hook_does_not_change_a_settled_charge() {
    for remote in Remote::both() {
        let hooks = Arc::new(AtomicUsize::new(0));
        let calls = Arc::clone(&hooks);
        let limit = limit(&remote).on_response(move |_, charge| {
            calls.fetch_add(1, SeqCst);
            assert_eq!(charge.estimate(), None);
            let late = charge.settle(99).now_or_never().expect("at once");
            assert!(late.expect_err("settled").is_settled());
        });
        let app = Router::new()
            .route("/", get(async |charge: Charge| drop(charge.settle(4))))
            .layer(limit);
        got(&app, "/").await;
        others().await;
        assert_eq!((hooks.load(SeqCst), gone(&remote.memory)), (1, 4));
    }
}

#[tokio::test]
async fn the_hook_sees_the_head_as_the_service_wrote_it() {
    let limit = limit(&memory()).on_response(|parts, charge| {
        assert_eq!(parts.headers.len(), 1, "no field of the limit's yet");
        assert_eq!(charge.estimate(), Some(Cost::new(10)));
    });
    let seen = seen(&mut limit.layer(answers(200, "")), Request::new(()));
    assert_eq!(seen.lines("ratelimit"), ["\"api\";r=90"]);
}

#[tokio::test]
async fn hook_is_not_called_for_rejections_or_service_errors() {
    let never = || {
        let memory = memory();
        limit(&memory).on_response(|_, _| panic!("there is no response of the service"))
    };
    let rejected = seen(&mut never().cost(101).layer(hello()), Request::new(()));
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);

    let by_user = by_user().on_response(|_, _| panic!("there is no key"));
    let rejected = seen(&mut by_user.layer(hello()), Request::new(()));
    assert_eq!(rejected.status, StatusCode::BAD_REQUEST);

    for remote in [Remote::failing(), Remote::far()] {
        let limit = limit(&remote).on_response(|_, _| panic!("the service is not asked"));
        let rejected = ask(&mut limit.cost(101).layer(hello()), Request::new(())).await;
        assert!(rejected.status == 429 || rejected.status == 503);
    }

    #[derive(Debug, PartialEq)]
    struct Broken;
    let mut service = never().layer(tower::service_fn(|_: Request<()>| async {
        Err::<Response<()>, _>(Broken)
    }));
    assert_eq!(now(&mut service, Request::new(())).unwrap_err(), Broken);
}

#[tokio::test]
async fn hook_runs_for_uncounted_requests_without_effect() {
    let calls = Arc::new(AtomicUsize::new(0));
    let hook = {
        let calls = Arc::clone(&calls);
        move |_: &http::response::Parts, charge: &Charge| {
            calls.fetch_add(1, SeqCst);
            assert!(charge.policy().is_none());
            let nothing = charge.settle(50).now_or_never().expect("at once");
            assert!(nothing.expect("no failure").is_none());
        }
    };
    let failing = Remote::failing();
    let allows = limit(&failing).on_backend_error(FailurePolicy::FailOpen);
    for extensions in [true, false] {
        let limit = allows.clone().extensions(extensions);
        let mut service = limit.on_response(hook.clone()).layer(hello());
        assert_eq!(ask(&mut service, Request::new(())).await.status, 200);
        let limit = by_user().skip_unkeyed().extensions(extensions);
        let mut service = limit.on_response(hook.clone()).layer(hello());
        assert_eq!(ask(&mut service, Request::new(())).await.status, 200);
    }
    assert_eq!(calls.load(SeqCst), 4);
    assert_eq!(failing.asked(), ["check 10"; 2]);
}

#[tokio::test]
async fn the_hook_works_without_extensions_and_header_fields() {
    for remote in Remote::both() {
        let mut service = limit(&remote)
            .extensions(false)
            .headers(HeaderFormat::None)
            .on_response(|_, charge| drop(charge.settle(4)))
            .layer(tower::service_fn(|request: Request<()>| async move {
                assert!(request.extensions().is_empty());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        let ready = service.ready().await.expect("ready");
        let response = ready.call(Request::new(())).await.expect("no error");
        assert!(response.extensions().is_empty() && response.headers().is_empty());
        others().await;
        assert_eq!(gone(&remote.memory), 4);
    }
}

#[test]
fn hook_and_reject_fn_combine_in_any_order() {
    let rejection = |_: &tower_sluice::Head<'_>, rejection: &tower_sluice::response::Rejection| {
        let mut response = Response::new("slow down");
        *response.status_mut() = rejection.status();
        response
    };
    let check = |one: Seen, two: Seen, memory: Memory| {
        assert_eq!((one.status.as_u16(), gone(&memory)), (200, 96));
        assert_eq!((two.status.as_u16(), &*two.body), (429, "slow down"));
    };
    let memory_of_one = memory();
    let limit_of_one = limit(&memory_of_one);
    let mut service = limit_of_one
        .reject_fn(rejection)
        .on_response(|_, charge| drop(charge.settle(96)))
        .layer(hello());
    let both = [(); 2].map(|()| seen(&mut service, Request::new(())));
    let [one, two] = both;
    check(one, two, memory_of_one);

    let memory_of_two = memory();
    let mut service = limit(&memory_of_two)
        .on_response(|_, charge| drop(charge.settle(96)))
        .reject_fn(rejection)
        .layer(hello());
    let [one, two] = [(); 2].map(|()| seen(&mut service, Request::new(())));
    check(one, two, memory_of_two);
}

/// The types of the closure need not be written, wherever the layer goes.
#[tokio::test]
async fn hook_works_wherever_the_layer_is_applied() {
    let memory = memory();
    let limit = || limit(&memory).on_response(|_parts, charge| drop(charge.settle(1)));
    let ok = || -> MethodRouter { get(async || "ok") };
    let apps = [
        Router::new().route("/", ok()).layer(limit()),
        Router::new().route("/", ok()).route_layer(limit()),
        Router::new().route("/", ok().layer(limit())),
        Router::new().route("/", ok().route_layer(limit())),
        Router::new()
            .route("/", ok())
            .layer(ServiceBuilder::new().layer(limit())),
        Router::new().route_service("/", limit().layer(ok())),
        Router::new().fallback_service(limit().layer(Router::<()>::new().route("/", ok()))),
    ];
    let count = u64::try_from(apps.len()).expect("some");
    for app in apps {
        assert_eq!(got(&app, "/").await.status, StatusCode::OK);
    }
    let mut service = ServiceBuilder::new()
        .layer(limit())
        .service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(String::new())) });
    assert_eq!(seen(&mut service, Request::new(())).status, StatusCode::OK);
    let boxed = ServiceBuilder::new().layer(limit()).service(hello::<()>());
    let mut boxed = boxed.boxed_clone();
    assert_eq!(seen(&mut boxed, Request::new(())).status, StatusCode::OK);
    assert_eq!(gone(&memory), count + 2);
}

// -- By a client that went away

/// Answers when its gate is opened. It is ready if it is told so.
#[derive(Clone)]
struct Slow {
    ready: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
}

impl Slow {
    fn new() -> Self {
        Self {
            ready: Arc::new(AtomicUsize::new(1)),
            calls: Arc::default(),
        }
    }
}

impl Service<Request<()>> for Slow {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.ready.load(SeqCst) {
            0 => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.calls.fetch_add(1, SeqCst);
        std::future::pending()
    }
}

async fn ready<S: Service<Request<()>, Error = Infallible>>(service: &mut S) {
    let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
}

#[tokio::test]
async fn refund_on_disconnect_refunds_before_the_service_is_called() {
    for (refunds, left) in [(false, 10), (true, 0)] {
        for extensions in [true, false] {
            let remote = Remote::near();
            let mut limit = limit(&remote).extensions(extensions);
            if refunds {
                limit = limit.refund_on_disconnect();
            }
            let mut service = limit.layer(Slow::new());
            ready(&mut service).await;
            let answer = service.call(Request::new(()));
            assert_eq!(gone(&remote.memory), 10);
            drop(answer);
            assert_eq!(gone(&remote.memory), left);
        }
    }
}

#[tokio::test]
async fn request_dropped_in_the_service_stays_charged() {
    for remote in Remote::both() {
        let slow = Slow::new();
        let mut service = limit(&remote).refund_on_disconnect().layer(slow.clone());
        ready(&mut service).await;
        let mut answer = Box::pin(service.call(Request::new(())));
        assert!(answer.as_mut().now_or_never().is_none());
        assert_eq!(slow.calls.load(SeqCst), 1);
        drop(answer);
        others().await;
        assert_eq!(gone(&remote.memory), 10);
    }
}

#[tokio::test]
async fn request_dropped_during_its_check_is_refunded_by_the_reply() {
    for (refunds, sent) in [(false, &[][..]), (true, &["refund 10"])] {
        let remote = Remote::answering(0);
        let slow = Slow::new();
        let mut limit = limit(&remote);
        if refunds {
            limit = limit.refund_on_disconnect();
        }
        let mut service = limit.layer(slow.clone());
        ready(&mut service).await;
        let mut answer = Box::pin(service.call(Request::new(())));
        assert!(answer.as_mut().now_or_never().is_none());
        assert_eq!(remote.asked(), ["check 10"]);
        drop(answer);
        others().await;
        remote.answer(9);
        others().await;
        assert_eq!(remote.asked(), *sent);
        assert_eq!(
            gone(&remote.memory),
            0,
            "the check itself was given up, or paid back"
        );
        assert_eq!(slow.calls.load(SeqCst), 0);
        assert_eq!(remote.context().background_tasks(), 0);
    }
}

#[test]
fn refund_on_disconnect_survives_later_settings() {
    let remote = Remote::near();
    let limit = RateLimitLayer::new(two_a_minute(), Global, remote.clone()).refund_on_disconnect();
    let policy = bucket();
    let limit = limit
        .cost_fn(|_| 10)
        .on_backend_error(FailurePolicy::FailClosed)
        .policy_fn(move |_, _| policy.clone())
        .on_response(|_, _| {})
        .reject_fn(|_, _| Response::new(""));
    let mut service = limit.layer(Slow::new());
    ready(&mut service).now_or_never().expect("ready");
    drop(service.call(Request::new(())));
    assert_eq!(remote.asked(), ["check 10", "refund 10"]);
}

#[tokio::test]
async fn who_might_be_paid_back_holds_no_slot_while_the_backend_is_asked() {
    let remote = Remote::answering(0);
    let slots = ConcurrencyLimit::new(hello::<()>(), 1);
    let mut other = slots.clone();
    let mut service = limit(&remote).refund_on_disconnect().layer(slots);
    ready(&mut service).await;
    let mut answer = Box::pin(service.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    assert!(other.ready().now_or_never().is_some(), "the slot is free");
    remote.answer(1);
    assert!(
        answer.as_mut().now_or_never().is_none(),
        "another one has it"
    );
    drop(other);
    assert!(answer.as_mut().now_or_never().is_some());
}

#[tokio::test]
async fn request_dropped_before_its_first_poll_sends_nothing() {
    let remote = Remote::far();
    let mut service = limit(&remote).refund_on_disconnect().layer(Slow::new());
    ready(&mut service).await;
    drop(service.call(Request::new(())));
    others().await;
    assert!(remote.asked().is_empty());
}

#[tokio::test]
async fn request_dropped_between_wait_and_service_is_refunded() {
    for (refunds, left) in [(false, 100), (true, 90)] {
        for remote in Remote::both() {
            let (clock, slow) = (clock(), Slow::new());
            let remote = remote.by(&clock);
            let limiter = Limiter::new(bucket(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 100).decision.is_allowed());
            let mut limit = limit(&remote).wait(Duration::from_secs(360));
            if refunds {
                limit = limit.refund_on_disconnect();
            }
            let mut service = limit.layer(slow.clone());
            ready(&mut service).await;
            let mut answer = Box::pin(service.call(Request::new(())));
            assert!(answer.as_mut().now_or_never().is_none());
            // Its turn has come, and the service is busy.
            slow.ready.store(0, SeqCst);
            clock.advance(Duration::from_secs(360));
            for _ in 0..3 {
                assert!(answer.as_mut().now_or_never().is_none());
                others().await;
            }
            assert_eq!(
                (remote.context().waiting(), slow.calls.load(SeqCst)),
                (0, 0)
            );
            drop(answer);
            others().await;
            assert_eq!(gone(&remote.memory), left);
        }
    }
}

#[tokio::test]
async fn rejection_is_not_refunded() {
    let remote = Remote::near();
    let limiter = Limiter::new(bucket(), remote.memory.clone());
    assert!(limiter.check_now(&key(), 95).decision.is_allowed());
    let mut service = limit(&remote).refund_on_disconnect().layer(hello());
    ready(&mut service).await;
    drop(service.call(Request::new(())));
    assert_eq!(remote.asked(), ["check 10"]);
    assert_eq!(gone(&remote.memory), 95);
}

#[tokio::test]
async fn connected_client_is_not_refunded() {
    for remote in Remote::both() {
        let mut service = limit(&remote).refund_on_disconnect().layer(hello());
        ask(&mut service, Request::new(())).await;
        others().await;
        assert_eq!(remote.asked(), ["check 10"]);
        assert_eq!(gone(&remote.memory), 10);
    }
}

#[tokio::test]
async fn non_http_services_are_refunded() {
    let remote = Remote::near();
    let limit = limit(&remote).protocol(AsError).refund_on_disconnect();
    let mut service = limit.layer(tower::service_fn(
        |n: u64| async move { Ok::<_, Infallible>(n) },
    ));
    let ready = service.ready().await.expect("ready");
    drop(ready.call(1));
    assert_eq!(remote.asked(), ["check 10", "refund 10"]);
    let ready = service.ready().await.expect("ready");
    assert_eq!(ready.call(1).await.expect("allowed"), 1);
    assert_eq!(gone(&remote.memory), 10);
}

#[tokio::test]
async fn charge_of_a_fallback_is_refunded_there() {
    let local = MemoryBackend::new();
    let remote = Remote::near();
    remote.fail(usize::MAX);
    let limit = limit(&remote)
        .on_backend_error(FailurePolicy::Fallback(local.clone()))
        .refund_on_disconnect();
    let mut service = limit.layer(hello::<()>());
    let limiter = Limiter::new(bucket(), local);
    let left = || limiter.check_now(&key(), 0).decision.snapshot().remaining();
    ready(&mut service).await;
    let answer = service.call(Request::new(()));
    assert_eq!(left(), 90);
    drop(answer);
    assert_eq!(left(), 100);
    assert_eq!(remote.asked(), ["check 10"]);
}

#[tokio::test]
async fn failed_check_of_a_dropped_request_is_not_counted() {
    let remote = Remote::answering(0);
    let mut service = limit(&remote).refund_on_disconnect().layer(Slow::new());
    ready(&mut service).await;
    let mut answer = Box::pin(service.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    drop(answer);
    remote.close();
    others().await;
    assert_eq!(remote.asked(), ["check 10"]);
    assert_eq!(
        (
            remote.context().background_tasks(),
            remote.context().failed_background_tasks()
        ),
        (0, 0)
    );
}

#[test]
fn without_a_runtime_nothing_is_paid_back_and_nothing_panics() {
    let remote = Remote::far();
    let mut service = limit(&remote).refund_on_disconnect().layer(Slow::new());
    ready(&mut service).now_or_never().expect("ready");
    let mut answer = Box::pin(service.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    drop(answer);

    let remote = Remote::answering(0);
    let mut service = limit(&remote).refund_on_disconnect().layer(Slow::new());
    ready(&mut service).now_or_never().expect("ready");
    let mut answer = Box::pin(service.call(Request::new(())));
    assert!(answer.as_mut().now_or_never().is_none());
    drop(answer);
    assert_eq!(remote.context().failed_background_tasks(), 1);

    let mut service = limit(&remote)
        .on_response(|_, charge| {
            let why = charge.cancel().now_or_never().expect("at once");
            assert!(why.expect_err("no runtime").to_string().contains("runtime"));
        })
        .layer(hello());
    remote.answer(1);
    assert_eq!(seen(&mut service, Request::new(())).status, StatusCode::OK);
}
