//! The checked numbers of the algorithms. The constructors of a quota make them, and the algorithms read them.

use super::calendar::Calendar;
use super::units::Units;

/// One algorithm and its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    TokenBucket(TokenBucket),
    IntervalBucket(IntervalBucket),
    FixedWindow(FixedWindow),
    SlidingWindow(SlidingWindow),
    SlidingLog(SlidingLog),
    Total(Total),
    #[cfg_attr(not(feature = "calendar"), allow(dead_code))] // no value exists then
    CalendarWindow(CalendarWindow),
}

/// A bucket that refills continuously.
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

/// A count that starts at 0 in each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FixedWindow {
    pub(crate) limit: u64,
    pub(crate) window: u64,
    pub(crate) origin: Origin,
}

/// Two counts. The older one is weighted by the part of its window that still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlidingWindow {
    pub(crate) limit: u64,
    pub(crate) window: u64,
    /// The µs of a step of the weight, chosen so that no product exceeds 2^53.
    pub(crate) tick: u64,
    /// The ticks of a window, rounded up.
    pub(crate) ticks: u64,
}

/// A log of every charge with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlidingLog {
    pub(crate) limit: u32,
    pub(crate) window: u64,
}

/// Tokens that never come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Total {
    pub(crate) limit: u64,
    /// The µs after the last write at which the state ends; `None` for never.
    pub(crate) forget_after: Option<u64>,
}

/// A count that starts at 0 in each window of a calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CalendarWindow {
    pub(crate) limit: u64,
    pub(crate) calendar: Calendar,
}

/// The start of intervals: the first use, or this many µs after multiples of the period.
pub(crate) type Origin = Option<u64>;
