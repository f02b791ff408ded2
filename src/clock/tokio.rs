use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{Clock, SystemClock, Timestamp};

/// A clock for tests that follows Tokio's time: the wall clock at its creation plus Tokio's time since then.
///
/// Under paused time ([`tokio::time::pause`](https://docs.rs/tokio/latest/tokio/time/fn.pause.html)) it stands still
/// and moves with Tokio's timers. In production [`SystemClock`] is faster.
///
/// ```
/// use std::time::Duration;
/// use tower_sluice::clock::TokioClock;
/// use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let backend = MemoryBackend::builder().clock(TokioClock::new()).build();
/// let limiter = Limiter::new(Policy::new("reports", Quota::per_hour(1)), backend);
/// let ann = Key::from("ann");
/// for waited in [0, 3_600, 3_600] {
///     let charge = limiter.acquire(&ann, 1, MaxWait::Unbounded).await.expect("allowed");
///     assert_eq!(charge.waited().as_secs(), waited);
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: tokio::time::Instant,
    wall: Timestamp,
}

impl TokioClock {
    /// Creates a clock that shows the present time of the wall clock.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: tokio::time::Instant::now(),
            wall: SystemClock::new().now(),
        }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn now(&self) -> Timestamp {
        let passed = self.start.elapsed().as_micros();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        Timestamp::from_micros(self.wall.as_micros().saturating_add(passed))
    }

    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep {
        let clock = *self;
        Box::pin(async move {
            // Tokio's timer has a resolution of 1 ms and may wake early.
            loop {
                let left = deadline.micros_since(clock.now());
                if left == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_micros(left)).await;
            }
        })
    }
}
