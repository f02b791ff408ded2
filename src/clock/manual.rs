use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Clock, Timestamp};

/// A clock that only moves when it is told to, for tests; what sleeps on it wakes when its time has come.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<watch::Sender<Timestamp>>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(watch::Sender::new(now)))
    }

    /// Moves the clock on by `span`, rounded up to a whole microsecond.
    pub fn advance(&self, span: Duration) {
        self.0.send_modify(|now| *now = now.after(span));
    }

    /// How many sleep on it: who moves it, and wants others to see every step, waits until they do.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.0.receiver_count()
    }

    /// Sets the clock to `now`, which may lie in its past.
    pub fn set(&self, now: Timestamp) {
        self.0.send_replace(now);
    }
}

impl Clock for ManualClock {
    type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep {
        // The sender goes along, so that a sleeper outlives every other handle of its clock instead of waking early.
        let clock = Arc::clone(&self.0);
        Box::pin(async move {
            let mut shown = clock.subscribe();
            let _ = shown.wait_for(|now| *now >= deadline).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_on_a_manual_clock_wakes_at_its_time_and_no_sooner() {
        let clock = ManualClock::at(Timestamp::from_micros(100));
        let mut sleep = clock.sleep_until(Timestamp::from_micros(200));
        clock.advance(Duration::from_micros(99));
        assert!(futures_now(&mut sleep).await.is_none());
        clock.advance(Duration::from_nanos(1));
        assert!(futures_now(&mut sleep).await.is_some());
    }

    /// One poll: the output if it is there.
    async fn futures_now(sleep: &mut (impl Future<Output = ()> + Unpin)) -> Option<()> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match Pin::new(&mut *sleep).poll(cx) {
                std::task::Poll::Ready(()) => Some(()),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
