//! Clocks: the trait [`Clock`], by which limits decide and waiters sleep, and three implementations.
//!
//! Guide: [write a part of your own](crate::_guide::extending).
//!
//! - [`SystemClock`] is the default: the wall clock at its first use in the process, plus monotonic time since then.
//!   Windows aligned to the Unix epoch start at round times, and no step of the wall clock moves a limit.
//! - [`ManualClock`] stands still until a test moves it, and wakes its sleepers then.
//! - [`TokioClock`] follows Tokio's time, also while that is paused in a test.
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

/// A point in time in whole microseconds since the Unix epoch. A correct clock stays below 2^53, the year 2255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest time, 2^54 - 1 µs. Sums with the spans of quotas do not overflow.
    pub const MAX: Self = Self((1 << 54) - 1);

    /// Creates the time `micros` microseconds after the Unix epoch, at most [`MAX`](Self::MAX).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::clock::Timestamp;
    ///
    /// let noon = Timestamp::from_micros(43_200_000_000);
    /// let later = noon.after(Duration::from_nanos(1)); // rounded up to 1 µs
    /// assert_eq!((later.as_micros(), later.micros_since(noon)), (43_200_000_001, 1));
    /// assert_eq!(noon.micros_since(later), 0);
    /// assert_eq!(Timestamp::from_micros(u64::MAX), Timestamp::MAX);
    /// ```
    #[must_use]
    #[inline]
    pub const fn from_micros(micros: u64) -> Self {
        if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// Returns the microseconds since the Unix epoch.
    ///
    /// See the example of [`from_micros`](Self::from_micros).
    #[must_use]
    #[inline]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Returns the microseconds from `earlier` to `self`, or 0 if `earlier` is later.
    ///
    /// See the example of [`from_micros`](Self::from_micros).
    #[must_use]
    #[inline]
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns `self + span`, at most [`MAX`](Self::MAX). The span is rounded up to a whole microsecond.
    ///
    /// See the example of [`from_micros`](Self::from_micros).
    #[must_use]
    #[inline]
    pub const fn after(self, span: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(micros_up(span)))
    }
}

/// Returns a duration in whole microseconds, rounded up; `u64::MAX` if it does not fit.
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

/// The time by which a limiter decides and its waiters sleep. Clones show the same time.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The future of [`sleep_until`](Self::sleep_until).
    type Sleep: Future<Output = ()> + Send + 'static;

    /// Returns the present time.
    ///
    /// A backend may read the clock while it holds a lock, so an implementation must not call the backend. A thread
    /// must not read an earlier time than another thread has read before, unless the clock was set back.
    fn now(&self) -> Timestamp;

    /// Sleeps until the clock shows `deadline` or later. Completes at once if it already does.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the clock.
    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep;
}

/// A clock of any type. Clones show the same time.
#[derive(Clone)]
pub(crate) struct AnyClock(Arc<dyn Erased>);

/// The object-safe form of [`Clock`].
trait Erased: Send + Sync {
    fn erased_now(&self) -> Timestamp;
    fn erased_sleep_until(&self, deadline: Timestamp) -> Sleep;
}

/// The sleep of [`AnyClock`].
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

    /// Like [`Clock::sleep_until`].
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
