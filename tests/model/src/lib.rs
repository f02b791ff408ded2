//! Threads and tasks on one `MemoryBackend`, interleaved by shuttle. At each clock reading, lock and atomic of the key
//! budget another thread may run. A failure prints a schedule.
#![cfg(all(test, sluice_model))]

mod clock;
mod denials;
mod history;
mod keys;
mod permits;
mod readings;
mod waits;

use std::sync::RwLock;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// The number of interleavings of each model.
const ORDERS: usize = 2_000;

/// The switch of the mutant is global: the mutant runs alone.
static MUTANT: RwLock<()> = RwLock::new(());

/// Tries many interleavings of `model`: half with few switches between threads, half at random.
fn check(model: fn()) {
    let _shared = MUTANT
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    run(model);
}

fn run(model: fn()) {
    let config = || {
        let mut config = Config::new();
        // A decision needs more than the default stack of 32 KiB.
        config.stack_size = 1 << 18;
        config.silence_warnings = true;
        config
    };
    Runner::new(PctScheduler::new(3, ORDERS), config()).run(model);
    Runner::new(RandomScheduler::new(ORDERS), config()).run(model);
}

/// Whether `model` fails if late readings are trusted.
fn detects_late_readings(model: fn()) -> bool {
    let _alone = MUTANT
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    tower_sluice::model::keep_late_readings(true);
    let failed = std::panic::catch_unwind(|| run(model)).is_err();
    tower_sluice::model::keep_late_readings(false);
    failed
}
