//! Layers within each other: of one policy, key and backend they share one charge, else each has its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::response::{HeaderFormat, Rejection};
use tower_sluice::{
    Charge, Cost, Decision, FailurePolicy, Global, Key, Limiter, MaxWait, MemoryBackend, Policy,
    Quota, RateLimitLayer, RetryAfter, key_fn,
};

use crate::remote::Remote;
use crate::support::{Memory, Seen, ask, clock, hello, memory, now, others, seen, spent};

/// One bucket of 100 tokens; one comes every 36 seconds.
fn bucket() -> Policy {
    Policy::new("api", Quota::per_hour(100))
}

fn key() -> Key {
    Key::from("global")
}

type Limit<B> = RateLimitLayer<Global, B, Cost, FailurePolicy>;

fn over(policy: &Policy, remote: &Remote) -> Limit<Remote> {
    RateLimitLayer::new(policy.clone(), Global, remote.clone())
        .on_backend_error(FailurePolicy::FailClosed)
}

fn limit(remote: &Remote) -> Limit<Remote> {
    over(&bucket(), remote)
}

fn in_memory(policy: &Policy, memory: &Memory) -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(policy.clone(), Global, memory.clone())
}

/// What was spent of the bucket.
fn gone(remote: &Remote) -> u64 {
    spent(&remote.memory, &bucket(), &key())[0]
}

fn spend(remote: &Remote, tokens: u64) {
    let limiter = Limiter::new(bucket(), remote.memory.clone());
    assert!(limiter.check_now(&key(), tokens).decision.is_allowed());
}

fn request() -> Request<()> {
    Request::new(())
}

type Answer = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

/// A service that does this with the charge of each request.
fn with_charge(
    f: impl Fn(&Charge) + Clone + Send + Sync + 'static,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future = Answer>
+ Clone
+ Send
+ Sync {
    tower::service_fn(move |request: Request<()>| {
        f(request.extensions().get::<Charge>().expect("a charge"));
        std::future::ready(Ok(Response::new(Full::from("hello"))))
    })
}

/// A request on its way between two layers, seen by `f`.
fn in_between(
    f: impl Fn(&mut Request<()>) + Clone,
) -> tower::util::MapRequestLayer<impl Fn(Request<()>) -> Request<()> + Clone> {
    tower::util::MapRequestLayer::new(move |mut request: Request<()>| {
        f(&mut request);
        request
    })
}

const POLICY: [&str; 1] = ["\"api\";q=100;w=3600"];

// -- One charge

#[tokio::test]
async fn cost_of_the_inner_layer_applies() {
    for (outer, inner, sent, left) in [
        // As much: nothing is asked.
        (5, 5, &["check 5"][..], "\"api\";r=95"),
        (0, 0, &["check 0"], "\"api\";r=100"),
        // More: what is missing.
        (1, 5, &["check 1", "check 4"], "\"api\";r=95"),
        (0, 5, &["check 0", "check 5"], "\"api\";r=95"),
        (1, 100, &["check 1", "check 99"], "\"api\";r=0;t=36"),
        // Less: the rest goes back.
        (5, 2, &["check 5", "refund 3"], "\"api\";r=98"),
        (5, 0, &["check 5", "refund 5"], "\"api\";r=100"),
    ] {
        for remote in Remote::both() {
            let mut service = ServiceBuilder::new()
                .layer(limit(&remote).cost(outer))
                .layer(limit(&remote).cost(inner))
                .service(hello());
            let seen = ask(&mut service, request()).await;
            assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "hello"));
            assert_eq!(seen.lines("ratelimit"), [left], "{outer} and {inner}");
            assert_eq!(seen.lines("ratelimit-policy"), POLICY);
            assert_eq!(remote.asked(), sent, "{outer} and {inner}");
            assert_eq!(gone(&remote), inner);
        }
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_route_with_a_cost_of_its_own_under_a_table_of_costs_is_charged_that() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower_sluice::RouteCosts;
    for remote in Remote::both() {
        let ok = || get(|| async { "ok" });
        let table = RouteCosts::new().route("/dear/{id}", 7).otherwise(2);
        let app: Router = Router::new()
            .route("/dear/{id}", ok().layer(limit(&remote).cost(20)))
            .route("/free", ok().layer(limit(&remote).cost(0)))
            .route("/", ok())
            .layer(limit(&remote).costs(table));
        let asked = async |path: &str| {
            let request = Request::get(path).body(Body::empty());
            let Ok(response) = app.clone().oneshot(request.expect("valid")).await;
            Seen::of(response).await
        };
        for (path, left) in [("/", 98), ("/dear/1", 78), ("/free", 78), ("/nowhere", 76)] {
            let seen = asked(path).await;
            assert_eq!(seen.lines("ratelimit"), [format!("\"api\";r={left}")]);
        }
        spend(&remote, 66);
        let rejected = asked("/dear/1").await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=10;t=360"]);
        assert_eq!(asked("/").await.lines("ratelimit"), ["\"api\";r=8"]);
    }
}

#[tokio::test]
async fn inner_rejection_refunds_the_outer_charge() {
    for remote in Remote::both() {
        let (inner, calls) = counted();
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote))
            .layer(limit(&remote).cost(50))
            .service(inner);
        spend(&remote, 60);
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        // Ten tokens are missing.
        let head = [
            ("cache-control", "no-store"),
            ("content-type", "application/problem+json"),
            ("ratelimit", "\"api\";r=40;t=360"),
            ("ratelimit-policy", POLICY[0]),
            ("retry-after", "360"),
        ];
        assert_eq!(rejected.head(), head);
        assert_eq!(remote.asked(), ["check 1", "check 49", "refund 1"]);
        assert_eq!((gone(&remote), calls.load(SeqCst)), (60, 0));
    }
}

/// A service that counts its calls.
fn counted() -> (
    impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future = Answer>
    + Clone,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let service = tower::service_fn(move |_: Request<()>| {
        counter.fetch_add(1, SeqCst);
        std::future::ready(Ok(Response::new(Full::from("hello"))))
    });
    (service, calls)
}

#[tokio::test]
async fn cost_above_the_limit_is_not_split_across_layers() {
    for remote in Remote::both() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote).cost(60))
            .layer(limit(&remote).cost(101))
            .service(hello());
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=100"]);
        assert!(rejected.lines("retry-after").is_empty());
        assert_eq!(remote.asked(), ["check 60", "check 101", "refund 60"]);
        assert_eq!(gone(&remote), 0);
    }
}

