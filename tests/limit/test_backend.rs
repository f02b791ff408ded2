//! The test double behind layers and limiters, and inside a backend that is chosen at run time.

use std::time::Duration;

use futures_util::FutureExt;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::key::Header;
use tower_sluice::semaphore::AcquireError;
use tower_sluice::test_util::{Behavior, TestBackend};
use tower_sluice::{
    AnyBackend, FailurePolicy, Key, Limiter, MemoryBackend, RateLimitLayer, Semaphore,
    SemaphorePolicy,
};

use crate::support::{USER, ask, clock, from, hello, spent, two_a_minute};

#[tokio::test]
async fn the_double_fails_answers_and_follows_the_clock_of_its_memory() {
    let clock = clock();
    let memory = MemoryBackend::builder().clock(clock.clone()).build();
    let test = TestBackend::with_memory(memory.clone());
    let limit = RateLimitLayer::new(
        two_a_minute(),
        Header::new(USER),
        AnyBackend::from(test.clone()),
    )
    .on_backend_error(FailurePolicy::FailClosed);
    let mut service = limit.layer(hello());
    for (behavior, status) in [
        (Behavior::Answer, 200),
        (Behavior::AnswerLater, 200),
        (Behavior::Answer, 429),
        (Behavior::AnswerLater, 429),
        (Behavior::Fail(BackendErrorKind::Unreachable), 503),
    ] {
        test.set(behavior.clone());
        let seen = ask(&mut service, from("ann")).await;
        assert_eq!(seen.status, status, "{behavior:?}");
    }
    assert_eq!(test.operations(), 5);
    clock.advance(Duration::from_secs(30));
    test.set(Behavior::Answer);
    assert_eq!(ask(&mut service, from("ann")).await.status, 200);
    assert_eq!(spent(&memory, &two_a_minute(), &Key::secret("ann")), [2]);
}

#[tokio::test]
async fn a_stalled_operation_does_what_the_next_behavior_says() {
    let ann = Key::from("ann");
    for (next, is_answered) in [
        (Behavior::Answer, true),
        (Behavior::AnswerLater, true),
        (Behavior::Fail(BackendErrorKind::Lost), false),
    ] {
        let test = TestBackend::new();
        test.set(Behavior::Stall);
        let limiter = Limiter::new(two_a_minute(), test.clone());
        let mut check = std::pin::pin!(limiter.check(&ann, 1));
        assert!(check.as_mut().now_or_never().is_none());
        test.set(next);
        let answer = check.now_or_never().expect("an answer");
        assert_eq!(answer.is_ok(), is_answered);
        test.set(Behavior::Answer);
        let left = limiter.peek(&ann).await.expect("an answer").remaining();
        assert_eq!(
            left,
            2 - u64::from(is_answered),
            "a failure charges nothing"
        );
    }
}

#[tokio::test]
async fn an_operation_that_is_never_polled_has_no_effect() {
    let test = TestBackend::new();
    test.set(Behavior::AnswerLater);
    let limit = RateLimitLayer::new(two_a_minute(), Header::new(USER), test.clone())
        .on_backend_error(FailurePolicy::FailClosed);
    let mut service = limit.layer(hello());
    drop(service.ready().await.expect("ready").call(from("ann")));
    test.set(Behavior::Answer);
    let limiter = Limiter::new(two_a_minute(), test);
    let seen = limiter.peek(&Key::secret("ann")).await.expect("an answer");
    assert_eq!(seen.remaining(), 2);
}

#[tokio::test]
async fn permits_of_the_double_fail_and_come_back() {
    let (test, ann) = (TestBackend::new(), Key::from("ann"));
    let semaphore = Semaphore::new(
        SemaphorePolicy::new("exports", 1),
        AnyBackend::from(test.clone()),
    );
    let held = semaphore.try_acquire(&ann, 1).await.expect("one is free");
    let denied = semaphore.try_acquire(&ann, 1).await;
    assert!(matches!(denied, Err(AcquireError::Denied(_))));
    drop(held);
    test.set(Behavior::Fail(BackendErrorKind::CircuitOpen));
    let Err(AcquireError::Backend(error)) = semaphore.try_acquire(&ann, 1).await else {
        panic!("the backend fails");
    };
    assert_eq!(error.kind(), &BackendErrorKind::CircuitOpen);
    test.set(Behavior::Answer);
    assert!(semaphore.try_acquire(&ann, 1).await.is_ok());
}
