//! Quota strings: `100/minute`, `10 per 1 hour`, `5/s burst 20`, `10GB/day`, `fixed-window:1000/day`,
//! `total:1000`, `calendar:10000/month@15 Europe/Zurich`.
//!
//! ```text
//! list      = quota *( ( "," / ";" ) quota )                 OWS around each
//! quota     = total / calendar / rate
//! total     = "total" OWS ":" OWS size
//! calendar  = "calendar" OWS ":" OWS size OWS "/" OWS ( "day" / every [ "@" number ] / "year" [ "@" month "-" day ] ) WSP zone
//! every     = "week" / "month" / "quarter"
//! rate      = [ algorithm ":" OWS ] size ( OWS "/" OWS / WSP "per" WSP ) [ multiple OWS ] unit [ WSP "burst" WSP size ]
//! size      = count [ OWS bytes ]                        bytes = "B" / "kB" / "KiB" / .. / "TiB", for both sizes or for none
//! algorithm = "token-bucket" / "interval" / "fixed-window" / "sliding-window" / "sliding-log"
//! ```

use std::time::Duration;

use super::parse_error::Cause;
use super::{MOST_TOKENS, Quota, QuotaError, Unit, bytes};

pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

pub(super) fn parse(text: &str) -> Result<Quota, Cause> {
    let (algorithm, rest) = match text.split_once(':') {
        // As in `5/s burst: 20`.
        Some((name, _)) if name.contains('/') => return Err(Cause::Syntax),
        Some((name, rest)) => (AlgorithmName::named(trim(name))?, trim(rest)),
        None => (AlgorithmName::TokenBucket, text),
    };
    match algorithm {
        AlgorithmName::Total => return total(rest),
        AlgorithmName::Calendar => return calendar(rest),
        _ => {}
    }
    let mut cursor = Cursor(rest);
    let parts = cursor
        .parts()
        .filter(|_| cursor.0.is_empty())
        .ok_or(Cause::Syntax)?;
    let unit_us = unit(parts.unit)?;
    if let Some(burst) = &parts.burst
        && burst.bytes.is_some() != parts.count.bytes.is_some()
    {
        return Err(Cause::MixedUnits);
    }
    let token = parts.count.unit();
    let count = parts.count.tokens("count")?;
    let multiple = parts
        .multiple
        .map_or(Ok(1), |digits| number("period", digits, 1, u32::MAX.into()))?;
    let burst = parts.burst.map(|size| size.tokens("burst")).transpose()?;
    let period = Duration::from_micros(multiple.saturating_mul(unit_us));
    let quota = match algorithm {
        AlgorithmName::TokenBucket => {
            Quota::try_token_bucket(burst.unwrap_or(count), count, period)
        }
        AlgorithmName::Interval => {
            Quota::try_interval_bucket(burst.unwrap_or(count), count, period)
        }
        AlgorithmName::FixedWindow => window(Quota::try_fixed_window(count, period), burst),
        AlgorithmName::SlidingWindow => window(Quota::try_sliding_window(count, period), burst),
        AlgorithmName::SlidingLog => window(Quota::try_sliding_log(count, period), burst),
        AlgorithmName::Total | AlgorithmName::Calendar => return Err(Cause::Syntax),
    };
    let quota = quota.map_err(Cause::Quota)?;
    Ok(quota.with_unit(token))
}

/// Reads the size of a total, which has no period.
fn total(text: &str) -> Result<Quota, Cause> {
    let mut cursor = Cursor(text);
    let size = cursor
        .size()
        .filter(|_| cursor.0.is_empty())
        .ok_or(Cause::PeriodOfTotal)?;
    let unit = size.unit();
    let quota = Quota::try_total(size.tokens("count")?).map_err(Cause::Quota)?;
    Ok(quota.with_unit(unit))
}

/// Reads a calendar window, whose period has no fixed length.
#[cfg(feature = "calendar")]
fn calendar(text: &str) -> Result<Quota, Cause> {
    let parts = Cursor(text).calendar().ok_or(Cause::CalendarSyntax)?;
    let (token, count) = (parts.count.unit(), parts.count.tokens("count")?);
    let every = parts.every().ok_or(Cause::CalendarSyntax)?;
    let quota = Quota::try_calendar_window(count, every, parts.zone).map_err(Cause::Quota)?;
    Ok(quota.with_unit(token))
}

#[cfg(not(feature = "calendar"))]
fn calendar(_: &str) -> Result<Quota, Cause> {
    Err(Cause::NoCalendar)
}

/// Returns an error if a window has a burst.
fn window(made: Result<Quota, QuotaError>, burst: Option<u64>) -> Result<Quota, QuotaError> {
    match burst {
        Some(burst) => made?.try_burst(burst),
        None => made,
    }
}

#[derive(Clone, Copy)]
pub(super) enum AlgorithmName {
    TokenBucket,
    Interval,
    FixedWindow,
    SlidingWindow,
    SlidingLog,
    Total,
    Calendar,
}

impl AlgorithmName {
    pub(super) const NAMES: [(&str, Self); 7] = [
        ("token-bucket", Self::TokenBucket),
        ("interval", Self::Interval),
        ("fixed-window", Self::FixedWindow),
        ("sliding-window", Self::SlidingWindow),
        ("sliding-log", Self::SlidingLog),
        ("total", Self::Total),
        ("calendar", Self::Calendar),
    ];

