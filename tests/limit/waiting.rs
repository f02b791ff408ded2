//! Requests that wait for their turn: for how long, in which order, and what they hold meanwhile. Time is moved by
//! hand.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::task::JoinSet;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::clock::{Clock, ManualClock};
use tower_sluice::key::Header;
use tower_sluice::response::{AsError, LimitError, Rejection};
use tower_sluice::{
    Charge, Cost, Deadline, Decision, FailurePolicy, Global, Key, Limiter, MaxWait, MemoryBackend,
    Policy, Quota, RateLimitLayer, RetryAfter,
};

use crate::remote::Remote;
use crate::support::{
    Memory, Seen, USER, ask, client, clock, from, hello, listen, others, seen, spent,
};

const SECOND: Duration = Duration::from_secs(1);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Room for one; another one comes each second.
fn one_a_second() -> Policy {
    Policy::new("api", Quota::per_second(1))
}

fn key() -> Key {
    Key::from("global")
}

type Limit<B> = RateLimitLayer<Global, B, Cost, FailurePolicy>;

/// Requests wait for up to ten seconds.
fn over<B: Backend>(policy: &Policy, backend: &B) -> Limit<B> {
    RateLimitLayer::new(policy.clone(), Global, backend.clone())
        .on_backend_error(FailurePolicy::FailClosed)
        .wait(seconds(10))
}

fn limit<B: Backend>(backend: &B) -> Limit<B> {
    over(&one_a_second(), backend)
}

/// A clock, and a backend of each kind by it.
fn each() -> impl Iterator<Item = (ManualClock, Remote)> {
    Remote::both().into_iter().map(|remote| {
        let clock = clock();
        (clock.clone(), remote.by(&clock))
    })
}

fn by(clock: &ManualClock) -> Memory {
    MemoryBackend::builder().clock(clock.clone()).build()
}

fn request() -> Request<()> {
    Request::new(())
}

/// Calls a service that is ready.
fn call<S: Service<Request<()>, Error = Infallible>>(
    service: &mut S,
    request: Request<()>,
) -> Pin<Box<S::Future>> {
    let ready = service.ready().now_or_never().expect("ready");
    let Ok(ready) = ready;
    Box::pin(ready.call(request))
}

/// Whether there is an answer by now.
async fn answer<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    for _ in 0..3 {
        if let Some(answer) = (&mut future).now_or_never() {
            return Some(answer);
        }
        others().await;
    }
    None
}

macro_rules! assert_waits {
    ($future:expr) => {
        assert!(answer(&mut $future).await.is_none(), "it has not waited")
    };
}

macro_rules! status {
    ($future:expr) => {
        match answer(&mut $future).await {
            Some(Ok(response)) => response.status().as_u16(),
            _ => panic!("no answer"),
        }
    };
}

// -- For how long

#[tokio::test]
async fn request_waits_until_exactly_its_allowed_time() {
    for (clock, remote) in each() {
        let mut service = limit(&remote).layer(tower::service_fn(tells_its_wait));
        assert_eq!(ask(&mut service, request()).await.body, "0ns");
        let mut second = call(&mut service, request());
        assert_waits!(second);
        let mut third = call(&mut service, request());
        assert_waits!(third);
        clock.advance(SECOND - Duration::from_micros(1));
        assert_waits!(second);
        clock.advance(Duration::from_micros(1));
        let seen = Seen::of(
            answer(&mut second)
                .await
                .expect("its turn")
                .expect("no error"),
        )
        .await;
        assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "1s"));
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=0;t=1"]);
        assert_waits!(third);
        clock.advance(SECOND);
        let seen = Seen::of(
            answer(&mut third)
                .await
                .expect("its turn")
                .expect("no error"),
        )
        .await;
        assert_eq!(seen.body, "2s");
        assert_eq!(remote.asked(), ["reserve 1"; 3]);
    }
}

async fn tells_its_wait(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let charge = request.extensions().get::<Charge>().expect("a charge");
    Ok(Response::new(Full::from(format!("{:?}", charge.waited()))))
}

#[tokio::test]
async fn request_beyond_max_wait_is_rejected_at_once() {
    for (clock, remote) in each() {
        let policy = Policy::new("api", Quota::per_second(1).burst(100));
        let mut service = over(&policy, &remote).cost(40).layer(hello());
        for _ in 0..2 {
            assert_eq!(ask(&mut service, request()).await.status, StatusCode::OK);
        }
        // Twenty seconds; by and by just ten.
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("retry-after"), ["20"]);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=20;t=20"]);
        clock.advance(seconds(10) - Duration::from_micros(1));
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.lines("retry-after"), ["11"]);
        clock.advance(Duration::from_micros(1));
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(seconds(10));
        assert_eq!(status!(waits), 200);
        assert_eq!(spent(&remote.memory, &policy, &key()), [100]);
    }
}

