//! Metrics, read from a separate recorder in each test.

#[allow(dead_code, reason = "for all tests of layers")]
#[path = "limit/remote.rs"]
mod remote;
#[cfg(feature = "redis")]
#[path = "support/mod.rs"]
mod servers;
#[allow(dead_code, reason = "for all tests of layers")]
#[path = "limit/support.rs"]
mod support;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use http::Request;
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::Backend as _;
use tower_sluice::clock::ManualClock;
use tower_sluice::{
    Cost, FailurePolicy, Global, Header, Key, Limiter, MaxWait, MemoryBackend, MemorySemaphore,
    Policy, Quota, RateLimitLayer, Semaphore, SemaphoreLayer, SemaphorePolicy,
};

use crate::remote::Remote;
use crate::support::{USER, ask, clock, from, hello, memory, run_other_tasks, seen, two_a_minute};

/// The lines of a recorder after `run`.
fn counted(run: impl AsyncFnOnce()) -> Vec<String> {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        tower_sluice::metrics::describe();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(run());
    });
    let lines = recorder.handle().render();
    lines.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_counted(lines: &[String], expected: &[&str]) {
    for line in expected {
        assert!(lines.iter().any(|own| own == line), "{line}\n{lines:#?}");
    }
}

#[test]
fn each_decision_of_a_layer_is_counted_once() {
    let lines = counted(async || {
        let layer = RateLimitLayer::new(two_a_minute(), Header::new(USER), memory());
        let mut service = layer.clone().layer(hello());
        for _ in 0..5 {
            ask(&mut service, from("ann")).await;
        }
        ask(&mut service, Request::new(())).await;
        let mut shadow = layer.with_policy(two_a_minute().shadow()).layer(hello());
        ask(&mut shadow, from("ann")).await;
        ask(&mut shadow, from("bob")).await;
    });
    assert_counted(
        &lines,
        &[
            "sluice_decisions_total{policy=\"api\",outcome=\"allowed\"} 3",
            "sluice_decisions_total{policy=\"api\",outcome=\"denied\"} 3",
            "sluice_decisions_total{policy=\"api\",outcome=\"shadow\"} 1",
            "sluice_unkeyed_total 1",
        ],
    );
    let shown = lines.concat();
    assert!(!shown.contains("ann") && !shown.contains("bob"), "no keys");
}

#[test]
fn requests_of_a_blocked_key_are_counted_as_denied() {
    let lines = counted(async || {
        let (backend, ann) = (memory(), Key::secret("ann"));
        let limiter = Limiter::new(two_a_minute(), backend.clone());
        let hour = Duration::from_secs(3_600);
        limiter.block(&ann, hour).await.expect("memory");
        assert!(limiter.is_blocked(&ann).await.expect("memory"));
        assert!(limiter.try_acquire(&ann, 1).await.is_err());
        assert!(limiter.try_acquire_up_to(&ann, 2).await.is_err());
        let layer = RateLimitLayer::new(two_a_minute(), Header::new(USER), backend);
        ask(&mut layer.clone().layer(hello()), from("ann")).await;
        let mut shadow = layer.with_policy(two_a_minute().shadow()).layer(hello());
        ask(&mut shadow, from("ann")).await;
        limiter.unblock(&ann).await.expect("memory");
        assert!(limiter.try_acquire_up_to(&ann, 9).await.is_ok());
    });
    assert_counted(
        &lines,
        &[
            "sluice_decisions_total{policy=\"api\",outcome=\"allowed\"} 1",
            "sluice_decisions_total{policy=\"api\",outcome=\"denied\"} 3",
            "sluice_decisions_total{policy=\"api\",outcome=\"shadow\"} 1",
        ],
    );
}

