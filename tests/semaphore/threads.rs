//! Semaphores for plain threads.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tower_sluice::blocking::{BlockingPermitBackend, Semaphore};
use tower_sluice::semaphore::AcquireError;
use tower_sluice::{Key, MaxWait, MemorySemaphore, SemaphorePolicy};

const SECOND: Duration = Duration::from_secs(1);

fn ann() -> Key {
    Key::from("ann")
}

/// 16 threads enter as often as they can, five at a time. One thread holds its permit for `hold`, which exceeds the
/// time that five threads need to enter one by one.
fn assert_never_more_than_five<B: BlockingPermitBackend>(
    semaphore: &Semaphore<B>,
    rounds: usize,
    hold: Duration,
) {
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for round in 0..rounds {
                    let permit = semaphore.acquire(&ann(), 1, MaxWait::Unbounded);
                    let permit = permit.expect("the wait is unbounded");
                    most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                    thread::sleep(hold);
                    inside.fetch_sub(1, SeqCst);
                    if round % 2 == 0 {
                        assert!(permit.release_blocking().expect("the backend replies"));
                    }
                }
            });
        }
    });
    assert_eq!(
        most.load(SeqCst),
        5,
        "the most permits in use must be the capacity"
    );
    let snapshot = semaphore.peek(&ann()).expect("the backend replies");
    assert_eq!(snapshot.remaining(), 5);
}

#[test]
fn memory_never_exceeds_the_capacity() {
    let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 5), MemorySemaphore::new());
    assert_never_more_than_five(&semaphore, 50, SECOND / 1_000);
    assert_eq!(semaphore.backend().keys(), 0);
}

#[test]
fn thread_waits_at_most_max_wait() {
    let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 1), MemorySemaphore::new());
    let held = semaphore.try_acquire(&ann(), 1).expect("free");
    let since = Instant::now();
    let denied = semaphore.acquire(&ann(), 1, SECOND / 20);
    assert!(matches!(denied, Err(AcquireError::Denied(_))), "{denied:?}");
    assert!(since.elapsed() >= SECOND / 20);
    drop(held);
    assert!(semaphore.acquire(&ann(), 1, SECOND).is_ok());
}

#[cfg(feature = "redis")]
mod redis {
    use tower_sluice::RedisSemaphore;
    use tower_sluice::blocking::RedisBackend;

    use super::*;
    use crate::support::redis::RedisServer;

    const LEASE: Duration = Duration::from_millis(900);

    fn connect(server: &RedisServer, capacity: u32) -> Semaphore<RedisBackend> {
        let builder = RedisBackend::builder().time_limit(20 * SECOND);
        let backend = builder
            .connect_blocking(server.url())
            .expect("the server runs");
        let permits = SemaphorePolicy::new("exports", capacity).with_lease(LEASE);
        Semaphore::new(permits, backend)
    }

    #[test]
    fn redis_never_exceeds_the_capacity() {
        let server = RedisServer::start();
        let semaphore = connect(&server, 5);
        assert_never_more_than_five(&semaphore, 20, SECOND / 50);
        assert!(server.keys().is_empty(), "{:?}", server.keys());
    }

    #[test]
    fn renewal_thread_renews_permits_that_tasks_see() {
        let server = RedisServer::start();
        let semaphore = connect(&server, 1);
        let held = semaphore.try_acquire(&ann(), 1).expect("free");
        thread::sleep(3 * LEASE);
        assert!(!held.is_lost());
        assert!(semaphore.acquire(&ann(), 1, SECOND / 10).is_err());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let redis = tower_sluice::RedisBackend::connect(server.url()).await;
            let redis = RedisSemaphore::new(&redis.expect("the server runs"));
            let tasks = tower_sluice::Semaphore::new(semaphore.policy().clone(), redis);
            assert!(tasks.try_acquire(&ann(), 1).await.is_err());
        });
        // Like a restart that lost everything.
        let _ = server.command(&["FLUSHALL"]);
        thread::sleep(LEASE);
        assert!(held.is_lost());
        assert!(!held.release_blocking().expect("the backend replies"));
        assert_eq!(
            semaphore
                .peek(&ann())
                .expect("the backend replies")
                .remaining(),
            1
        );
    }
}
