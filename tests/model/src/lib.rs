//! Threads and tasks on one `MemoryBackend`, in orders that shuttle chooses: at each reading of the clock, each lock and each
//! atomic of the key budget another thread may go on. A failure prints a schedule.
#![cfg(all(test, sluice_model))]

mod clock;
mod history;
mod keys;
mod permits;
mod readings;
mod waits;

use std::sync::RwLock;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// How many orders a model tries.
const ORDERS: usize = 2_000;

/// The switch of the mutant is one for the process: the mutant runs alone.
static MUTANT: RwLock<()> = RwLock::new(());

/// Tries many orders of `model`, half of them with few changes between threads and half at random.
fn check(model: fn()) {
    let _shared = MUTANT
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    run(model);
}

fn run(model: fn()) {
    let config = || {
        let mut config = Config::new();
        // A decision takes more than the 32 KiB that a thread has by itself.
        config.stack_size = 1 << 18;
        config.silence_warnings = true;
        config
    };
    Runner::new(PctScheduler::new(3, ORDERS), config()).run(model);
    Runner::new(RandomScheduler::new(ORDERS), config()).run(model);
}

/// Whether `model` fails if late readings are kept.
fn convicts_late_readings(model: fn()) -> bool {
    let _alone = MUTANT
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    tower_sluice::model::keep_late_readings(true);
    let failed = std::panic::catch_unwind(|| run(model)).is_err();
    tower_sluice::model::keep_late_readings(false);
    failed
}