#[tokio::test]
async fn impossible_cost_is_denied_at_once_and_zero_cost_allowed() {
    for (_, remote) in each() {
        let unbounded = || limit(&remote).wait(MaxWait::Unbounded);
        let rejected = ask(&mut unbounded().cost(2).layer(hello()), request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(rejected.lines("retry-after").is_empty());
        ask(&mut unbounded().layer(hello()), request()).await;
        let free = ask(&mut unbounded().cost(0).layer(hello()), request()).await;
        assert_eq!(free.status, StatusCode::OK);
        assert_eq!(remote.asked(), ["check 2", "reserve 1", "check 0"]);
    }
}

#[tokio::test]
async fn zero_max_wait_rejects_at_once() {
    for max_wait in [MaxWait::NONE, Duration::ZERO.into()] {
        for (_, remote) in each() {
            let mut service = limit(&remote).wait(max_wait).layer(hello());
            assert_eq!(ask(&mut service, request()).await.status, StatusCode::OK);
            let rejected = ask(&mut service, request()).await;
            assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(rejected.lines("retry-after"), ["1"]);
            assert_eq!(remote.asked(), ["check 1"; 2]);
        }
    }
}

#[tokio::test]
async fn without_bound_a_request_waits_however_long_it_takes() {
    for (clock, remote) in each() {
        let policy = Policy::new("api", Quota::per_day(1));
        let mut service = over(&policy, &remote)
            .wait(MaxWait::Unbounded)
            .layer(hello());
        ask(&mut service, request()).await;
        let mut waits: Vec<_> = (0..3).map(|_| call(&mut service, request())).collect();
        for waits in &mut waits {
            assert_waits!(*waits);
        }
        for waits in &mut waits {
            clock.advance(seconds(86_400));
            assert_eq!(status!(*waits), 200);
        }
    }
}

#[tokio::test]
async fn request_waits_for_the_next_window() {
    for quota in [
        Quota::fixed_window(2, seconds(5)),
        Quota::sliding_log(2, seconds(5)),
        Quota::sliding_window(2, seconds(5)),
    ] {
        let policy = Policy::new("api", quota);
        for (clock, remote) in each() {
            let mut service = over(&policy, &remote).layer(tower::service_fn(tells_its_wait));
            for _ in 0..2 {
                assert_eq!(ask(&mut service, request()).await.body, "0ns");
            }
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            let rejected = limiter.check_now(&key(), 1).decision;
            let Some(RetryAfter::In(wait)) = rejected.retry_after() else {
                panic!("{rejected:?}");
            };
            let mut waits = call(&mut service, request());
            assert_waits!(waits);
            clock.advance(wait - Duration::from_micros(1));
            assert_waits!(waits);
            clock.advance(Duration::from_micros(1));
            let seen = Seen::of(
                answer(&mut waits)
                    .await
                    .expect("allowed")
                    .expect("no error"),
            );
            assert_eq!(seen.await.body, format!("{wait:?}"));

            // Whoever may wait for a microsecond less is rejected at once.
            while limiter.check_now(&key(), 1).decision.is_allowed() {}
            let rejected = limiter.check_now(&key(), 1).decision;
            let Some(RetryAfter::In(wait)) = rejected.retry_after() else {
                panic!("{rejected:?}");
            };
            let soon = wait - Duration::from_micros(1);
            let mut service = over(&policy, &remote).wait(soon).layer(hello());
            let seen = ask(&mut service, request()).await;
            assert_eq!(seen.status, StatusCode::TOO_MANY_REQUESTS);
            let seconds = wait.as_micros().div_ceil(1_000_000).to_string();
            assert_eq!(seen.lines("retry-after"), [seconds]);
            assert_eq!(remote.context().waiting(), 0);
        }
    }
}

// -- For how long the client waits

fn with_timeout(timeout: &str) -> Request<()> {
    let request = Request::builder().header("grpc-timeout", timeout);
    request.body(()).expect("a valid head")
}

#[tokio::test]
async fn a_deadline_and_a_grpc_timeout_shorten_the_wait() {
    for max_wait in [MaxWait::within(seconds(10)), MaxWait::Unbounded] {
        for (clock, remote) in each() {
            let mut service = limit(&remote).wait(max_wait).layer(hello());
            ask(&mut service, request()).await;
            let until = |wait: Duration| {
                let mut request = request();
                let deadline = Deadline::at(clock.now().after(wait));
                request.extensions_mut().insert(deadline);
                request
            };
            let soon = SECOND - Duration::from_micros(1);
            let both = |deadline: Duration, timeout: &'static str| {
                let mut request = until(deadline);
                let timeout = timeout.parse().expect("a value");
                request.headers_mut().insert("grpc-timeout", timeout);
                request
            };
            for request in [
                until(soon),
                until(Duration::ZERO),
                with_timeout("999999u"),
                with_timeout("999m"),
                with_timeout("0S"),
                both(soon, "9S"),
                both(seconds(9), "999m"),
            ] {
                let rejected = ask(&mut service, request).await;
                assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
                assert_eq!(rejected.lines("retry-after"), ["1"]);
            }
            assert_eq!(spent(&remote.memory, &one_a_second(), &key()), [1]);
            let in_time: [&dyn Fn() -> Request<()>; 3] =
                [&|| until(SECOND), &|| with_timeout("1S"), &|| {
                    both(SECOND, "1S")
                }];
            for request in in_time {
                let mut waits = call(&mut service, request());
                assert_waits!(waits);
                clock.advance(SECOND);
                assert_eq!(status!(waits), 200);
            }
        }
    }
}

