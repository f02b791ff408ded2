//! Threads that wait, beside other threads and tasks.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tower_sluice::backend::Backend;
use tower_sluice::blocking::Limiter;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::limiter::Rejected;
use tower_sluice::{Key, MaxWait, MemoryBackend, Policy, Quota, RetryAfter};

use crate::shared_checks::{HOUR, runtime};

const SECOND: Duration = Duration::from_secs(1);

fn by_hand(policy: Policy) -> (ManualClock, Limiter<MemoryBackend<ManualClock>>) {
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    (clock, Limiter::new(policy, backend))
}

/// One token a second, with a capacity of one.
fn one_a_second() -> Policy {
    Policy::new("upstream", Quota::per_second(1).burst(1))
}

/// Waits until this many waiters sleep until a known time.
fn until_asleep(clock: &ManualClock, count: usize) {
    let start = Instant::now();
    while clock.sleepers() != count {
        assert!(start.elapsed() < 20 * SECOND, "{} sleep", clock.sleepers());
        thread::yield_now();
    }
}

/// Ends all waits on drop, so that a failing test does not hang.
struct ReleaseOnDrop<'a>(&'a ManualClock);

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.advance(100 * HOUR);
    }
}

#[test]
fn threads_proceed_in_order_as_the_clock_advances() {
    for policy in [
        one_a_second(),
        Policy::new("window", Quota::fixed_window(1, SECOND)),
    ] {
        let (clock, limiter) = by_hand(policy);
        let key = Key::from("host");
        assert!(limiter.acquire(&key, 1, MaxWait::NONE).is_ok());
        let (reported, hears) = mpsc::channel();
        thread::scope(|scope| {
            let _let_go = ReleaseOnDrop(&clock);
            for number in 0..3 {
                let (limiter, key, reported) = (&limiter, &key, reported.clone());
                scope.spawn(move || {
                    let charge = limiter.acquire(key, 1, 100 * HOUR).expect("in time");
                    // The receiver is gone once the test has failed.
                    let _ = reported.send((number, charge.waited()));
                });
                until_asleep(&clock, number + 1);
            }
            for number in 0..3 {
                // The next waiter of a queue checks when the one before it was served, and sleeps again.
                until_asleep(&clock, 3 - number);
                clock.advance(SECOND - Duration::from_micros(1));
                let early = hears.recv_timeout(Duration::from_millis(20));
                assert!(early.is_err(), "{number} came early");
                clock.advance(Duration::from_micros(1));
                let (first, waited) = hears
                    .recv_timeout(20 * SECOND)
                    .expect("the reservation is due");
                assert_eq!(first, number);
                assert_eq!(waited, SECOND * u32::try_from(number + 1).expect("small"));
            }
        });
        assert_eq!(limiter.backend().context().stats().waiting, 0);
    }
}

#[test]
fn wait_beyond_max_wait_is_denied_at_once_and_charges_nothing() {
    let (_, limiter) = by_hand(one_a_second());
    let key = Key::from("host");
    assert!(limiter.try_acquire(&key, 1).is_ok());
    let almost = SECOND - Duration::from_micros(1);
    for max_wait in [MaxWait::NONE, MaxWait::within(almost)] {
        let denied = limiter.acquire(&key, 1, max_wait).expect_err("too long");
        assert_eq!(denied.retry_after(), Some(RetryAfter::In(SECOND)));
    }
    let never = limiter.acquire(&key, 2, MaxWait::Unbounded);
    assert_eq!(
        never.expect_err("never").retry_after(),
        Some(RetryAfter::Never)
    );
    assert_eq!(limiter.peek(&key).expect("memory").reset_after(), SECOND);
}

