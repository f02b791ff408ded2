use std::fmt;

use super::QuotaError;
use crate::message::Quoted;

/// The error returned for an invalid quota string. The message shows the text, the mistake and a valid example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseQuotaError {
    text: String,
    cause: Cause,
    /// A valid text that is close to the invalid one.
    example: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Empty,
    Syntax,
    List,
    /// Only one of count and burst is in bytes.
    MixedUnits,
    /// A total is not just a count.
    PeriodOfTotal,
    /// The text behind `calendar:` has another form.
    #[cfg(feature = "calendar")]
    CalendarSyntax,
    #[cfg(not(feature = "calendar"))]
    NoCalendar,
    Unit(Box<str>),
    CalendarUnit(Box<str>),
    Algorithm(Box<str>),
    Quota(QuotaError),
}

/// The kind of a [`ParseQuotaError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParseQuotaErrorKind {
    /// The text is empty or white space.
    Empty,
    /// The text is not of the form `count/unit` or `count per unit`, with an optional multiple and burst.
    Syntax,
    /// The unit of time is unknown.
    Unit,
    /// The unit is a month or a year, which have no fixed length outside of `calendar:`.
    CalendarUnit,
    /// The algorithm is unknown, or needs a feature that is off.
    Algorithm,
    /// The time zone is unknown.
    TimeZone,
    /// A number is 0.
    Zero,
    /// A number is above its maximum.
    TooLarge,
    /// The bucket takes more than 142 years to fill, or the window is longer than that.
    TooSlow,
    /// The algorithm does not have the setting. A window has no burst, for example.
    Setting,
}

impl ParseQuotaError {
    pub(super) fn new(text: &str, cause: Cause, example: Option<String>) -> Self {
        Self {
            // The message shows 60 characters, and marks a longer text as cut.
            text: text.chars().take(61).collect(),
            example: example.map(Into::into),
            cause,
        }
    }

    #[cfg(test)]
    pub(super) fn example(&self) -> Option<&str> {
        self.example.as_deref()
    }

    /// Returns the kind of the mistake.
    #[must_use]
    pub const fn kind(&self) -> ParseQuotaErrorKind {
        match self.cause {
            Cause::Empty => ParseQuotaErrorKind::Empty,
            Cause::Syntax | Cause::List | Cause::MixedUnits | Cause::PeriodOfTotal => {
                ParseQuotaErrorKind::Syntax
            }
            #[cfg(feature = "calendar")]
            Cause::CalendarSyntax => ParseQuotaErrorKind::Syntax,
            #[cfg(not(feature = "calendar"))]
            Cause::NoCalendar => ParseQuotaErrorKind::Algorithm,
            Cause::Unit(_) => ParseQuotaErrorKind::Unit,
            Cause::CalendarUnit(_) => ParseQuotaErrorKind::CalendarUnit,
            Cause::Algorithm(_) => ParseQuotaErrorKind::Algorithm,
            Cause::Quota(QuotaError::UnknownZone { .. }) => ParseQuotaErrorKind::TimeZone,
            Cause::Quota(QuotaError::Zero { .. }) => ParseQuotaErrorKind::Zero,
            Cause::Quota(QuotaError::TooLarge { .. }) => ParseQuotaErrorKind::TooLarge,
            Cause::Quota(QuotaError::TooSlow { .. } | QuotaError::WindowTooLong { .. }) => {
                ParseQuotaErrorKind::TooSlow
            }
            Cause::Quota(
                QuotaError::NotASettingOf { .. } | QuotaError::InitialAboveCapacity { .. },
            ) => ParseQuotaErrorKind::Setting,
        }
    }
}

impl fmt::Display for ParseQuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid quota {}: ", Quoted(&self.text))?;
        let example = self.example.as_deref();
        match &self.cause {
            Cause::Empty => f.write_str(r#"the text is empty; use for example "100/minute""#),
            Cause::Syntax => {
                f.write_str(r#"expected a count, "/" and a unit; use for example "#)?;
                match example {
                    Some(example) => write!(f, "{}", Quoted(example)),
                    None => f.write_str(r#""100/minute", "10 per 1 hour" or "5/s burst 20""#),
                }
            }
            Cause::List => {
                let example = Quoted(example.unwrap_or("100/minute"));
                write!(
                    f,
                    "expected one quota, not a list; use for example {example}"
                )
            }
            Cause::MixedUnits => {
                let example = Quoted(example.unwrap_or("1MB/s burst 5MB"));
                write!(
                    f,
                    "count and burst need the same unit; use for example {example}"
                )
            }
            Cause::PeriodOfTotal => {
                let example = Quoted(example.unwrap_or("total:1000"));
                write!(
                    f,
                    "a total is a count without a unit of time; use for example {example}"
                )
            }
            #[cfg(feature = "calendar")]
            Cause::CalendarSyntax => {
                let example = Quoted(example.unwrap_or(CALENDAR));
                write!(
                    f,
                    "expected a count, a day, week, month, quarter or year, and a time zone; use for example {example}"
                )
            }
            #[cfg(not(feature = "calendar"))]
            Cause::NoCalendar => f.write_str(
                "calendar windows need the feature `calendar` of tower-sluice; enable it in Cargo.toml",
            ),
            Cause::Unit(_) => {
                let example = Quoted(example.unwrap_or("10/s"));
                write!(
                    f,
                    "unknown unit; use ms, s, m, h, d or w, such as {example}"
                )
            }
            Cause::CalendarUnit(unit) => {
                let example = Quoted(example.unwrap_or("10/30 days"));
                write!(
                    f,
                    "a {unit} has no fixed length; use days or weeks, such as {example}"
                )
            }
            Cause::Algorithm(name) => write!(
                f,
                "unknown algorithm {}; use token-bucket, interval, fixed-window, sliding-window, sliding-log, total or calendar, such as {}",
                Quoted(name),
                Quoted(example.unwrap_or("fixed-window:10/s"))
            ),
            Cause::Quota(error @ QuotaError::UnknownZone { .. }) => {
                // The error names a zone already.
                write!(f, "{error}")?;
                example.map_or(Ok(()), |example| write!(f, ", as in {}", Quoted(example)))
            }
            Cause::Quota(error) => {
                let example = Quoted(example.unwrap_or("100/minute"));
                write!(f, "{error}, such as {example}")
            }
        }
    }
}

#[cfg(feature = "calendar")]
const CALENDAR: &str = "calendar:10000/month@15 Europe/Zurich";

impl std::error::Error for ParseQuotaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Quota(error) => Some(error),
            _ => None,
        }
    }
}