#[tokio::test]
async fn passed_deadline_still_allows_available_tokens() {
    for (clock, remote) in each() {
        let mut service = limit(&remote).layer(hello());
        let mut late = request();
        late.extensions_mut().insert(Deadline::at(clock.now()));
        clock.advance(SECOND);
        assert_eq!(ask(&mut service, late).await.status, StatusCode::OK);
        assert_eq!(remote.asked(), ["check 1"]);
    }
}

#[tokio::test]
async fn a_longer_deadline_does_not_lengthen_the_wait() {
    for (clock, remote) in each() {
        let mut service = limit(&remote)
            .wait(Duration::from_millis(999))
            .layer(hello());
        ask(&mut service, request()).await;
        let mut patient = with_timeout("9H");
        let deadline = Deadline::at(clock.now().after(seconds(3_600)));
        patient.extensions_mut().insert(deadline);
        let rejected = ask(&mut service, patient).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test]
async fn invalid_grpc_timeout_is_ignored() {
    let clock = clock();
    let memory = by(&clock);
    let mut service = limit(&memory).layer(hello());
    seen(&mut service, request());
    for text in [
        "",
        "S",
        "0",
        "0s",
        "0 S",
        "-1S",
        "+0S",
        "000000000S",
        "0.5S",
        "0SS",
        "0x0S",
    ] {
        let mut waits = call(&mut service, with_timeout(text));
        assert_waits!(waits);
        clock.advance(SECOND);
        assert_eq!(status!(waits), 200, "{text:?}");
    }
    let mut odd = request();
    let value = http::HeaderValue::from_bytes(b"0\xffS").expect("a value");
    odd.headers_mut().insert("grpc-timeout", value);
    let mut waits = call(&mut service, odd);
    assert_waits!(waits);
}

#[tokio::test]
async fn nested_layers_count_a_wait_once() {
    let two = Policy::new("api", Quota::per_second(1).burst(2));
    let other = Policy::new("other", Quota::per_second(1));
    for (outer, inner, cost) in [(&two, &two, 2), (&one_a_second(), &other, 1)] {
        for (clock, remote) in each() {
            let mut service = ServiceBuilder::new()
                .layer(over(outer, &remote))
                .layer(over(inner, &remote).cost(cost))
                .service(hello());
            // The outer layer waits for a second, and so would the inner one after it.
            let limiter = |policy: &Policy| Limiter::new(policy.clone(), remote.memory.clone());
            let _ = limiter(outer).check_now(&key(), cost);
            if inner == &other {
                let spent = limiter(inner).penalize(&key(), 2).now_or_never();
                assert!(spent.is_some_and(|spent| spent.is_ok()));
            }
            let mut waits = call(&mut service, with_timeout("1500m"));
            assert_waits!(waits);
            clock.advance(SECOND);
            assert_eq!(status!(waits), 429, "{cost}");
            let mut waits = call(&mut service, with_timeout("9S"));
            assert_waits!(waits);
        }
    }
}

#[tokio::test]
async fn a_deadline_is_a_time_whenever_the_request_is_first_looked_at() {
    let (clock, ms) = (clock(), Duration::from_millis);
    let (memory, policy) = (
        by(&clock),
        Policy::new("api", Quota::per_second(10).burst(1)),
    );
    let mut service = over(&policy, &memory).layer(hello());
    for (left, status) in [(199, 429), (200, 200)] {
        let mut request = request();
        let deadline = Deadline::at(clock.now().after(ms(500 + left)));
        request.extensions_mut().insert(deadline);
        let mut answer = call(&mut service, request);
        clock.advance(ms(500));
        // The next turn comes in 200 ms.
        let limiter = Limiter::new(policy.clone(), memory.clone());
        assert!(limiter.penalize(&key(), 2).now_or_never().is_some());
        if status == 200 {
            assert_waits!(answer);
            clock.advance(ms(200));
        }
        assert_eq!(status!(answer), status);
        clock.advance(SECOND);
    }
}

// -- Readiness

#[tokio::test]
async fn waiting_request_holds_no_readiness() {
    for (clock, remote) in each() {
        let by_user = RateLimitLayer::new(one_a_second(), Header::new(USER), remote.clone());
        let mut service = by_user
            .on_backend_error(FailurePolicy::FailClosed)
            .wait(seconds(10))
            .layer(ConcurrencyLimit::new(hello::<()>(), 1));
        ask(&mut service, from("ann")).await;
        let mut waits: Vec<_> = Vec::new();
        for _ in 0..3 {
            let mut one = call(&mut service, from("ann"));
            assert_waits!(one);
            waits.push(one);
        }
        assert_eq!(remote.context().waiting(), 3);
        for user in ["bob", "cid", "dan"] {
            assert_eq!(ask(&mut service, from(user)).await.status, StatusCode::OK);
        }
        // At its turn it is one of those who want a slot.
        let ready = service.ready().await.expect("ready");
        clock.advance(SECOND);
        assert_waits!(waits[0]);
        drop(ready.call(from("eve")));
        assert_eq!(status!(waits[0]), 200);
        drop(waits.remove(0));
        clock.advance(seconds(2));
        for mut waits in waits {
            assert_eq!(status!(waits), 200);
        }
    }
}

/// Panics if it is called without having been polled ready. A clone is not ready.
#[derive(Default)]
struct Strict {
    ready: bool,
    polls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            polls: Arc::clone(&self.polls),
        }
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.polls.fetch_add(1, SeqCst);
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "not ready");
        std::future::ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn called_service_was_ready_and_is_not_polled_again() {
    for (clock, remote) in each() {
        let strict = Strict::default();
        let mut service = limit(&remote).layer(strict.clone());
        let mut first = call(&mut service, request());
        assert_eq!(status!(first), 200);
        assert_eq!(strict.polls.load(SeqCst), 1);
        let mut second = call(&mut service, request());
        assert_waits!(second);
        clock.advance(SECOND);
        assert_eq!(status!(second), 200);
        assert_eq!(strict.polls.load(SeqCst), 3);
    }
}

