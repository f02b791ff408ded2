//! `max_waiters`: the bound of waiters for one key, and in all.

use std::future::{Future, poll_fn};
use std::task::Poll;

use tower_sluice::backend::Backend;
use tower_sluice::{Cost, Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};

use crate::executor::{AlarmClock, denied, retry_after, secs, us};
use crate::queue::{CountingBackend, TestQueue};

fn bounded(policy: &Policy, each_key: usize, in_all: usize) -> TestQueue {
    let clock = AlarmClock::new();
    let memory = MemoryBackend::builder().max_waiters(each_key, in_all);
    let memory = memory.clock(clock.clone()).build();
    TestQueue::over(policy, CountingBackend::of(memory, &clock), &clock)
}

/// One token at once and one more in ten seconds, under a bucket and under a window.
fn one_in_ten_seconds() -> [Policy; 2] {
    [
        Policy::new("bucket", Quota::token_bucket(2, 2, secs(20))),
        Policy::new("window", Quota::sliding_log(2, secs(10))),
    ]
}

#[test]
fn no_request_waits_above_the_bound_of_its_key() {
    for policy in one_in_ten_seconds() {
        let mut queue = bounded(&policy, 3, 100);
        queue.at_once(2, MaxWait::NONE).expect("the tokens exist");
        queue.join_all(3);
        let models = queue.state();
        for max_wait in [
            MaxWait::within(us(1)),
            MaxWait::within(secs(100)),
            MaxWait::Unbounded,
        ] {
            let usual = queue.check(1).decision;
            let rejected = queue.at_once(1, max_wait);
            assert_eq!(*denied(&rejected), usual, "{policy:?}");
            assert!(retry_after(&rejected) >= secs(10));
        }
        assert_eq!((queue.state(), queue.waiting()), (models, 3));
        assert_eq!(queue.context().stats().rejected_waiters, 3);
        // A waiter of another key.
        let bob = Key::from("bob");
        let two = queue.wait_for(&bob, 2, MaxWait::NONE);
        queue.executor.at_once(two).expect("the tokens exist");
        let other = queue.wait_for(&bob, 1, MaxWait::Unbounded);
        queue.executor.join(other);
        assert_eq!(queue.waiting(), 4);
        queue.executor.until(secs(60));
        assert_eq!((queue.waiting(), queue.executor.waiting().len()), (0, 0));
        queue.join_all(5);
        assert_eq!(queue.waiting(), 3, "the queue has room again");
    }
}

#[test]
fn no_request_waits_above_the_total_bound() {
    for policy in one_in_ten_seconds() {
        let mut queue = bounded(&policy, 100, 4);
        for number in 0..4_u64 {
            for cost in [2, 1] {
                let wait = queue.wait_for(&Key::from(number), cost, MaxWait::Unbounded);
                queue.executor.join(wait);
            }
        }
        assert_eq!(queue.waiting(), 4);
        let new = Key::from("new");
        for (cost, is_there) in [(2, true), (1, false), (0, true)] {
            let wait = queue.wait_for(&new, cost, MaxWait::Unbounded);
            let outcome = queue.executor.at_once(wait);
            assert_eq!(
                outcome.is_ok(),
                is_there,
                "a request that need not wait is allowed"
            );
        }
        // An immediate request takes no place in the queue.
        assert_eq!(
            (queue.waiting(), queue.context().stats().rejected_waiters),
            (4, 2)
        );
        let one = queue.executor.waiting()[2];
        assert!(queue.executor.leave(one));
        let wait = queue.wait_for(&new, 1, MaxWait::Unbounded);
        queue.executor.join(wait);
        assert_eq!(queue.waiting(), 4);
        queue.executor.until(secs(60));
        assert_eq!((queue.waiting(), queue.executor.waiting().len()), (0, 0));
    }
}

/// The tokens suffice for a small request, but the queue head waits for a larger cost.
#[test]
fn request_above_max_waiters_is_allowed_if_tokens_exist() {
    let mut queue = bounded(&one_in_ten_seconds()[1], 2, 100);
    queue.at_once(1, MaxWait::NONE).expect("it must exist");
    for _ in 0..2 {
        queue.join(2, MaxWait::Unbounded);
    }
    let passes = queue.at_once(1, MaxWait::Unbounded).expect("it must exist");
    assert!(passes.waited().is_zero());
    assert_eq!(
        (queue.waiting(), queue.context().stats().rejected_waiters),
        (2, 1)
    );
}

#[test]
fn zero_max_waiters_checks_at_once() {
    for (each_key, in_all) in [(0, 9), (9, 0), (0, 0)] {
        for policy in one_in_ten_seconds() {
            let mut queue = bounded(&policy, each_key, in_all);
            for _ in 0..2 {
                queue.at_once(1, MaxWait::Unbounded).expect("it must exist");
            }
            let usual = queue.check(1).decision;
            let rejected = queue.at_once(1, MaxWait::Unbounded);
            assert_eq!(*denied(&rejected), usual);
            assert_eq!(
                (queue.waiting(), queue.context().stats().rejected_waiters),
                (0, 3)
            );
        }
    }
}

#[test]
fn default_max_waiters_are_1024_and_65536() {
    let mut queue = TestQueue::of(&Policy::new("bucket", Quota::per_day(1)));
    queue.join_all(1 + 1_024);
    assert_eq!(queue.waiting(), 1_024);
    assert!(queue.at_once(1, MaxWait::Unbounded).is_err());
    for number in 0..63_u64 {
        for _ in 0..=1_024 {
            let wait = queue.wait_for(&Key::from(number), 1, MaxWait::Unbounded);
            queue.executor.join(wait);
        }
    }
    assert_eq!(
        (queue.waiting(), queue.context().stats().rejected_waiters),
        (65_536, 1)
    );
    let wait = queue.wait_for(&Key::from("new"), Cost::ONE, MaxWait::Unbounded);
    queue.executor.at_once(wait).expect("it must exist");
    let wait = queue.wait_for(&Key::from("new"), Cost::ONE, MaxWait::Unbounded);
    assert!(queue.executor.at_once(wait).is_err());
    for waiter in queue.executor.waiting() {
        assert!(queue.executor.leave(waiter));
    }
    assert_eq!(queue.waiting(), 0);
}

/// On many threads: the counters are changed concurrently.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_finished_waiters_are_not_counted() {
    for policy in one_in_ten_seconds() {
        let clock = AlarmClock::new();
        let backend = MemoryBackend::builder().max_waiters(40, 1_500);
        let backend = backend.clock(clock.clone()).build();
        let limiter = Limiter::new(policy, backend.clone());
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..10_000_u64 {
            let limiter = limiter.clone();
            tasks.spawn(async move {
                let key = Key::from(number % 100);
                let wait = limiter.acquire(&key, 1, MaxWait::Unbounded);
                let mut wait = std::pin::pin!(wait);
                for _ in 0..number % 7 {
                    let poll = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await;
                    if poll.is_ready() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            });
            assert!(backend.context().stats().waiting <= 1_500);
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no panic");
            clock.jump(clock.passed() + us(5));
        }
        let context = backend.context();
        assert!(context.stats().rejected_waiters < 10_000);
        assert_eq!(
            (
                context.stats().waiting,
                context.stats().failed_background_tasks
            ),
            (0, 0)
        );
    }
}
