//! Blocks a plain thread on a future, without a runtime.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

thread_local! {
    /// `Some` while this thread is in [`block_on`]. The inner value is the time of the next poll, if there is one.
    static NEXT_POLL: Cell<Option<Option<Instant>>> = const { Cell::new(None) };
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Returns the outcome of `future`. The thread is parked meanwhile.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    // On a thread of a runtime, Tokio's budget would stop the future after some steps, and nothing would renew the
    // budget.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    // A future may itself call `block_on`.
    let _outer = Restored(NEXT_POLL.take());
    loop {
        NEXT_POLL.set(Some(None));
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut cx) {
            return outcome;
        }
        match NEXT_POLL.take().flatten() {
            Some(next) => thread::park_timeout(next.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
    }
}

/// Restores the state of the outer `block_on`.
struct Restored(Option<Option<Instant>>);

impl Drop for Restored {
    fn drop(&mut self) {
        NEXT_POLL.set(self.0);
    }
}

/// Returns whether this thread is in [`block_on`], which then wakes it for [`pause`].
pub(crate) fn is_blocked() -> bool {
    NEXT_POLL.get().is_some()
}

/// Sleeps for `span` within [`block_on`].
pub(crate) async fn pause(span: Duration) {
    // The end does not fit into an `Instant`, which holds centuries.
    let Some(end) = Instant::now().checked_add(span) else {
        return poll_fn(|_| Poll::Pending).await;
    };
    poll_fn(|_| {
        if Instant::now() >= end {
            return Poll::Ready(());
        }
        let sooner = NEXT_POLL.get().flatten().is_none_or(|next| end < next);
        if sooner {
            NEXT_POLL.set(Some(Some(end)));
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
        let other = thread::spawn(move || sender.send(7).expect("the receiver waits"));
        let far = SystemClock::new().now().after(Duration::from_secs(3_600));
        let mut sleep = SystemClock::new().sleep_until(far);
        let mut receiver = pin!(receiver);
        let received = block_on(poll_fn(|cx| {
            assert!(sleep.as_mut().poll(cx).is_pending());
            receiver.as_mut().poll(cx)
        }));
        assert_eq!(received, Ok(7));
        other.join().expect("no panic");
    }

    #[test]
    fn sooner_of_two_sleeps_wakes_the_thread() {
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