#[tokio::test]
async fn request_waits_for_readiness_after_its_wait() {
    let clock = clock();
    let memory = by(&clock);
    let limiter = Limiter::new(one_a_second(), memory.clone());
    assert!(limiter.check_now(&key(), 1).decision.is_allowed());
    let (mut service, mut handle) =
        tower_test::mock::spawn_layer::<Request<()>, Response<()>, _>(limit(&memory));
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let answered = tokio::spawn(service.call(request()));
    others().await;
    handle.allow(0);
    clock.advance(SECOND);
    others().await;
    assert!(handle.next_request().now_or_never().is_none(), "not ready");
    handle.allow(1);
    let (_, send) = handle.next_request().await.expect("a request");
    send.send_response(Response::new(()));
    let response = answered.await.expect("no panic").expect("no error");
    assert_eq!(response.status(), 200);
}

/// Ready once; an error from then on, for its clones too.
#[derive(Clone, Default)]
struct BreaksLater(Arc<AtomicUsize>);

#[derive(Debug, PartialEq)]
struct Broken;

impl Service<Request<()>> for BreaksLater {
    type Response = Response<Full<Bytes>>;
    type Error = Broken;
    type Future = std::future::Ready<Result<Self::Response, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self.0.fetch_add(1, SeqCst) {
            0 => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(Broken)),
        }
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn an_error_of_readiness_after_the_wait_passes_with_its_type() {
    for (refunds, left) in [(false, [1]), (true, [0])] {
        for (clock, remote) in each() {
            let mut limit = limit(&remote);
            if refunds {
                limit = limit.refund_on_disconnect();
            }
            let limiter = Limiter::new(one_a_second(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 1).decision.is_allowed());
            let mut service = limit.layer(BreaksLater::default());
            let ready = service.ready().await.expect("ready once");
            let mut waits = Box::pin(ready.call(request()));
            assert_waits!(waits);
            clock.advance(SECOND);
            let error = answer(&mut waits).await.expect("an answer");
            assert_eq!(error.map(|_| ()).expect_err("an error"), Broken);
            drop(waits);
            others().await;
            assert_eq!(spent(&remote.memory, &one_a_second(), &key()), left);
        }
    }
}

#[tokio::test]
async fn rejected_request_releases_readiness() {
    for (_, remote) in each() {
        let inner = ConcurrencyLimit::new(hello::<()>(), 1);
        let mut service = limit(&remote).wait(SECOND / 2).layer(inner);
        ask(&mut service, request()).await;
        for _ in 0..3 {
            let rejected = ask(&mut service, request()).await;
            assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        }
    }
}

// -- Clients that go away

#[tokio::test]
async fn client_disconnect_cancels_its_reservation() {
    for (clock, remote) in each() {
        let mut service = limit(&remote).layer(hello());
        ask(&mut service, request()).await;
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        assert_eq!(remote.context().waiting(), 1);
        drop(waits);
        others().await;
        assert_eq!(remote.context().waiting(), 0);
        assert_eq!(remote.asked(), ["reserve 1", "reserve 1", "cancel"]);
        // The next one has the turn.
        let mut next = call(&mut service, request());
        assert_waits!(next);
        clock.advance(SECOND);
        assert_eq!(status!(next), 200);
    }
}

