use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::pace::{Pace, Source};
use super::{Clock, Timestamp};
#[cfg(feature = "blocking")]
use crate::park;

/// The wall clock at its first use in the process plus monotonic time since; it never steps, backwards or forwards.
///
/// # Rate
///
/// A reading takes the processor's time stamp counter where the counter runs at a constant rate, which is about twice as fast
/// as [`Instant::now`]. The counter's rate is corrected against `Instant` every quarter of a second, so that the clock stays
/// within some microseconds of it. On Linux `Instant` is slewed by NTP: windows that are aligned to the epoch stay where
/// people expect them. Without such a counter, and on Linux if the kernel does not trust it, each reading is one of `Instant`.
///
/// # Steps and suspends
///
/// A step of the wall clock after the first use is not followed. During a suspend of the machine the clock stands still if
/// `Instant` does, as on Linux and macOS: no tokens come back meanwhile, and windows that are aligned to the epoch stay
/// off by the length of the suspend until the process starts again.
///
/// # Panics
///
/// Sleeping panics if Tokio's time is [paused](https://docs.rs/tokio/latest/tokio/time/fn.pause.html). This clock does not
/// follow paused time, and a wait would never end: use [`TokioClock`](super::TokioClock) in tests that pause. Sleeping also
/// panics outside of a Tokio runtime with its timer enabled, except on the threads of `blocking`. Reading needs no runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock(());

/// One for the process, so that every clock shows the same time.
static SYSTEM: LazyLock<System> = LazyLock::new(System::start);

enum System {
    Counter(Box<Pace<Hardware>>),
    Monotonic { start: Instant, wall: u64 },
}

impl System {
    fn start() -> Self {
        // `quanta` knows whether there is a counter of constant rate, and reads it without unsafe code of ours. Its first
        // guess of the rate is off by up to some hundred parts in a million.
        let counter = quanta::Clock::new();
        // 2^40 ticks are minutes. Without a counter a tick is 1 ns.
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

/// Whether the kernel has found the counters of all processors to run alike.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn kernel_trusts_counter() -> bool {
    let sources = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    // A sandbox may not show it.
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

/// 584 years fit.
fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

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
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(match &*SYSTEM {
            System::Counter(pace) => pace.now(),
            System::Monotonic { start, wall } => wall + nanos_since(*start) / 1_000,
        })
    }

    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep {
        let clock = *self;
        Box::pin(async move {
            // The timer's clock and this one may differ by some microseconds: look again after waking.
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
/// Panics if Tokio's time passed without real time: it is paused, and the loop around this would move it on for ever.
async fn sleep(span: Duration) {
    // The outer readings enclose the inner ones, so that a busy machine cannot make the inner span the longer one.
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
    fn it_shows_wall_time() {
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
    async fn it_never_wakes_early() {
        let clock = SystemClock::new();
        let deadline = clock.now().after(Duration::from_micros(1_500));
        clock.sleep_until(deadline).await;
        assert!(clock.now() >= deadline);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "TokioClock")]
    async fn a_sleep_by_paused_time_panics_and_names_the_clock_to_use() {
        let clock = SystemClock::new();
        let hour = Duration::from_secs(3_600);
        clock.sleep_until(clock.now().after(hour)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_that_is_over_does_not_look_at_tokios_time() {
        let clock = SystemClock::new();
        clock.sleep_until(clock.now()).await;
    }
}
