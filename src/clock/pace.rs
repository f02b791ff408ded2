//! Time by a hardware counter whose rate is corrected against the operating system's monotonic clock.
//!
//! Reading the counter takes about half the time of reading the operating system's clock. But its rate must be
//! measured, with an error of up to some hundred parts in a million. It does not follow corrections of the operating
//! system's clock either. Time is therefore divided into segments of at most a quarter of a second. In a segment, time
//! is a linear function of the counter. The first reader after the end of a segment reads both clocks and starts the
//! next one:
//!
//! ```text
//! rate   operating system's time / ticks, since the last correction that was precise enough
//! start  the operating system's time, but never before the end of the last segment
//! scale  the rate; less if the start is ahead, so that the operating system's clock catches up within the segment
//! ```
//! No reader uses a segment after its end. The end is therefore the latest time that any thread can have read, and time
//! never goes back. A segment does not inherit the rate error of the last one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

/// The shortest and the longest segment, in µs. The first segments are short, because the first rate is an estimate.
const SHORTEST: u64 = 1_000;
const LONGEST: u64 = 256_000;
/// The pairs of readings in a measurement. The closest pair is used.
const PAIRS: usize = 5;
/// A new rate is used if its error is below 2^-17, or 8 parts in a million.
const PRECISION: u32 = 17;
/// A difference above 2^-10 is no error of measurement: one of the clocks jumped or stood still.
const PLAUSIBLE: u32 = 10;

/// The source of both clocks.
pub(super) trait Source {
    /// Returns the ticks of the counter.
    fn counter(&self) -> u64;
    /// Returns the operating system's monotonic time, in ns.
    fn monotonic(&self) -> u64;
}

/// µs with a fraction of 64 bits.
type Fine = u128;

fn fine_of_micros(micros: u64) -> Fine {
    Fine::from(micros) << 64
}

fn fine_of_nanos(nanos: u64) -> Fine {
    (Fine::from(nanos) << 64) / 1_000
}

/// A clock in µs.
pub(super) struct Pace<S> {
    source: S,
    /// The number of the current segment. Its parity is the index of its slot; the other slot may be written.
    current: CachePadded<AtomicUsize>,
    slots: [CachePadded<RateSlot>; 2],
    correction: Mutex<Correction>,
}

#[derive(Default)]
struct RateSlot {
    first: AtomicU64,
    ticks: AtomicU64,
    micros: AtomicU64,
    fraction: AtomicU64,
    scale: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    /// The counter at the start, and the length in ticks.
    first: u64,
    ticks: u64,
    /// The time at the start.
    micros: u64,
    fraction: u64,
    /// The µs of a tick, times 2^64.
    scale: u64,
}

impl Segment {
    #[inline]
    fn fine_at(&self, ticks: u64) -> Fine {
        Fine::from(ticks) * Fine::from(self.scale) + Fine::from(self.fraction)
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // a segment is shorter than 2^64 µs
    fn at(&self, ticks: u64) -> u64 {
        self.micros
            .saturating_add((self.fine_at(ticks) >> 64) as u64)
    }

    fn end(&self) -> Fine {
        fine_of_micros(self.micros).saturating_add(self.fine_at(self.ticks))
    }
}

impl RateSlot {
    #[inline]
    fn load(&self) -> Segment {
        Segment {
            first: self.first.load(Ordering::Relaxed),
            ticks: self.ticks.load(Ordering::Relaxed),
            micros: self.micros.load(Ordering::Relaxed),
            fraction: self.fraction.load(Ordering::Relaxed),
            scale: self.scale.load(Ordering::Relaxed),
        }
    }

    fn store(&self, segment: &Segment) {
        self.first.store(segment.first, Ordering::Relaxed);
        self.ticks.store(segment.ticks, Ordering::Relaxed);
        self.micros.store(segment.micros, Ordering::Relaxed);
        self.fraction.store(segment.fraction, Ordering::Relaxed);
        self.scale.store(segment.scale, Ordering::Relaxed);
    }
}

impl<S: Source> Pace<S> {
    /// Creates a clock that shows `wall` µs now. A tick of the counter takes about `rate` / 2^64 µs.
    pub(super) fn new(source: S, wall: u64, rate: u64) -> Self {
        let now = Pair::of(&source);
        let origin = fine_of_micros(wall).saturating_sub(fine_of_nanos(now.monotonic));
        let mut correction = Correction {
            origin,
            segment: Segment {
                first: now.counter,
                ticks: 0,
                micros: wall,
                fraction: 0,
                scale: rate.max(1),
            },
            since: now,
            rate: rate.max(1),
            length: SHORTEST,
            doubted: None,
        };
        correction.begin(now);
        let pace = Self {
            source,
            current: CachePadded::default(),
            slots: Default::default(),
            correction: Mutex::new(correction),
        };
        pace.slots[0].store(&pace.correction.lock().segment);
        pace
    }