#[tokio::test]
async fn innermost_of_three_layers_decides() {
    for (costs, sent, left) in [
        (
            [1, 5, 9],
            &["check 1", "check 4", "check 4"][..],
            "\"api\";r=91",
        ),
        (
            [1, 5, 3],
            &["check 1", "check 4", "refund 2"],
            "\"api\";r=97",
        ),
        ([1, 5, 5], &["check 1", "check 4"], "\"api\";r=95"),
        ([1, 1, 5], &["check 1", "check 4"], "\"api\";r=95"),
        ([5, 5, 5], &["check 5"], "\"api\";r=95"),
        (
            [5, 1, 5],
            &["check 5", "refund 4", "check 4"],
            "\"api\";r=95",
        ),
        // The last charge goes back first.
        (
            [2, 5, 1],
            &["check 2", "check 3", "refund 3", "refund 1"],
            "\"api\";r=99",
        ),
    ] {
        for remote in Remote::both() {
            let mut service = ServiceBuilder::new()
                .layer(limit(&remote).cost(costs[0]))
                .layer(limit(&remote).cost(costs[1]))
                .layer(limit(&remote).cost(costs[2]))
                .service(hello());
            let seen = ask(&mut service, request()).await;
            assert_eq!(seen.lines("ratelimit"), [left], "{costs:?}");
            assert_eq!(seen.lines("ratelimit-policy"), POLICY);
            assert_eq!(remote.asked(), sent, "{costs:?}");
            assert_eq!(gone(&remote), costs[2]);
        }
    }
}

#[tokio::test]
async fn innermost_rejection_refunds_all_layers() {
    for remote in Remote::both() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote))
            .layer(limit(&remote).cost(5))
            .layer(limit(&remote).cost(80))
            .service(hello());
        spend(&remote, 30);
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=70;t=360"]);
        let sent = ["check 1", "check 4", "check 75", "refund 4", "refund 1"];
        assert_eq!(remote.asked(), sent);
        assert_eq!(gone(&remote), 30);
    }
}

#[tokio::test]
async fn quotas_settle_up_and_down_independently() {
    let policy = Policy::new("api", Quota::per_hour(100)).and("bytes", Quota::per_hour(100));
    for remote in Remote::both() {
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(Cost::each([1, 10])))
            .layer(over(&policy, &remote).cost(Cost::each([5, 2])))
            .service(with_charge(|charge| {
                assert_eq!(charge.estimate(), Some(Cost::each([5, 2])));
                let decision = charge.decision().expect("a decision");
                let left = decision
                    .snapshot()
                    .quotas()
                    .iter()
                    .map(|quota| quota.remaining());
                assert_eq!(left.collect::<Vec<_>>(), [95, 98]);
            }));
        let seen = ask(&mut service, request()).await;
        let left = ["\"api\";r=95, \"bytes\";r=98"];
        assert_eq!(seen.lines("ratelimit"), left);
        assert_eq!(remote.asked(), ["check 1+10", "check 4+0", "refund 8"]);
        assert_eq!(spent(&remote.memory, &policy, &key()), [5, 2]);

        // If one of them rejects, both go back.
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(Cost::each([1, 10])))
            .layer(over(&policy, &remote).cost(Cost::each([96, 2])))
            .service(hello());
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=95;t=36"]);
        assert_eq!(spent(&remote.memory, &policy, &key()), [5, 2]);
    }
}

// -- Exactly

/// All algorithms, with limits that are reached at once.
fn policies() -> Vec<Policy> {
    let span = Duration::from_secs(10);
    let quotas = [
        Quota::token_bucket(10, 7, span),
        Quota::token_bucket(10, 7, span).initial_tokens(3),
        Quota::interval_bucket(10, 7, span),
        Quota::fixed_window(10, span),
        Quota::fixed_window(10, span).anchor(tower_sluice::quota::Anchor::FirstUse),
        Quota::sliding_window(10, span),
        Quota::sliding_log(10, span),
    ];
    let mut policies: Vec<_> = quotas.map(|quota| Policy::new("api", quota)).into();
    policies.push(
        Policy::new("api", Quota::token_bucket(10, 7, span))
            .and("window", Quota::sliding_window(15, 2 * span))
            .and("log", Quota::sliding_log(20, 3 * span)),
    );
    policies
}

/// Beside each request that goes through two layers the same one goes through one layer, on another backend with the
/// same past.
#[tokio::test]
async fn two_layers_answer_as_the_inner_one_alone() {
    let (mut rejected, mut allowed) = (0, 0);
    for (seed, policy) in policies().into_iter().enumerate() {
        let mut random = StdRng::seed_from_u64(seed as u64);
        for is_near in [true, false] {
            let clock = clock();
            let remote = if is_near {
                Remote::near()
            } else {
                Remote::far()
            };
            let remote = remote.by(&clock);
            let twin = MemoryBackend::builder().clock(clock.clone()).build();
            for step in 0..600 {
                clock.advance(Duration::from_micros(random.random_range(0..4_000_000)));
                let (outer, inner) = (random.random_range(0..4_u64), random.random_range(0..12));
                let left = Limiter::new(policy.clone(), twin.clone()).check_now(&key(), 0);
                // What the outer one rejects never gets to the inner one.
                let passes = outer <= left.decision.snapshot().remaining();
                let cost = if passes { inner } else { outer };
                let mut alone = in_memory(&policy, &twin).cost(cost).layer(hello());
                let alone = now(&mut alone, request()).expect("no error");
                let mut service = ServiceBuilder::new()
                    .layer(over(&policy, &remote).cost(outer))
                    .layer(over(&policy, &remote).cost(inner))
                    .service(hello());
                let ready = service.ready().await.expect("ready");
                let both = ready.call(request()).await.expect("no error");
                let reported = |response: &http::Extensions| response.get::<Decision>().cloned();
                assert_eq!(
                    reported(both.extensions()),
                    reported(alone.extensions()),
                    "{policy:?}, seed {seed}, step {step}, {outer} and {inner}"
                );
                assert_eq!(both.headers(), alone.headers());
                match both.status() {
                    StatusCode::OK => allowed += 1,
                    _ => rejected += 1,
                }
            }
        }
    }
    assert!(rejected > 2_000 && allowed > 2_000, "{rejected}, {allowed}");
}

