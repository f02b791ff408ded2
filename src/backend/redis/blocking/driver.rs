//! The thread that drives the asynchronous backend for plain threads.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread with a Tokio runtime. The thread ends when the driver is dropped.
pub(super) struct Driver {
    runtime: Handle,
    _open: oneshot::Sender<Infallible>,
}

impl Driver {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (open, closed) = oneshot::channel::<Infallible>();
        thread::Builder::new()
            .name("redis".to_owned())
            .spawn(move || drop(runtime.block_on(closed)))?;
        Ok(Self {
            runtime: handle,
            _open: open,
        })
    }

    /// Runs `future` on the driver and parks this thread until it is ready. Returns `None` if that takes longer than
    /// `within`, or if the driver's thread does not exist, as in a forked process.
    pub(super) fn run<F>(&self, within: Duration, future: F) -> Option<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.runtime
            .spawn(async move { drop(sender.send(future.await)) });
        wait_until(Instant::now().checked_add(within), receiver)?.ok()
    }
}

/// Parks this thread until the future is ready, or until the deadline.
fn wait_until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    struct ThreadWaker(Thread);

    impl Wake for ThreadWaker {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    // Without this, the budget of Tokio would block the future for ever on a thread that drives tasks.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(ThreadWaker(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let Some(deadline) = deadline else {
            thread::park();
            continue;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_waits_until_its_deadline_or_until_it_is_woken() {
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(
            wait_until(Some(deadline), std::future::pending::<()>()),
            None
        );
        assert!(Instant::now() >= deadline);
        let (sender, receiver) = oneshot::channel();
        let sending = thread::spawn(move || sender.send(7));
        assert_eq!(wait_until(None, receiver), Some(Ok(7)));
        sending.join().expect("no panic").expect("it was received");
    }

    #[test]
    fn thread_ends_with_its_driver() {
        let driver = Driver::start().expect("a thread");
        assert_eq!(driver.run(Duration::MAX, async { 7 }), Some(7));
        assert_eq!(
            driver.run(Duration::ZERO, std::future::pending::<()>()),
            None
        );
        let held = Arc::new(());
        let kept = Arc::clone(&held);
        driver.runtime.spawn(async move {
            let _kept = kept;
            std::future::pending::<()>().await;
        });
        drop(driver);
        let start = Instant::now();
        while Arc::strong_count(&held) > 1 {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "the task still runs"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}
