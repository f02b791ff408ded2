//! Denials that are read without a lock.

use std::num::NonZeroUsize;

use shuttle::thread;
use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};

use crate::check;
use crate::clock::ModelClock;

type Memory = MemoryBackend<ModelClock>;

/// A limiter with one shard. One token of each of these keys is left.
fn limiter(tokens: u64, keys: &[&str]) -> Limiter<Memory> {
    let backend = MemoryBackend::builder()
        .max_keys(NonZeroUsize::new(8).expect("not 0"))
        .clock(ModelClock::new())
        .build();
    let limiter = Limiter::new(Policy::new("p", Quota::per_day(tokens)), backend);
    for key in keys {
        assert!(limiter.check_now(*key, tokens - 1).decision.is_allowed());
    }
    limiter
}

/// One thread is denied again and again, and another resets the key. After the reset no denial is as before.
#[test]
fn denial_ends_with_its_cause() {
    check(|| {
        let limiter = limiter(3, &["ann"]);
        let denied = limiter.clone();
        let denied = thread::spawn(move || {
            let checks = (0..4).map(|_| denied.check_now("ann", 3).decision.is_allowed());
            checks.filter(|allowed| *allowed).count()
        });
        let reset = limiter.clone();
        let reset = thread::spawn(move || {
            shuttle::future::block_on(reset.reset(&Key::from("ann"))).expect("memory never fails");
            let decision = reset.check_now("ann", 3).decision;
            let left = decision.snapshot().remaining();
            assert_eq!(left, 0, "either thread has taken all three: {decision:?}");
            usize::from(decision.is_allowed())
        });
        let allowed = denied.join().expect("no panic") + reset.join().expect("no panic");
        assert_eq!(allowed, 1);
    });
}

/// Two keys of one shard take turns in being published. No thread mixes their states.
#[test]
fn denial_has_the_numbers_of_its_key() {
    check(|| {
        let limiter = limiter(9, &["ann", "bob"]);
        assert!(limiter.check_now("bob", 1).decision.is_allowed());
        let threads = [("ann", 1), ("bob", 0), ("ann", 1)].map(|(key, left)| {
            let limiter = limiter.clone();
            thread::spawn(move || {
                for _ in 0..3 {
                    let decision = limiter.check_now(key, 2).decision;
                    assert!(!decision.is_allowed());
                    assert_eq!(decision.snapshot().remaining(), left, "{key}");
                }
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("no panic"));
    });
}
