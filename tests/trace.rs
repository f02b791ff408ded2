//! The log events of rejections, in a process of its own: the interest in an event is cached for all threads.
#![cfg(feature = "tracing")]

#[allow(dead_code, reason = "for all tests of the layer")]
#[path = "limit/support.rs"]
mod support;
#[cfg(all(unix, feature = "axum"))]
#[path = "support/unix_server.rs"]
mod unix_server;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use http::Request;
use tower::Layer;
use tower_sluice::key::{Header, Networks, PeerAddr, TrustedProxies};
use tower_sluice::{
    ClientIp, Global, Key, Limiter, MemorySemaphore, PeerIp, RateLimitLayer, Semaphore,
    SemaphoreLayer, SemaphorePolicy,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{hello, memory, seen, two_a_minute};

/// Stores every event as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_sluice")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("no panic").push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The events during `run`, while no other test runs.
fn reported(run: impl FnOnce()) -> Vec<String> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), run);
    lines.0.lock().expect("no panic").clone()
}

#[test]
fn misconfigured_server_is_logged_once_with_the_remedy() {
    let proxies = TrustedProxies::loopback_and_private();
    let client = ClientIp::new().forwarded_for(proxies);
    let lines = reported(|| {
        let mut service = RateLimitLayer::new(two_a_minute(), client, memory()).layer(hello());
        let mut request = Request::new(());
        for _ in 0..2 {
            let seen = seen(&mut service, request);
            assert_eq!(seen.status, 500);
            let body = r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#;
            assert_eq!(seen.body, body);
            // A header does not replace it.
            request = Request::builder()
                .header("x-forwarded-for", "1.2.3.4")
                .body(())
                .expect("valid");
        }
        let mut service =
            RateLimitLayer::new(two_a_minute(), PeerIp::new(), memory()).layer(hello());
        assert_eq!(seen(&mut service, Request::new(())).status, 500);
    });
    let at = |level: &str| lines.iter().filter(|line| line.starts_with(level)).count();
    assert_eq!((at("ERROR"), at("DEBUG")), (1, 2), "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| line.contains("into_make_service_with_connect_info")),
        "{lines:?}"
    );
    #[cfg(all(unix, feature = "axum"))]
    on_a_unix_socket_the_log_names_a_remedy_that_works();
}

/// Part of the test above, because the fault is the same and is an ERROR once.
#[cfg(all(unix, feature = "axum"))]
fn on_a_unix_socket_the_log_names_a_remedy_that_works() {
    use axum::{Router, routing::get};

    let status = |client: ClientIp| {
        let limit = RateLimitLayer::new(two_a_minute(), client, memory());
        let app = Router::new()
            .route("/", get(|| async { "ok" }))
            .layer(limit);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = unix_server::UnixServer::start(app);
            server.status("x-forwarded-for", "203.0.113.7").await
        })
    };
    let proxies = Networks::loopback_and_private();
    let lines = reported(|| assert_eq!(status(ClientIp::new().forwarded_for(proxies)), 500));
    let remedy = "behind a proxy on a Unix socket use `ClientIp` with `TrustedProxies::hops(1)`";
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(remedy), "{lines:?}");
    let followed = ClientIp::new().forwarded_for(TrustedProxies::hops(1));
    assert_eq!(reported(|| assert_eq!(status(followed), 200)), [""; 0]);
}

#[test]
fn limit_that_applies_to_no_request_is_logged() {
    let lines = reported(|| {
        let key = tower_sluice::key_fn(|_| Err(tower_sluice::key::KeyError::server("no tenant")));
        let limit = RateLimitLayer::new(two_a_minute(), key, memory()).skip_unkeyed();
        let mut service = limit.layer(hello());
        for _ in 0..2 {
            assert_eq!(seen(&mut service, Request::new(())).status, 200);
        }
        // Caused by the client.
        let limit = RateLimitLayer::new(two_a_minute(), Header::new("x-api-key"), memory());
        let mut service = limit.skip_unkeyed().layer(hello());
        assert_eq!(seen(&mut service, Request::new(())).status, 200);
    });
    let tenants = lines
        .iter()
        .filter(|line| line.contains("no tenant"))
        .count();
    assert_eq!(tenants, 1, "{lines:?}");
    assert!(
        lines.iter().all(|line| line.starts_with("ERROR")),
        "{lines:?}"
    );
}

#[test]
fn each_kind_of_fault_is_logged_once() {
    let lines = reported(|| {
        let key = tower_sluice::key::Extension::<u64>::new();
        let permits = SemaphorePolicy::new("exports", 1);
        let limit = SemaphoreLayer::new(permits, key, MemorySemaphore::new()).skip_unkeyed();
        let passed = seen(&mut limit.layer(hello()), Request::new(()));
        assert_eq!(passed.status, 200, "no request is limited");
        let mut service = RateLimitLayer::new(two_a_minute(), key, memory()).layer(hello());
        assert_eq!(seen(&mut service, Request::new(())).status, 500);
    });
    assert!(
        lines[0].starts_with("ERROR") && lines[0].contains("no `u64`"),
        "{lines:?}"
    );
    assert!(
        lines.len() == 2 && lines[1].starts_with("DEBUG"),
        "{lines:?}"
    );
}