#[tokio::test]
async fn two_layer_rejection_reports_an_exact_retry_after() {
    for policy in policies() {
        for remote in Remote::both() {
            let clock = clock();
            let remote = remote.by(&clock);
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &remote).cost(2))
                .layer(over(&policy, &remote).cost(7))
                .service(hello());
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            for round in 0..10 {
                // Three are left: enough for the outer one.
                clock.advance(Duration::from_micros(17_654_321));
                let left = limiter.check_now(&key(), 0).decision;
                let more = left.snapshot().remaining() - 3;
                assert!(limiter.check_now(&key(), more).decision.is_allowed());
                let mut ask = async || {
                    let ready = service.ready().await.expect("ready");
                    let response = ready.call(request()).await.expect("no error");
                    let decision = response.extensions().get::<Decision>();
                    decision.expect("a decision").retry_after()
                };
                let Some(RetryAfter::In(wait)) = ask().await else {
                    panic!("{policy:?}, round {round}: seven of three");
                };
                clock.advance(wait - Duration::from_micros(1));
                let soon = Some(RetryAfter::In(Duration::from_micros(1)));
                assert_eq!(ask().await, soon, "{policy:?}, round {round}");
                clock.advance(Duration::from_micros(1));
                assert_eq!(ask().await, None, "{policy:?}, round {round}");
            }
        }
    }
}

/// Rejected a part, a request under a sliding window asks for the whole: its wait is longer.
#[tokio::test]
async fn request_during_the_second_check_is_allowed() {
    let policy = Policy::new("api", Quota::sliding_window(10, Duration::from_secs(10)));
    let remote = Remote::answering(2);
    let inner = ServiceBuilder::new()
        .layer(over(&policy, &remote).cost(5))
        .service(hello());
    let mut service = over(&policy, &remote).layer(inner);
    let limiter = Limiter::new(policy.clone(), remote.memory.clone());
    assert!(limiter.check_now(&key(), 9).decision.is_allowed());
    let mut answer = Box::pin(service.call(request()));
    assert!(answer.as_mut().now_or_never().is_none());
    assert_eq!(remote.asked(), ["check 1", "check 4"]);
    // Somebody forgets the key before the whole is asked for.
    assert!(matches!(
        tower_sluice::backend::Backend::ask(
            &remote.memory,
            tower_sluice::backend::Op::Reset,
            &policy,
            &key()
        ),
        tower_sluice::backend::Answer::Now(Ok(_))
    ));
    remote.answer(2);
    let response = answer.await.expect("no error");
    let seen = Seen::of(response).await;
    assert_eq!(seen.status, StatusCode::OK);
    assert_eq!(seen.lines("ratelimit"), ["\"api\";r=5;t=20"]);
    assert_eq!(remote.asked(), ["refund 1", "check 5"]);
    assert_eq!(spent(&remote.memory, &policy, &key()), [5]);
}

// -- What clients and layers outside are told

#[tokio::test]
async fn policies_between_joined_layers_write_fields_once() {
    let (api, ip) = (bucket(), Policy::new("ip", Quota::per_hour(1_000)));
    for remote in Remote::both() {
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&ip, &remote).cost(2))
            .layer(over(&api, &remote).cost(5))
            .service(hello());
        let ready = service.ready().await.expect("ready");
        let response = ready.call(request()).await.expect("no error");
        let outermost = response.extensions().get::<Decision>().expect("a decision");
        assert_eq!(outermost.snapshot().limit(), 100);
        assert_eq!(outermost.snapshot().remaining(), 95);
        let seen = Seen::of(response).await;
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=95", "\"ip\";r=998"]);

        // Two in turns.
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&ip, &remote))
            .layer(over(&api, &remote).cost(3))
            .layer(over(&ip, &remote).cost(8))
            .service(hello());
        let seen = ask(&mut service, request()).await;
        assert_eq!(seen.lines("ratelimit"), ["\"ip\";r=990", "\"api\";r=92"]);
        assert_eq!(seen.lines("ratelimit-policy").len(), 2);

        // The inner one rejects: what it shares goes back, and what is the other's stays.
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&ip, &remote))
            .layer(over(&api, &remote).cost(94))
            .service(hello());
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        let reported = ["\"api\";r=92;t=72", "\"ip\";r=989"];
        assert_eq!(rejected.lines("ratelimit"), reported);
        assert_eq!(gone(&remote), 8);

        // The other one rejects: the outer one keeps its charge.
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&ip, &remote).cost(1_000))
            .layer(over(&api, &remote).cost(5))
            .service(hello());
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(gone(&remote), 9);
    }
}

#[test]
fn layers_of_one_policy_and_another_key_charge_each_for_itself() {
    let memory = memory();
    let by = |name: &'static str| {
        let key = key_fn(move |_| Ok(Key::from(name)));
        RateLimitLayer::new(bucket(), key, memory.clone())
    };
    let mut service = ServiceBuilder::new()
        .layer(by("user"))
        .layer(by("address").cost(3))
        .service(hello());
    let reported = ["\"api\";r=97", "\"api\";r=99"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);

    // One in between is neither joined nor silenced.
    let mut service = ServiceBuilder::new()
        .layer(by("user"))
        .layer(by("address").cost(3))
        .layer(by("user").cost(5))
        .service(hello());
    let reported = ["\"api\";r=94", "\"api\";r=94"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);
    let left = |name: &str| spent(&memory, &bucket(), &Key::from(name));
    assert_eq!((left("user"), left("address")), (vec![6], vec![6]));

    let mut service = ServiceBuilder::new()
        .layer(by("user"))
        .layer(by("address").cost(3))
        .layer(by("user").cost(95))
        .service(hello());
    let rejected = seen(&mut service, request());
    let reported = ["\"api\";r=94;t=36", "\"api\";r=91"];
    assert_eq!(rejected.lines("ratelimit"), reported);
    assert_eq!((left("user"), left("address")), (vec![6], vec![9]));
}

#[test]
fn layers_over_other_backends_or_of_other_policies_charge_each_for_itself() {
    let (one, two) = (memory(), memory());
    let mut service = ServiceBuilder::new()
        .layer(in_memory(&bucket(), &one))
        .layer(in_memory(&bucket(), &two).cost(5))
        .service(hello());
    let reported = ["\"api\";r=95", "\"api\";r=99"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);

    // A tier of its own spends from the same bucket.
    let tier = Policy::new("api", Quota::per_hour(1_000));
    let mut service = ServiceBuilder::new()
        .layer(in_memory(&bucket(), &one))
        .layer(in_memory(&tier, &one).cost(5))
        .service(hello());
    let reported = ["\"api\";r=993", "\"api\";r=98"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);

    // A policy made again of the same parts is the same.
    let mut service = ServiceBuilder::new()
        .layer(in_memory(&bucket(), &two))
        .layer(in_memory(&bucket(), &two).cost(5))
        .service(hello());
    let reported = ["\"api\";r=90"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);
}

