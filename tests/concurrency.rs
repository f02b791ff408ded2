//! Bounds under concurrency and with many keys: the limit, the number of keys, and their memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::quota::Anchor;
use tower_sluice::{Global, Key, Limiter, MemoryBackend, Policy, Quota, RateLimitLayer};

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

type Backend = MemoryBackend<ManualClock>;

fn backend(max_keys: usize) -> (Backend, ManualClock) {
    let clock = ManualClock::at(NOW);
    let max_keys = NonZeroUsize::new(max_keys).expect("not 0");
    let backend = MemoryBackend::builder()
        .max_keys(max_keys)
        .clock(clock.clone());
    (backend.build(), clock)
}

const TASKS: usize = 64;
const ASKED_BY_EACH: usize = 4;
const ROUNDS: u64 = 50;
const LIMIT: u64 = 100;

const DAY: Duration = Duration::from_secs(86_400);

const ALGORITHMS: [Quota; 5] = [
    Quota::token_bucket(LIMIT, 1, DAY),
    Quota::interval_bucket(LIMIT, 1, DAY),
    Quota::fixed_window(LIMIT, DAY),
    Quota::sliding_window(LIMIT, DAY),
    Quota::sliding_log(LIMIT, DAY),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clones_of_a_limiter_on_many_tasks_admit_exactly_the_limit() {
    for quota in ALGORITHMS {
        let limiter = Limiter::new(Policy::new("clones", quota), backend(1_000).0);
        for round in 0..ROUNDS {
            let (mut tasks, together) = (JoinSet::new(), Arc::new(Barrier::new(TASKS)));
            for _ in 0..TASKS {
                let (limiter, together) = (limiter.clone(), Arc::clone(&together));
                tasks.spawn(async move {
                    together.wait().await;
                    let mut admitted = 0_u64;
                    for _ in 0..ASKED_BY_EACH {
                        let Ok(reply) = limiter.clone().check(&Key::from(round), 1).await;
                        admitted += u64::from(reply.decision.is_allowed());
                    }
                    admitted
                });
            }
            let admitted = tasks.join_all().await;
            assert_eq!(admitted.iter().sum::<u64>(), LIMIT, "{quota}, {admitted:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clones_on_many_tasks_call_the_inner_service_exactly_limit_times() {
    for quota in ALGORITHMS {
        for _ in 0..ROUNDS {
            let called = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&called);
            let inner = service_fn(move |_: Request<()>| {
                count.fetch_add(1, Relaxed);
                async { Ok::<_, Infallible>(Response::new(String::new())) }
            });
            let policy = Policy::new("service", quota);
            let service = RateLimitLayer::new(policy, Global, backend(10).0).layer(inner);
            let (mut tasks, together) = (JoinSet::new(), Arc::new(Barrier::new(TASKS)));
            for _ in 0..TASKS {
                let (service, together) = (service.clone(), Arc::clone(&together));
                tasks.spawn(async move {
                    together.wait().await;
                    let mut statuses = Vec::new();
                    for _ in 0..ASKED_BY_EACH {
                        let Ok(response) = service.clone().oneshot(Request::new(())).await;
                        statuses.push(response.status());
                    }
                    statuses
                });
            }
            let statuses = tasks.join_all().await.concat();
            let with = |status| statuses.iter().filter(|other| **other == status).count();
            let limit = LIMIT as usize;
            assert_eq!(called.load(Relaxed), limit, "{quota}");
            assert_eq!(with(StatusCode::OK), limit, "{quota}");
            assert_eq!(
                with(StatusCode::TOO_MANY_REQUESTS),
                TASKS * ASKED_BY_EACH - limit,
                "{quota}"
            );
        }
    }
}

const MAX_KEYS: usize = 10_000;
const FLOOD: u64 = 10 * MAX_KEYS as u64;

#[test]
fn flood_of_keys_keeps_new_clients_allowed_and_denied_clients_denied() {
    // In a window new keys are reset later than earlier ones, or at the same time.
    let epoch = Quota::interval_bucket(LIMIT, LIMIT, DAY).anchor(Anchor::EPOCH);
    for quota in ALGORITHMS.into_iter().chain([epoch]) {
        flood(quota);
    }
}

fn flood(quota: Quota) {
    let backend = backend(MAX_KEYS).0;
    let limiter = Limiter::new(Policy::new("flood", quota), backend.clone());
    // A thousand keys of one time, many times the number that eviction samples.
    let shut_out: Vec<_> = (0..1_000)
        .map(|number| Key::from(format!("shut out {number}")))
        .collect();
    for client in &shut_out {
        assert!(limiter.check_now(client, LIMIT).decision.is_allowed());
        assert!(!limiter.check_now(client, 1).decision.is_allowed());
    }
    for number in 0..FLOOD {
        assert!(
            limiter
                .check_now(&Key::from(number), 1)
                .decision
                .is_allowed(),
            "client {number}"
        );
        assert!(backend.len() <= MAX_KEYS, "{} keys", backend.len());
    }
    for client in &shut_out {
        assert!(
            !limiter.check_now(client, 1).decision.is_allowed(),
            "{quota}"
        );
    }
    assert_eq!(backend.len(), MAX_KEYS);
    assert_eq!(
        backend.evictions(),
        10 * MAX_KEYS + shut_out.len() - MAX_KEYS
    );
    assert!(
        backend.longest_search() <= 32,
        "{} entries",
        backend.longest_search()
    );
}

#[test]
fn full_buckets_are_evicted_first() {
    let (backend, clock) = backend(MAX_KEYS);
    let limiter = Limiter::new(Policy::new("sweep", Quota::per_hour(10)), backend.clone());
    // A token refills in 6 minutes: at any time 3600 clients owe one.
    for number in 0..FLOOD {
        clock.advance(Duration::from_millis(100));
        assert!(
            limiter
                .check_now(&Key::from(number), 1)
                .decision
                .is_allowed()
        );
        assert!(backend.len() <= MAX_KEYS);
    }
    assert_eq!(backend.evictions(), 0);
    assert!(
        (3_600..MAX_KEYS).contains(&backend.len()),
        "{} keys",
        backend.len()
    );
    assert!(backend.longest_search() <= 32);
}

#[test]
fn the_bound_on_keys_holds_at_every_moment_of_a_flood_from_many_threads() {
    const THREADS: u64 = 8;
    let backend = backend(1_000).0;
    let limiter = Limiter::new(Policy::new("threads", Quota::per_hour(10)), backend.clone());
    let (running, looks) = (AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Relaxed) {
                assert!(backend.len() <= 1_000, "{} keys", backend.len());
                looks.fetch_add(1, Relaxed);
            }
        });
        let floods: Vec<_> = (0..THREADS)
            .map(|thread| {
                let limiter = &limiter;
                scope.spawn(move || {
                    for number in 0..5_000 {
                        let key = Key::from(number * THREADS + thread);
                        assert!(limiter.check_now(&key, 1).decision.is_allowed());
                    }
                })
            })
            .collect();
        let ended: Vec<_> = floods.into_iter().map(|flood| flood.join()).collect();
        running.store(false, Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    assert!(looks.into_inner() > 100);
    assert_eq!(backend.len(), 1_000);
    assert_eq!(backend.evictions(), 8 * 5_000 - 1_000);
}

#[test]
fn a_map_smaller_than_one_policy_stays_bounded() {
    let windows = |policy: Policy| {
        policy
            .and("log", Quota::sliding_log(3, DAY))
            .and("window", Quota::fixed_window(3, DAY))
            .and("late", Quota::per_day(3).initial_tokens(2))
    };
    for max_keys in [1, 3] {
        for policy in [
            Policy::new("small", Quota::per_day(3)),
            Policy::new("small", Quota::per_day(3)).and("window", Quota::fixed_window(3, DAY)),
            windows(Policy::new("small", Quota::per_day(3))),
        ] {
            let (backend, clock) = backend(max_keys);
            let limiter = Limiter::new(policy, backend.clone());
            for number in 0..1_000_u64 {
                let key = Key::from(number % 7);
                let _ = limiter.check_now(&key, number % 5);
                assert!(backend.len() <= max_keys);
                if number % 10 == 0 {
                    clock.advance(Duration::from_secs(number));
                }
            }
            assert!(!backend.is_empty() && backend.evictions() > 0);
        }
    }
}

/// The system allocator, with a count of the bytes of each thread.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

fn hold(bytes: usize, back: bool) {
    let bytes = isize::try_from(bytes).expect("layouts fit");
    // Not while the thread ends, when its counter is gone.
    let _ = HELD.try_with(|held| held.set(held.get() + if back { -bytes } else { bytes }));
}

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold(layout.size(), false);
        // SAFETY: the caller upholds the contract of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(layout.size(), true);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes that a backend holds after `keys` keys of which it keeps `max_keys`, and how many it keeps.
fn held_after(keys: u64, max_keys: usize) -> (usize, usize) {
    let before = HELD.get();
    let backend = backend(max_keys).0;
    let limiter = Limiter::new(Policy::new("bytes", Quota::per_hour(10)), backend.clone());
    for number in 0..keys {
        let _ = limiter.check_now(&Key::from(number), 1);
    }
    let held = usize::try_from(HELD.get() - before).expect("the map holds entries");
    (held, backend.len())
}

/// Shards, policy and clock.
const CONSTANT: usize = 8 * 1_024;

#[test]
fn memory_stays_bounded_for_any_keys() {
    for max_keys in [1_000, 2_140, MAX_KEYS, 21_245] {
        let (held, kept) = held_after(10 * max_keys as u64, max_keys);
        assert_eq!(kept, max_keys);
        assert!(
            held <= 64 * max_keys + CONSTANT,
            "{held} bytes for {kept} keys"
        );
    }
}

#[test]
fn a_million_keys_take_at_most_64_bytes_each() {
    let (held, kept) = held_after(1_000_000, 1_000_000);
    assert_eq!(kept, 1_000_000);
    assert!(held <= 64 * kept, "{held} bytes for {kept} keys");
}
