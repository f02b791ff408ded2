use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::telemetry;

/// A settlement is rejected while this many tasks run. Tasks that return tokens or permits have no bound.
const MAX_TASKS: usize = 1_024;
/// The most tasks that use the backend at a time. More would queue there until their time limit.
const MAX_CONCURRENT: usize = 256;
/// The time limit of a task. Backends have their own time limits, far below it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Counts and bounds the operations that run to their end after their caller has gone.
#[derive(Debug)]
pub(crate) struct BackgroundTasks {
    running: AtomicUsize,
    /// Tasks that were started so far.
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

    /// Runs `task` to its end in the background. Dropping the receiver does not stop it.
    ///
    /// # Errors
    ///
    /// Returns an error if the bound on tasks is reached, or outside of a Tokio runtime.
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

    /// Like [`spawn`](Self::spawn) without a bound, for tasks that return tokens or permits. The bounds on what was
    /// acquired bound their number.
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

    /// Waits until the task may use the backend. Tasks are served in order of arrival.
    pub(crate) async fn acquire_slot(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.slots.acquire().await.ok()
    }

    /// Like [`spawn_unbounded`](Self::spawn_unbounded) in the given runtime, with a receiver of the outcome.
    ///
    /// # Errors
    ///
    /// Returns an error if `runtime` is `None`.
    pub(crate) fn spawn_on<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: Option<Handle>,
        task: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, TaskError>>, TaskError> {
        let runtime = runtime.ok_or_else(|| self.record_failure(TaskError::NoRuntime))?;
        self.running.fetch_add(1, Relaxed);
        Ok(self.start(&runtime, task))
    }

    /// Starts a task that is counted as running.
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
            // The count falls before the outcome is sent, so that its receiver sees the task as ended.
            running_task.1 = false;
            drop(running_task);
            // The receiver may be dropped.
            let _ = sender.send(done);
        });
        outcome
    }

    /// Counts and reports a failure.
    pub(crate) fn record_failure(&self, error: TaskError) -> TaskError {
        self.failed.fetch_add(1, Relaxed);
        telemetry::background_task_failed(&error);
        error
    }
}

/// A running task, and whether its end is still to come. Dropping it before the end counts a failure.
struct RunningTask(Arc<BackgroundTasks>, bool);

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
        if self.1 {
            self.0.record_failure(TaskError::RuntimeEnded);
        }
    }
}