#[test]
fn joined_layers_write_the_innermost_numbers_once() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    let silent = || limit().headers(HeaderFormat::None);
    let mut left = 100;
    let mut check = |seen: Seen| {
        left -= 5;
        assert_eq!(seen.lines("ratelimit"), [format!("\"api\";r={left}")]);
        assert_eq!(seen.lines("ratelimit-policy"), POLICY);
    };
    let mut loud = ServiceBuilder::new()
        .layer(limit())
        .layer(limit().cost(5))
        .service(hello());
    check(seen(&mut loud, request()));
    let mut outside = ServiceBuilder::new()
        .layer(limit())
        .layer(silent().cost(5))
        .service(hello());
    check(seen(&mut outside, request()));
    let mut inside = ServiceBuilder::new()
        .layer(silent())
        .layer(limit().cost(5))
        .service(hello());
    check(seen(&mut inside, request()));
    let mut amid = ServiceBuilder::new()
        .layer(silent())
        .layer(limit().cost(3))
        .layer(silent().cost(5))
        .service(hello());
    check(seen(&mut amid, request()));
    // An equal one in between has nothing to tell.
    let mut equal = ServiceBuilder::new()
        .layer(limit())
        .layer(silent().cost(1))
        .layer(silent().cost(5))
        .service(hello());
    check(seen(&mut equal, request()));

    let mut nobody = ServiceBuilder::new()
        .layer(silent())
        .layer(silent().cost(5))
        .service(hello());
    let response = now(&mut nobody, request()).expect("no error");
    let decision = response.extensions().get::<Decision>().expect("a decision");
    assert_eq!(decision.snapshot().remaining(), left - 5);
    let silence = Seen::of(response).now_or_never().expect("at once");
    assert!(silence.says_nothing_of_limits(), "{silence:?}");

    // Rejected within, the outer one writes what the inner one does not.
    for reported in [limit(), silent()] {
        let mut service = ServiceBuilder::new()
            .layer(limit())
            .layer(reported.cost(71))
            .service(hello());
        let rejected = seen(&mut service, request());
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=70;t=36"]);
        assert_eq!(rejected.lines("ratelimit-policy"), POLICY);
    }
}

#[test]
fn reject_fn_sees_whether_the_outer_charge_was_refunded() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    let reported = limit().cost(101).reject_fn(|_, rejection| match rejection {
        Rejection::Limited { joined, .. } => Response::new(joined.to_string()),
        other => panic!("{other:?}"),
    });
    let mut alone = reported.clone().layer(hello());
    assert_eq!(seen(&mut alone, request()).body, "false");
    let mut within = limit().layer(reported.layer(hello()));
    assert_eq!(seen(&mut within, request()).body, "true");
}

#[test]
fn redirects_carry_the_innermost_numbers_if_any_layer_is_to_write_them() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    let redirects = |on: [bool; 2]| {
        ServiceBuilder::new()
            .layer(limit().headers_on_redirects(on[0]))
            .layer(limit().headers_on_redirects(on[1]).cost(5))
            .service(tower::service_fn(|_: Request<()>| async {
                let response = Response::builder().status(302);
                Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).expect("valid"))
            }))
    };
    assert!(seen(&mut redirects([false, false]), request()).says_nothing_of_limits());
    for (on, left) in [([true, false], 90), ([false, true], 85), ([true, true], 80)] {
        let seen = seen(&mut redirects(on), request());
        assert_eq!(seen.lines("ratelimit"), [format!("\"api\";r={left}")]);
    }
}

#[test]
fn layer_without_extensions_is_not_joined_and_can_join() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    // The inner one does not know of the outer one: each charges, and each tells.
    let mut service = ServiceBuilder::new()
        .layer(limit().extensions(false))
        .layer(limit().cost(5))
        .service(hello());
    let reported = ["\"api\";r=94", "\"api\";r=99"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);
    let mut service = ServiceBuilder::new()
        .layer(limit().extensions(false))
        .layer(limit().extensions(false).cost(95))
        .service(hello());
    let rejected = seen(&mut service, request());
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    let reported = ["\"api\";r=93;t=72", "\"api\";r=93"];
    assert_eq!(rejected.lines("ratelimit"), reported);
    assert_eq!(
        spent(&memory, &bucket(), &key()),
        [7],
        "the outer one keeps its charge"
    );

    // It finds what the outer one has left.
    let mut service = ServiceBuilder::new()
        .layer(limit())
        .layer(limit().extensions(false).cost(5))
        .service(with_charge(|charge| {
            assert_eq!(charge.estimate(), Some(Cost::each([5])));
        }));
    let response = now(&mut service, request()).expect("no error");
    let decision = response.extensions().get::<Decision>().expect("a decision");
    assert_eq!(decision.snapshot().remaining(), 88);
    let seen = Seen::of(response).now_or_never().expect("at once");
    assert_eq!(seen.lines("ratelimit"), ["\"api\";r=88"]);
}

#[test]
fn layers_without_shared_extensions_charge_separately() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    let mut service = ServiceBuilder::new()
        .layer(limit())
        .layer(in_between(|request| request.extensions_mut().clear()))
        .layer(limit().cost(5))
        .service(hello());
    let reported = ["\"api\";r=94", "\"api\";r=99"];
    assert_eq!(seen(&mut service, request()).lines("ratelimit"), reported);
}

// -- One settlement

#[tokio::test]
async fn handler_settles_the_charges_of_all_layers() {
    type Settle = fn(&Charge);
    let settlements: [(Settle, u64, &[&str]); 7] = [
        (|_| {}, 9, &[]),
        (
            |charge| drop(charge.cancel()),
            0,
            &["refund 4", "refund 4", "refund 1"],
        ),
        (|charge| drop(charge.settle(7)), 7, &["refund 2"]),
        (
            |charge| drop(charge.settle(4)),
            4,
            &["refund 4", "refund 1"],
        ),
        (
            |charge| drop(charge.refund(8)),
            1,
            &["refund 4", "refund 4"],
        ),
        (|charge| drop(charge.charge(2)), 11, &["penalty 2"]),
        (|charge| drop(charge.settle(20)), 20, &["penalty 11"]),
    ];
    for (settle, left, sent) in settlements {
        for remote in Remote::both() {
            let mut service = ServiceBuilder::new()
                .layer(limit(&remote))
                .layer(limit(&remote).cost(5))
                .layer(limit(&remote).cost(9))
                .service(with_charge(move |charge| {
                    assert_eq!(charge.estimate(), Some(Cost::each([9])));
                    assert_eq!(charge.policy(), Some(bucket()));
                    assert!(charge.outer().is_none());
                    let decision = charge.decision().expect("a decision");
                    assert_eq!(decision.snapshot().remaining(), 91);
                    settle(charge);
                }));
            ask(&mut service, request()).await;
            others().await;
            assert_eq!(remote.asked()[3..], *sent);
            assert_eq!(gone(&remote), left);
        }
    }
}

