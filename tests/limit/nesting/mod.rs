//! Nested layers: layers of one policy, key and backend share one charge. Other layers charge separately.

mod agreement;
mod charge;
mod disconnects;
mod failures;
mod fallbacks;
mod headers;
mod identity;
mod readiness;
mod settlements;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Service, ServiceBuilder};
use tower_sluice::{
    Charge, Cost, FailurePolicy, Global, Key, Limiter, MemoryBackend, Policy, Quota, RateLimitLayer,
};

use crate::remote::Remote;
use crate::support::{Memory, spent};

/// One bucket of 100 tokens that refills one token in 36 seconds.
pub(crate) fn bucket() -> Policy {
    Policy::new("api", Quota::per_hour(100))
}

pub(crate) fn key() -> Key {
    Key::from("global")
}

pub(crate) type Limit<B> = RateLimitLayer<Global, B, Cost, FailurePolicy>;

pub(crate) fn over(policy: &Policy, remote: &Remote) -> Limit<Remote> {
    RateLimitLayer::new(policy.clone(), Global, remote.clone())
        .on_backend_error(FailurePolicy::FailClosed)
        .response_extensions(true)
}

pub(crate) fn limit(remote: &Remote) -> Limit<Remote> {
    over(&bucket(), remote)
}

pub(crate) fn in_memory(policy: &Policy, memory: &Memory) -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(policy.clone(), Global, memory.clone()).response_extensions(true)
}

/// Tokens spent from the bucket.
pub(crate) fn spent_tokens(remote: &Remote) -> u64 {
    spent(&remote.memory, &bucket(), &key())[0]
}

pub(crate) fn spend(remote: &Remote, tokens: u64) {
    let limiter = Limiter::new(bucket(), remote.memory.clone());
    assert!(limiter.check_now(&key(), tokens).decision.is_allowed());
}

pub(crate) fn request() -> Request<()> {
    Request::new(())
}

pub(crate) type Answer = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

/// A service that calls `f` with the charge of each request.
pub(crate) fn with_charge(
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

/// A layer between two layers that calls `f` with each request.
pub(crate) fn in_between(
    f: impl Fn(&mut Request<()>) + Clone,
) -> tower::util::MapRequestLayer<impl Fn(Request<()>) -> Request<()> + Clone> {
    tower::util::MapRequestLayer::new(move |mut request: Request<()>| {
        f(&mut request);
        request
    })
}

pub(crate) const POLICY: [&str; 1] = ["\"api\";q=100;w=3600"];

/// A service that counts its calls.
pub(crate) fn counted() -> (
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

/// Policies of all algorithms, with low limits.
pub(crate) fn policies() -> Vec<Policy> {
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

/// Panics if it is called without having been polled ready. A clone is not ready.
#[derive(Default)]
pub(crate) struct Strict(pub(crate) bool);

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

/// Two layers that fall back to `local`. `between` runs after the outer layer has decided.
pub(crate) fn falling_back(
    remote: &Remote,
    local: &MemoryBackend,
    costs: [u64; 2],
    between: impl Fn() + Clone,
) -> impl Service<
    Request<()>,
    Response = Response<impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>>,
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

/// Tokens spent from the local bucket, which refills by the system clock: one token in 36 s.
pub(crate) fn spent_locally(local: &MemoryBackend) -> u64 {
    let limiter = Limiter::new(bucket(), local.clone());
    100 - limiter.check_now(&key(), 0).decision.snapshot().remaining()
}
