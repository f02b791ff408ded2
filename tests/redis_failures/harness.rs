//! Checks that hold during every failure: no hang, no panic, and requests follow their failure policy.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt};
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::backend::{Backend, BackendErrorKind};
use tower_sluice::key::{KeyError, KeyExtractor};
use tower_sluice::limiter::HandleFailure;
use tower_sluice::{
    Cost, FailurePolicy, Key, Limiter, MemoryBackend, Policy, Quota, RateLimitLayer, RedisBackend,
};

pub(crate) type Redis = Limiter<RedisBackend>;

/// The longest time of a test. A test that hangs fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// The time limit of a check unless a test sets another.
pub(crate) const LIMIT: Duration = Duration::from_millis(250);

/// The delay that a busy machine may add to any documented time.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

/// Panics outside of tests, in the background tasks of the backend.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a test, which must neither hang nor cause a panic.
pub(crate) async fn guarded<F: Future<Output = ()>>(test: F) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_test = |at: &std::panic::Location<'_>| at.file().starts_with("tests/");
            if !info.location().is_some_and(is_test) {
                let mut panics = PANICS.lock().unwrap_or_else(|lock| lock.into_inner());
                panics.push(info.to_string());
            }
            usual(info);
        }));
    });
    timeout(TIMEOUT, test).await.expect("nothing hangs");
    let panics = PANICS.lock().unwrap_or_else(|lock| lock.into_inner());
    assert!(panics.is_empty(), "{panics:#?}");
}

/// A backend without a deny cache: Redis decides each check.
pub(crate) fn uncached_builder() -> RedisBuilder {
    RedisBackend::builder().deny_cache(Duration::ZERO)
}

/// A bucket of `limit` tokens that does not refill during a test.
pub(crate) fn tokens(name: &str, limit: u64) -> Policy {
    Policy::new(name, Quota::per_hour(1).burst(limit))
}

/// Limiters whose replies are distinguishable: each has its own limit.
pub(crate) fn distinct(backend: &RedisBackend, count: u64) -> Vec<Redis> {
    let one = |i| Limiter::new(tokens(&format!("p{i}"), 1000 + i), backend.clone());
    (0..count).map(one).collect()
}

pub(crate) fn limit_of(limiter: &Redis) -> u64 {
    limiter.policy().quotas()[0].quota().limit()
}

/// The spent tokens that an allowed check reports. The reply must belong to this limiter.
pub(crate) async fn check(limiter: &Redis, key: &Key) -> Result<u64, BackendErrorKind> {
    let reply = limiter.check(key, 1).await;
    let reply = reply.map_err(|why| why.kind().clone())?;
    let snapshot = reply.decision.snapshot();
    assert_eq!(
        snapshot.limit(),
        limit_of(limiter),
        "the reply belongs to another request"
    );
    assert_eq!(reply.decision.is_allowed(), reply.receipt.is_some());
    Ok(snapshot.limit() - snapshot.remaining())
}

/// The error of a check, which must arrive in time.
pub(crate) async fn check_error(limiter: &Redis, key: &Key) -> BackendErrorKind {
    let asked = Instant::now();
    let why = check(limiter, key).await.expect_err("Redis cannot answer");
    let took = asked.elapsed();
    assert!(took < LIMIT + SLACK, "{why:?} after {took:?}");
    why
}

/// The spent tokens, read over a working connection.
pub(crate) async fn spent(limiter: &Redis, key: &Key) -> u64 {
    let snapshot = limiter.peek(key).await.expect("a working connection");
    assert_eq!(
        snapshot.limit(),
        limit_of(limiter),
        "the reply belongs to another request"
    );
    snapshot.limit() - snapshot.remaining()
}

/// Checks until Redis decides again, and limits the time that it takes after an outage of length `outage`. The circuit
/// probes after one second, then after twice as long each time.
pub(crate) async fn wait_for_recovery(limiter: &Redis, key: &Key, outage: Duration, from: &str) {
    let second = Duration::from_secs(1);
    let most = outage.max(second) + second;
    let back = Instant::now();
    while let Err(why) = limiter.check(key, 1).await {
        let took = back.elapsed();
        assert!(took <= most, "{why:?} {took:?} after {from} of {outage:?}");
        sleep(Duration::from_millis(5)).await;
    }
    println!(
        "recovery after {from} of {outage:.2?}: {:.2?}",
        back.elapsed()
    );
}