#[test]
fn limiter_checks_are_counted_and_peeks_are_not() {
    let lines = counted(async || {
        let limiter = Limiter::new(two_a_minute(), memory());
        let ann = Key::from("ann");
        limiter.peek(&ann).await.expect("memory");
        let _ = limiter.check_now(&ann, 1);
        let _ = limiter.check(&ann, 1).await;
        assert!(limiter.try_acquire(&ann, 1).await.is_err());
        limiter.penalize(&ann, 1).await.expect("memory");
        #[cfg(feature = "blocking")]
        {
            let blocking = tower_sluice::blocking::Limiter::new(two_a_minute(), memory());
            assert!(blocking.try_acquire(&ann, 2).is_ok());
            let _ = blocking.check(&ann, 1);
        }
    });
    let (allowed, denied) = if cfg!(feature = "blocking") {
        (3, 2)
    } else {
        (2, 1)
    };
    assert_counted(
        &lines,
        &[
            &format!("sluice_decisions_total{{policy=\"api\",outcome=\"allowed\"}} {allowed}"),
            &format!("sluice_decisions_total{{policy=\"api\",outcome=\"denied\"}} {denied}"),
        ],
    );
}

/// The number of decisions, by outcome.
fn outcomes(run: impl AsyncFnOnce()) -> Vec<String> {
    let lines = counted(run);
    let outcome = |line: &String| {
        let rest = line.strip_prefix("sluice_decisions_total{policy=\"api\",outcome=\"")?;
        Some(rest.replace("\"}", ""))
    };
    let mut outcomes: Vec<_> = lines.iter().filter_map(outcome).collect();
    outcomes.sort_unstable();
    outcomes
}

type Limit = RateLimitLayer<Global, Remote, Cost, FailurePolicy>;

/// Compares the counters of three requests, of which `policy` allows two, with an immediate and a remote backend.
#[track_caller]
fn assert_outcomes(policy: &Policy, fails: bool, of: impl Fn(Limit) -> Limit, expected: &[&str]) {
    let hurries = |limit: Limit| limit.wait(Duration::from_millis(1));
    for also in [|limit| limit, Limit::refund_on_disconnect, hurries] {
        for remote in Remote::each_kind() {
            let is_near = remote.is_immediate();
            let counted = outcomes(async || {
                if fails {
                    remote.fail(usize::MAX);
                }
                let limit = RateLimitLayer::new(policy.clone(), Global, remote);
                let limit = also(of(limit.on_backend_error(FailurePolicy::FailClosed)));
                let mut service = limit.layer(hello());
                for _ in 0..3 {
                    ask(&mut service, Request::new(())).await;
                }
            });
            assert_eq!(counted, expected, "near: {is_near}");
        }
    }
}

#[test]
fn each_decision_is_counted_once_on_every_backend() {
    let (real, shadow) = (two_a_minute(), two_a_minute().shadow());
    let allow = |limit: Limit| limit.on_backend_error(FailurePolicy::FailOpen);
    let falls_back = |limit: Limit| {
        let local = MemoryBackend::builder().build();
        limit.on_backend_error(FailurePolicy::Fallback(local))
    };
    assert_outcomes(&real, false, |limit| limit, &["allowed 2", "denied 1"]);
    assert_outcomes(&shadow, false, |limit| limit, &["allowed 2", "shadow 1"]);
    assert_outcomes(&real, true, |limit| limit, &["unavailable 3"]);
    assert_outcomes(&shadow, true, |limit| limit, &["passed 3"]);
    for policy in [&real, &shadow] {
        assert_outcomes(policy, true, allow, &["passed 3"]);
    }
    assert_outcomes(&real, true, falls_back, &["allowed 2", "denied 1"]);
    assert_outcomes(&shadow, true, falls_back, &["allowed 2", "shadow 1"]);
}

#[test]
fn nested_layers_count_each_backend_check() {
    let counted = |inner: u64, policy: Policy| {
        outcomes(async || {
            let outer = RateLimitLayer::new(policy, Global, memory());
            let mut service = outer.clone().layer(outer.cost(inner).layer(hello()));
            ask(&mut service, Request::new(())).await;
        })
    };
    assert_eq!(counted(1, two_a_minute()), ["allowed 1"]);
    assert_eq!(counted(2, two_a_minute()), ["allowed 2"]);
    // After a denied part it checks the whole cost, and counts once.
    let minute = Duration::from_secs(60);
    for policy in [
        two_a_minute(),
        Policy::new("api", Quota::sliding_window(2, minute)),
    ] {
        assert_eq!(counted(3, policy), ["allowed 1", "denied 1"]);
    }
}