#[tokio::test]
async fn reservation_followed_by_another_is_not_refunded() {
    for (clock, remote) in each() {
        let mut service = limit(&remote).layer(hello());
        ask(&mut service, request()).await;
        let (mut second, mut third) =
            (call(&mut service, request()), call(&mut service, request()));
        assert_waits!(second);
        assert_waits!(third);
        drop(second);
        others().await;
        clock.advance(SECOND);
        assert_waits!(third);
        clock.advance(SECOND);
        assert_eq!(status!(third), 200);
    }
}

#[tokio::test]
async fn client_disconnect_during_reserve_cancels_the_reservation_later() {
    let remote = Remote::answering(0);
    let mut service = limit(&remote).layer(hello());
    let mut waits = call(&mut service, request());
    assert_waits!(waits);
    drop(waits);
    others().await;
    remote.answer(9);
    others().await;
    assert_eq!(remote.asked(), ["reserve 1", "cancel"]);
    assert_eq!(spent(&remote.memory, &one_a_second(), &key()), [0]);
}

#[tokio::test]
async fn unpolled_waiter_changes_nothing() {
    for (_, remote) in each() {
        let mut service = limit(&remote).layer(hello());
        drop(call(&mut service, request()));
        others().await;
        assert!(remote.asked().is_empty());
        assert_eq!(remote.context().waiting(), 0);
    }
}

#[tokio::test]
async fn client_disconnect_before_a_window_is_charged_nothing() {
    let policy = Policy::new("api", Quota::fixed_window(1, seconds(5)));
    for (clock, remote) in each() {
        let mut service = over(&policy, &remote).layer(hello());
        ask(&mut service, request()).await;
        let (mut second, mut third) =
            (call(&mut service, request()), call(&mut service, request()));
        assert_waits!(second);
        assert_waits!(third);
        drop(second);
        clock.advance(seconds(5));
        assert_eq!(status!(third), 200);
        assert_eq!(spent(&remote.memory, &policy, &key()), [1]);
    }
}

// -- Order, and how many

#[tokio::test]
async fn layer_waiters_are_served_in_order_of_arrival() {
    let window = Policy::new("api", Quota::fixed_window(1, SECOND));
    for policy in [one_a_second(), window] {
        for (clock, remote) in each() {
            let mut service = over(&policy, &remote).layer(hello());
            ask(&mut service, request()).await;
            let mut line: Vec<_> = (0..5).map(|_| call(&mut service, request())).collect();
            for waits in &mut line {
                assert_waits!(*waits);
            }
            for first in 0..5 {
                clock.advance(SECOND);
                assert_eq!(status!(line[first]), 200);
                for waits in &mut line[first + 1..] {
                    assert_waits!(*waits);
                }
            }
        }
    }
}

#[tokio::test]
async fn requests_above_max_waiters_are_rejected_at_once() {
    let clock = clock();
    let memory = MemoryBackend::builder()
        .clock(clock.clone())
        .max_waiters(2, 100)
        .build();
    let mut service = limit(&memory).layer(hello());
    seen(&mut service, request());
    let mut waits = [call(&mut service, request()), call(&mut service, request())];
    for waits in &mut waits {
        assert_waits!(*waits);
    }
    let rejected = seen(&mut service, request());
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(rejected.lines("retry-after"), ["3"]);
    assert_eq!(memory.context().rejected_waiters(), 1);
    clock.advance(seconds(2));
    for waits in &mut waits {
        assert_eq!(status!(*waits), 200);
    }
}

