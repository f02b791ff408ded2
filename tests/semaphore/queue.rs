//! Permits of one process and their waiters, in virtual time.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::semaphore::{AcquireError, MemorySemaphore, Permit};
use tower_sluice::{AnyBackend, Key, MaxWait, RetryAfter, Semaphore, SemaphorePolicy};

use crate::settle;

type Memory = MemorySemaphore<ManualClock>;
type Acquired = Result<Permit, AcquireError<Infallible>>;

const SECOND: Duration = Duration::from_secs(1);

fn memory() -> (ManualClock, Memory) {
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let memory = MemorySemaphore::builder().clock(clock.clone()).build();
    (clock, memory)
}

fn of(capacity: u32) -> (ManualClock, Semaphore<Memory>) {
    let (clock, memory) = memory();
    (
        clock,
        Semaphore::new(SemaphorePolicy::new("exports", capacity), memory),
    )
}

fn ann() -> Key {
    Key::from("ann")
}

fn wait(
    semaphore: &Semaphore<Memory>,
    weight: u32,
    max_wait: impl Into<MaxWait>,
) -> JoinHandle<Acquired> {
    let (semaphore, max_wait) = (semaphore.clone(), max_wait.into());
    tokio::spawn(async move { semaphore.acquire(&ann(), weight, max_wait).await })
}

async fn remaining(semaphore: &Semaphore<Memory>) -> u64 {
    let Ok(snapshot) = semaphore.peek(&ann()).await;
    snapshot.remaining()
}

#[tokio::test]
async fn permit_ends_with_its_guard() {
    let (_, semaphore) = of(2);
    let first = semaphore.try_acquire(&ann(), 1).await.expect("free");
    let second = semaphore.try_acquire(&ann(), 1).await.expect("free");
    assert_ne!(first.id(), second.id());
    let third = semaphore.try_acquire(&ann(), 1).await.expect_err("full");
    assert_eq!(third.retry_after(), Some(RetryAfter::In(30 * SECOND)));
    assert!(semaphore.try_acquire(&Key::from("bob"), 2).await.is_ok());

    drop(first);
    assert_eq!(remaining(&semaphore).await, 1);
    assert!(second.release().await.expect("memory answers"));
    assert_eq!(remaining(&semaphore).await, 2);

    let third = semaphore.try_acquire(&ann(), 2).await.expect("free");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _held = third;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(remaining(&semaphore).await, 2);

    let task = {
        let semaphore = semaphore.clone();
        tokio::spawn(async move {
            let _held = semaphore.try_acquire(&ann(), 1).await;
            std::future::pending::<()>().await;
        })
    };
    settle().await;
    assert_eq!(remaining(&semaphore).await, 1);
    task.abort();
    settle().await;
    assert_eq!(remaining(&semaphore).await, 2);
    assert_eq!(semaphore.backend().keys(), 0);
}

#[tokio::test]
async fn key_without_holders_is_removed() {
    let (_, semaphore) = of(1);
    let mut held = Vec::new();
    for number in 0..10_000_u64 {
        let key = Key::from(number);
        held.push(semaphore.try_acquire(&key, 1).await.expect("free"));
        assert!(semaphore.try_acquire(&key, 1).await.is_err());
        assert!(semaphore.try_acquire(&key, 2).await.is_err());
        let _ = semaphore.peek(&Key::from(number + 20_000)).await;
    }
    assert_eq!(semaphore.backend().keys(), 10_000);
    assert_eq!(semaphore.backend().held(), 10_000);
    held.clear();
    assert_eq!(semaphore.backend().keys(), 0);
}

