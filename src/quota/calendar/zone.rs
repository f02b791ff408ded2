//! The arithmetic of dates in a time zone, in whole seconds. All changes of a zone's offset are at whole seconds.

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

use super::every::Every;
use super::window::Window;

const MICROS: i64 = 1_000_000;
/// The largest time in seconds whose window is computed, in the year 2540. [`Timestamp::MAX`] of this crate is earlier.
///
/// [`Timestamp::MAX`]: crate::clock::Timestamp::MAX
const LARGEST: i64 = (1 << 54) / MICROS + 1;

/// Returns the time zone of a name in any case. The zones of the machine do not matter.
pub(super) fn named(name: &str) -> Option<TimeZone> {
    let zone = TimeZoneDatabase::bundled().get(name).ok()?;
    (!zone.is_unknown()).then_some(zone)
}

/// Returns the window that holds `at` µs since the epoch. A time beyond the year 2540, or before its counterpart in
/// 1399, counts as that year.
pub(super) fn window_of(every: Every, zone: &TimeZone, at: i64) -> Window {
    let at = at.div_euclid(MICROS).clamp(-LARGEST, LARGEST);
    // `None` is for the years beyond 9999, which the line above excludes.
    let found = find(every, zone, at).unwrap_or((-LARGEST, LARGEST + 1));
    Window {
        start: found.0 * MICROS,
        end: found.1 * MICROS,
    }
}

fn find(every: Every, zone: &TimeZone, at: i64) -> Option<(i64, i64)> {
    let date = zone.to_datetime(Timestamp::from_second(at).ok()?).date();
    let mut number = every.period_of(date)?;
    let start_of = |number| first_instant(zone, every.first_date(number)?);
    // The clock of a zone can go back across midnight. Then the date of a time can be earlier than its window.
    let mut start = start_of(number)?;
    while start > at {
        number -= 1;
        start = start_of(number)?;
    }
    let mut end = start_of(number + 1)?;
    while end <= at {
        number += 1;
        (start, end) = (end, start_of(number + 1)?);
    }
    Some((start, end))
}

/// Returns the first instant of a date. If the zone skips the date, that is the first instant after it.
fn first_instant(zone: &TimeZone, date: Date) -> Option<i64> {
    let midnight = zone.to_ambiguous_timestamp(date.to_datetime(Time::midnight()));
    let is_skipped = matches!(midnight.offset(), AmbiguousOffset::Gap { .. });
    // The first of two midnights. If there is none: a time after the jump of the clock.
    let instant = midnight.compatible().ok()?;
    if !is_skipped {
        return Some(instant.as_second());
    }
    let after = Timestamp::from_second(instant.as_second() + 1).ok()?;
    let jump = zone.preceding(after).next()?;
    Some(jump.timestamp().as_second())
}