#[tokio::test]
async fn hooks_of_all_layers_see_the_joined_charge_inner_first() {
    // Which of them settle, the outer one and the inner one, and what is charged then.
    for (settles, left) in [([true, false], 20), ([false, true], 21), ([true, true], 21)] {
        for remote in Remote::both() {
            let calls = Arc::new(AtomicUsize::new(0));
            let hook = |number: usize, cost: u64, actual: u64| {
                let (calls, settles) = (Arc::clone(&calls), settles[number]);
                limit(&remote).cost(cost).on_response(move |parts, charge| {
                    assert_eq!(parts.status, StatusCode::OK);
                    assert_eq!(calls.fetch_add(1, SeqCst), 1 - number);
                    if settles {
                        drop(charge.settle(actual));
                    }
                })
            };
            let mut service = ServiceBuilder::new()
                .layer(hook(0, 1, 20))
                .layer(hook(1, 5, 21))
                .service(hello());
            ask(&mut service, request()).await;
            others().await;
            assert_eq!(calls.load(SeqCst), 2);
            assert_eq!(gone(&remote), left, "{settles:?}");
        }
    }
}

#[tokio::test]
async fn outer_hook_sees_the_inner_rejection_and_cannot_charge_for_it() {
    for remote in Remote::both() {
        let within = limit(&remote)
            .cost(50)
            .on_response(|_, _| panic!("it has refused"));
        let outside = limit(&remote).on_response(|parts, charge| {
            assert_eq!(parts.status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(charge.estimate(), None);
            let settled = charge.settle(7).now_or_never().expect("at once");
            assert!(settled.expect_err("settled already").is_settled());
        });
        let mut service = ServiceBuilder::new()
            .layer(outside)
            .layer(within)
            .service(hello());
        spend(&remote, 60);
        ask(&mut service, request()).await;
        others().await;
        assert_eq!(gone(&remote), 60);
    }
}

#[tokio::test]
async fn settled_charge_is_not_joined() {
    for remote in Remote::both() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote).cost(3))
            .layer(in_between(|request| {
                drop(request.extensions().get::<Charge>().expect("one").settle(2));
            }))
            .layer(limit(&remote).cost(5))
            .service(with_charge(|charge| {
                assert_eq!(charge.estimate(), Some(Cost::new(5)));
                assert_eq!(charge.outer().expect("one around it").estimate(), None);
            }));
        let seen = ask(&mut service, request()).await;
        others().await;
        assert_eq!(gone(&remote), 7);
        assert_eq!(seen.lines("ratelimit").len(), 2);
    }
}

/// A layer in between that sends a request again: it is the same one.
#[tokio::test]
async fn request_retried_within_the_outer_layer_is_charged_once() {
    for remote in Remote::both() {
        let inner = limit(&remote).cost(5).layer(hello::<()>());
        let twice = tower::service_fn(move |request: Request<()>| {
            let mut inner = inner.clone();
            async move {
                let mut again = Request::new(());
                *again.extensions_mut() = request.extensions().clone();
                ask(&mut inner, request).await;
                inner.ready().await?.call(again).await
            }
        });
        let mut service = limit(&remote).layer(twice);
        let seen = ask(&mut service, request()).await;
        assert_eq!(seen.status, StatusCode::OK);
        assert_eq!(gone(&remote), 5);
    }
}

/// Both at once charge what is missing; the second one gives it back.
#[tokio::test]
async fn request_sent_twice_within_the_outer_layer_is_charged_once() {
    let remote = Remote::answering(1);
    let inner = limit(&remote).cost(5).layer(hello::<()>());
    let twice = tower::service_fn(move |request: Request<()>| {
        let (mut one, mut two) = (inner.clone(), inner.clone());
        async move {
            let mut again = Request::new(());
            *again.extensions_mut() = request.extensions().clone();
            let (one, two) =
                tokio::join!(async { one.ready().await?.call(request).await }, async {
                    two.ready().await?.call(again).await
                });
            drop(one?);
            two
        }
    });
    let mut service = limit(&remote).layer(twice);
    let mut answer = Box::pin(service.call(request()));
    assert!(answer.as_mut().now_or_never().is_none());
    assert_eq!(remote.asked(), ["check 1", "check 4", "check 4"]);
    remote.answer(9);
    assert_eq!(answer.await.expect("no error").status(), StatusCode::OK);
    assert_eq!(remote.asked(), ["refund 4"]);
    assert_eq!(gone(&remote), 5);
}

#[test]
fn charge_made_by_an_outer_service_is_joined() {
    let memory = memory();
    let limiter = Limiter::new(bucket(), memory.clone());
    let charge = limiter
        .try_acquire(&key(), 3)
        .now_or_never()
        .expect("at once");
    let mut request = request();
    let charge = charge.expect("allowed");
    request.extensions_mut().insert(charge.clone());
    let mut service = in_memory(&bucket(), &memory).cost(5).layer(hello());
    assert_eq!(
        seen(&mut service, request).lines("ratelimit"),
        ["\"api\";r=95"]
    );
    assert_eq!(charge.estimate(), Some(Cost::each([5])));
}

// -- The inner service

/// Panics if it is called without having been polled ready. A clone is not ready.
#[derive(Default)]
struct Strict(bool);

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        self.0 = true;
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Answer {
        assert!(std::mem::take(&mut self.0), "not ready");
        std::future::ready(Ok(Response::new(Full::from("hello"))))
    }
}

#[tokio::test]
async fn ready_service_is_called_whatever_the_settlement_returns() {
    let sliding = Policy::new("api", Quota::sliding_window(100, Duration::from_secs(60)));
    for policy in [bucket(), sliding] {
        for remote in Remote::both() {
            for (outer, inner, status) in [
                (1, 5, 200),
                (5, 5, 200),
                (5, 1, 200),
                (1, 99, 429),
                (1, 6, 200),
            ] {
                let mut service = ServiceBuilder::new()
                    .layer(over(&policy, &remote).cost(outer))
                    .layer(over(&policy, &remote).cost(inner))
                    .service(Strict::default());
                let seen = ask(&mut service, request()).await;
                assert_eq!(seen.status.as_u16(), status);
            }
        }
    }
}

