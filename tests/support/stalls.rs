//! Tests that need a machine without pauses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// A longer pause of the machine excuses a failure: a check of 200 ms has 50 ms to spare.
const SPARE: Duration = Duration::from_millis(15);

/// Repeats `series` until it passes, or fails without a pause of the machine.
pub(crate) async fn retry_after_stalls<F: Future<Output = Result<(), String>>>(
    series: impl Fn() -> F,
) {
    for _ in 0..5 {
        let stalls = Stalls::watch();
        let Err(why) = series().await else { return };
        stalls.stall_excuse(&why);
    }
    panic!("the machine pauses all the time");
}

/// The same without a runtime.
pub(crate) fn retry_after_stalls_blocking(series: impl Fn() -> Result<(), String>) {
    for _ in 0..5 {
        let stalls = Stalls::watch();
        let Err(why) = series() else { return };
        stalls.stall_excuse(&why);
    }
    panic!("the machine pauses all the time");
}

/// Measures the longest time in µs for which a ready thread did not run.
struct Stalls(Arc<AtomicU64>);

impl Stalls {
    fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let seen = Arc::downgrade(&longest);
        thread::spawn(move || {
            let step = Duration::from_millis(1);
            while let Some(longest) = seen.upgrade() {
                let start = Instant::now();
                thread::sleep(step);
                let late = start.elapsed().saturating_sub(step).as_micros();
                longest.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Relaxed);
            }
        });
        Self(longest)
    }

    fn stall_excuse(&self, why: &str) {
        let longest = Duration::from_micros(self.0.load(Relaxed));
        assert!(
            longest > SPARE,
            "{why}; the machine stood still for {longest:?}"
        );
        println!("again, for the machine stood still for {longest:?}: {why}");
    }
}
