//! What all failures have in common: nothing hangs, nothing panics, and requests get what was chosen for them.

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

/// No test takes longer: what hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long a check may take unless a test says otherwise.
pub(crate) const LIMIT: Duration = Duration::from_millis(250);

/// What a busy machine may add to any time that is promised.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

/// Panics outside of tests: in the backend's own tasks, where nobody else would notice.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a test that must neither hang nor make anything panic.
pub(crate) async fn guarded<F: Future<Output = ()>>(test: F) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = |at: &std::panic::Location<'_>| at.file().starts_with("tests/");
            if !info.location().is_some_and(ours) {
                let mut panics = PANICS.lock().unwrap_or_else(|lock| lock.into_inner());
                panics.push(info.to_string());
            }
            usual(info);
        }));
    });
    timeout(PATIENCE, test).await.expect("nothing hangs");
    let panics = PANICS.lock().unwrap_or_else(|lock| lock.into_inner());
    assert!(panics.is_empty(), "{panics:#?}");
}

/// A backend that remembers no denials: each check is one that Redis answers, or nobody.
pub(crate) fn asking() -> RedisBuilder {
    RedisBackend::builder().deny_cache(Duration::ZERO)
}

/// A bucket of so many tokens; none comes back while a test runs.
pub(crate) fn tokens(name: &str, limit: u64) -> Policy {
    Policy::new(name, Quota::per_hour(1).burst(limit))
}

/// Limiters whose answers cannot be taken for one another's: each has a limit of its own.
pub(crate) fn distinct(backend: &RedisBackend, count: u64) -> Vec<Redis> {
    let one = |i| Limiter::new(tokens(&format!("p{i}"), 1000 + i), backend.clone());
    (0..count).map(one).collect()
}

pub(crate) fn limit_of(limiter: &Redis) -> u64 {
    limiter.policy().quotas()[0].quota().limit()
}

/// What a check that succeeds says is spent. The answer must be one to this limiter.
pub(crate) async fn check(limiter: &Redis, key: &Key) -> Result<u64, BackendErrorKind> {
    let reply = limiter.check(key, 1).await;
    let reply = reply.map_err(|why| why.kind().clone())?;
    let snapshot = reply.decision.snapshot();
    assert_eq!(snapshot.limit(), limit_of(limiter), "another's answer");
    assert_eq!(reply.decision.is_allowed(), reply.receipt.is_some());
    Ok(snapshot.limit() - snapshot.remaining())
}

/// Why a check got no answer, which it must learn in time.
pub(crate) async fn fails(limiter: &Redis, key: &Key) -> BackendErrorKind {
    let asked = Instant::now();
    let why = check(limiter, key).await.expect_err("Redis cannot answer");
    let took = asked.elapsed();
    assert!(took < LIMIT + SLACK, "{why:?} after {took:?}");
    why
}

/// What is spent, as somebody sees it whose way to Redis is clear.
pub(crate) async fn spent(limiter: &Redis, key: &Key) -> u64 {
    let snapshot = limiter.peek(key).await.expect("a clear way");
    assert_eq!(snapshot.limit(), limit_of(limiter), "another's answer");
    snapshot.limit() - snapshot.remaining()
}

/// Checks until Redis decides again. Says and judges how long that took, after an outage as long as `outage`: the
/// circuit probes after one second, then after twice as long each time.
pub(crate) async fn recovers(limiter: &Redis, key: &Key, outage: Duration, from: &str) {
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

/// Takes every request for one of this key.
#[derive(Clone, Debug)]
struct Always(Key);

impl<R> KeyExtractor<R> for Always {
    fn key(&self, _: &R) -> Result<Key, KeyError> {
        Ok(self.0.clone())
    }
}

/// A response as a client sees it.
#[derive(Debug)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        let value = self.headers.get(name)?;
        Some(value.to_str().expect("ASCII"))
    }

    fn says_nothing_of_limits(&self) -> bool {
        let mut names = self.headers.keys();
        !names.any(|name| name.as_str().starts_with("ratelimit"))
    }
}

/// What a request that costs all there is gets from a service under a layer.
async fn request<B, F>(limiter: &Limiter<B>, key: &Key, choice: F) -> Seen
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
    Seen {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.into()).expect("text"),
    }
}

/// While Redis cannot answer for `key`, requests get what was chosen for them.
pub(crate) async fn each_choice_applies(limiter: &Redis, key: &Key) {
    let asked = Instant::now();
    tokio::join!(
        allowed_by_choice(limiter, key),
        denied_by_choice(limiter, key),
        decided_by_choice(limiter, key),
    );
    let took = asked.elapsed();
    assert!(took < 2 * LIMIT + SLACK, "{took:?}");
}

/// A request that Redis cannot decide on passes, uncounted.
pub(crate) async fn allowed_by_choice(limiter: &Redis, key: &Key) {
    let seen = request(limiter, key, FailurePolicy::FailOpen).await;
    assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "hello"));
    assert!(seen.says_nothing_of_limits(), "{seen:?}");
}

/// A request that Redis cannot decide on is refused, and its client told nothing of the reason.
pub(crate) async fn denied_by_choice(limiter: &Redis, key: &Key) {
    let seen = request(limiter, key, FailurePolicy::FailClosed).await;
    assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(seen.field("retry-after"), Some("1"));
    assert_eq!(seen.field("cache-control"), Some("no-store"));
    assert!(seen.says_nothing_of_limits(), "{seen:?}");
    let tells = ["redis", "127.0.0.1", "circuit", "time", "connection"];
    let body = seen.body.to_lowercase();
    assert!(!tells.iter().any(|cause| body.contains(cause)), "{body}");
}

/// Requests that Redis cannot decide on are decided in memory, by the same policy: all there is, then nothing.
async fn decided_by_choice(limiter: &Redis, key: &Key) {
    let fallback = FailurePolicy::Fallback(MemoryBackend::new());
    for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
        let seen = request(limiter, key, fallback.clone()).await;
        assert_eq!(seen.status, status);
        let reported = seen.field("ratelimit").expect("a decision");
        let none_left = format!("\"{}\";r=0", limiter.policy().name());
        assert!(reported.starts_with(&none_left), "{reported}");
    }
}

/// Redis decides on requests, whatever was chosen for the other case. `key` must be one that nothing is spent of.
pub(crate) async fn redis_decides(limiter: &Redis, key: &Key) {
    let first = request(limiter, key, FailurePolicy::FailClosed).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    let fallback = FailurePolicy::Fallback(MemoryBackend::new());
    for choice in [FailurePolicy::FailOpen, FailurePolicy::FailClosed, fallback] {
        let next = request(limiter, key, choice).await;
        assert_eq!(next.status, StatusCode::TOO_MANY_REQUESTS, "{next:?}");
    }
}
