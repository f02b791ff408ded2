//! Dates as numbers of days.

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

const DAY: i64 = 86_400;

/// Returns the date of a day, counted from the Unix epoch.
pub(super) fn date_of_day(day: i64) -> Option<Date> {
    let midnight = Timestamp::from_second(day.checked_mul(DAY)?).ok()?;
    Some(TimeZone::UTC.to_datetime(midnight).date())
}

/// Returns the day of a date, counted from the Unix epoch.
pub(super) fn day_of_date(date: Date) -> Option<i64> {
    let midnight = TimeZone::UTC.to_timestamp(date.to_datetime(Time::midnight()));
    Some(midnight.ok()?.as_second().div_euclid(DAY))
}
