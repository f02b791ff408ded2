//! The system clock beside `Instant`, and under Tokio's paused time.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tower_sluice::clock::{Clock, SystemClock, TokioClock};
use tower_sluice::{
    Key, Limiter, MaxWait, MemoryBackend, MemorySemaphore, Policy, Quota, Semaphore,
    SemaphorePolicy,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Both clocks at one time, in ns: the closest of many pairs, because the thread may be descheduled within one.
fn pair(start: Instant) -> (u64, u64) {
    let one = || {
        let before = start.elapsed();
        let now = SystemClock::new().now().as_micros();
        let after = start.elapsed();
        let middle = (before + after).as_nanos() / 2;
        (
            after - before,
            now * 1_000,
            u64::try_from(middle).expect("the value fits"),
        )
    };
    let closest = (0..10_000).map(|_| one()).min().expect("some");
    (closest.1, closest.2)
}

#[test]
fn clock_stays_within_5_ppm_of_instant_for_10_s() {
    let start = Instant::now();
    let (clock_start, instant_start) = pair(start);
    for _ in 0..10 {
        thread::sleep(Duration::from_secs(1));
        let (clock_now, instant_now) = pair(start);
        let (passed, real) = (clock_now - clock_start, instant_now - instant_start);
        // 1 µs for each of two readings in whole µs, and 1 µs for two pairs.
        let most = real * 5 / 1_000_000 + 3_000;
        assert!(
            passed.abs_diff(real) <= most,
            "{passed} ns passed in {real} ns"
        );
    }
}

#[test]
fn readings_of_threads_never_go_back() {
    let (clock, latest) = (SystemClock::new(), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(3) {
                    for _ in 0..1_000 {
                        let before = latest.load(SeqCst);
                        let now = clock.now().as_micros();
                        assert!(now >= before, "{} µs back", before - now);
                        latest.fetch_max(now, SeqCst);
                    }
                }
            });
        }
    });
}

fn policies() -> [Policy; 2] {
    [Quota::per_hour(1), Quota::fixed_window(1, HOUR)].map(|quota| Policy::new("p", quota))
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "give the backend a `tower_sluice::clock::TokioClock`")]
async fn a_wait_for_a_reservation_by_paused_time_panics() {
    let limiter = Limiter::new(policies()[0].clone(), MemoryBackend::new());
    for _ in 0..2 {
        let _ = limiter
            .acquire(&Key::from("ann"), 1, MaxWait::Unbounded)
            .await;
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "give the backend a `tower_sluice::clock::TokioClock`")]
async fn a_wait_for_a_window_by_paused_time_panics() {
    let limiter = Limiter::new(policies()[1].clone(), MemoryBackend::new());
    for _ in 0..2 {
        let _ = limiter
            .acquire(&Key::from("ann"), 1, MaxWait::Unbounded)
            .await;
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "give the backend a `tower_sluice::clock::TokioClock`")]
async fn a_wait_for_a_permit_by_paused_time_panics() {
    let semaphore = Semaphore::new(SemaphorePolicy::new("p", 1), MemorySemaphore::new());
    let _held = semaphore.try_acquire(&Key::from("ann"), 1).await;
    let _ = semaphore.acquire(&Key::from("ann"), 1, HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn non_waiting_limiter_works_under_paused_time() {
    let (real, virtual_start) = (Instant::now(), tokio::time::Instant::now());
    for policy in policies() {
        let limiter = Limiter::new(policy, MemoryBackend::new());
        let wait = limiter.acquire(&Key::from("ann"), 1, HOUR * 2).await;
        assert!(wait.is_ok());
        let denied = limiter
            .acquire(&Key::from("ann"), 1, Duration::from_secs(1))
            .await;
        assert!(denied.is_err(), "the request is rejected at once");
    }
    assert_eq!(virtual_start.elapsed(), Duration::ZERO);
    assert!(real.elapsed() < HOUR);
}

#[tokio::test(start_paused = true)]
async fn waits_on_tokios_clock_move_paused_time_by_as_much_as_they_wait() {
    let start = tokio::time::Instant::now();
    for policy in policies() {
        let backend = MemoryBackend::builder().clock(TokioClock::new()).build();
        let limiter = Limiter::new(policy, backend);
        for _ in 0..2 {
            let wait = limiter
                .acquire(&Key::from("ann"), 1, MaxWait::Unbounded)
                .await;
            assert!(wait.is_ok());
        }
    }
    let memory = MemorySemaphore::builder().clock(TokioClock::new()).build();
    let semaphore = Semaphore::new(SemaphorePolicy::new("p", 1), memory);
    let _held = semaphore.try_acquire(&Key::from("ann"), 1).await;
    assert!(semaphore.acquire(&Key::from("ann"), 1, HOUR).await.is_err());
    let hours = start.elapsed().as_secs_f64() / HOUR.as_secs_f64();
    assert!((2.0..3.01).contains(&hours), "{hours} h");
}
