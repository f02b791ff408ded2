//! A switch of the model in `tests/model`. It exists under `--cfg sluice_model` only.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static KEEP: AtomicBool = AtomicBool::new(false);

/// Switches the second reading of the clock off. The model must then find a violation.
pub fn keep_late_readings(keep: bool) {
    KEEP.store(keep, Relaxed);
}

pub(crate) fn late_readings_are_kept() -> bool {
    KEEP.load(Relaxed)
}
