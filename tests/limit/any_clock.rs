//! Backends that are chosen at run time, and fallbacks, follow the clock of the memory backend inside them.

use std::time::Duration;

use futures_util::FutureExt;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::concurrency::SemaphoreLayer;
use tower_sluice::key::Header;
use tower_sluice::limiter::WithFailurePolicy;
use tower_sluice::{
    AnyBackend, FailurePolicy, Key, Limiter, MaxWait, MemoryBackend, RateLimitLayer, Semaphore,
    SemaphorePolicy,
};

use crate::remote::Remote;
use crate::support::{USER, ask, clock, from, hello, now, seen, spent, two_a_minute};

#[test]
fn a_backend_chosen_at_run_time_is_tested_in_virtual_time() {
    let clock = clock();
    let memory = MemoryBackend::builder().clock(clock.clone()).build();
    let limit = RateLimitLayer::new(
        two_a_minute(),
        Header::new(USER),
        AnyBackend::from(memory.clone()),
    )
    .on_backend_error(FailurePolicy::FailClosed);
    let mut service = limit.layer(hello());
    let mut statuses = || [(); 3].map(|()| seen(&mut service, from("ann")).status.as_u16());
    assert_eq!(statuses(), [200, 200, 429]);
    clock.advance(Duration::from_secs(30));
    assert_eq!(statuses(), [200, 429, 429]);
    let ann = Key::secret("ann");
    assert_eq!(
        spent(&memory, &two_a_minute(), &ann),
        [2],
        "the state is shared"
    );
}

#[test]
fn a_request_waits_by_the_clock_of_a_backend_chosen_at_run_time() {
    let clock = clock();
    let memory = MemoryBackend::builder().clock(clock.clone()).build();
    let limiter = Limiter::new(two_a_minute(), AnyBackend::from(memory));
    let ann = Key::from("ann");
    let mut both = limiter.acquire(&ann, 2, MaxWait::NONE).now_or_never();
    assert!(matches!(both.take(), Some(Ok(_))));
    let mut third = std::pin::pin!(limiter.acquire(&ann, 1, MaxWait::Unbounded));
    assert!(third.as_mut().now_or_never().is_none());
    clock.advance(Duration::from_secs(30));
    let third = third.now_or_never().expect("it is due").expect("memory");
    assert_eq!(third.waited(), Duration::from_secs(30));
}

#[test]
fn permits_of_a_backend_chosen_at_run_time_wait_by_its_clock() {
    let clock = clock();
    let memory = MemoryBackend::builder().clock(clock.clone()).build();
    let (policy, ann) = (SemaphorePolicy::new("exports", 1), Key::secret("ann"));
    let layer = SemaphoreLayer::new(
        policy.clone(),
        Header::new(USER),
        AnyBackend::from(memory.clone()),
    )
    .on_backend_error(FailurePolicy::FailClosed);
    let held = now(&mut layer.layer(hello()), from("ann")).expect("no error");
    let semaphore = Semaphore::new(policy, memory);
    let wait = semaphore.acquire(&ann, 1, Duration::from_secs(5));
    let mut wait = std::pin::pin!(wait);
    assert!(
        wait.as_mut().now_or_never().is_none(),
        "the permits are shared"
    );
    clock.advance(Duration::from_secs(5));
    assert!(wait.now_or_never().is_some_and(|waited| waited.is_err()));
    drop(held);
}

#[tokio::test]
async fn a_fallback_decides_and_waits_in_virtual_time() {
    let clock = clock();
    let local = MemoryBackend::builder().clock(clock.clone()).build();
    let limit = RateLimitLayer::new(two_a_minute(), Header::new(USER), Remote::failing())
        .on_backend_error(FailurePolicy::Fallback(local.clone()));
    let mut service = limit.clone().layer(hello());
    for status in [200, 200, 429] {
        assert_eq!(ask(&mut service, from("ann")).await.status, status);
    }
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(&mut service, from("ann")).await.status, 200);
    assert_eq!(spent(&local, &two_a_minute(), &Key::secret("ann")), [2]);

    let mut patient = limit.wait(MaxWait::Unbounded).layer(hello());
    let response = patient.ready().await.expect("ready").call(from("ann"));
    let mut response = std::pin::pin!(response);
    for _ in 0..10 {
        assert!(response.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(30));
    assert_eq!(response.await.expect("no error").status(), 200);
}

#[tokio::test]
async fn a_limiter_with_a_fallback_waits_in_virtual_time() {
    let clock = clock();
    let local = MemoryBackend::builder().clock(clock.clone()).build();
    let limiter = Limiter::new(two_a_minute(), Remote::failing());
    let limiter = WithFailurePolicy::new(limiter, FailurePolicy::Fallback(local));
    let ann = Key::from("ann");
    let both = limiter.acquire(&ann, 2, MaxWait::NONE).await;
    assert!(both.is_ok_and(|charge| charge.is_some()));
    let mut third = std::pin::pin!(limiter.acquire(&ann, 1, MaxWait::Unbounded));
    for _ in 0..10 {
        assert!(third.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(30));
    let third = third.await.expect("it is due").expect("counted");
    assert_eq!(third.waited(), Duration::from_secs(30));
}
