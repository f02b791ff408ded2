//! Arithmetic on times in µs.

use crate::quota::Origin;

/// The treatment of a clock that shows an earlier time than the state.
pub(super) enum ClockStep {
    /// The clock is behind the state by at most the horizon. The decision is made at the state's time, which is ahead
    /// of the clock by this many µs.
    StandStill(u64),
    /// The clock is further behind. The state moves to the clock's time and keeps its debt.
    Rebase,
}

#[inline]
pub(super) fn clock_back(state_time: i64, now: i64, horizon: u64) -> ClockStep {
    let gap = micros_between(now, state_time);
    if gap <= horizon {
        ClockStep::StandStill(gap)
    } else {
        ClockStep::Rebase
    }
}

/// Returns `to - from` in µs, or 0 if the difference is negative.
#[inline]
pub(super) fn micros_between(from: i64, to: i64) -> u64 {
    u64::try_from(to - from).unwrap_or(0)
}

/// Converts a span to a signed number. Spans are at most a few times 2^53.
#[inline]
pub(super) fn signed(span: u64) -> i64 {
    i64::try_from(span).unwrap_or(i64::MAX)
}

/// Returns the latest start of an interval of `period` at or before `now`.
#[inline]
pub(super) fn start_of(origin: Origin, period: u64, now: i64) -> i64 {
    match origin {
        None => now,
        Some(offset) => now - (now - signed(offset)).rem_euclid(signed(period)),
    }
}

/// Debts stay below this bound, so that a double represents them exactly.
pub(super) const MOST_DEBT: u64 = 1 << 53;
