//! Waiting for a future on a plain thread, without a runtime.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

thread_local! {
    /// Whether this thread waits for a future here and, if so, when to look at it again at the latest.
    static LOOK: Cell<Option<Option<Instant>>> = const { Cell::new(None) };
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The outcome of `future`; the thread is parked meanwhile.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    // On a thread that drives tasks, tokio would let it wait for ever after some steps.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    // A future may itself wait for one here.
    let _outer = Restored(LOOK.take());
    loop {
        LOOK.set(Some(None));
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut cx) {
            return outcome;
        }
        match LOOK.take().flatten() {
            Some(look) => thread::park_timeout(look.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
    }
}

/// Puts back what a thread waited for before.
struct Restored(Option<Option<Instant>>);

impl Drop for Restored {
    fn drop(&mut self) {
        LOOK.set(self.0);
    }
}

/// Whether this thread waits for a future in [`block_on`], which then keeps the time for it.
pub(crate) fn is_blocked() -> bool {
    LOOK.get().is_some()
}

/// Completes after `span`, for a future that [`block_on`] waits for.
pub(crate) async fn pause(span: Duration) {
    // Some centuries are as good as for ever.
    let Some(end) = Instant::now().checked_add(span) else {
        return poll_fn(|_| Poll::Pending).await;
    };
    poll_fn(|_| {
        if Instant::now() >= end {
            return Poll::Ready(());
        }
        let sooner = LOOK.get().flatten().is_none_or(|look| end < look);
        if sooner {
            LOOK.set(Some(Some(end)));
        }
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock, SystemClock, Timestamp};

    #[test]
    fn thread_sleeps_by_the_system_clock_without_a_runtime() {
        let clock = SystemClock::new();
        let deadline = clock.now().after(Duration::from_millis(20));
        block_on(clock.sleep_until(deadline));
        assert!(clock.now() >= deadline);
    }

    #[test]
    fn thread_is_woken_before_its_timeout() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let other = thread::spawn(move || sender.send(7).expect("it waits"));
        let far = SystemClock::new().now().after(Duration::from_secs(3_600));
        let mut sleep = SystemClock::new().sleep_until(far);
        let mut receiver = pin!(receiver);
        let heard = block_on(poll_fn(|cx| {
            assert!(sleep.as_mut().poll(cx).is_pending());
            receiver.as_mut().poll(cx)
        }));
        assert_eq!(heard, Ok(7));
        other.join().expect("no panic");
    }

    #[test]
    fn the_sooner_of_two_sleeps_wakes_the_thread() {
        let start = Instant::now();
        let (mut long, mut short) = (
            pin!(pause(Duration::from_secs(3_600))),
            pin!(pause(Duration::from_millis(10))),
        );
        block_on(poll_fn(|cx| {
            assert!(long.as_mut().poll(cx).is_pending());
            short.as_mut().poll(cx)
        }));
        assert!(start.elapsed() >= Duration::from_millis(10));
    }

    #[test]
    fn thread_sleeps_by_a_manual_clock() {
        let clock = ManualClock::at(Timestamp::from_micros(100));
        let sleep = clock.sleep_until(Timestamp::from_micros(200));
        let other = thread::spawn(move || clock.advance(Duration::from_micros(100)));
        block_on(sleep);
        other.join().expect("no panic");
    }

    #[test]
    fn block_on_can_be_nested() {
        let seven = block_on(async {
            block_on(pause(Duration::from_millis(2)));
            assert!(is_blocked());
            pause(Duration::from_millis(2)).await;
            7
        });
        assert_eq!(seven, 7);
        assert!(!is_blocked());
    }
}