/// Waits for `number` sleepers, then advances the clock.
async fn pass(clock: &ManualClock, number: usize, span: Duration) {
    while clock.sleepers() < number {
        run_other_tasks().await;
    }
    clock.advance(span);
}

#[test]
fn waits_and_permits_in_use_are_measured() {
    let lines = counted(async || {
        let (clock, second) = (clock(), Duration::from_secs(1));
        let backend = MemoryBackend::builder().clock(clock.clone()).build();
        let policy = Policy::new("api", Quota::per_minute(30).burst(1));
        let layer = RateLimitLayer::new(policy, Global, backend).wait(MaxWait::within(3 * second));
        let mut service = layer.layer(hello());
        ask(&mut service, Request::new(())).await;
        tokio::join!(
            ask(&mut service, Request::new(())),
            pass(&clock, 1, 2 * second)
        );

        let waits = Policy::new("mails", Quota::per_minute(30).burst(1));
        let backend = MemoryBackend::builder().clock(clock.clone()).build();
        let (limiter, ann) = (Limiter::new(waits, backend), Key::from("ann"));
        assert!(limiter.acquire(&ann, 1, 3 * second).await.is_ok());
        let (second_one, ()) = tokio::join!(
            limiter.acquire(&ann, 1, 3 * second),
            pass(&clock, 1, 2 * second)
        );
        assert!(second_one.is_ok());

        let memory = MemorySemaphore::builder().clock(clock.clone()).build();
        let permits = SemaphorePolicy::new("exports", 3);
        let semaphore = Semaphore::new(permits.clone(), memory.clone());
        let key = Key::from("global");
        let held = semaphore.try_acquire(&key, 2).await.expect("free");
        let other = semaphore.try_acquire(&key, 1).await.expect("free");
        let layer = SemaphoreLayer::new(permits, Global, memory);
        assert_eq!(
            seen(&mut layer.clone().layer(hello()), Request::new(())).status,
            503
        );
        let mut waits = layer.wait(3 * second).layer(hello());
        tokio::join!(ask(&mut waits, Request::new(())), async {
            run_other_tasks().await;
            clock.advance(second);
            drop(other);
        });
        std::mem::forget(held);
    });
    assert_counted(
        &lines,
        &[
            "sluice_decisions_total{policy=\"api\",outcome=\"allowed\"} 2",
            "sluice_wait_seconds_sum{policy=\"api\"} 2",
            "sluice_wait_seconds_count{policy=\"api\"} 1",
            "sluice_decisions_total{policy=\"mails\",outcome=\"allowed\"} 2",
            "sluice_wait_seconds_sum{policy=\"mails\"} 2",
            "sluice_wait_seconds_count{policy=\"mails\"} 1",
            "sluice_permits_total{permits=\"exports\",outcome=\"denied\"} 1",
            "sluice_permits_total{permits=\"exports\",outcome=\"allowed\"} 1",
            "sluice_permit_wait_seconds_sum{permits=\"exports\"} 1",
            "sluice_permits_in_use{permits=\"exports\"} 2",
        ],
    );
}

#[test]
fn ended_permit_is_not_counted_as_in_use() {
    let lines = counted(async || {
        let memory = MemorySemaphore::builder().clock(clock()).build();
        let limit = SemaphoreLayer::new(SemaphorePolicy::new("exports", 2), Global, memory.clone());
        let answers = tower::service_fn(async |request: Request<()>| match request.uri().path() {
            "/error" => Err("broken"),
            "/panic" => panic!("on purpose"),
            _ => Ok(http::Response::new(String::new())),
        });
        for path in ["/", "/error", "/panic"] {
            let mut request = Request::new(());
            *request.uri_mut() = path.parse().expect("a path");
            let mut service = limit.clone().layer(answers);
            let ready = service.ready().await.expect("ready");
            let _ = AssertUnwindSafe(ready.call(request)).catch_unwind().await;
        }
        let mut service = limit.layer(hello());
        drop(service.ready().await.expect("ready").call(Request::new(())));

        let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 2), memory);
        let key = Key::from("global");
        drop(semaphore.try_acquire(&key, 2).await.expect("free"));
        let held = semaphore.try_acquire(&key, 1).await.expect("free");
        assert!(held.release().await.expect("memory"));
        let held = semaphore.try_acquire(&key, 1).await.expect("free");
        drop(held.release()); // never polled
        drop(semaphore.try_acquire(&key, 0).await.expect("nothing"));
        assert!(semaphore.try_acquire(&key, 3).await.is_err());
    });
    assert_counted(
        &lines,
        &[
            "sluice_permits_total{permits=\"exports\",outcome=\"allowed\"} 4",
            "sluice_permits_in_use{permits=\"exports\"} 0",
        ],
    );
}

