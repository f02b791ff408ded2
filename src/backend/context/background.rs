use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::telemetry;

/// The most background tasks at a time, those that give something back aside.
const MAX_TASKS: usize = 1_024;
/// Of those, how many are asked of the backend at a time: more would only wait there, and run out of their time.
const MAX_CONCURRENT: usize = 256;
/// The longest that one may take; backends have time limits of their own, far below it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Operations that go on when nobody waits for their answer, counted and bounded.
#[derive(Debug)]
pub(crate) struct BackgroundTasks {
    running: AtomicUsize,
    /// How many there have been, those that could not be begun aside.
    begun: AtomicUsize,
    failed: AtomicUsize,
    slots: Semaphore,
}

impl Default for BackgroundTasks {
    fn default() -> Self {
        Self {
            running: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            slots: Semaphore::new(MAX_CONCURRENT),
        }
    }
}

/// The error of a background task. After [`TimedOut`](Self::TimedOut), [`RuntimeEnded`](Self::RuntimeEnded) and most
/// backend errors the effect is unknown.
#[derive(Clone, Debug)]
pub(crate) enum TaskError {
    /// The bound on running tasks is reached.
    TooMany,
    /// The caller is outside of a Tokio runtime.
    NoRuntime,
    /// The runtime ended before the task did.
    RuntimeEnded,
    /// The task did not end within the time limit.
    TimedOut,
    /// The backend's error.
    Failed(Arc<dyn Error + Send + Sync>),
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "{MAX_TASKS} background tasks are running already"),
            Self::NoRuntime => f.write_str("no Tokio runtime to run the task in"),
            Self::RuntimeEnded => f.write_str("the Tokio runtime ended before the task"),
            Self::TimedOut => write!(f, "the task did not end within {TIMEOUT:?}"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl TaskError {
    pub(crate) fn from_error(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Failed(Arc::new(error))
    }
}

impl BackgroundTasks {
    pub(super) fn running(&self) -> usize {
        self.running.load(Relaxed)
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    pub(super) fn failed(&self) -> usize {
        self.failed.load(Relaxed)
    }

    /// Sees to it that `task` runs to its end, within its bounds, whether or not its outcome is waited for.
    ///
    /// # Errors
    ///
    /// If it could not be begun.
    pub(crate) fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        task: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, TaskError>>, TaskError> {
        let runtime =
            Handle::try_current().map_err(|_| self.record_failure(TaskError::NoRuntime))?;
        let one_more = |running| (running < MAX_TASKS).then_some(running + 1);
        let begun = self.running.fetch_update(Relaxed, Relaxed, one_more);
        begun.map_err(|_| self.record_failure(TaskError::TooMany))?;
        Ok(self.start(&runtime, task))
    }

    /// The same for what gives something back, however many there are: it was had before, and that is bounded.
    pub(crate) fn spawn_unbounded(
        self: &Arc<Self>,
        task: impl Future<Output = Result<(), TaskError>> + Send + 'static,
    ) {
        match Handle::try_current() {
            Ok(runtime) => {
                self.running.fetch_add(1, Relaxed);
                drop(self.start(&runtime, task));
            }
            Err(_) => drop(self.record_failure(TaskError::NoRuntime)),
        }
    }

    /// Waits until the backend may be asked to take something back; first come, first served.
    pub(crate) async fn acquire_slot(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.slots.acquire().await.ok()
    }

    /// The same in this runtime, however many are under way: what is given back was had before, and is bounded by that.
    ///
    /// # Errors
    ///
    /// If there is no runtime.
    pub(crate) fn spawn_on<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: Option<Handle>,
        task: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, TaskError>>, TaskError> {
        let runtime = runtime.ok_or_else(|| self.record_failure(TaskError::NoRuntime))?;
        self.running.fetch_add(1, Relaxed);
        Ok(self.start(&runtime, task))
    }

    /// Runs what has been counted.
    fn start<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        task: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, TaskError>> {
        self.begun.fetch_add(1, Relaxed);
        let running_task = RunningTask(Arc::clone(self), true);
        let (sender, outcome) = oneshot::channel();
        runtime.spawn(async move {
            let mut running_task = running_task;
            let done = tokio::time::timeout(TIMEOUT, task).await;
            let done = done.unwrap_or(Err(TaskError::TimedOut));
            let done = done.map_err(|error| running_task.0.record_failure(error));
            // Before its outcome is told: whoever hears of it finds it done.
            running_task.1 = false;
            drop(running_task);
            // Who has gone meanwhile does not hear it.
            let _ = sender.send(done);
        });
        outcome
    }

    /// Counts a failure.
    pub(crate) fn record_failure(&self, error: TaskError) -> TaskError {
        self.failed.fetch_add(1, Relaxed);
        telemetry::background_task_failed(&error);
        error
    }
}

/// A background task that is under way, lost if this is dropped before its time.
struct RunningTask(Arc<BackgroundTasks>, bool);

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
        if self.1 {
            self.0.record_failure(TaskError::RuntimeEnded);
        }
    }
}
