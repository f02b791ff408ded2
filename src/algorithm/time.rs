//! Times in µs as the algorithms compute with them.

use crate::quota::Origin;

/// Which of two readings of a clock that went back holds: the state's time (time stands still) or the new one.
pub(super) enum ClockStep {
    /// The caller's clock lags behind the state by no more than the horizon: decide at the state's time, which is so
    /// many µs ahead.
    StandStill(u64),
    /// It lags further: the state moves to the caller's now with all its debt.
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

/// `to - from` in µs, 0 if that is negative.
#[inline]
pub(super) fn micros_between(from: i64, to: i64) -> u64 {
    u64::try_from(to - from).unwrap_or(0)
}

/// A span as a signed number; spans are at most a few times 2^53.
#[inline]
pub(super) fn signed(span: u64) -> i64 {
    i64::try_from(span).unwrap_or(i64::MAX)
}

/// The latest start of an interval of `period` at or before `now`.
#[inline]
pub(super) fn start_of(origin: Origin, period: u64, now: i64) -> i64 {
    match origin {
        None => now,
        Some(offset) => now - (now - signed(offset)).rem_euclid(signed(period)),
    }
}

/// Debts stay below it, so that a double holds them too.
pub(super) const MOST_DEBT: u64 = 1 << 53;