#[tokio::test]
async fn rejection_releases_readiness_before_the_outer_refund_completes() {
    // The refund is not answered.
    let remote = Remote::answering(2);
    let inner = ConcurrencyLimit::new(Strict::default(), 1);
    let mut service = ServiceBuilder::new()
        .layer(limit(&remote))
        .layer(limit(&remote).cost(50))
        .service(inner.clone());
    let mut other = inner;
    spend(&remote, 60);
    service.ready().await.expect("ready");
    assert!(
        other.ready().now_or_never().is_none(),
        "there is but one slot"
    );
    let mut rejected = Box::pin(service.call(request()));
    assert!(rejected.as_mut().now_or_never().is_none());
    others().await;
    assert_eq!(remote.asked(), ["check 1", "check 49", "refund 1"]);
    assert!(other.ready().now_or_never().is_some());
    remote.answer(1);
    let response = rejected.await.expect("no error");
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(gone(&remote), 60);
}

// -- Backends that fail in between

/// Two layers that fall back to `local`; `between` happens after the outer one has decided.
fn falling_back(
    remote: &Remote,
    local: &MemoryBackend,
    costs: [u64; 2],
    between: impl Fn() + Clone,
) -> impl Service<
    Request<()>,
    Response = Response<impl http_body::Body<Data = Bytes, Error = Infallible>>,
    Error = Infallible,
> {
    let limit = |cost: u64| {
        let choice = FailurePolicy::Fallback(local.clone());
        limit(remote).cost(cost).on_backend_error(choice)
    };
    ServiceBuilder::new()
        .layer(limit(costs[0]))
        .layer(in_between(move |_| between()))
        .layer(limit(costs[1]))
        .service(with_charge(|_| {}))
}

/// What was spent of the bucket in the process, which refills by the system's clock: one token in 36 s.
fn gone_locally(local: &MemoryBackend) -> u64 {
    let limiter = Limiter::new(bucket(), local.clone());
    100 - limiter.check_now(&key(), 0).decision.snapshot().remaining()
}

#[tokio::test]
async fn layers_that_fall_back_to_one_backend_charge_once_there() {
    for (costs, left) in [([1, 5], 95), ([5, 5], 95), ([5, 2], 98), ([0, 5], 95)] {
        for remote in Remote::both() {
            remote.fail(usize::MAX);
            let local = MemoryBackend::new();
            let mut service = falling_back(&remote, &local, costs, || {});
            let seen = ask(&mut service, request()).await;
            let line = format!("\"api\";r={left}");
            assert_eq!(seen.lines("ratelimit"), [line], "{costs:?}");
            assert_eq!(gone_locally(&local), costs[1]);
        }
    }
}

#[tokio::test]
async fn rejection_by_the_inner_fallback_refunds_its_outer_charge() {
    let sliding = Policy::new(
        "api",
        Quota::sliding_window(100, Duration::from_secs(3_600)),
    );
    for policy in [bucket(), sliding] {
        for remote in Remote::both() {
            remote.fail(usize::MAX);
            let local = MemoryBackend::new();
            let limiter = Limiter::new(policy.clone(), local.clone());
            assert!(limiter.check_now(&key(), 60).decision.is_allowed());
            let limit = |cost: u64| {
                let choice = FailurePolicy::Fallback(local.clone());
                over(&policy, &remote).cost(cost).on_backend_error(choice)
            };
            let mut service = ServiceBuilder::new()
                .layer(limit(1))
                .layer(limit(50))
                .service(hello());
            let rejected = ask(&mut service, request()).await;
            assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
            let [line] = rejected.lines("ratelimit")[..] else {
                panic!("{rejected:?}");
            };
            assert!(line.starts_with("\"api\";r=40;t="), "{line}");
            assert_eq!(remote.asked(), ["check 1", "check 50"]);
            let left = limiter.check_now(&key(), 0).decision;
            assert_eq!(left.snapshot().remaining(), 40);
        }
    }
}

#[tokio::test]
async fn inner_layer_charges_in_full_after_an_outer_fallback() {
    for remote in Remote::both() {
        remote.fail(1);
        let local = MemoryBackend::new();
        let mut service = falling_back(&remote, &local, [1, 5], || {});
        let seen = ask(&mut service, request()).await;
        assert_eq!(remote.asked(), ["check 1", "check 5"]);
        assert_eq!((gone(&remote), gone_locally(&local)), (5, 1));
        let reported = ["\"api\";r=95", "\"api\";r=99"];
        assert_eq!(seen.lines("ratelimit"), reported);
    }
}

#[tokio::test]
async fn an_inner_layer_that_falls_back_charges_what_is_missing_there() {
    for remote in Remote::both() {
        let local = MemoryBackend::new();
        let fails = remote.clone();
        let mut service = falling_back(&remote, &local, [1, 5], move || fails.fail(1));
        let seen = ask(&mut service, request()).await;
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=96"]);
        assert_eq!((gone(&remote), gone_locally(&local)), (1, 4));

        // It rejects: what the outer one has charged goes back, and the numbers are those of who has rejected.
        let fails = remote.clone();
        let mut service = falling_back(&remote, &local, [1, 100], move || fails.fail(1));
        let rejected = ask(&mut service, request()).await;
        others().await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=96;t=108"]);
        assert_eq!((gone(&remote), gone_locally(&local)), (1, 4));
    }
}

#[tokio::test]
async fn charge_of_an_inner_fallback_stays_when_the_rest_is_settled() {
    for remote in Remote::both() {
        let (local, fails) = (MemoryBackend::new(), remote.clone());
        let limit = |cost: u64| {
            let choice = FailurePolicy::Fallback(local.clone());
            limit(&remote).cost(cost).on_backend_error(choice)
        };
        let mut service = ServiceBuilder::new()
            .layer(limit(2))
            .layer(in_between(move |_| fails.fail(1)))
            .layer(limit(5))
            .service(with_charge(|charge| {
                assert_eq!(charge.estimate(), Some(Cost::each([5])));
                drop(charge.cancel());
            }));
        // What others have spent there is not given back in its place.
        spend(&remote, 10);
        ask(&mut service, request()).await;
        others().await;
        assert_eq!((gone(&remote), gone_locally(&local)), (10, 3));
        assert_eq!(remote.asked(), ["check 2", "check 3", "refund 2"]);
    }
}

