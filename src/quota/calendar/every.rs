use std::fmt;

use jiff::civil::Date;

use super::super::QuotaError;
use super::days::{date_of_day, day_of_date};

/// The dates on which the windows of a [calendar window](crate::Quota::calendar_window) begin.
///
/// A day beyond the end of its month is the last day of that month. The next window begins on the day itself again
/// where it can: 31 January, 28 February, 31 March.
///
/// ```
/// use tower_sluice::quota::Every;
///
/// let every = Every::Year { month: 4, day: 6 };
/// assert_eq!(every.to_string(), "year@04-06");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Every {
    /// Each day.
    Day,
    /// Each week.
    Week {
        /// The day of the week, 1 (Monday) to 7 (Sunday).
        weekday: u8,
    },
    /// Each month.
    Month {
        /// The day of the month, 1 to 31.
        day: u8,
    },
    /// Each quarter of a year: from January, April, July and October.
    Quarter {
        /// The day of these months, 1 to 31.
        day: u8,
    },
    /// Each year.
    Year {
        /// The month, 1 (January) to 12.
        month: u8,
        /// The day of the month, 1 to 31.
        day: u8,
    },
}

impl Every {
    /// Returns an error if a number is out of range.
    pub(super) fn check(self) -> Result<(), QuotaError> {
        match self {
            Self::Day => Ok(()),
            Self::Week { weekday } => within("weekday", weekday, 7),
            Self::Month { day } | Self::Quarter { day } => within("day of the month", day, 31),
            Self::Year { month, day } => {
                within("month", month, 12)?;
                within("day of the month", day, 31)
            }
        }
    }

    /// Returns it with each number cut to its range.
    pub(super) fn clamped(self) -> Self {
        match self {
            Self::Day => self,
            Self::Week { weekday } => Self::Week {
                weekday: weekday.clamp(1, 7),
            },
            Self::Month { day } => Self::Month {
                day: day.clamp(1, 31),
            },
            Self::Quarter { day } => Self::Quarter {
                day: day.clamp(1, 31),
            },
            Self::Year { month, day } => Self::Year {
                month: month.clamp(1, 12),
                day: day.clamp(1, 31),
            },
        }
    }

    /// Returns the number of the last period that begins on `date` or earlier.
    pub(super) fn period_of(self, date: Date) -> Option<i64> {
        let year = i64::from(date.year());
        let month = i64::from(date.month()) - 1;
        let number = match self {
            Self::Day => day_of_date(date)?,
            Self::Week { weekday } => (day_of_date(date)? - monday(weekday)).div_euclid(7),
            Self::Month { .. } => year * 12 + month,
            Self::Quarter { .. } => year * 4 + month / 3,
            Self::Year { .. } => year,
        };
        if self.first_date(number)? > date {
            Some(number - 1)
        } else {
            Some(number)
        }
    }

    /// Returns the first date of a period. `None` beyond the years -9999 to 9999.
    pub(super) fn first_date(self, number: i64) -> Option<Date> {
        match self {
            Self::Day => date_of_day(number),
            Self::Week { weekday } => date_of_day(number.checked_mul(7)? + monday(weekday)),
            Self::Month { day } => date(number.div_euclid(12), number.rem_euclid(12), day),
            Self::Quarter { day } => date(number.div_euclid(4), number.rem_euclid(4) * 3, day),
            Self::Year { month, day } => date(number, i64::from(month) - 1, day),
        }
    }
}

/// Returns the days from the epoch, a Thursday, to the first day of this kind after the Monday before it.
fn monday(weekday: u8) -> i64 {
    i64::from(weekday) - 4
}

/// Returns a date, with the last day of the month in place of a later one. Months count from 0.
fn date(year: i64, month: i64, day: u8) -> Option<Date> {
    let first = Date::new(i16::try_from(year).ok()?, i8::try_from(month + 1).ok()?, 1).ok()?;
    let day = i8::try_from(day).ok()?.min(first.days_in_month());
    Date::new(first.year(), first.month(), day).ok()
}

fn within(what: &'static str, value: u8, max: u8) -> Result<(), QuotaError> {
    match value {
        0 => Err(QuotaError::Zero { what }),
        value if value > max => Err(QuotaError::TooLarge {
            what,
            value: value.into(),
            max: max.into(),
        }),
        _ => Ok(()),
    }
}

/// Writes the form of quota strings, such as `month@15`. An anchor that is the default is left out.
impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Day => f.write_str("day"),
            Self::Week { weekday: 1 } => f.write_str("week"),
            Self::Week { weekday } => write!(f, "week@{weekday}"),
            Self::Month { day: 1 } => f.write_str("month"),
            Self::Month { day } => write!(f, "month@{day}"),
            Self::Quarter { day: 1 } => f.write_str("quarter"),
            Self::Quarter { day } => write!(f, "quarter@{day}"),
            Self::Year { month: 1, day: 1 } => f.write_str("year"),
            Self::Year { month, day } => write!(f, "year@{month:02}-{day:02}"),
        }
    }
}
