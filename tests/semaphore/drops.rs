//! Acquires that are dropped at any point leave nothing behind.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::{JoinSet, yield_now};
use tower_sluice::semaphore::{MemorySemaphore, Permit, PermitBackend};
use tower_sluice::{Key, Semaphore, SemaphorePolicy};

/// Polls a future this many times while other tasks run, then drops it and its output. Returns whether it completed.
async fn dropped_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let poll = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if poll.is_ready() {
            return true;
        }
        yield_now().await;
    }
    false
}

/// Acquires a permit, holds it for a while, and releases it in one of two ways.
async fn acquire_and_release<B: PermitBackend>(semaphore: Semaphore<B>, weight: u32) -> Option<()> {
    let key = Key::from("ann");
    let permit: Permit = if rand::random_bool(0.3) {
        semaphore.try_acquire(&key, weight).await.ok()?
    } else {
        let max_wait = Duration::from_millis(rand::random_range(0..50));
        semaphore.acquire(&key, weight, max_wait).await.ok()?
    };
    for _ in 0..rand::random_range(0..10) {
        yield_now().await;
    }
    if rand::random() {
        permit.release().await.ok()?;
    }
    Some(())
}

/// Drops 1000 acquires after a random number of polls: before they are sent, in the queue, in flight, with the permit,
/// or during the release. `most` polls take about as long as a whole visit.
async fn assert_nothing_leaks<B: PermitBackend>(backend: B, most: usize) -> Semaphore<B> {
    let permits = SemaphorePolicy::new("exports", 5).with_lease(Duration::from_secs(600));
    let semaphore = Semaphore::new(permits, backend);
    let (mut tasks, mut ended) = (JoinSet::new(), 0);
    for number in 0..1_000 {
        let semaphore = semaphore.clone();
        // A product of two random numbers: early drops are as frequent as late ones.
        let polls = rand::random_range(0..most) * rand::random_range(0..most) / most;
        let weight = 1 + number % 3;
        tasks.spawn(
            async move { dropped_after(polls, acquire_and_release(semaphore, weight)).await },
        );
        if tasks.len() >= 64 {
            let one = tasks.join_next().await.expect("64 permits are free");
            ended += usize::from(one.expect("no panic"));
        }
    }
    ended += tasks
        .join_all()
        .await
        .into_iter()
        .filter(|end| *end)
        .count();
    println!("{} of 1000 were dropped", 1_000 - ended);
    assert!((50..950).contains(&ended), "{ended} completed");
    semaphore
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_dropped_acquires_leave_nothing_in_memory() {
    for _ in 0..3 {
        let semaphore = assert_nothing_leaks(MemorySemaphore::new(), 60).await;
        assert_eq!(semaphore.backend().keys(), 0);
        assert_eq!(semaphore.backend().context().stats().waiting, 0);
        assert!(semaphore.try_acquire(&Key::from("ann"), 5).await.is_ok());
    }
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_dropped_acquires_leave_nothing_in_redis() {
    use tower_sluice::{RedisBackend, RedisSemaphore};

    let server = crate::support::redis::RedisServer::start();
    for batching in [true, false] {
        let builder = RedisBackend::builder().batching(batching);
        let builder = builder.time_limit(Duration::from_secs(20));
        let redis = builder
            .connect(server.url())
            .await
            .expect("the server runs");
        let semaphore = assert_nothing_leaks(RedisSemaphore::new(&redis), 200).await;
        let context = semaphore.backend().context();
        // A release in the background has completed when no background task is left. The lease of 10 minutes cannot
        // help.
        let done = async {
            while context.stats().background_tasks > 0 || !server.keys().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(10), done).await;
        assert!(done.is_ok(), "keys that are left: {:?}", server.keys());
        assert_eq!(
            (context.stats().waiting, context.stats().held_permits),
            (0, 0)
        );
        assert_eq!(
            (
                context.stats().failed_background_tasks,
                context.stats().lost_permits
            ),
            (0, 0)
        );
        let all = semaphore.try_acquire(&Key::from("ann"), 5).await;
        assert!(all.is_ok(), "all are free");
    }
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_concurrent_releases_all_complete() {
    use tower_sluice::{RedisBackend, RedisSemaphore};

    let server = crate::support::redis::RedisServer::start();
    let redis = RedisBackend::connect(server.url())
        .await
        .expect("the server runs");
    let semaphore = Semaphore::new(
        SemaphorePolicy::new("exports", 1),
        RedisSemaphore::new(&redis),
    );
    let mut held = Vec::new();
    for number in 0..3_000_u64 {
        held.push(
            semaphore
                .try_acquire(&Key::from(number), 1)
                .await
                .expect("free"),
        );
    }
    drop(held);
    let context = semaphore.backend().context();
    for _ in 0..1_000 {
        if context.stats().background_tasks > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(
        (
            context.stats().background_tasks,
            context.stats().failed_background_tasks
        ),
        (0, 0)
    );
    assert!(server.keys().is_empty(), "{} are left", server.keys().len());
}

#[cfg(feature = "redis")]
#[test]
fn acquire_dropped_outside_its_runtime_is_released_in_it() {
    use tower_sluice::{RedisBackend, RedisSemaphore};

    let server = crate::support::redis::RedisServer::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let builder = RedisBackend::builder().time_limit(Duration::from_secs(4));
    let redis = runtime.block_on(builder.connect(server.url()));
    let redis = RedisSemaphore::new(&redis.expect("the server runs"));
    let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 1), redis);
    let key = Key::from("ann");
    assert!(runtime.block_on(semaphore.peek(&key)).is_ok());
    server.pause();
    let mut asked = Box::pin(semaphore.try_acquire(&key, 1));
    let polled = async {
        for _ in 0..20 {
            let poll = poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx))).await;
            assert!(poll.is_pending());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    runtime.block_on(polled);
    drop(asked);
    server.resume();
    let context = semaphore.backend().context();
    assert_eq!(context.stats().failed_background_tasks, 0);
    let since = std::time::Instant::now();
    while context.stats().background_tasks > 0 || !server.keys().is_empty() {
        assert!(since.elapsed() < Duration::from_secs(10), "it stays");
        std::thread::sleep(Duration::from_millis(5));
    }
}
