use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Clock, Timestamp};

/// A clock for tests, which moves only when a test moves it. Its sleepers wake up when their time has come.
///
/// ```
/// use std::time::Duration;
/// use tower_sluice::clock::{Clock, ManualClock, Timestamp};
///
/// let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().micros_since(before), 60_000_000);
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<watch::Sender<Timestamp>>);

impl ManualClock {
    /// Creates a clock that shows `now`.
    ///
    /// See the example of [`ManualClock`].
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(watch::Sender::new(now)))
    }

    /// Advances the clock by `span`, rounded up to a whole microsecond.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::clock::{ManualClock, Timestamp};
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    /// let backend = MemoryBackend::builder().clock(clock.clone()).build();
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(1)), backend);
    /// assert!(limiter.check_now("ann", 1).decision.is_allowed());
    /// assert!(!limiter.check_now("ann", 1).decision.is_allowed());
    /// clock.advance(Duration::from_secs(3_600));
    /// assert!(limiter.check_now("ann", 1).decision.is_allowed());
    /// ```
    pub fn advance(&self, span: Duration) {
        self.0.send_modify(|now| *now = now.after(span));
    }

    /// Returns the number of sleepers. A test can wait until all tasks sleep before it advances the clock.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.0.receiver_count()
    }

    /// Sets the clock to `now`, which may be earlier than the present time.
    ///
    /// ```
    /// use tower_sluice::clock::{Clock, ManualClock, Timestamp};
    ///
    /// let clock = ManualClock::at(Timestamp::from_micros(5_000_000));
    /// clock.set(Timestamp::from_micros(2_000_000)); // 3 s back
    /// assert_eq!(clock.now(), Timestamp::from_micros(2_000_000));
    /// ```
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
        // The future keeps the sender. Otherwise it would wake early when the last handle of the clock is dropped.
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
    async fn sleeper_wakes_at_its_time_and_no_sooner() {
        let clock = ManualClock::at(Timestamp::from_micros(100));
        let mut sleep = clock.sleep_until(Timestamp::from_micros(200));
        clock.advance(Duration::from_micros(99));
        assert!(poll_once(&mut sleep).await.is_none());
        clock.advance(Duration::from_nanos(1));
        assert!(poll_once(&mut sleep).await.is_some());
    }

    /// Polls once. Returns the output if the future has completed.
    async fn poll_once(sleep: &mut (impl Future<Output = ()> + Unpin)) -> Option<()> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match Pin::new(&mut *sleep).poll(cx) {
                std::task::Poll::Ready(()) => Some(()),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
