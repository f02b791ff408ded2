//! A real gRPC client receives the details of a rejection and uses them.

use std::time::{Duration, Instant};

use http::Request;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use tower::ServiceExt;
use tower_sluice::{
    FailurePolicy, Global, Key, MemoryBackend, MemorySemaphore, PeerIp, Policy, Quota,
    RateLimitLayer, Semaphore, SemaphoreLayer, SemaphorePolicy,
};

use crate::grpc::{channel, health, incoming};
use crate::remote::Remote;
use crate::support::{TIMEOUT, memory};

/// Serves health checks behind a layer around the whole server, and connects a client.
macro_rules! served {
    ($layer:expr) => {{
        let (incoming, address) = incoming();
        let server = Server::builder().layer($layer).add_service(health());
        tokio::spawn(server.serve_with_incoming(incoming));
        channel(address, 1).await
    }};
}

async fn check(channel: &Channel) -> Result<(), Status> {
    let mut client = HealthClient::new(channel.clone());
    client
        .check(HealthCheckRequest::default())
        .await
        .map(|_| ())
}

fn pushback(status: &Status) -> &str {
    let value = status.metadata().get("grpc-retry-pushback-ms");
    value.expect("a pushback").to_str().expect("ASCII")
}

/// The subjects and descriptions of the quota violations.
fn used_up(status: &Status) -> Vec<(String, String)> {
    let failure = status.get_details_quota_failure();
    let violations = failure
        .into_iter()
        .flat_map(|failure| failure.violations)
        .map(|violation| (violation.subject, violation.description));
    violations.collect()
}

fn quota(name: &str) -> (String, String) {
    (name.to_owned(), "quota exceeded".to_owned())
}

fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

#[tokio::test]
async fn grpc_client_decodes_retry_info_and_quota_failure() {
    let day = Duration::from_secs(86_400);
    let policy = Policy::new("burst", Quota::per_second(2).burst(3))
        .and("daily", Quota::fixed_window(1_000, day))
        .and("100% \"of\" it", Quota::per_minute(3));
    let channel = served!(RateLimitLayer::new(policy, PeerIp::new(), memory()).cost(3));
    check(&channel).await.expect("allowed");
    let status = check(&channel).await.expect_err("rejected");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "rate limit exceeded");
    assert_eq!(used_up(&status), [quota("burst"), quota("100% \"of\" it")]);
    // The longest wait of both quotas: three tokens at three a minute.
    assert_eq!(retry_delay(&status), Some(Duration::from_secs(60)));
    assert_eq!(pushback(&status), "60000");
    let details = status.check_error_details().expect("well formed");
    assert!(details.bad_request().is_none() && details.error_info().is_none());
}

#[tokio::test]
async fn waits_are_exact_in_the_details_and_whole_milliseconds_in_the_pushback() {
    // 3 tokens a second: one token takes 333 333.3 µs.
    let policy = Policy::new("thirds", Quota::per_second(3).burst(1));
    let channel = served!(RateLimitLayer::new(policy, PeerIp::new(), memory()));
    check(&channel).await.expect("allowed");
    let status = check(&channel).await.expect_err("rejected");
    assert_eq!(retry_delay(&status), Some(Duration::from_micros(333_334)));
    assert_eq!(pushback(&status), "334");
}

#[tokio::test]
async fn cost_above_the_limit_is_not_retryable() {
    let policy = Policy::new("small", Quota::per_second(3));
    let channel = served!(RateLimitLayer::new(policy, PeerIp::new(), memory()).cost(4));
    let status = check(&channel).await.expect_err("rejected");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(used_up(&status), [quota("small")]);
    assert!(status.get_details_retry_info().is_none());
    assert_eq!(pushback(&status), "-1");
}

#[tokio::test]
async fn used_up_total_is_not_retryable() {
    let policy = Policy::new("trial", Quota::total(1));
    let channel = served!(RateLimitLayer::new(policy, PeerIp::new(), memory()));
    check(&channel).await.expect("allowed");
    let status = check(&channel).await.expect_err("rejected");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(used_up(&status), [quota("trial")]);
    assert!(status.get_details_retry_info().is_none());
    assert_eq!(pushback(&status), "-1");
}

/// The clock is at 08:00 UTC. The day ends at midnight in Zurich, 23:00 UTC.
#[cfg(feature = "calendar")]
#[tokio::test]
async fn used_up_day_of_a_calendar_is_retryable_at_its_end() {
    let day = Quota::calendar_window(1, tower_sluice::quota::Every::Day, "Europe/Zurich");
    let layer = RateLimitLayer::new(Policy::new("day", day), PeerIp::new(), memory());
    let channel = served!(layer);
    check(&channel).await.expect("allowed");
    let status = check(&channel).await.expect_err("rejected");
    assert_eq!(used_up(&status), [quota("day")]);
    assert_eq!(retry_delay(&status), Some(Duration::from_secs(15 * 3_600)));
    assert_eq!(pushback(&status), "54000000");
}