#[test]
fn rejections_are_logged_without_keys() {
    let lines = reported(|| {
        let limit = RateLimitLayer::new(two_a_minute(), Header::new("x-api-key"), memory());
        let mut service = limit.layer(hello());
        let request = || {
            Request::builder()
                .header("x-api-key", "hunter2")
                .body(())
                .expect("valid")
        };
        for _ in 0..3 {
            seen(&mut service, request());
        }
        seen(&mut service, Request::new(()));
    });
    let expected = [
        "DEBUG message=request rejected: over the limit policy=\"api\"",
        "DEBUG message=request without a key error=header `x-api-key` is missing",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn shadow_denials_of_a_semaphore_are_logged_as_allowed() {
    let lines = reported(|| {
        let policy = SemaphorePolicy::new("exports", 1).shadow();
        let limit = SemaphoreLayer::new(policy, Header::new("x-user"), MemorySemaphore::new());
        let mut service = limit.weight(2).layer(hello());
        let request = Request::builder().header("x-user", "ann").body(());
        assert_eq!(seen(&mut service, request.expect("valid")).status, 200);
    });
    assert_eq!(
        lines,
        [
            "DEBUG message=request allowed by a shadow policy: too many requests in flight permits=\"exports\""
        ]
    );
}

#[test]
fn rejections_of_a_blocked_key_are_logged_as_such() {
    let lines = reported(|| {
        let backend = memory();
        let limiter = Limiter::new(two_a_minute(), backend.clone());
        let minute = std::time::Duration::from_secs(60);
        let ann = Key::secret("ann");
        let Some(Ok(())) = limiter.block(&ann, minute).now_or_never() else {
            unreachable!("memory answers at once");
        };
        let limit = RateLimitLayer::new(two_a_minute(), Header::new("x-user"), backend);
        let rejected = seen(&mut limit.layer(hello()), crate::support::from("ann"));
        assert_eq!(rejected.status, 429);
    });
    assert_eq!(
        lines,
        ["DEBUG message=request rejected: the key is blocked policy=\"api\""]
    );
}

#[test]
fn shadow_denials_are_logged_as_allowed() {
    let lines = reported(|| {
        let policy = two_a_minute().shadow();
        let limit = RateLimitLayer::new(policy, Header::new("x-user"), memory());
        let mut service = limit.layer(hello());
        for _ in 0..3 {
            seen(&mut service, crate::support::from("ann"));
        }
        seen(&mut service, Request::new(()));
    });
    let expected = [
        "DEBUG message=request allowed by a shadow policy: over the limit policy=\"api\"",
        "DEBUG message=request without a key error=header `x-user` is missing",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn log_of_an_unkeyed_request_omits_client_data() {
    let proxies = TrustedProxies::loopback_and_private();
    let lines = reported(|| {
        let limit = RateLimitLayer::new(
            two_a_minute(),
            ClientIp::new().forwarded_for(proxies),
            memory(),
        );
        let mut service = limit.layer(hello());
        let peer = PeerAddr(([10, 0, 0, 1], 4711).into());
        let request = Request::builder().extension(peer);
        let request = request.header("x-forwarded-for", "hunter2").body(());
        assert_eq!(seen(&mut service, request.expect("valid")).status, 400);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("DEBUG message=request without a key"),
        "{lines:?}"
    );
    assert!(
        lines[0].contains("`x-forwarded-for`") && !lines[0].contains("hunter2"),
        "{lines:?}"
    );
}

#[cfg(feature = "redis")]
#[test]
fn failures_are_logged_each_time_and_the_circuit_once() {
    use tower::ServiceExt;
    use tower_sluice::{FailurePolicy, Global, RedisBackend};

    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let url = format!("redis://{}/", port.expect("a free port"));
    let lines = reported(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let backend = RedisBackend::connect_lazy(url).expect("a URL");
            let limit = RateLimitLayer::new(two_a_minute(), Global, backend)
                .on_backend_error(FailurePolicy::FailOpen);
            let service = limit.layer(hello());
            for _ in 0..6 {
                let answer = service.clone().oneshot(Request::new(())).await;
                assert_eq!(answer.expect("infallible").status(), 200);
            }
        });
    });
    let each = "DEBUG message=the backend failed";
    let count = lines.iter().filter(|line| line.starts_with(each)).count();
    assert_eq!(count, 6, "{lines:?}");
    let circuit = lines.iter().filter(|line| line.starts_with("WARN")).count();
    assert_eq!((circuit, lines.len()), (1, 7), "{lines:?}");
}

#[test]
fn denied_awaited_and_lost_permits_are_logged() {
    let clock = crate::support::clock();
    let memory = MemorySemaphore::builder()
        .clock(clock.clone())
        .leases_end()
        .build();
    let permits = SemaphorePolicy::new("exports", 1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let lines = reported(|| {
        runtime.block_on(async {
            let semaphore = Semaphore::new(permits.clone(), memory.clone());
            let key = Key::from("global");
            let held = semaphore.try_acquire(&key, 1).await.expect("free");
            let limit = SemaphoreLayer::new(permits, Global, memory);
            let mut service = limit.clone().layer(hello());
            assert_eq!(seen(&mut service, Request::new(())).status, 503);
            let mut waits = limit.wait(crate::support::TIMEOUT).layer(hello());
            let wait = async { crate::support::ask(&mut waits, Request::new(())).await };
            let later = async {
                crate::support::run_other_tasks().await;
                clock.advance(std::time::Duration::from_secs(2));
                drop(held);
            };
            let (waited, ()) = tokio::join!(wait, later);
            assert_eq!(waited.status, 200);
            let held = semaphore.try_acquire(&key, 1).await.expect("free");
            crate::support::run_other_tasks().await;
            clock.advance(std::time::Duration::from_secs(30));
            held.lost().await;
        });
    });
    assert_eq!(
        lines,
        [
            "DEBUG message=request rejected: too many in flight permits=\"exports\"",
            "DEBUG message=permit acquired after a wait waited=2s permits=\"exports\"",
            "WARN message=permit lost: its lease could not be renewed permits=\"exports\"",
        ]
    );
}
