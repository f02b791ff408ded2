//! The budget of keys.

use std::num::NonZeroUsize;

use shuttle::thread;
use tower_sluice::backend::{Answer, Backend, Op};
use tower_sluice::{Cost, Key, MemoryBackend, Policy, Quota};

use crate::check;
use crate::clock::ModelClock;

/// Threads add keys and forget some. The bound is never exceeded, and the count is exact.
#[test]
fn keys_never_exceed_the_bound() {
    check(|| {
        let clock = ModelClock::new();
        // Two shards.
        let max_keys = NonZeroUsize::new(2_048).expect("not 0");
        let backend = MemoryBackend::builder()
            .max_keys(max_keys)
            .clock(clock)
            .build();
        let policy = Policy::new("p", Quota::per_hour(1));
        let ask = |backend: &MemoryBackend<ModelClock>, policy: &Policy, key: u64, op| match backend
            .ask(op, policy, &Key::from(key))
        {
            Answer::Now(Ok(reply)) => reply,
            _ => unreachable!("memory answers at once and cannot fail"),
        };
        let threads = [0_u64, 1, 2].map(|number| {
            let (backend, policy) = (backend.clone(), policy.clone());
            thread::spawn(move || {
                for key in 0..3 {
                    let _ = ask(&backend, &policy, 10 * number + key, Op::Check(Cost::ONE));
                }
                let _ = ask(&backend, &policy, 10 * number, Op::Reset);
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("no panic"));
        assert_eq!((backend.len(), backend.evictions()), (6, 0));
    });
}

#[test]
fn a_full_map_evicts_and_stays_within_the_bound() {
    check(|| {
        let backend = MemoryBackend::builder()
            .max_keys(NonZeroUsize::new(2).expect("not 0"))
            .clock(ModelClock::new())
            .build();
        let policy = Policy::new("p", Quota::per_hour(1));
        let threads = [0_u64, 1, 2].map(|number| {
            let (backend, policy) = (backend.clone(), policy.clone());
            thread::spawn(move || {
                for key in 0..2 {
                    let key = Key::from(10 * number + key);
                    drop(backend.ask(Op::Check(Cost::ONE), &policy, &key));
                    assert!(backend.len() <= 2);
                }
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("no panic"));
        assert_eq!((backend.len(), backend.evictions()), (2, 4));
    });
}
