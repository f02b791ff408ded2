use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

use super::*;

const WALL: u64 = 1_800_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// Two clocks that only the test moves. A reading of either takes some ns.
#[derive(Default)]
struct Fake {
    /// The real time, in ns.
    real: AtomicU64,
    /// The deviation of the counter from 3 ticks a ns in parts in a million, its start, and the counter at the start.
    error: AtomicI64,
    since: AtomicU64,
    shown: AtomicU64,
    /// The ns by which the monotonic clock is ahead of the real time.
    ahead: AtomicI64,
    /// The ns of a reading of the monotonic clock; 0 stands for 25.
    slow: AtomicU64,
}

impl Fake {
    fn pass(&self, nanos: u64) {
        self.real.fetch_add(nanos, Relaxed);
    }

    fn ticks(&self) -> u64 {
        let passed = i128::from(self.real.load(Relaxed) - self.since.load(Relaxed));
        let ticks = passed * 3 * (1_000_000 + i128::from(self.error.load(Relaxed))) / 1_000_000;
        self.shown
            .load(Relaxed)
            .wrapping_add(u64::try_from(ticks).expect("positive"))
    }

    /// Sets the counter to `shown`, with another rate from now on.
    fn set_counter(&self, shown: u64, error: i64) {
        self.since.store(self.real.load(Relaxed), Relaxed);
        self.shown.store(shown, Relaxed);
        self.error.store(error, Relaxed);
    }

    fn jump(&self, nanos: i64) {
        self.ahead.fetch_add(nanos, Relaxed);
    }

    fn exact(&self) -> u64 {
        self.real
            .load(Relaxed)
            .checked_add_signed(self.ahead.load(Relaxed))
            .expect("positive")
    }
}

impl Source for &Fake {
    fn counter(&self) -> u64 {
        self.pass(8);
        self.ticks()
    }

    fn monotonic(&self) -> u64 {
        let half = self.slow.load(Relaxed).max(25) / 2;
        self.pass(half);
        let shown = self.exact();
        self.pass(half);
        shown
    }
}

/// Returns the rate of 3 ticks a ns.
fn nominal() -> u64 {
    u64::try_from(fine_of_nanos(1) / 3).expect("below 1 µs")
}

struct Stand<'a> {
    fake: &'a Fake,
    pace: Pace<&'a Fake>,
    origin: u64,
    last: u64,
}

impl<'a> Stand<'a> {
    fn new(fake: &'a Fake) -> Self {
        let pace = Pace::new(fake, WALL, nominal());
        let origin = fake.exact();
        Self {
            fake,
            pace,
            origin,
            last: WALL,
        }
    }

    /// Returns the ns by which the clock is ahead of the monotonic one.
    fn ahead(&mut self) -> i64 {
        let now = self.pace.now();
        assert!(
            now >= self.last,
            "the clock went back by {} µs",
            self.last - now
        );
        self.last = now;
        let own = i64::try_from((now - WALL) * 1_000).expect("small");
        own - i64::try_from(self.fake.exact() - self.origin).expect("small")
    }

    /// Returns the largest deviation of a number of readings, in ns.
    fn run(&mut self, steps: u64, step: u64) -> i64 {
        let mut furthest = 0_i64;
        for _ in 0..steps {
            self.fake.pass(step);
            let ahead = self.ahead();
            if ahead.abs() > furthest.abs() {
                furthest = ahead;
            }
        }
        furthest
    }
}

#[test]
fn wrong_first_rate_is_corrected() {
    for error in [321, -321, 40, -1, 0, 900, -900] {
        let fake = Fake::default();
        fake.set_counter(u64::MAX - 1_000_000, error);
        let mut stand = Stand::new(&fake);
        let first = stand.run(100_000, 1_000);
        assert!(
            first.abs() < 25_000,
            "{error}: {first} ns off in the first 100 ms"
        );
        let later = stand.run(100_000, 100_000);
        assert!(
            later.abs() < 3_000,
            "{error}: {later} ns off in the next 10 s"
        );
        let day = stand.run(86_400, SECOND);
        assert!(
            day.abs() < 5_000,
            "{error}: {day} ns off in a day with a reading a second"
        );
    }
}

