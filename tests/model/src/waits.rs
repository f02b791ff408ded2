//! The queue of waiters under a window, and reservations of a bucket: a waiter dropped at any point does not block the
//! next one.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::{block_on, spawn};
use shuttle::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use shuttle::thread;
use tower_sluice::backend::Backend;
use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};

use crate::check;
use crate::clock::ModelClock;

const HORIZON: u64 = 4;

fn limiter(quota: Quota) -> (ModelClock, Limiter<MemoryBackend<ModelClock>>) {
    let clock = ModelClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    (clock, Limiter::new(Policy::new("p", quota), backend))
}

/// Three waiters, one of which may be dropped at any point. The others are allowed in the end, and leave nothing.
fn wait(quota: Quota) {
    let (clock, limiter) = limiter(quota);
    block_on(async move {
        let done = Arc::new(AtomicUsize::new(0));
        let waits = |stays: usize| {
            let (limiter, done) = (limiter.clone(), Arc::clone(&done));
            spawn(async move {
                let charge = limiter
                    .acquire(&Key::from("ann"), 1, MaxWait::Unbounded)
                    .await;
                assert!(charge.is_ok());
                done.fetch_add(stays, SeqCst);
            })
        };
        let (one, leaves, two) = (waits(1), waits(0), waits(1));
        let time = {
            let (clock, done) = (clock.clone(), Arc::clone(&done));
            thread::spawn(move || {
                while done.load(SeqCst) < 2 {
                    clock.advance(1);
                    thread::yield_now();
                }
            })
        };
        leaves.abort();
        one.await.expect("no panic");
        two.await.expect("no panic");
        let _ = leaves.await;
        time.join().expect("no panic");
        assert_eq!(limiter.backend().context().stats().waiting, 0);
    });
}

#[test]
fn window_waiters_proceed_after_a_drop() {
    check(|| wait(Quota::fixed_window(1, Duration::from_micros(HORIZON))));
}

#[test]
fn bucket_waiters_proceed_after_a_drop() {
    check(|| wait(Quota::token_bucket(1, 1, Duration::from_micros(HORIZON))));
}