#[tokio::test]
async fn waiters_are_served_in_order_of_arrival() {
    let (clock, semaphore) = of(2);
    let held = semaphore.try_acquire(&ann(), 2).await.expect("free");
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for number in 0..50 {
        let (semaphore, order) = (semaphore.clone(), Arc::clone(&order));
        tasks.spawn(async move {
            let permit = semaphore.acquire(&ann(), 1, MaxWait::Unbounded).await;
            let permit = permit.expect("the wait is unbounded");
            order.lock().push(number);
            tokio::task::yield_now().await;
            permit.waited()
        });
        settle().await;
    }
    assert_eq!(semaphore_waiters(&semaphore), 50);
    clock.advance(3 * SECOND);
    drop(held);
    while let Some(waited) = tasks.join_next().await {
        assert_eq!(waited.expect("no panic"), 3 * SECOND);
    }
    assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());
    assert_eq!(semaphore_waiters(&semaphore), 0);
    assert_eq!(semaphore.backend().keys(), 0);
}

fn semaphore_waiters(semaphore: &Semaphore<Memory>) -> usize {
    use tower_sluice::semaphore::PermitBackend;
    semaphore.backend().context().stats().waiting
}

#[tokio::test]
async fn large_request_is_not_overtaken_by_small_ones() {
    let (_, semaphore) = of(3);
    let [one, two] = [(); 2].map(|()| semaphore.clone());
    let one = one.try_acquire(&ann(), 1).await.expect("free");
    let two = two.try_acquire(&ann(), 1).await.expect("free");
    let large = wait(&semaphore, 3, MaxWait::Unbounded);
    settle().await;
    let small = wait(&semaphore, 1, MaxWait::Unbounded);
    settle().await;
    drop(one);
    settle().await;
    assert!(!large.is_finished() && !small.is_finished());
    drop(two);
    settle().await;
    let large = large.await.expect("no panic").expect("permits are free");
    assert_eq!(large.weight(), 3);
    assert!(!small.is_finished());
    drop(large);
    assert!(small.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn wait_ends_at_max_wait_and_a_hopeless_wait_at_once() {
    let (clock, semaphore) = of(1);
    let held = semaphore.try_acquire(&ann(), 1).await.expect("free");
    let denied = semaphore.acquire(&ann(), 2, MaxWait::Unbounded).await;
    let never = denied.expect_err("more permits than the capacity");
    assert_eq!(never.retry_after(), Some(RetryAfter::Never));
    assert_eq!(
        never.to_string(),
        "the weight exceeds the capacity of 1 and can never be allowed"
    );
    assert!(semaphore.acquire(&ann(), 1, Duration::ZERO).await.is_err());

    let (head, behind) = (wait(&semaphore, 1, SECOND), wait(&semaphore, 1, SECOND / 2));
    settle().await;
    clock.advance(SECOND / 2);
    settle().await;
    assert!(behind.is_finished() && !head.is_finished());
    let why = behind.await.expect("no panic").expect_err("too late");
    assert_eq!(why.to_string(), "not enough permits are free: 0 of 1");
    clock.advance(SECOND / 2);
    settle().await;
    assert!(head.await.expect("no panic").is_err());
    drop(held);
    assert!(semaphore.acquire(&ann(), 1, SECOND).await.is_ok());
}

#[tokio::test]
async fn expired_waiter_gets_permits_that_the_head_cannot_use() {
    let (clock, semaphore) = of(4);
    let _held = semaphore.try_acquire(&ann(), 2).await.expect("free");
    let large = wait(&semaphore, 4, MaxWait::Unbounded);
    settle().await;
    let hasty = [2, 3].map(|weight| wait(&semaphore, weight, SECOND));
    settle().await;
    clock.advance(SECOND - Duration::from_micros(1));
    settle().await;
    assert!(hasty.iter().all(|hasty| !hasty.is_finished()));
    clock.advance(Duration::from_micros(1));
    settle().await;
    let [fits, does_not] = hasty;
    let permit = fits.await.expect("no panic").expect("two permits are free");
    assert_eq!((permit.weight(), permit.waited()), (2, SECOND));
    let why = does_not
        .await
        .expect("no panic")
        .expect_err("two permits are free");
    assert_eq!(why.to_string(), "not enough permits are free: 2 of 4");
    assert!(!large.is_finished());
    // Permits that the head could use are not for a waiter whose time is up.
    let hasty = wait(&semaphore, 1, SECOND);
    settle().await;
    clock.advance(SECOND);
    settle().await;
    assert!(hasty.await.expect("no panic").is_err());
    drop(permit);
}

#[tokio::test]
async fn dropped_queue_head_lets_the_next_waiter_check() {
    let (_, semaphore) = of(4);
    let _one = semaphore.try_acquire(&ann(), 1).await.expect("free");
    let large = wait(&semaphore, 4, MaxWait::Unbounded);
    settle().await;
    let small = wait(&semaphore, 1, MaxWait::Unbounded);
    settle().await;
    assert!(!small.is_finished());
    large.abort();
    settle().await;
    assert!(small.is_finished(), "permits for it were always free");
}

#[tokio::test]
async fn no_request_waits_above_max_waiters() {
    let clock = ManualClock::at(Timestamp::from_micros(0));
    let memory = MemorySemaphore::builder().clock(clock).max_waiters(2, 3);
    let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 1), memory.build());
    let held = semaphore.try_acquire(&ann(), 1).await.expect("free");
    let waits = [(); 2].map(|()| wait(&semaphore, 1, MaxWait::Unbounded));
    settle().await;
    let third = semaphore.acquire(&ann(), 1, MaxWait::Unbounded).await;
    assert!(third.is_err(), "two requests already wait");
    drop(held);
    for wait in waits {
        assert!(wait.await.expect("no panic").is_ok());
    }
}