/// Calls until it is allowed, waits between calls as reported, and returns the number of rejections.
async fn call_until_allowed(channel: &Channel) -> usize {
    let mut rejected = 0;
    while let Err(status) = check(channel).await {
        assert_eq!(status.code(), Code::ResourceExhausted);
        rejected += 1;
        tokio::time::sleep(retry_delay(&status).expect("a wait")).await;
    }
    rejected
}

/// In real time on purpose: clients rely on it.
#[tokio::test]
async fn client_that_obeys_retry_after_is_allowed() {
    let policy = Policy::new("api", Quota::per_second(4).burst(1));
    let limit = RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new());
    let channel = served!(limit);
    let start = Instant::now();
    assert_eq!(call_until_allowed(&channel).await, 0);
    for _ in 0..2 {
        assert_eq!(call_until_allowed(&channel).await, 1, "once is enough");
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(took < TIMEOUT, "{took:?}");
}

#[tokio::test]
async fn jitter_delays_the_reported_retry_after() {
    let policy = Policy::new("api", Quota::per_minute(1));
    let limit = RateLimitLayer::new(policy, PeerIp::new(), memory());
    let channel = served!(limit.retry_after_jitter(Duration::from_secs(3_600)));
    check(&channel).await.expect("allowed");
    let mut reported = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let status = check(&channel).await.expect_err("rejected");
        let delay = retry_delay(&status).expect("a wait");
        assert!(delay >= Duration::from_secs(60) && delay <= Duration::from_secs(3_660));
        let millis = delay.as_micros().div_ceil(1_000).to_string();
        assert_eq!(pushback(&status), millis);
        reported.insert(delay);
    }
    assert!(reported.len() > 15, "{reported:?}");
}

#[tokio::test]
async fn fail_closed_answers_503_with_retry_after_1() {
    let policy = Policy::new("api", Quota::per_minute(1));
    let limit = RateLimitLayer::new(policy, PeerIp::new(), Remote::failing());
    let channel = served!(limit.on_backend_error(FailurePolicy::FailClosed));
    let status = check(&channel).await.expect_err("rejected");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "service unavailable");
    assert_eq!(
        (pushback(&status), used_up(&status)),
        ("1000", Vec::new()),
        "{status:?}"
    );
    assert_eq!(retry_delay(&status), Some(Duration::from_secs(1)));
}

#[tokio::test]
async fn keyed_capacity_is_resource_exhausted_and_global_capacity_unavailable() {
    let permits = || SemaphorePolicy::new("calls", 1);
    let description = "too many requests in flight";
    let limit = SemaphoreLayer::new(permits(), PeerIp::new(), MemorySemaphore::new());
    let channel = served!(limit.weight(2)); // above the capacity
    let status = check(&channel).await.expect_err("rejected");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), description);
    let violation = ("calls".to_owned(), description.to_owned());
    assert_eq!(
        (pushback(&status), used_up(&status)),
        ("-1", vec![violation])
    );

    let memory = MemorySemaphore::new();
    let semaphore = Semaphore::new(permits(), memory.clone());
    let held = semaphore.try_acquire(&Key::from("global"), 1).await;
    let _held = held.expect("free");
    let channel = served!(SemaphoreLayer::new(permits(), Global, memory));
    let status = check(&channel).await.expect_err("rejected");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "service unavailable");
    assert_eq!((pushback(&status), used_up(&status)), ("1000", Vec::new()));
}

/// Trailers-only: one head, without a field that an HTTP proxy could mistake for a rate limit response.
#[tokio::test]
async fn grpc_responses_have_no_http_rate_limit_fields() {
    let policy = Policy::new("api", Quota::per_minute(1));
    let limit = RateLimitLayer::new(policy, PeerIp::new(), memory());
    let channel = served!(limit);
    for expected in [None, Some("8")] {
        let request = Request::post("http://any/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(http_body_util::Full::from(
                &b"\0\0\0\0\0"[..],
            )));
        let call = channel.clone().oneshot(request.expect("a valid head"));
        let response = call.await.expect("an answer");
        let (head, body) = response.into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["content-type"], "application/grpc");
        let status = head.headers.get("grpc-status");
        assert_eq!(
            status.map(|status| status.to_str().expect("ASCII")),
            expected
        );
        for name in head.headers.keys() {
            let name = name.as_str();
            assert!(
                !name.contains("ratelimit") && name != "retry-after",
                "{name}"
            );
        }
        let ends_at_once = http_body::Body::is_end_stream(&body);
        assert_eq!(ends_at_once, expected.is_some(), "END_STREAM with the head");
    }
}