/// A server that notes who was served, and clients that come one after the other.
#[tokio::test]
async fn http_waiters_are_served_in_order_and_leave_on_disconnect() {
    let clock = clock();
    let memory = by(&clock);
    let served = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = Arc::clone(&served);
    let handler = async move |Path(number): Path<u64>, charge: Charge| {
        note.lock().expect("no panic").push(number);
        format!("{:?}", charge.waited())
    };
    let app = Router::new()
        .route("/{number}", get(handler))
        .layer(limit(&memory));
    let (listener, address) = listen().await;
    tokio::spawn(axum::serve(listener, app).into_future());

    let waiters = async |count: usize| {
        let start = Instant::now();
        while memory.context().waiting() != count {
            assert!(start.elapsed() < crate::support::PATIENCE);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut clients = JoinSet::new();
    let come = |number: u64| {
        let request = crate::support::get(address, &format!("/{number}"));
        async move {
            let response = client(1).request(request).await.expect("an answer");
            (number, Seen::of(response).await)
        }
    };
    assert_eq!(come(0).await.1.body, "0ns");
    let mut leaves = None;
    for number in 1..=6_u64 {
        let handle = clients.spawn(come(number));
        waiters(number as usize).await;
        if number == 6 {
            leaves = Some(handle);
        }
    }
    // The last one hangs up: its turn goes to whoever comes next.
    leaves.expect("the last one").abort();
    waiters(5).await;
    clients.spawn(come(7));
    waiters(6).await;
    for waited in 1..=6 {
        clock.advance(SECOND);
        let done = loop {
            if let Ok(done) = clients.join_next().await.expect("somebody") {
                break done;
            }
        };
        let (number, seen) = done;
        let expected = if waited == 6 { 7 } else { waited };
        assert_eq!(number, expected);
        assert_eq!(seen.body, format!("{waited}s"));
    }
    assert_eq!(*served.lock().expect("no panic"), [0, 1, 2, 3, 4, 5, 7]);
}

// -- Backends that fail

#[tokio::test]
async fn failure_policy_applies_to_waiting_requests() {
    for (_, remote) in each() {
        remote.fail(usize::MAX);
        let denied = ask(&mut limit(&remote).layer(hello()), request()).await;
        assert_eq!(denied.status, StatusCode::SERVICE_UNAVAILABLE);
        let mut allowed = limit(&remote)
            .on_backend_error(FailurePolicy::FailOpen)
            .layer(tower::service_fn(|request: Request<()>| async move {
                let charge = request.extensions().get::<Charge>().expect("a charge");
                assert!(charge.policy().is_none() && charge.decision().is_none());
                assert!(charge.settle(5).await.expect("no failure").is_none());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        let allowed = ask(&mut allowed, request()).await;
        assert_eq!(allowed.status, StatusCode::OK);
        assert!(allowed.says_nothing_of_limits());
        assert_eq!(remote.asked(), ["reserve 1"; 2]);
        assert_eq!(remote.context().waiting(), 0);
    }
}

/// The fallback's clock is the system's: one of these waits for half a second.
#[tokio::test]
async fn request_waits_at_the_fallback_if_the_backend_fails() {
    let policy = Policy::new("api", Quota::per_second(2).burst(1));
    for (remote, longest) in Remote::both().into_iter().zip([10_000_000, 10]) {
        remote.fail(usize::MAX);
        let local = MemoryBackend::new();
        let limit = over(&policy, &remote)
            .on_backend_error(FailurePolicy::Fallback(local.clone()))
            .wait(Duration::from_micros(longest));
        let mut service = limit.layer(tower::service_fn(tells_its_wait));
        assert_eq!(ask(&mut service, request()).await.body, "0ns");
        let second = ask(&mut service, request()).await;
        if longest > 10 {
            assert_eq!(second.status, StatusCode::OK);
            assert!(second.body.ends_with("ms"), "{}", second.body);
        } else {
            assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!(remote.asked(), ["reserve 1"; 2]);
    }
}

#[tokio::test]
async fn charge_after_a_wait_at_the_fallback_is_settled_there() {
    let policy = Policy::new("api", Quota::per_hour(100));
    for (_, remote) in each() {
        remote.fail(usize::MAX);
        let local = MemoryBackend::new();
        let limit = over(&policy, &remote).cost(10);
        let mut service = limit
            .on_backend_error(FailurePolicy::Fallback(local.clone()))
            .layer(tower::service_fn(|request: Request<()>| async move {
                let charge = request.extensions().get::<Charge>().expect("a charge");
                let after = charge.settle(3).await.expect("in memory");
                assert_eq!(after.expect("numbers").remaining(), 97);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        assert_eq!(ask(&mut service, request()).await.status, StatusCode::OK);
        assert_eq!(remote.asked(), ["reserve 10"]);
    }
}

#[tokio::test]
async fn layers_that_fall_back_to_one_backend_wait_there_for_one_charge() {
    let policy = Policy::new("api", Quota::per_hour(100));
    for (_, remote) in each() {
        remote.fail(usize::MAX);
        let local = MemoryBackend::new();
        let limit = |cost: u64| {
            let choice = FailurePolicy::Fallback(local.clone());
            over(&policy, &remote).cost(cost).on_backend_error(choice)
        };
        let mut service = ServiceBuilder::new()
            .layer(limit(1))
            .layer(limit(5))
            .service(hello());
        let passed = ask(&mut service, request()).await;
        assert_eq!(passed.lines("ratelimit"), ["\"api\";r=95"]);
        let mut dear = ServiceBuilder::new()
            .layer(limit(1))
            .layer(limit(96))
            .service(hello());
        let rejected = ask(&mut dear, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        let limiter = Limiter::new(policy.clone(), local);
        let left = limiter.check_now(&key(), 0).decision.snapshot().remaining();
        assert_eq!(left, 95);
    }
}

#[tokio::test]
async fn time_until_the_failure_counts_toward_max_wait() {
    let policy = Policy::new("api", Quota::per_hour(1));
    for (after, status) in [(7, None), (3_601, Some(429))] {
        let clock = clock();
        let remote = Remote::answering(0).by(&clock);
        let local = MemoryBackend::new();
        let limiter = Limiter::new(policy.clone(), local.clone());
        assert!(limiter.check_now(&key(), 1).decision.is_allowed());
        let mut service = over(&policy, &remote)
            .wait(seconds(7_200))
            .on_backend_error(FailurePolicy::Fallback(local))
            .layer(hello());
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(seconds(after));
        remote.close();
        let seen = answer(&mut waits).await;
        let seen = seen.map(|response| response.expect("no error").status().as_u16());
        assert_eq!(seen, status, "after {after} s");
    }
}

// -- Other protocols

#[tokio::test]
async fn non_http_services_wait() {
    for (clock, remote) in each() {
        let mut service =
            limit(&remote)
                .protocol(AsError)
                .layer(tower::service_fn(|n: u64| async move {
                    Ok::<_, Infallible>(n + 1)
                }));
        let mut call = |n: u64| {
            let ready = service.ready().now_or_never().expect("ready");
            Box::pin(ready.expect("no error").call(n))
        };
        let mut first = call(1);
        assert_eq!(
            answer(&mut first).await.expect("at once").expect("passed"),
            2
        );
        let mut line: Vec<_> = (2..13).map(&mut call).collect();
        for waits in &mut line[..10] {
            assert_waits!(*waits);
        }
        match answer(&mut line[10]).await {
            Some(Err(LimitError::Rejected(Rejection::Limited { decision, .. }))) => {
                let wait = RetryAfter::In(seconds(11));
                assert_eq!(decision.retry_after(), Some(wait));
            }
            other => panic!("{other:?} is no refusal"),
        }
        clock.advance(SECOND);
        assert_eq!(
            answer(&mut line[0])
                .await
                .expect("its turn")
                .expect("passed"),
            3
        );
        assert_waits!(line[1]);
    }
}

// -- Within each other

#[tokio::test]
async fn an_inner_layer_waits_for_what_is_missing() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for waits_outside in [true, false] {
        for (clock, remote) in each() {
            let inner = over(&policy, &remote).cost(5);
            let mut outer = over(&policy, &remote).cost(2);
            if !waits_outside {
                outer = outer.wait(MaxWait::NONE);
            }
            let mut service = ServiceBuilder::new()
                .layer(outer)
                .layer(inner)
                .service(tower::service_fn(tells_its_wait));
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 7).decision.is_allowed());
            let mut waits = call(&mut service, request());
            assert_waits!(waits);
            clock.advance(seconds(2));
            let seen = answer(&mut waits)
                .await
                .expect("its turn")
                .expect("no error");
            let seen = Seen::of(seen).await;
            assert_eq!(seen.body, "2s");
            assert_eq!(seen.lines("ratelimit"), ["\"api\";r=0;t=1"]);
            assert_eq!(spent(&remote.memory, &policy, &key()), [10]);
            let outer = if waits_outside {
                "reserve 2"
            } else {
                "check 2"
            };
            assert_eq!(remote.asked(), [outer, "reserve 3"]);
        }
    }
}

#[tokio::test]
async fn inner_layer_without_a_wait_decides_at_once() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for (clock, remote) in each() {
        let inner = || over(&policy, &remote).wait(MaxWait::NONE);
        let limiter = Limiter::new(policy.clone(), remote.memory.clone());
        assert!(limiter.check_now(&key(), 10).decision.is_allowed());
        let mut refuses = ServiceBuilder::new()
            .layer(over(&policy, &remote))
            .layer(inner().cost(5))
            .service(hello());
        let mut waits = call(&mut refuses, request());
        assert_waits!(waits);
        clock.advance(SECOND);
        let rejected = answer(&mut waits)
            .await
            .expect("its turn")
            .expect("no error");
        let rejected = Seen::of(rejected).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=1;t=4"]);
        assert_eq!(spent(&remote.memory, &policy, &key()), [9]);

        let mut cheap = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(3))
            .layer(inner().cost(2))
            .service(tower::service_fn(tells_its_wait));
        let mut waits = call(&mut cheap, request());
        assert_waits!(waits);
        clock.advance(seconds(2));
        let seen = answer(&mut waits)
            .await
            .expect("its turn")
            .expect("no error");
        let seen = Seen::of(seen).await;
        assert_eq!(seen.body, "2s");
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=1"]);
    }
}

#[tokio::test]
async fn joined_layers_share_one_max_wait() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for (clock, remote) in each() {
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(6))
            .layer(over(&policy, &remote).cost(9))
            .layer(over(&policy, &remote).cost(10))
            .service(tower::service_fn(tells_its_wait));
        let limiter = Limiter::new(policy.clone(), remote.memory.clone());
        assert!(limiter.check_now(&key(), 10).decision.is_allowed());
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(seconds(6));
        assert_waits!(waits);
        clock.advance(seconds(3));
        assert_waits!(waits);
        clock.advance(SECOND);
        let seen = answer(&mut waits)
            .await
            .expect("ten seconds")
            .expect("no error");
        assert_eq!(Seen::of(seen).await.body, "10s");

        // A little more than ten, of which six have passed: rejected then, and paid back.
        clock.advance(seconds(60));
        assert!(limiter.check_now(&key(), 10).decision.is_allowed());
        let mut service = ServiceBuilder::new()
            .layer(
                over(&policy, &remote)
                    .cost(6)
                    .wait(MaxWait::within(seconds(10))),
            )
            .layer(over(&policy, &remote).wait(seconds(9)).cost(10))
            .service(hello());
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(seconds(6));
        let rejected = answer(&mut waits)
            .await
            .expect("an answer")
            .expect("no error");
        let rejected = Seen::of(rejected).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=6;t=4"]);
        assert_eq!(spent(&remote.memory, &policy, &key()), [4]);
    }
}

#[tokio::test]
async fn cancelled_inner_reservation_refunds_the_outer_charge() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for (_, remote) in each() {
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote).cost(2).wait(MaxWait::NONE))
            .layer(over(&policy, &remote).cost(5))
            .service(hello());
        let limiter = Limiter::new(policy.clone(), remote.memory.clone());
        assert!(limiter.check_now(&key(), 7).decision.is_allowed());
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        drop(waits);
        others().await;
        let asked = remote.asked();
        assert_eq!(asked[..2], ["check 2", "reserve 3"]);
        assert!(asked[2..].contains(&"cancel".to_owned()), "{asked:?}");
        assert!(asked[2..].contains(&"refund 2".to_owned()), "{asked:?}");
        assert_eq!(spent(&remote.memory, &policy, &key()), [7]);
    }
}

