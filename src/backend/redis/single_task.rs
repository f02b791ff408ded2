//! A background task of which at most one runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Whether the task runs. A runtime that ends drops its tasks, and the task can then be started again.
#[derive(Debug, Default)]
pub(super) struct SingleTask(Arc<AtomicBool>);

impl SingleTask {
    /// Starts the task that `make` returns, unless one runs. It must be called within a runtime.
    pub(super) fn start<T>(&self, make: impl FnOnce() -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        if self.0.load(SeqCst) || self.0.swap(true, SeqCst) {
            return;
        }
        let running = Running(Arc::clone(&self.0));
        let task = make();
        tokio::spawn(async move {
            let _running = running;
            task.await;
        });
    }
}

/// Marks that the task runs, until it is dropped.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn one_task_runs_and_a_task_of_an_ended_runtime_is_replaced() {
        let (single, started) = (SingleTask::default(), Arc::new(AtomicUsize::new(0)));
        for expected in 1..=2 {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.expect("a runtime").block_on(async {
                for _ in 0..2 {
                    let started = Arc::clone(&started);
                    single.start(|| async move {
                        started.fetch_add(1, SeqCst);
                        std::future::pending::<()>().await;
                    });
                    tokio::task::yield_now().await;
                }
            });
            assert_eq!(started.load(SeqCst), expected);
        }
    }
}
