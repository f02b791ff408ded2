use std::cell::Cell;
use std::future::{Pending, pending};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use tower_sluice::clock::{Clock, Timestamp};

thread_local! {
    /// Whether the next reading on this thread is held.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// A clock that can hold a thread between its reading and the use of the reading.
#[derive(Clone)]
pub(crate) struct HeldClock {
    now: Arc<AtomicU64>,
    held: Arc<Barrier>,
}

impl HeldClock {
    pub(crate) fn new() -> Self {
        Self {
            now: Arc::new(AtomicU64::new(1_800_000_000_000_000)),
            held: Arc::new(Barrier::new(2)),
        }
    }

    pub(crate) fn advance(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).expect("the value fits");
        self.now.fetch_add(micros, SeqCst);
    }

    /// Runs `op` on another thread. Runs `meanwhile` after that thread has read the clock for the first time.
    pub(crate) fn late<T: Send>(
        &self,
        op: impl FnOnce() -> T + Send,
        meanwhile: impl FnOnce(),
    ) -> T {
        thread::scope(|scope| {
            let late = scope.spawn(|| {
                HELD.set(true);
                op()
            });
            self.held.wait();
            meanwhile();
            self.held.wait();
            late.join().expect("no panic")
        })
    }
}

impl Clock for HeldClock {
    type Sleep = Pending<()>;

    fn now(&self) -> Timestamp {
        let now = Timestamp::from_micros(self.now.load(SeqCst));
        if HELD.take() {
            self.held.wait();
            self.held.wait();
        }
        now
    }

    fn sleep_until(&self, _: Timestamp) -> Pending<()> {
        pending()
    }
}