    /// Returns the time in µs. No thread reads an earlier time than another thread has read before.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        let number = self.current.load(Ordering::Acquire);
        let segment = self.slots[number % 2].load();
        let ticks = self.source.counter().wrapping_sub(segment.first);
        // A slot is written only after its segment has ended. A reader of a partly written slot sees another number
        // here.
        fence(Ordering::Acquire);
        if ticks <= segment.ticks && self.current.load(Ordering::Relaxed) == number {
            segment.at(ticks)
        } else {
            self.correct()
        }
    }

    /// Starts the next segment, unless another thread has done so.
    #[cold]
    #[inline(never)]
    fn correct(&self) -> u64 {
        let mut correction = self.correction.lock();
        let segment = &correction.segment;
        let ticks = self.source.counter().wrapping_sub(segment.first);
        if ticks <= segment.ticks {
            return segment.at(ticks);
        }
        correction.next(Pair::of(&self.source));
        let number = self.current.load(Ordering::Relaxed).wrapping_add(1);
        // Readers that see parts of the following writes also see the change of the number before.
        fence(Ordering::Release);
        self.slots[number % 2].store(&correction.segment);
        self.current.store(number, Ordering::Release);
        correction.segment.micros
    }
}

/// A reading of both clocks at one time.
#[derive(Clone, Copy, Debug)]
struct Pair {
    counter: u64,
    monotonic: u64,
    /// The ticks that the reading of the monotonic clock took.
    width: u64,
}

impl Pair {
    /// Returns the closest of several pairs, because a thread may be descheduled between two readings.
    fn of(source: &impl Source) -> Self {
        let one = || {
            let before = source.counter();
            let monotonic = source.monotonic();
            let width = source.counter().wrapping_sub(before);
            Self {
                counter: before.wrapping_add(width / 2),
                monotonic,
                width,
            }
        };
        let mut closest = one();
        for _ in 1..PAIRS {
            let other = one();
            if other.width < closest.width {
                closest = other;
            }
        }
        closest
    }
}

struct Correction {
    /// The time at which the monotonic clock showed 0.
    origin: Fine,
    segment: Segment,
    /// The start of the measurement of the rate.
    since: Pair,
    rate: u64,
    /// The length of segments, in µs.
    length: u64,
    /// The last measured rate, if it is not plausible.
    doubted: Option<u64>,
}

impl Correction {
    fn next(&mut self, now: Pair) {
        let (rate, ticks) = self.measure(now);
        match rate {
            Some(rate) if are_near(rate, self.rate) => {
                self.doubted = None;
                self.length = (4 * self.length).min(LONGEST);
                let error = self.since.width.saturating_add(now.width);
                if error <= ticks >> PRECISION {
                    self.rate = rate;
                    self.since = now;
                }
            }
            Some(rate) if self.doubted.is_some_and(|doubted| are_near(rate, doubted)) => {
                // Two measurements agree, so the counter has another rate now, after a move to another machine for
                // example.
                (self.rate, self.since) = (rate, now);
                (self.doubted, self.length) = (None, SHORTEST);
            }
            rate => {
                self.since = now;
                (self.doubted, self.length) = (rate, SHORTEST);
            }
        }
        self.begin(now);
    }

    /// Returns the µs of a tick times 2^64, and the ticks since the start of the measurement.
    fn measure(&self, now: Pair) -> (Option<u64>, u64) {
        let ticks = now.counter.wrapping_sub(self.since.counter);
        let passed = now.monotonic.saturating_sub(self.since.monotonic);
        let rate = fine_of_nanos(passed).checked_div(ticks.into());
        let rate = rate.and_then(|rate| u64::try_from(rate).ok());
        (rate.filter(|rate| *rate > 0), ticks)
    }

    #[allow(clippy::cast_possible_truncation)] // the low and the high half, and a scale below the rate
    fn begin(&mut self, now: Pair) {
        let own = self.origin.saturating_add(fine_of_nanos(now.monotonic));
        let start = own.max(self.segment.end());
        let length = fine_of_micros(self.length);
        // The scale is at least half of the rate, so that time does not stand still.
        let ahead = (start - own).min(length / 2);
        let less = (ahead >> 32) * Fine::from(self.rate) / (length >> 32);
        let ticks = length / Fine::from(self.rate);
        self.segment = Segment {
            first: now.counter,
            ticks: u64::try_from(ticks).unwrap_or(u64::MAX),
            micros: (start >> 64) as u64,
            fraction: start as u64,
            scale: self.rate - less as u64,
        };
    }
}

fn are_near(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= other >> PLAUSIBLE
}

#[cfg(test)]
mod tests;