/// Gives every request this key.
#[derive(Clone, Debug)]
struct Always(Key);

impl<R> KeyExtractor<R> for Always {
    fn key(&self, _: &R) -> Result<Key, KeyError> {
        Ok(self.0.clone())
    }
}

/// A response as a client sees it.
#[derive(Debug)]
struct ClientResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl ClientResponse {
    fn field(&self, name: &str) -> Option<&str> {
        let value = self.headers.get(name)?;
        Some(value.to_str().expect("ASCII"))
    }

    fn has_no_rate_limit_fields(&self) -> bool {
        let mut names = self.headers.keys();
        !names.any(|name| name.as_str().starts_with("ratelimit"))
    }
}

/// The response of a service under a layer to a request that costs all tokens.
async fn request<B, F>(limiter: &Limiter<B>, key: &Key, choice: F) -> ClientResponse
where
    B: Backend,
    F: HandleFailure<B::Error> + Send + Sync + 'static,
{
    let policy = limiter.policy().clone();
    let cost = Cost::new(policy.quotas()[0].quota().limit());
    let layer = RateLimitLayer::new(policy, Always(key.clone()), limiter.backend().clone())
        .cost(cost)
        .on_backend_error(choice);
    let hello = |_: Request<()>| async { Ok::<_, Infallible>(Response::new(Full::from("hello"))) };
    let service = layer.layer(tower::service_fn(hello));
    let response = service.oneshot(Request::new(())).await.expect("no error");
    let (head, body) = response.into_parts();
    let body: Bytes = body.collect().await.expect("a whole body").to_bytes();
    ClientResponse {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.into()).expect("text"),
    }
}

/// While Redis cannot decide for `key`, requests follow each failure policy.
pub(crate) async fn assert_each_failure_policy(limiter: &Redis, key: &Key) {
    let asked = Instant::now();
    tokio::join!(
        assert_fails_open(limiter, key),
        assert_fails_closed(limiter, key),
        assert_falls_back(limiter, key),
    );
    let took = asked.elapsed();
    assert!(took < 2 * LIMIT + SLACK, "{took:?}");
}

/// Fail open: a request that Redis cannot decide is allowed and not counted.
pub(crate) async fn assert_fails_open(limiter: &Redis, key: &Key) {
    let seen = request(limiter, key, FailurePolicy::FailOpen).await;
    assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "hello"));
    assert!(seen.has_no_rate_limit_fields(), "{seen:?}");
}

/// Fail closed: a request that Redis cannot decide is rejected, without the reason.
pub(crate) async fn assert_fails_closed(limiter: &Redis, key: &Key) {
    let seen = request(limiter, key, FailurePolicy::FailClosed).await;
    assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(seen.field("retry-after"), Some("1"));
    assert_eq!(seen.field("cache-control"), Some("no-store"));
    assert!(seen.has_no_rate_limit_fields(), "{seen:?}");
    let causes = ["redis", "127.0.0.1", "circuit", "time", "connection"];
    let body = seen.body.to_lowercase();
    assert!(!causes.iter().any(|cause| body.contains(cause)), "{body}");
}

/// Fallback: requests that Redis cannot decide are decided in memory, by the same policy. All tokens are allowed, then
/// none.
async fn assert_falls_back(limiter: &Redis, key: &Key) {
    let fallback = FailurePolicy::Fallback(MemoryBackend::new());
    for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
        let seen = request(limiter, key, fallback.clone()).await;
        assert_eq!(seen.status, status);
        let reported = seen.field("ratelimit").expect("a decision");
        let none_left = format!("\"{}\";r=0", limiter.policy().name());
        assert!(reported.starts_with(&none_left), "{reported}");
    }
}

/// Redis decides, whatever the failure policy is. Nothing must be spent of `key`.
pub(crate) async fn redis_decides(limiter: &Redis, key: &Key) {
    let first = request(limiter, key, FailurePolicy::FailClosed).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    let fallback = FailurePolicy::Fallback(MemoryBackend::new());
    for choice in [FailurePolicy::FailOpen, FailurePolicy::FailClosed, fallback] {
        let next = request(limiter, key, choice).await;
        assert_eq!(next.status, StatusCode::TOO_MANY_REQUESTS, "{next:?}");
    }
}