#[test]
fn change_of_the_rate_is_followed() {
    let fake = Fake::default();
    let mut stand = Stand::new(&fake);
    stand.run(10_000, 1_000_000);
    // NTP slews by at most 500 parts in a million.
    for error in [500, 0, -500] {
        fake.set_counter(fake.ticks(), error);
        let off = stand.run(2_000, 1_000_000);
        // A segment at the wrong rate, and 1 µs for the rounding to whole ones.
        assert!(off.abs() < 257_000, "{error}: {off} ns");
        let later = stand.run(2_000, 1_000_000);
        assert!(later.abs() < 3_000, "{error}: {later} ns");
    }
}

#[test]
fn clock_is_right_after_a_long_time_without_readings() {
    let fake = Fake::default();
    fake.set_counter(7, 321);
    let mut stand = Stand::new(&fake);
    for hours in [1, 24, 24 * 365] {
        fake.pass(hours * 3_600 * SECOND);
        let ahead = stand.ahead();
        assert!(ahead.abs() < 2_000, "{ahead} ns after {hours} h");
    }
}

#[test]
fn jump_of_the_monotonic_clock_is_followed_forwards_and_never_backwards() {
    let fake = Fake::default();
    let mut stand = Stand::new(&fake);
    stand.run(10_000, 1_000_000);
    fake.jump(5_000_000_000);
    stand.run(300, 1_000_000);
    let off = stand.run(1_000, 1_000_000);
    assert!(off.abs() < 3_000, "{off} ns after a jump forwards");
    fake.jump(-40_000_000);
    // `run` checks that the clock never goes back. It runs at half the rate until the other clock has caught up.
    stand.run(500, 1_000_000);
    let off = stand.run(1_000, 1_000_000);
    assert!(off.abs() < 3_000, "{off} ns after a jump backwards");
}

#[test]
fn suspend_in_which_the_counter_runs_or_is_reset_moves_no_time() {
    for reset in [false, true] {
        let fake = Fake::default();
        let mut stand = Stand::new(&fake);
        stand.run(10_000, 1_000_000);
        let shown = if reset {
            3
        } else {
            fake.ticks() + 3 * 3_600 * SECOND
        };
        fake.set_counter(shown, 0);
        // The clock is ahead by at most the rest of the segment.
        let ahead = stand.ahead();
        assert!((-2_000..256_000_000).contains(&ahead), "{ahead} ns");
        stand.run(1_000, 1_000_000);
        let off = stand.run(1_000, 1_000_000);
        assert!(off.abs() < 3_000, "{off} ns");
    }
}

#[test]
fn rate_of_another_machine_is_measured() {
    let fake = Fake::default();
    let mut stand = Stand::new(&fake);
    stand.run(10_000, 1_000_000);
    // 3.6 instead of 3 ticks a ns, and another count.
    fake.set_counter(1 << 50, 200_000);
    stand.run(1_000, 1_000_000);
    let off = stand.run(1_000, 1_000_000);
    assert!(off.abs() < 3_000, "{off} ns");
}

#[test]
fn slow_readings_of_the_monotonic_clock_do_not_change_the_rate() {
    let fake = Fake::default();
    fake.set_counter(0, 321);
    fake.slow.store(3_000, Relaxed);
    let mut stand = Stand::new(&fake);
    stand.run(10_000, 1_000_000);
    // The first pair was read this long before the clock was created.
    stand.origin = stand
        .origin
        .checked_add_signed(-stand.ahead())
        .expect("positive");
    let off = stand.run(60_000, 1_000_000);
    // The pairs of a correction take 15 µs.
    assert!(off.abs() < 17_000, "{off} ns");
}

#[test]
fn no_thread_reads_an_earlier_time_than_another_thread_has_read() {
    let fake = Fake::default();
    fake.set_counter(0, 900);
    let pace = Pace::new(&fake, WALL, nominal());
    let latest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50_000 {
                    let before = latest.load(Ordering::SeqCst);
                    fake.pass(1_000);
                    let now = pace.now();
                    assert!(now >= before, "{now} after {before}");
                    latest.fetch_max(now, Ordering::SeqCst);
                }
            });
        }
    });
}
