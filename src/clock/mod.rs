//! Time as an argument: what decides and what sleeps is one [`Clock`].
//!
//! [`SystemClock`] is the wall clock read once, at the first use in the process, plus monotonic time since then: windows
//! aligned to the epoch are where people expect them, and no step of the wall clock moves a limit. [`ManualClock`] stands
//! still until a test moves it, and wakes what sleeps on it; [`TokioClock`] goes with Tokio's time, also if that is paused.
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

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

pub(crate) use self::latest::Latest;
#[cfg(feature = "blocking")]
use crate::park;

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
    fn now(&self) -> Timestamp;

    /// Completes when the clock shows `deadline` or later, never sooner; at once if it already does.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the clock.
    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep;
}

/// The wall clock at its first use in the process plus monotonic time since; it never steps, backwards or forwards.
///
/// Nothing corrects it later: windows that are aligned to the epoch drift with the counter, by some parts in a million, and
/// stand off by the length of a suspend.
///
/// Sleeping needs a Tokio runtime with its timer enabled, but for the threads of `blocking`; reading the time needs none. It knows
/// nothing of Tokio's paused time: use [`TokioClock`] in tests that pause.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock(());

struct Start {
    monotonic: quanta::Clock,
    raw: u64,
    /// µs of a tick of the counter, times 2^64: one multiplication instead of the three by way of nanoseconds.
    scale: u64,
    wall_micros: u64,
}

// One start for the process, so that every clock shows the same time. `quanta` reads the time stamp counter where it is
// reliable (10 ns, `Instant::now` takes 23) and the operating system's monotonic clock elsewhere.
static START: LazyLock<Start> = LazyLock::new(|| {
    let monotonic = quanta::Clock::new();
    let raw = monotonic.raw();
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // 2^40 ticks are minutes: their nanoseconds tell the scale to 12 digits. A tick is shorter than 1 µs everywhere.
    let nanos = u128::from(monotonic.delta_as_nanos(0, 1 << 40));
    let scale = u64::try_from((nanos << 24) / 1_000).unwrap_or(u64::MAX);
    let wall_micros = u64::try_from(wall.as_micros())
        .unwrap_or(u64::MAX)
        .min(Timestamp::MAX.0);
    Start {
        monotonic,
        raw,
        scale,
        wall_micros,
    }
});

impl SystemClock {
    /// The clock of this process.
    #[must_use]
    #[inline]
    pub const fn new() -> Self {
        Self(())
    }
}

impl Clock for SystemClock {
    type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn now(&self) -> Timestamp {
        let start = &*START;
        let ticks = start.monotonic.raw().saturating_sub(start.raw);
        let micros = ((u128::from(ticks) * u128::from(start.scale)) >> 64) as u64;
        Timestamp::from_micros(start.wall_micros.saturating_add(micros))
    }

    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep {
        let clock = *self;
        Box::pin(async move {
            // The timer's clock and the counter may differ by a few parts in a million: look again after waking.
            loop {
                let left = deadline.micros_since(clock.now());
                if left == 0 {
                    return;
                }
                let left = Duration::from_micros(left);
                #[cfg(feature = "blocking")]
                if park::is_blocked() {
                    park::pause(left).await;
                    continue;
                }
                tokio::time::sleep(left).await;
            }
        })
    }
}

/// The wall clock when it was made plus the time of Tokio since: under paused time
/// ([`tokio::time::pause`](https://docs.rs/tokio/latest/tokio/time/fn.pause.html)) it stands still and moves with Tokio's timers, so
/// that what decides and what sleeps stay one in a test that pauses. In service [`SystemClock`] is quicker.
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
///     let charge = limiter.wait(&ann, 1, MaxWait::Unbounded).await.expect("allowed");
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
    /// A clock that shows the time of the wall clock now.
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
            // Timers go by milliseconds.
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

/// Any clock, where its type does not matter. Clones show the same time.
#[derive(Clone)]
pub(crate) struct AnyClock(Arc<dyn Erased>);

/// A [`Clock`] as an object.
trait Erased: Send + Sync {
    fn shown(&self) -> Timestamp;
    fn asleep_until(&self, deadline: Timestamp) -> Sleep;
}

/// What a clock of any type returns to sleep by.
pub(crate) type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<C: Clock> Erased for C {
    fn shown(&self) -> Timestamp {
        self.now()
    }

    fn asleep_until(&self, deadline: Timestamp) -> Sleep {
        Box::pin(self.sleep_until(deadline))
    }
}

impl AnyClock {
    pub(crate) fn new(clock: impl Clock) -> Self {
        Self(Arc::new(clock))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.shown()
    }

    /// As [`Clock::sleep_until`].
    pub(crate) fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        self.0.asleep_until(deadline)
    }
}

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

    #[test]
    fn the_system_clock_shows_wall_time_and_never_goes_back() {
        let clock = SystemClock::new();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_micros();
        let mut last = clock.now();
        assert!(
            u128::from(last.as_micros()).abs_diff(wall) < 5_000_000,
            "{last:?} is not near {wall}"
        );
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn the_system_clock_runs_at_the_pace_of_the_operating_systems() {
        let clock = SystemClock::new();
        let (start, instant) = (clock.now(), std::time::Instant::now());
        while instant.elapsed() < Duration::from_millis(50) {}
        let (ours, theirs) = (
            clock.now().micros_since(start),
            instant.elapsed().as_micros(),
        );
        // Only a wrong scale is looked for: a busy machine may stop between the two readings.
        assert!(
            (49_000..5_000_000).contains(&ours) && u128::from(ours) < theirs * 2,
            "{ours} and {theirs} µs"
        );
    }

    #[tokio::test]
    async fn a_sleeper_on_a_manual_clock_wakes_at_its_time_and_no_sooner() {
        let clock = ManualClock::at(Timestamp::from_micros(100));
        let mut sleep = clock.sleep_until(Timestamp::from_micros(200));
        clock.advance(Duration::from_micros(99));
        assert!(futures_now(&mut sleep).await.is_none());
        clock.advance(Duration::from_nanos(1));
        assert!(futures_now(&mut sleep).await.is_some());
    }

    #[tokio::test]
    async fn the_system_clock_never_wakes_early() {
        let clock = SystemClock::new();
        let deadline = clock.now().after(Duration::from_micros(1_500));
        clock.sleep_until(deadline).await;
        assert!(clock.now() >= deadline);
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

    #[test]
    fn durations_round_up_and_saturate() {
        assert_eq!(micros_up(Duration::from_nanos(1)), 1);
        assert_eq!(micros_up(Duration::from_micros(7)), 7);
        assert_eq!(micros_up(Duration::MAX), u64::MAX);
        assert_eq!(Timestamp::MAX.after(Duration::MAX), Timestamp::MAX);
    }
}