#[tokio::test]
async fn charge_stays_after_an_inner_reservation_by_default() {
    let policy = Policy::new("api", Quota::per_second(1).burst(10));
    for (refunds, left) in [(false, [10]), (true, [5])] {
        for (clock, remote) in each() {
            let slots = ConcurrencyLimit::new(hello::<()>(), 1);
            let mut inner = over(&policy, &remote).cost(5);
            if refunds {
                inner = inner.refund_on_disconnect();
            }
            let mut service = ServiceBuilder::new()
                .layer(over(&policy, &remote).cost(2))
                .layer(inner)
                .service(slots.clone());
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            assert!(limiter.check_now(&key(), 7).decision.is_allowed());
            let mut waits = call(&mut service, request());
            assert_waits!(waits);
            // Somebody else has the slot when its turn comes.
            let mut other = slots;
            other
                .ready()
                .now_or_never()
                .expect("free")
                .expect("no error");
            clock.advance(seconds(2));
            assert_waits!(waits);
            drop(waits);
            others().await;
            assert_eq!(spent(&remote.memory, &policy, &key()), left);
        }
    }
}

#[tokio::test]
async fn inner_layer_with_nothing_missing_does_not_wait() {
    for (_, remote) in each() {
        let mut service = ServiceBuilder::new()
            .layer(limit(&remote))
            .layer(limit(&remote))
            .service(tower::service_fn(tells_its_wait));
        assert_eq!(ask(&mut service, request()).await.body, "0ns");
        assert_eq!(remote.asked(), ["reserve 1"]);
    }
}

