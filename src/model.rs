//! Switches of the model in `tests/model`, which exist under `--cfg sluice_model` only.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static BELIEVE: AtomicBool = AtomicBool::new(false);

/// Takes the second reading of the clock away, which the model must notice.
pub fn believe_late_readings(believe: bool) {
    BELIEVE.store(believe, Relaxed);
}

pub(crate) fn late_readings_are_believed() -> bool {
    BELIEVE.load(Relaxed)
}