#[tokio::test]
async fn inner_fallback_writes_its_own_numbers() {
    let policy = bucket().and("bytes", Quota::per_hour(100));
    for remote in Remote::both() {
        let (local, fails) = (MemoryBackend::new(), remote.clone());
        let choice = FailurePolicy::Fallback(local.clone());
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(Cost::each([1, 10])))
            .layer(in_between(move |_| fails.fail(1)))
            .layer(
                over(&policy, &remote)
                    .cost(Cost::each([5, 2]))
                    .on_backend_error(choice),
            )
            .service(hello());
        let seen = ask(&mut service, request()).await;
        others().await;
        let left = ["\"api\";r=96, \"bytes\";r=100"];
        assert_eq!(seen.lines("ratelimit"), left);
        assert_eq!(spent(&remote.memory, &policy, &key()), [1, 2]);
    }
}

#[tokio::test]
async fn outer_charge_is_refunded_or_kept_if_the_inner_backend_fails() {
    for remote in Remote::both() {
        let layers = |choice: FailurePolicy| {
            let fails = remote.clone();
            ServiceBuilder::new()
                .layer(limit(&remote).cost(3))
                .layer(in_between(move |_| fails.fail(1)))
                .layer(limit(&remote).cost(5).on_backend_error(choice))
                .service(with_charge(|charge| {
                    assert_eq!(charge.estimate(), Some(Cost::new(3)));
                    drop(charge.settle(4));
                }))
        };
        let rejected = ask(&mut layers(FailurePolicy::FailClosed), request()).await;
        others().await;
        assert_eq!(rejected.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(remote.asked(), ["check 3", "check 2", "refund 3"]);
        assert_eq!(gone(&remote), 0);

        // Passed by the inner one, it has been counted by the outer one.
        let passed = ask(&mut layers(FailurePolicy::FailOpen), request()).await;
        others().await;
        assert_eq!(passed.status, StatusCode::OK);
        assert_eq!(passed.lines("ratelimit"), ["\"api\";r=97"]);
        assert_eq!(remote.asked(), ["check 3", "check 2", "penalty 1"]);
        assert_eq!(gone(&remote), 4);
    }
}

#[tokio::test]
async fn backend_failure_does_not_wait_for_the_outer_refund() {
    // The refund is not answered.
    let remote = Remote::changing(0);
    remote.fail_after(1, 1);
    let mut service = ServiceBuilder::new()
        .layer(limit(&remote))
        .layer(limit(&remote).cost(5))
        .service(hello());
    let rejected = ask(&mut service, request()).await;
    assert_eq!(rejected.status, StatusCode::SERVICE_UNAVAILABLE);
    others().await;
    assert_eq!(remote.asked(), ["check 1", "check 4", "refund 1"]);
    assert_eq!((gone(&remote), remote.context().background_tasks()), (1, 1));
    remote.answer(1);
    others().await;
    assert_eq!(gone(&remote), 0);
}

#[tokio::test]
async fn rejection_is_sent_when_the_outer_refund_fails() {
    let sliding = Policy::new(
        "api",
        Quota::sliding_window(100, Duration::from_secs(3_600)),
    );
    for policy in [bucket(), sliding] {
        for remote in Remote::both() {
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 60).decision.is_allowed());
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &remote))
                .layer(over(&policy, &remote).cost(50))
                .service(hello());
            remote.fail_after(2, 1);
            let rejected = ask(&mut service, request()).await;
            assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
            let [line] = rejected.lines("ratelimit")[..] else {
                panic!("{rejected:?}");
            };
            assert!(line.starts_with("\"api\";r=39;t="), "{line}");
            assert_eq!(remote.asked(), ["check 1", "check 49", "refund 1"]);
        }
    }
}

#[tokio::test]
async fn failure_policy_applies_if_the_second_check_fails() {
    let policy = Policy::new(
        "api",
        Quota::sliding_window(100, Duration::from_secs(3_600)),
    );
    let statuses = [
        (FailurePolicy::FailClosed, 503),
        (FailurePolicy::FailOpen, 200),
        (FailurePolicy::Fallback(MemoryBackend::new()), 200),
    ];
    for remote in Remote::both() {
        for (choice, status) in statuses.clone() {
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            let left = limiter.check_now(&key(), 0).decision.snapshot().remaining();
            assert!(
                limiter
                    .check_now(&key(), left.saturating_sub(40))
                    .decision
                    .is_allowed()
            );
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &remote))
                .layer(over(&policy, &remote).cost(50).on_backend_error(choice))
                .service(hello());
            remote.fail_after(3, 1);
            let seen = ask(&mut service, request()).await;
            assert_eq!(seen.status.as_u16(), status);
            let sent = ["check 1", "check 49", "refund 1", "check 50"];
            assert_eq!(remote.asked(), sent);
            assert_eq!(spent(&remote.memory, &policy, &key()), [60]);
        }
    }
}

// -- Clients that go away

#[tokio::test]
async fn refund_on_disconnect_applies_during_the_inner_check() {
    for (refunds, sent, left) in [(false, &[][..], 2), (true, &["refund 2", "refund 3"], 0)] {
        let remote = Remote::answering(1);
        let layer = |cost: u64| {
            let limit = limit(&remote).cost(cost);
            if refunds {
                limit.refund_on_disconnect()
            } else {
                limit
            }
        };
        let (inner, calls) = counted();
        let mut service = ServiceBuilder::new()
            .layer(layer(2))
            .layer(layer(5))
            .service(inner);
        let ready = service.ready().await.expect("ready");
        let mut answer = Box::pin(ready.call(request()));
        assert!(answer.as_mut().now_or_never().is_none());
        assert_eq!(remote.asked(), ["check 2", "check 3"]);
        drop(answer);
        remote.answer(9);
        others().await;
        let mut asked = remote.asked();
        asked.sort_unstable();
        assert_eq!(asked, *sent);
        assert_eq!((gone(&remote), calls.load(SeqCst)), (left, 0));
    }
}

#[tokio::test]
async fn refund_on_disconnect_applies_during_the_inner_refund() {
    for (refunds, left) in [(false, 3), (true, 0)] {
        let remote = Remote::answering(1);
        let mut inner = limit(&remote).cost(3);
        if refunds {
            inner = inner.refund_on_disconnect();
        }
        let (counted, calls) = counted();
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote).cost(5))
            .layer(inner)
            .service(counted);
        let ready = service.ready().await.expect("ready");
        let mut answer = Box::pin(ready.call(request()));
        assert!(answer.as_mut().now_or_never().is_none());
        drop(answer);
        remote.answer(9);
        others().await;
        assert_eq!((gone(&remote), calls.load(SeqCst)), (left, 0));
        assert_eq!(remote.context().failed_background_tasks(), 0);
    }
}