#[tokio::test]
async fn layers_of_two_policies_wait_one_after_the_other() {
    let (api, other) = (
        Policy::new("api", Quota::per_second(1)),
        Policy::new("other", Quota::fixed_window(1, seconds(3))),
    );
    for (clock, remote) in each() {
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&other, &remote))
            .service(tower::service_fn(|request: Request<()>| async move {
                let charge = request.extensions().get::<Charge>().expect("a charge");
                let outer = charge.outer().expect("another one");
                let text = format!("{:?} {:?}", outer.waited(), charge.waited());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
            }));
        assert_eq!(ask(&mut service, request()).await.body, "0ns 0ns");
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        clock.advance(SECOND);
        assert_waits!(waits);
        clock.advance(seconds(2));
        let seen = answer(&mut waits)
            .await
            .expect("allowed")
            .expect("no error");
        assert_eq!(Seen::of(seen).await.body, "1s 2s");
    }
}

#[tokio::test]
async fn waiting_inner_layer_reports_the_wait_for_the_whole_cost() {
    let policy = Policy::new("api", Quota::sliding_window(10, seconds(10)));
    for (_, remote) in each() {
        let inner = over(&policy, &remote).wait(SECOND).cost(5);
        let mut service = ServiceBuilder::new()
            .layer(over(&policy, &remote))
            .layer(inner)
            .service(hello());
        let limiter = Limiter::new(policy.clone(), remote.memory.clone());
        assert!(limiter.check_now(&key(), 9).decision.is_allowed());
        let alone = limiter.check_now(&key(), 5).decision;
        let ready = service.ready().await.expect("ready");
        let rejected = ready.call(request()).await.expect("no error");
        let reported = rejected.extensions().get::<Decision>().expect("a decision");
        assert_eq!(*reported, alone);
        assert_eq!(spent(&remote.memory, &policy, &key()), [9]);
    }
}