    fn named(name: &str) -> Result<Self, Cause> {
        match Self::NAMES
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))
        {
            Some((_, algorithm)) => Ok(*algorithm),
            None => Err(Cause::Algorithm(name.into())),
        }
    }
}

/// The unread rest of the text.
pub(super) struct Cursor<'a>(pub(super) &'a str);

pub(super) struct RateParts<'a> {
    pub(super) count: ParsedSize<'a>,
    pub(super) multiple: Option<&'a str>,
    pub(super) unit: &'a str,
    pub(super) burst: Option<ParsedSize<'a>>,
}

/// A count, and the bytes of its unit if it has one.
pub(super) struct ParsedSize<'a> {
    digits: &'a str,
    pub(super) bytes: Option<u64>,
}

impl ParsedSize<'_> {
    pub(super) fn tokens(&self, what: &'static str) -> Result<u64, Cause> {
        number(what, self.digits, self.bytes.unwrap_or(1), MOST_TOKENS)
    }

    pub(super) const fn unit(&self) -> Unit {
        match self.bytes {
            Some(_) => Unit::ContentBytes,
            None => Unit::Requests,
        }
    }

    /// Its tokens, in range or not.
    pub(super) fn saturated(&self) -> u64 {
        saturated(self.digits, self.bytes.unwrap_or(1))
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn parts(&mut self) -> Option<RateParts<'a>> {
        let count = self.size()?;
        let spaced = self.space();
        if let Some(rest) = self.0.strip_prefix('/') {
            self.0 = rest;
            self.space();
        } else if !(spaced && self.word("per") && self.space()) {
            return None;
        }
        let multiple = self.digits();
        if multiple.is_some() {
            self.space();
        }
        let unit = self.take(|byte| byte.is_ascii_alphabetic())?;
        let burst = if self.space() {
            if !(self.word("burst") && self.space()) {
                return None;
            }
            Some(self.size()?)
        } else {
            None
        };
        Some(RateParts {
            count,
            multiple,
            unit,
            burst,
        })
    }

    /// Reads a count and, if one follows, its unit of bytes.
    pub(super) fn size(&mut self) -> Option<ParsedSize<'a>> {
        let digits = self.digits()?;
        let after = self.0;
        self.space();
        let word = self.take(|byte| byte.is_ascii_alphabetic());
        let bytes = word.and_then(bytes::unit);
        if bytes.is_none() {
            self.0 = after;
        }
        Some(ParsedSize { digits, bytes })
    }

    pub(super) fn digits(&mut self) -> Option<&'a str> {
        self.take(|byte| byte.is_ascii_digit())
    }

    /// Skips white space. Returns whether there was any.
    pub(super) fn space(&mut self) -> bool {
        self.take(|byte| matches!(byte, b' ' | b'\t')).is_some()
    }

    fn word(&mut self, word: &str) -> bool {
        self.take(|byte| byte.is_ascii_alphabetic())
            .is_some_and(|found| found.eq_ignore_ascii_case(word))
    }

    /// Reads the longest prefix of ASCII bytes for which `wanted` is true; `None` if it is empty.
    pub(super) fn take(&mut self, wanted: impl Fn(u8) -> bool) -> Option<&'a str> {
        let end = self
            .0
            .bytes()
            .position(|byte| !wanted(byte))
            .unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        (!taken.is_empty()).then_some(taken)
    }
}

/// Returns the number times `factor`, which must be 1 to `max`.
fn number(what: &'static str, digits: &str, factor: u64, max: u64) -> Result<u64, Cause> {
    match saturated(digits, factor) {
        0 => Err(Cause::Quota(QuotaError::Zero { what })),
        value if value > max => Err(Cause::Quota(QuotaError::TooLarge { what, value, max })),
        value => Ok(value),
    }
}

/// Returns the number times `factor`, or the largest number if that does not fit.
pub(super) fn saturated(digits: &str, factor: u64) -> u64 {
    // The text consists of digits, so that a failure means a number that is too large.
    digits.parse().unwrap_or(u64::MAX).saturating_mul(factor)
}

/// The units by length in µs, longest first. `Display` writes the first name of a unit, or the second for a multiple.
pub(super) const UNITS: [(u64, &[&str]); 6] = [
    (604_800_000_000, &["week", "weeks", "w"]),
    (86_400_000_000, &["day", "days", "d"]),
    (3_600_000_000, &["hour", "hours", "hr", "hrs", "h"]),
    (60_000_000, &["minute", "minutes", "min", "mins", "m"]),
    (1_000_000, &["second", "seconds", "sec", "secs", "s"]),
    (1_000, &["millisecond", "milliseconds", "ms"]),
];

pub(super) fn unit(name: &str) -> Result<u64, Cause> {
    let is = |known: &&str| name.eq_ignore_ascii_case(known);
    if let Some((micros, _)) = UNITS.iter().find(|(_, names)| names.iter().any(is)) {
        return Ok(*micros);
    }
    if ["month", "months", "mo", "year", "years", "yr", "y"]
        .iter()
        .any(is)
    {
        return Err(Cause::CalendarUnit(name.into()));
    }
    Err(Cause::Unit(name.into()))
}
