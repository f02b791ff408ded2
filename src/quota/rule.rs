//! The five algorithms' numbers, checked: what the constructors of a quota make and the algorithms read.

use super::units::Units;

/// One algorithm and its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    TokenBucket(TokenBucket),
    IntervalBucket(IntervalBucket),
    FixedWindow(FixedWindow),
    SlidingWindow(SlidingWindow),
    SlidingLog(SlidingLog),
}

/// A bucket that refills all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenBucket {
    pub(crate) capacity: u64,
    pub(crate) refill: u64,
    pub(crate) period: u64,
    pub(crate) initial: u64,
    pub(crate) units: Units,
}

/// A bucket that gets `refill` tokens at the end of each `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IntervalBucket {
    pub(crate) capacity: u64,
    pub(crate) refill: u64,
    pub(crate) period: u64,
    pub(crate) initial: u64,
    pub(crate) origin: Origin,
}

/// A count that starts again with each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FixedWindow {
    pub(crate) limit: u64,
    pub(crate) window: u64,
    pub(crate) origin: Origin,
}

/// Two counts, the older one weighted by the part of its window that still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlidingWindow {
    pub(crate) limit: u64,
    pub(crate) window: u64,
    /// The weight falls in steps of so many µs, chosen so that no product passes 2^53.
    pub(crate) tick: u64,
    /// Ticks of a window, rounded up.
    pub(crate) ticks: u64,
}

/// Every charge with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlidingLog {
    pub(crate) limit: u32,
    pub(crate) window: u64,
}

/// Where intervals begin, as they are computed: with the first use, or so many µs after multiples of the period.
pub(crate) type Origin = Option<u64>;