#[test]
fn threads_and_tasks_share_one_queue() {
    let backend = MemoryBackend::new();
    let policy = Policy::new("upstream", Quota::per_second(100).burst(1));
    let threads = Limiter::new(policy.clone(), backend.clone());
    let tasks = tower_sluice::Limiter::new(policy, backend);
    let (runtime, key, start) = (runtime(), Key::from("host"), Instant::now());
    let total = thread::scope(|scope| {
        let wait = || {
            (0..10)
                .filter(|_| threads.acquire(&key, 1, HOUR).is_ok())
                .count()
        };
        let of_threads: Vec<_> = (0..2).map(|_| scope.spawn(wait)).collect();
        let of_tasks = runtime.block_on(async {
            let mut passed = 0;
            for _ in 0..10 {
                passed += usize::from(tasks.acquire(&key, 1, HOUR).await.is_ok());
            }
            passed
        });
        let of_threads: usize = of_threads
            .into_iter()
            .map(|one| one.join().expect("no panic"))
            .sum();
        of_threads + of_tasks
    });
    assert_eq!(total, 30);
    // 29 of them waited for a hundredth of a second each, one by one.
    assert!(
        start.elapsed() >= Duration::from_millis(290),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn charge_of_a_thread_is_settled_when_its_call_returns() {
    let limiter = Limiter::new(
        Policy::new("llm", Quota::per_hour(100)),
        MemoryBackend::new(),
    );
    let key = Key::from("ann");
    let left = || limiter.peek(&key).expect("memory").remaining();
    let charge = limiter.try_acquire(&key, 30).expect("allowed");
    charge.settle(45);
    assert_eq!(left(), 55);
    assert!(charge.cancel().join().expect_err("settled").is_settled());
    let charge = limiter.try_acquire(&key, 5).expect("allowed");
    let after = charge.cancel().join().expect("memory");
    assert_eq!(after.map(|after| after.remaining()), Some(55));
    assert_eq!(left(), 55);
}

#[test]
fn threads_above_max_waiters_do_not_wait() {
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let backend = MemoryBackend::builder()
        .clock(clock.clone())
        .max_waiters(1, 8)
        .build();
    let limiter = Limiter::new(one_a_second(), backend);
    let key = Key::from("host");
    assert!(limiter.try_acquire(&key, 1).is_ok());
    thread::scope(|scope| {
        let _let_go = ReleaseOnDrop(&clock);
        let first = scope.spawn(|| limiter.acquire(&key, 1, HOUR).map(|charge| charge.waited()));
        until_asleep(&clock, 1);
        let second = limiter.acquire(&key, 1, HOUR);
        assert!(matches!(second, Err(Rejected::Denied(_))), "{second:?}");
        clock.advance(SECOND);
        assert_eq!(first.join().expect("no panic"), Ok(SECOND));
    });
    assert_eq!(limiter.backend().context().stats().rejected_waiters, 1);
}

#[cfg(feature = "redis")]
mod redis {
    use super::*;
    use crate::support::redis::RedisServer;
    use tower_sluice::blocking::RedisBackend;

    #[test]
    fn threads_and_tasks_wait_in_redis_with_one_command_each() {
        let server = RedisServer::start();
        let policy = Policy::new("upstream", Quota::per_second(50).burst(1));
        let backend = RedisBackend::connect(server.url()).expect("the server runs");
        let threads = Limiter::new(policy.clone(), backend);
        let runtime = runtime();
        let tasks = runtime.block_on(tower_sluice::RedisBackend::connect(server.url()));
        let tasks = tower_sluice::Limiter::new(policy, tasks.expect("the server runs"));
        let calls = || server.calls("evalsha") + server.calls("eval");
        // Connecting sends some commands too.
        let before = calls();
        let (key, start) = (Key::from("host"), Instant::now());
        thread::scope(|scope| {
            let threads = scope.spawn(|| {
                (0..10).for_each(|_| {
                    drop(
                        threads
                            .acquire(&key, 1, HOUR)
                            .expect("the reservation is due"),
                    )
                });
            });
            runtime.block_on(async {
                for _ in 0..10 {
                    drop(
                        tasks
                            .acquire(&key, 1, HOUR)
                            .await
                            .expect("the reservation is due"),
                    );
                }
            });
            threads.join().expect("no panic");
        });
        assert!(
            start.elapsed() >= Duration::from_millis(19 * 20),
            "{:?}",
            start.elapsed()
        );
        let asked = calls() - before;
        // Each script is unknown once.
        assert!((20..=22).contains(&asked), "{asked}");
    }

    #[test]
    fn waiter_checks_a_window_again() {
        let server = RedisServer::start();
        let backend = RedisBackend::connect(server.url()).expect("the server runs");
        let window = Duration::from_millis(300);
        let limiter = Limiter::new(
            Policy::new("window", Quota::sliding_log(2, window)),
            backend,
        );
        let (key, start) = (Key::from("host"), Instant::now());
        for _ in 0..5 {
            limiter.acquire(&key, 1, HOUR).expect("in time");
        }
        assert!(start.elapsed() >= 2 * window, "{:?}", start.elapsed());
        let denied = limiter.acquire(&key, 2, Duration::from_millis(1));
        assert!(matches!(denied, Err(Rejected::Denied(_))), "{denied:?}");
    }

    #[test]
    fn a_settlement_reaches_redis() {
        let server = RedisServer::start();
        let backend = RedisBackend::connect(server.url()).expect("the server runs");
        let limiter = Limiter::new(Policy::new("llm", Quota::per_day(100)), backend);
        let key = Key::from("ann");
        limiter.try_acquire(&key, 30).expect("allowed").settle(45);
        assert_eq!(limiter.peek(&key).expect("the server runs").remaining(), 55);
        drop(server);
        let charge = limiter.try_acquire(&key, 1);
        assert!(matches!(charge, Err(Rejected::Backend(_))), "{charge:?}");
    }
}
