use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::report;

/// The most errands at a time, those that give something back aside.
const MOST: usize = 1_024;
/// Of those, how many are asked of the backend at a time: more would only wait there, and run out of their time.
const PACE: usize = 256;
/// The longest that one may take; backends have time limits of their own, far below it.
const LONGEST: Duration = Duration::from_secs(5);

/// Operations that go on when nobody waits for their answer, counted and bounded.
#[derive(Debug)]
pub(crate) struct Errands {
    running: AtomicUsize,
    /// How many there have been, those that could not be begun aside.
    begun: AtomicUsize,
    lost: AtomicUsize,
    pace: Semaphore,
}

impl Default for Errands {
    fn default() -> Self {
        Self {
            running: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            pace: Semaphore::new(PACE),
        }
    }
}

/// Why an errand was not done, or nobody knows whether it was.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// So many are under way already.
    Crowded,
    /// There is no runtime to run it in.
    NoRuntime,
    /// The runtime ended meanwhile.
    Lost,
    /// It took too long.
    Slow,
    /// The backend's error.
    Failed(Arc<dyn Error + Send + Sync>),
}

impl Fault {
    pub(crate) fn of(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Failed(Arc::new(error))
    }
}

impl Errands {
    pub(super) fn running(&self) -> usize {
        self.running.load(Relaxed)
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    pub(super) fn lost(&self) -> usize {
        self.lost.load(Relaxed)
    }

    /// Sees to it that `errand` runs to its end, within its bounds, whether or not its outcome is waited for.
    ///
    /// # Errors
    ///
    /// If it could not be begun.
    pub(crate) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        errand: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Fault>>, Fault> {
        let runtime = Handle::try_current().map_err(|_| self.note(Fault::NoRuntime))?;
        let one_more = |running| (running < MOST).then_some(running + 1);
        let begun = self.running.fetch_update(Relaxed, Relaxed, one_more);
        begun.map_err(|_| self.note(Fault::Crowded))?;
        Ok(self.begin(&runtime, errand))
    }

    /// The same for what gives something back, however many there are: it was had before, and that is bounded.
    pub(crate) fn give_back(
        self: &Arc<Self>,
        errand: impl Future<Output = Result<(), Fault>> + Send + 'static,
    ) {
        match Handle::try_current() {
            Ok(runtime) => {
                self.running.fetch_add(1, Relaxed);
                drop(self.begin(&runtime, errand));
            }
            Err(_) => drop(self.note(Fault::NoRuntime)),
        }
    }

    /// Waits until the backend may be asked to take something back; first come, first served.
    pub(crate) async fn in_turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.pace.acquire().await.ok()
    }

    /// The same in this runtime, however many are under way: what is given back was had before, and is bounded by that.
    ///
    /// # Errors
    ///
    /// If there is no runtime.
    pub(crate) fn run_at<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: Option<Handle>,
        errand: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Fault>>, Fault> {
        let runtime = runtime.ok_or_else(|| self.note(Fault::NoRuntime))?;
        self.running.fetch_add(1, Relaxed);
        Ok(self.begin(&runtime, errand))
    }

    /// Runs what has been counted.
    fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        errand: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, Fault>> {
        self.begun.fetch_add(1, Relaxed);
        let slot = Slot(Arc::clone(self), true);
        let (told, outcome) = oneshot::channel();
        runtime.spawn(async move {
            let mut slot = slot;
            let done = tokio::time::timeout(LONGEST, errand).await;
            let done = done.unwrap_or(Err(Fault::Slow));
            let done = done.map_err(|fault| slot.0.note(fault));
            // Before its outcome is told: whoever hears of it finds it done.
            slot.1 = false;
            drop(slot);
            // Who has gone meanwhile does not hear it.
            let _ = told.send(done);
        });
        outcome
    }

    /// Counts a failure.
    pub(crate) fn note(&self, fault: Fault) -> Fault {
        self.lost.fetch_add(1, Relaxed);
        report::errand_lost(&fault);
        fault
    }
}

/// An errand that is under way, lost if this is dropped before its time.
struct Slot(Arc<Errands>, bool);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
        if self.1 {
            self.0.note(Fault::Lost);
        }
    }
}