#[test]
fn evictions_and_lost_leases_are_counted() {
    let lines = counted(async || {
        let backend = MemoryBackend::builder()
            .max_keys(std::num::NonZero::<usize>::MIN)
            .build();
        let limiter = Limiter::new(two_a_minute(), backend.clone());
        for key in 0..3_u64 {
            let _ = limiter.check_now(&Key::from(key), 1);
        }
        assert_eq!(backend.evictions(), 2);

        let clock = clock();
        let memory = MemorySemaphore::builder()
            .clock(clock.clone())
            .leases_end()
            .build();
        let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 1), memory);
        let held = semaphore.try_acquire(&Key::from("ann"), 1).await;
        let held = held.expect("free");
        run_other_tasks().await;
        clock.advance(Duration::from_secs(30));
        held.lost().await;
    });
    assert_counted(
        &lines,
        &[
            "sluice_evictions_total 2",
            "sluice_permits_lost_total{permits=\"exports\"} 1",
            "sluice_permits_in_use{permits=\"exports\"} 0",
        ],
    );
}

#[cfg(feature = "redis")]
#[test]
fn redis_outage_and_commands_are_counted() {
    use tower_sluice::{RedisBackend, RedisSemaphore};

    let lines = counted(async || {
        let mut server = servers::redis::RedisServer::start();
        let redis = RedisBackend::connect(&server.url())
            .await
            .expect("the server runs");
        let layer = RateLimitLayer::new(two_a_minute(), Global, redis.clone());
        let mut deny = layer
            .clone()
            .on_backend_error(FailurePolicy::FailClosed)
            .layer(hello());
        let mut allow = layer
            .on_backend_error(FailurePolicy::FailOpen)
            .layer(hello());
        assert_eq!(ask(&mut deny, Request::new(())).await.status, 200);

        server.kill9();
        for _ in 0..5 {
            assert_eq!(ask(&mut deny, Request::new(())).await.status, 503);
        }
        assert_eq!(ask(&mut allow, Request::new(())).await.status, 200);
        let semaphore = RedisSemaphore::new(&redis);
        let layer = SemaphoreLayer::new(SemaphorePolicy::new("exports", 1), Global, semaphore);
        let mut allow = layer
            .clone()
            .on_backend_error(FailurePolicy::FailOpen)
            .layer(hello());
        assert_eq!(ask(&mut allow, Request::new(())).await.status, 200);
        let mut deny = layer
            .on_backend_error(FailurePolicy::FailClosed)
            .layer(hello());
        assert_eq!(ask(&mut deny, Request::new(())).await.status, 503);
        let lost = redis.context().stats().failed_background_tasks;
        assert_eq!(lost, 0);
        std::mem::forget(redis); // its circuit stays open until the end
    });
    assert_counted(
        &lines,
        &[
            "sluice_backend_seconds_count{backend=\"redis\"} 1",
            "sluice_decisions_total{policy=\"api\",outcome=\"allowed\"} 1",
            "sluice_decisions_total{policy=\"api\",outcome=\"unavailable\"} 5",
            "sluice_decisions_total{policy=\"api\",outcome=\"passed\"} 1",
            "sluice_permits_total{permits=\"exports\",outcome=\"passed\"} 1",
            "sluice_permits_total{permits=\"exports\",outcome=\"unavailable\"} 1",
            "sluice_open_circuits 1",
        ],
    );
    let failures = "sluice_backend_failures_total{backend=\"redis\",kind=";
    let failures = lines.iter().filter_map(|line| line.strip_prefix(failures));
    let counts: u64 = failures
        .filter_map(|line| line.split_once(' ')?.1.parse::<u64>().ok())
        .sum();
    assert!(counts >= 8, "{counts}: {lines:#?}");
}
