use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::pace::{Pace, Source};
use super::{Clock, Timestamp};
#[cfg(feature = "blocking")]
use crate::park;

/// The default clock: the wall clock at its first use in the process, plus monotonic time since then. It never steps.
///
/// # Rate
///
/// A reading uses the processor's time stamp counter if that counter runs at a constant rate. That is about twice as
/// fast as [`Instant::now`]. The rate of the counter is corrected against `Instant` every quarter of a second, so that
/// the clock stays within some microseconds of it.
///
/// On Linux, NTP slews `Instant`, so that windows aligned to the Unix epoch keep starting at round times. Without such
/// a counter, and on Linux if the kernel does not trust it, each reading uses `Instant`.
///
/// # Steps and suspends
///
/// The clock does not follow a step of the wall clock after its first use. During a suspend of the machine it stands
/// still if `Instant` does, as on Linux and macOS. No tokens come back meanwhile. Windows aligned to the Unix epoch are
/// then late by the length of the suspend, until the process restarts.
///
/// # Panics
///
/// Sleeping panics if Tokio's time is [paused](https://docs.rs/tokio/latest/tokio/time/fn.pause.html), because this
/// clock does not follow paused time and the wait would never end. Use [`TokioClock`](super::TokioClock) in tests that
/// pause.
///
/// Sleeping panics outside of a Tokio runtime with its timer enabled, except on the threads of `blocking`. Reading
/// needs no runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock(());

/// The clock of the process, so that every `SystemClock` shows the same time.
static SYSTEM: LazyLock<System> = LazyLock::new(System::start);

enum System {
    Counter(Box<Pace<Hardware>>),
    Monotonic { start: Instant, wall: u64 },
}

impl System {
    fn start() -> Self {
        // `quanta` finds out whether there is a counter of constant rate, and contains the unsafe code that reads it.
        // Its estimate of the rate is wrong by up to some hundred parts in a million.
        let counter = quanta::Clock::new();
        // 2^40 ticks take minutes, so the quotient is precise. Without a counter, a tick of `quanta` is 1 ns.
        let nanos = u128::from(counter.delta_as_nanos(0, 1 << 40));
        let rate = u64::try_from((nanos << 24) / 1_000);
        let start = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = u64::try_from(wall.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
        let wall = Timestamp::from_micros(wall).as_micros();
        match rate {
            Ok(rate) if nanos != 1 << 40 && kernel_trusts_counter() => {
                let hardware = Hardware { counter, start };
                Self::Counter(Box::new(Pace::new(hardware, wall, rate)))
            }
            _ => Self::Monotonic { start, wall },
        }
    }
}

/// Returns whether the kernel has found that the counters of all processors agree.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn kernel_trusts_counter() -> bool {
    let sources = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    // A sandbox may hide the file.
    std::fs::read_to_string(sources).map_or(true, |sources| {
        sources.split_whitespace().any(|source| source == "tsc")
    })
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn kernel_trusts_counter() -> bool {
    true
}

struct Hardware {
    counter: quanta::Clock,
    start: Instant,
}

impl Source for Hardware {
    #[inline]
    fn counter(&self) -> u64 {
        self.counter.raw()
    }

    fn monotonic(&self) -> u64 {
        nanos_since(self.start)
    }
}

/// Returns the ns since `start`. A `u64` holds 584 years.
fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl SystemClock {
    /// Returns the clock of this process.
    #[must_use]
    #[inline]
    pub const fn new() -> Self {
        Self(())
    }
}

impl Clock for SystemClock {
    type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

    #[inline]
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(match &*SYSTEM {
            System::Counter(pace) => pace.now(),
            System::Monotonic { start, wall } => wall + nanos_since(*start) / 1_000,
        })
    }

    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep {
        let clock = *self;
        Box::pin(async move {
            // The timer's clock and this one may differ by some microseconds, so the time is checked after each sleep.
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
                sleep(left).await;
            }
        })
    }
}

/// Sleeps by Tokio's timer.
///
/// # Panics
///
/// Panics if Tokio's time advances without real time. It is paused then, and the caller's loop would never end.
async fn sleep(span: Duration) {
    // The outer span encloses the inner one, so that a busy machine cannot make the inner span longer.
    let start = Instant::now();
    let tokio_start = tokio::time::Instant::now();
    tokio::time::sleep(span).await;
    let tokio_passed = tokio_start.elapsed();
    assert!(
        tokio_passed <= start.elapsed(),
        "Tokio's time is paused and moved by {tokio_passed:?}, but `SystemClock` shows real time: give the backend a \
         `tower_sluice::clock::TokioClock` in tests that pause time"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_shows_wall_time() {
        let clock = SystemClock::new();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_micros();
        let now = clock.now();
        assert!(
            u128::from(now.as_micros()).abs_diff(wall) < 5_000_000,
            "{now:?} is not near {wall}"
        );
    }

    #[tokio::test]
    async fn sleep_never_ends_early() {
        let clock = SystemClock::new();
        let deadline = clock.now().after(Duration::from_micros(1_500));
        clock.sleep_until(deadline).await;
        assert!(clock.now() >= deadline);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "TokioClock")]
    async fn sleep_in_paused_time_panics_and_names_the_clock_to_use() {
        let clock = SystemClock::new();
        let hour = Duration::from_secs(3_600);
        clock.sleep_until(clock.now().after(hour)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn elapsed_sleep_does_not_use_the_time_of_tokio() {
        let clock = SystemClock::new();
        clock.sleep_until(clock.now()).await;
    }
}
