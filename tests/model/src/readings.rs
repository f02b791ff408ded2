//! Read the clock, lock, decide, sweep.

use shuttle::thread;
use tower_sluice::Cost;
use tower_sluice::backend::Op;

use crate::history::{Algorithm, HORIZON, History, LIMIT};
use crate::{check, detects_late_readings};

/// Three threads on one key, while the clock advances beyond its horizon.
fn charge(algorithm: Algorithm) {
    let history = History::new(algorithm);
    let start = |work: fn(&History)| {
        let history = history.clone();
        thread::spawn(move || work(&history))
    };
    let threads = [
        start(|history| history.clock.advance(3 * HORIZON)),
        start(|history| history.check(1)),
        start(|history| {
            history.check(LIMIT);
            history.check(LIMIT);
        }),
        start(|history| history.check(LIMIT)),
    ];
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    history.check(LIMIT);
    history.is_within_bounds();
}

/// A key is charged, owes nothing and is swept by new keys, while a thread has a late reading.
fn sweep(algorithm: Algorithm) {
    let history = History::new(algorithm);
    let start = |work: fn(&History)| {
        let history = history.clone();
        thread::spawn(move || work(&history))
    };
    let late = start(|history| history.check(LIMIT));
    let other = start(|history| {
        history.clock.advance(HORIZON - 1);
        history.check(LIMIT);
        history.clock.advance(HORIZON);
        for newcomer in ["bob", "cid"] {
            let _ = history.ask(newcomer, Op::Check(Cost::new(1)));
        }
    });
    [late, other]
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    history.check(LIMIT);
    history.is_within_bounds();
}

/// Other operations are late, and free no tokens.
fn change(algorithm: Algorithm) {
    let history = History::new(algorithm);
    let start = |work: fn(&History)| {
        let history = history.clone();
        thread::spawn(move || work(&history))
    };
    let threads = [
        start(|history| drop(history.ask("ann", Op::Penalize(Cost::new(1))))),
        start(|history| {
            history.clock.advance(3 * HORIZON);
            history.check(LIMIT);
            history.check(LIMIT);
        }),
    ];
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    history.check(LIMIT);
    history.is_within_bounds();
}

macro_rules! models {
    ($($name:ident: $algorithm:ident,)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn threads_never_exceed_the_quota_in_any_order() {
                check(|| charge(Algorithm::$algorithm));
                check(|| sweep(Algorithm::$algorithm));
                check(|| change(Algorithm::$algorithm));
            }

            #[test]
            fn model_detects_late_readings() {
                assert!(detects_late_readings(|| charge(Algorithm::$algorithm)));
            }
        }
    )* };
}

models! {
    token_bucket: TokenBucket,
    interval_bucket: IntervalBucket,
    fixed_window: FixedWindow,
    sliding_window: SlidingWindow,
    sliding_log: SlidingLog,
}

#[test]
fn model_detects_a_key_that_starts_before_its_sweep() {
    assert!(detects_late_readings(|| sweep(Algorithm::TokenBucket)));
}

#[test]
fn model_detects_a_late_penalty() {
    assert!(detects_late_readings(|| change(Algorithm::TokenBucket)));
}
