//! Time as an argument: what decides and what sleeps is one [`Clock`].
//!
//! [`SystemClock`] is the wall clock read once, at the first use in the process, plus monotonic time since then:
//! windows aligned to the epoch are where people expect them, and no step of the wall clock moves a limit. Its rate
//! follows the operating system's. [`ManualClock`] stands still until a test moves it, and wakes what sleeps on it;
//! [`TokioClock`] goes with Tokio's time, also if that is paused.
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::clock::{Clock, ManualClock, Timestamp};
//!
//! let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
//! let before = clock.now();
//! clock.advance(Duration::from_millis(5));
//! assert_eq!(clock.now().micros_since(before), 5_000);
//! ```

mod latest;
mod manual;
mod pace;
mod system;
mod tokio;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::latest::Latest;
pub use self::manual::ManualClock;
pub use self::system::SystemClock;
pub use self::tokio::TokioClock;

/// A point in time: whole microseconds since the Unix epoch, below 2^53 (the year 2255) on any clock that is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest time there is, 2^54 - 1 µs: sums with any span of a quota stay far from overflowing.
    pub const MAX: Self = Self((1 << 54) - 1);

    /// `micros` microseconds after the Unix epoch, [`MAX`](Self::MAX) at the most.
    #[must_use]
    #[inline]
    pub const fn from_micros(micros: u64) -> Self {
        if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    #[inline]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Microseconds from `earlier` to `self`; 0 if `earlier` is the later one.
    #[must_use]
    #[inline]
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `self + span`, the span rounded up to a whole microsecond, [`MAX`](Self::MAX) at the most.
    #[must_use]
    #[inline]
    pub const fn after(self, span: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(micros_up(span)))
    }
}

/// A duration in whole microseconds, rounded up; `u64::MAX` for what does not fit.
pub(crate) const fn micros_up(span: Duration) -> u64 {
    let micros = span.as_nanos().div_ceil(1_000);
    if micros > u64::MAX as u128 {
        u64::MAX
    } else {
        // Checked in the line above.
        #[allow(clippy::cast_possible_truncation)]
        {
            micros as u64
        }
    }
}

/// The time that a limiter sees and the timer it sleeps by. Clones show the same time.
pub trait Clock: Clone + Send + Sync + 'static {
    /// What [`sleep_until`](Self::sleep_until) returns.
    type Sleep: Future<Output = ()> + Send + 'static;

    /// The time now.
    ///
    /// A backend may read the clock while it holds a lock: an implementation must not ask the backend. No thread should
    /// read an earlier time after another one has read a later one, unless the clock really goes back.
    fn now(&self) -> Timestamp;

    /// Completes when the clock shows `deadline` or later, never sooner; at once if it already does.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the clock.
    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep;
}

/// Any clock, where its type does not matter. Clones show the same time.
#[derive(Clone)]
pub(crate) struct AnyClock(Arc<dyn Erased>);

/// A [`Clock`] as an object.
trait Erased: Send + Sync {
    fn erased_now(&self) -> Timestamp;
    fn erased_sleep_until(&self, deadline: Timestamp) -> Sleep;
}

/// What a clock of any type returns to sleep by.
pub(crate) type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<C: Clock> Erased for C {
    fn erased_now(&self) -> Timestamp {
        self.now()
    }

    fn erased_sleep_until(&self, deadline: Timestamp) -> Sleep {
        Box::pin(self.sleep_until(deadline))
    }
}

impl AnyClock {
    pub(crate) fn new(clock: impl Clock) -> Self {
        Self(Arc::new(clock))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.erased_now()
    }

    /// As [`Clock::sleep_until`].
    pub(crate) fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        self.0.erased_sleep_until(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_up_and_saturate() {
        assert_eq!(micros_up(Duration::from_nanos(1)), 1);
        assert_eq!(micros_up(Duration::from_micros(7)), 7);
        assert_eq!(micros_up(Duration::MAX), u64::MAX);
        assert_eq!(Timestamp::MAX.after(Duration::MAX), Timestamp::MAX);
    }
}