#[tokio::test]
async fn refund_on_disconnect_applies_during_a_partial_refund() {
    let policy = bucket().and("bytes", Quota::per_hour(100));
    for (refunds, left) in [(false, [5, 2]), (true, [0, 0])] {
        let remote = Remote::answering(2);
        let mut inner = over(&policy, &remote).cost(Cost::each([5, 2]));
        if refunds {
            inner = inner.refund_on_disconnect();
        }
        let (counted, calls) = counted();
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(Cost::each([1, 10])))
            .layer(inner)
            .service(counted);
        let ready = service.ready().await.expect("ready");
        let mut answer = Box::pin(ready.call(request()));
        assert!(answer.as_mut().now_or_never().is_none());
        others().await;
        assert_eq!(remote.asked(), ["check 1+10", "check 4+0", "refund 8"]);
        drop(answer);
        remote.answer(9);
        others().await;
        assert_eq!(spent(&remote.memory, &policy, &key()), left);
        assert_eq!(calls.load(SeqCst), 0);
    }
}

#[tokio::test]
async fn refund_on_disconnect_of_the_inner_layer_refunds_all_layers() {
    for (outer, inner) in [(2, 5), (5, 5), (5, 2)] {
        let remote = Remote::near();
        let inner_layer = limit(&remote).cost(inner).refund_on_disconnect();
        let (counted, calls) = counted();
        let mut service = inner_layer.layer(counted);
        let limiter = Limiter::new(bucket(), remote.clone());
        let charge = limiter.try_acquire(&key(), outer).await.expect("allowed");
        let mut request = request();
        request.extensions_mut().insert(charge);
        let ready = service.ready().await.expect("ready");
        drop(ready.call(request));
        assert_eq!(gone(&remote), 0, "{outer} and {inner}");
        // What nobody polls may have been called: it has not begun.
        assert!(calls.load(SeqCst) <= 1);
    }
}

#[tokio::test]
async fn dropped_rejection_still_refunds_the_outer_charge() {
    for remote in Remote::both() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote).cost(2))
            .layer(limit(&remote).cost(50))
            .service(hello());
        spend(&remote, 60);
        let ready = service.ready().await.expect("ready");
        let mut answer = Box::pin(ready.call(request()));
        let _ = answer.as_mut().now_or_never();
        drop(answer);
        others().await;
        assert_eq!(gone(&remote), 60);
    }
}

/// Requests through three layers, answers, failures and hang-ups in any order: in the end exactly those are charged
/// whose service has begun.
#[tokio::test]
async fn only_started_requests_are_charged_after_a_drop() {
    let day = Duration::from_secs(86_400);
    let policies = [
        bucket(),
        Policy::new("api", Quota::sliding_window(100, day)),
        Policy::new("api", Quota::sliding_log(100, day)),
        bucket().and("window", Quota::fixed_window(90, day)),
    ];
    let (mut begun_in_all, mut refused_in_all) = (0, 0);
    for seed in 0..400_u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let policy = &policies[random.random_range(0..policies.len())];
        let policy_is_bucket = *policy == bucket();
        let remote = match random.random_range(0..4) {
            0 => Remote::near(),
            _ => Remote::answering(0),
        };
        let is_near = remote.is_near();
        let begun = Arc::new(AtomicUsize::new(0));
        let mut requests = Vec::new();
        for _ in 0..random.random_range(1..8) {
            let costs = [0; 3].map(|_| random.random_range(0..40_u64));
            let (counter, cost) = (Arc::clone(&begun), costs[2]);
            let stays = random.random_bool(0.5);
            let handler = tower::service_fn(move |_: Request<()>| {
                let counter = Arc::clone(&counter);
                async move {
                    counter.fetch_add(cost as usize, SeqCst);
                    if !stays {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            // Those who wait for a window wait in vain; a turn that somebody stands behind is not given back.
            let waits = !policy_is_bucket && random.random_bool(0.3);
            let max_wait = if waits {
                MaxWait::Unbounded
            } else {
                MaxWait::NONE
            };
            let layer = |cost: u64| {
                let limit = over(policy, &remote).cost(cost);
                limit.refund_on_disconnect().wait(max_wait)
            };
            let mut service = ServiceBuilder::new()
                .layer(layer(costs[0]))
                .layer(layer(costs[1]))
                .layer(layer(costs[2]))
                .service(handler);
            let ready = service.ready().await.expect("ready");
            requests.push(Box::pin(ready.call(request())));
        }
        while !requests.is_empty() {
            let which = random.random_range(0..requests.len());
            match random.random_range(0..10) {
                0 => drop(requests.swap_remove(which)),
                1 => others().await,
                2..=5 if !is_near => remote.answer(random.random_range(1..3)),
                _ => {
                    if let Some(response) = requests[which].as_mut().now_or_never() {
                        if response.expect("no error").status() != StatusCode::OK {
                            refused_in_all += 1;
                        }
                        drop(requests.swap_remove(which));
                    }
                }
            }
        }
        if !is_near {
            remote.answer(1_000);
        }
        others().await;
        let begun = begun.load(SeqCst);
        begun_in_all += begun;
        let left = spent(&remote.memory, policy, &key());
        assert!(
            left.iter().all(|spent| *spent as usize == begun),
            "seed {seed}, {begun} has begun, {left:?} is spent: {:?}",
            remote.asked()
        );
        let context = remote.context();
        let idle = (
            context.waiting(),
            context.background_tasks(),
            context.failed_background_tasks(),
        );
        assert_eq!(idle, (0, 0, 0), "seed {seed}");
    }
    assert!(begun_in_all > 1_000 && refused_in_all > 100);
}

#[tokio::test]
async fn a_handler_settles_all_parts_under_every_algorithm() {
    for policy in policies() {
        for remote in Remote::both() {
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            let left = || {
                let decision = limiter.check_now(&key(), 0).decision;
                let quotas = decision.snapshot().quotas().iter();
                quotas.map(|quota| quota.remaining()).collect::<Vec<_>>()
            };
            for actual in [0, 2, 1, 3] {
                // Enough for three, whatever has been spent.
                limiter.reset(&key()).await.expect("memory");
                let before = left();
                let mut service = ServiceBuilder::new()
                    .layer(over(&policy, &remote))
                    .layer(over(&policy, &remote).cost(3))
                    .service(with_charge(move |charge| drop(charge.settle(actual))));
                assert_eq!(ask(&mut service, request()).await.status, StatusCode::OK);
                others().await;
                let expected: Vec<_> = before.iter().map(|before| before - actual).collect();
                assert_eq!(left(), expected, "{policy:?}");
            }
        }
    }
}