#[tokio::test]
async fn tiers_of_one_name_share_permits_and_do_not_block_each_other() {
    let (_, few) = of(1);
    let many = few.with_policy(&few.policy().clone().with_capacity(3));
    let one = many.try_acquire(&ann(), 1).await.expect("free");
    let denied = wait(&few, 1, MaxWait::Unbounded);
    settle().await;
    let two = wait(&many, 1, MaxWait::Unbounded).await.expect("no panic");
    let two = two.expect("the larger policy has free permits");
    drop(one);
    settle().await;
    assert!(!denied.is_finished(), "one is held, and that is all");
    drop(two);
    assert!(denied.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn zero_weight_is_always_allowed_and_counts_nothing() {
    let (_, semaphore) = of(1);
    let held = semaphore.try_acquire(&ann(), 1).await.expect("free");
    let look = semaphore
        .acquire(&ann(), 0, SECOND)
        .await
        .expect("a snapshot");
    assert_eq!((look.weight(), remaining(&semaphore).await), (0, 0));
    assert!(!look.release().await.expect("memory answers"));
    assert_eq!(remaining(&semaphore).await, 0);
    drop(held);
}

#[tokio::test]
async fn any_backend_supports_permits() {
    let backend = AnyBackend::from_url("memory:").expect("zero weight is always allowed");
    let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 1), backend);
    let held = semaphore.try_acquire(&ann(), 1).await.expect("free");
    assert!(semaphore.clone().try_acquire(&ann(), 1).await.is_err());
    drop(held);
    assert!(semaphore.try_acquire(&ann(), 1).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capacity_is_never_exceeded_under_load() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 5), MemorySemaphore::new());
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..64_u64 {
        let (semaphore, inside, most) = (semaphore.clone(), inside.clone(), most.clone());
        tasks.spawn(async move {
            for round in 0..200_u64 {
                let permit = semaphore.acquire(&ann(), 1, MaxWait::Unbounded).await;
                let permit = permit.expect("the wait is unbounded");
                most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                if (task + round) % 3 > 0 {
                    tokio::task::yield_now().await;
                }
                inside.fetch_sub(1, SeqCst);
                drop(permit);
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(
        most.load(SeqCst),
        5,
        "the most permits in use must be the capacity"
    );
    assert_eq!(semaphore.backend().keys(), 0);
}
