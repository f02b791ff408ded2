//! Quota strings: `100/minute`, `10 per 1 hour`, `5/s burst 20`, `fixed-window:1000/day`.
//!
//! ```text
//! list      = quota *( ( "," / ";" ) quota )                 OWS around each
//! quota     = [ algorithm ":" OWS ] count ( OWS "/" OWS / WSP "per" WSP ) [ multiple OWS ] unit [ WSP "burst" WSP count ]
//! algorithm = "token-bucket" / "interval" / "fixed-window" / "sliding-window" / "sliding-log"
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{MOST_TOKENS, Quota, QuotaError};

/// Why a text is no quota; the message names the text and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseQuotaError {
    text: String,
    cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    Empty,
    Syntax,
    List,
    Unit(String),
    CalendarUnit(String),
    Algorithm(String),
    Quota(QuotaError),
}

/// The kind of a [`ParseQuotaError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParseQuotaErrorKind {
    /// Nothing but white space.
    Empty,
    /// Not of the form `count/unit`, `count per unit`, with an optional multiple and burst.
    Syntax,
    /// A unit that is not known.
    Unit,
    /// A month or a year: they have no fixed length.
    CalendarUnit,
    /// An algorithm that is not known.
    Algorithm,
    /// A number is 0.
    Zero,
    /// A number is above its range.
    TooLarge,
    /// More than 142 years to fill.
    TooSlow,
    /// A setting that the algorithm does not have, such as the burst of a window.
    Setting,
}

impl ParseQuotaError {
    fn new(text: &str, cause: Cause) -> Self {
        // Long nonsense is named by its beginning, and control characters do not reach a terminal.
        let mut shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
        if text.chars().nth(60).is_some() {
            shown.push_str("..");
        }
        Self { text: shown, cause }
    }

    /// What is wrong.
    #[must_use]
    pub const fn kind(&self) -> ParseQuotaErrorKind {
        match self.cause {
            Cause::Empty => ParseQuotaErrorKind::Empty,
            Cause::Syntax | Cause::List => ParseQuotaErrorKind::Syntax,
            Cause::Unit(_) => ParseQuotaErrorKind::Unit,
            Cause::CalendarUnit(_) => ParseQuotaErrorKind::CalendarUnit,
            Cause::Algorithm(_) => ParseQuotaErrorKind::Algorithm,
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
        write!(f, "quota `{}`: ", self.text)?;
        match &self.cause {
            Cause::Empty => f.write_str("nothing there; write `100/minute`"),
            Cause::Syntax => f.write_str("write `100/minute`, `10 per 1 hour` or `5/s burst 20`"),
            Cause::List => f.write_str("one quota is wanted here, not a list"),
            Cause::Unit(unit) => write!(f, "unknown unit `{unit}`; use ms, s, m, h, d or w"),
            Cause::CalendarUnit(unit) => {
                write!(f, "a {unit} has no fixed length; use days or weeks")
            }
            Cause::Algorithm(name) => write!(
                f,
                "unknown algorithm `{name}`; use token-bucket, interval, fixed-window, sliding-window or sliding-log"
            ),
            Cause::Quota(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ParseQuotaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Quota(error) => Some(error),
            _ => None,
        }
    }
}

impl FromStr for Quota {
    type Err = ParseQuotaError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if blank(text) {
            return Err(ParseQuotaError::new(text, Cause::Empty));
        }
        if text.contains([',', ';']) {
            return Err(ParseQuotaError::new(text, Cause::List));
        }
        parse(trim(text)).map_err(|cause| ParseQuotaError::new(text, cause))
    }
}

impl Quota {
    /// Reads one or more quotas, separated by `,` or `;`: `10/s, 1000/h`.
    ///
    /// # Errors
    ///
    /// If a member is no quota, or missing.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, ParseQuotaError> {
        if blank(text) {
            return Err(ParseQuotaError::new(text, Cause::Empty));
        }
        text.split([',', ';'])
            .map(|member| parse(trim(member)).map_err(|cause| ParseQuotaError::new(text, cause)))
            .collect()
    }
}

fn blank(text: &str) -> bool {
    trim(text).is_empty()
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn parse(text: &str) -> Result<Quota, Cause> {
    let (algorithm, rest) = match text.split_once(':') {
        Some((name, rest)) => (Algorithm::named(trim(name))?, trim(rest)),
        None => (Algorithm::TokenBucket, text),
    };
    let mut cursor = Cursor(rest);
    let parts = cursor
        .parts()
        .filter(|_| cursor.0.is_empty())
        .ok_or(Cause::Syntax)?;
    let unit_us = unit(parts.unit)?;
    let count = number("count", parts.count, MOST_TOKENS)?;
    let multiple = parts
        .multiple
        .map_or(Ok(1), |digits| number("period", digits, u32::MAX.into()))?;
    let burst = parts
        .burst
        .map(|digits| number("burst", digits, MOST_TOKENS))
        .transpose()?;
    let period = Duration::from_micros(multiple.saturating_mul(unit_us));
    let quota = match algorithm {
        Algorithm::TokenBucket => {
            return Quota::try_token_bucket(burst.unwrap_or(count), count, period)
                .map_err(Cause::Quota);
        }
        Algorithm::Interval => {
            return Quota::try_interval_bucket(burst.unwrap_or(count), count, period)
                .map_err(Cause::Quota);
        }
        Algorithm::FixedWindow => Quota::try_fixed_window(count, period),
        Algorithm::SlidingWindow => Quota::try_sliding_window(count, period),
        Algorithm::SlidingLog => Quota::try_sliding_log(count, period),
    };
    quota
        .and_then(|quota| burst.map_or(Ok(quota), |burst| quota.try_burst(burst)))
        .map_err(Cause::Quota)
}

#[derive(Clone, Copy)]
enum Algorithm {
    TokenBucket,
    Interval,
    FixedWindow,
    SlidingWindow,
    SlidingLog,
}

impl Algorithm {
    const NAMES: [(&str, Self); 5] = [
        ("token-bucket", Self::TokenBucket),
        ("interval", Self::Interval),
        ("fixed-window", Self::FixedWindow),
        ("sliding-window", Self::SlidingWindow),
        ("sliding-log", Self::SlidingLog),
    ];

    fn named(name: &str) -> Result<Self, Cause> {
        match Self::NAMES
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))
        {
            Some((_, algorithm)) => Ok(*algorithm),
            None => Err(Cause::Algorithm(
                name.chars().take(60).flat_map(char::escape_debug).collect(),
            )),
        }
    }
}

/// What is left to read.
struct Cursor<'a>(&'a str);

struct Parts<'a> {
    count: &'a str,
    multiple: Option<&'a str>,
    unit: &'a str,
    burst: Option<&'a str>,
}

impl<'a> Cursor<'a> {
    fn parts(&mut self) -> Option<Parts<'a>> {
        let count = self.digits()?;
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
            Some(self.digits()?)
        } else {
            None
        };
        Some(Parts {
            count,
            multiple,
            unit,
            burst,
        })
    }

    fn digits(&mut self) -> Option<&'a str> {
        self.take(|byte| byte.is_ascii_digit())
    }

    /// Passes white space; whether there was any.
    fn space(&mut self) -> bool {
        self.take(|byte| matches!(byte, b' ' | b'\t')).is_some()
    }

    fn word(&mut self, word: &str) -> bool {
        self.take(|byte| byte.is_ascii_alphabetic())
            .is_some_and(|found| found.eq_ignore_ascii_case(word))
    }

    /// The longest beginning of such ASCII bytes, if there is one.
    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> Option<&'a str> {
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

fn number(what: &'static str, digits: &str, max: u64) -> Result<u64, Cause> {
    // Only digits come here: what does not parse is too large.
    match digits.parse::<u64>().unwrap_or(u64::MAX) {
        0 => Err(Cause::Quota(QuotaError::Zero { what })),
        value if value > max => Err(Cause::Quota(QuotaError::TooLarge { what, value, max })),
        value => Ok(value),
    }
}

/// Units by length in µs, longest first; the first name of each is written.
pub(super) const UNITS: [(u64, &[&str]); 6] = [
    (604_800_000_000, &["week", "weeks", "w"]),
    (86_400_000_000, &["day", "days", "d"]),
    (3_600_000_000, &["hour", "hours", "hr", "hrs", "h"]),
    (60_000_000, &["minute", "minutes", "min", "mins", "m"]),
    (1_000_000, &["second", "seconds", "sec", "secs", "s"]),
    (1_000, &["millisecond", "milliseconds", "ms"]),
];

fn unit(name: &str) -> Result<u64, Cause> {
    let is = |known: &&str| name.eq_ignore_ascii_case(known);
    if let Some((micros, _)) = UNITS.iter().find(|(_, names)| names.iter().any(is)) {
        return Ok(*micros);
    }
    let shown: String = name.chars().take(60).collect();
    if ["month", "months", "mo", "year", "years", "yr", "y"]
        .iter()
        .any(is)
    {
        return Err(Cause::CalendarUnit(shown));
    }
    Err(Cause::Unit(shown))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Anchor;
    use super::*;

    fn kind(text: &str) -> ParseQuotaErrorKind {
        text.parse::<Quota>().unwrap_err().kind()
    }

    #[test]
    fn an_algorithm_can_be_named() {
        let day = Duration::from_secs(86_400);
        assert_eq!(
            "Fixed-Window: 5/day".parse(),
            Ok(Quota::fixed_window(5, day))
        );
        assert_eq!(
            "sliding-window:5 per day".parse(),
            Ok(Quota::sliding_window(5, day))
        );
        assert_eq!("sliding-log:5/d".parse(), Ok(Quota::sliding_log(5, day)));
        assert_eq!(
            "interval:5/d burst 9".parse(),
            Ok(Quota::interval_bucket(9, 5, day))
        );
        assert_eq!("token-bucket:5/d".parse(), Ok(Quota::per_day(5)));
        assert_eq!(kind("leaky:5/d"), ParseQuotaErrorKind::Algorithm);
        assert_eq!(kind(":5/d"), ParseQuotaErrorKind::Algorithm);
        assert_eq!(
            kind("fixed-window:5/d burst 9"),
            ParseQuotaErrorKind::Setting
        );
        assert_eq!(kind("sliding-log:65536/d"), ParseQuotaErrorKind::TooLarge);
        assert_eq!(kind("10/s, 5/d"), ParseQuotaErrorKind::Syntax);
    }

    #[test]
    fn errors_name_the_text_and_the_way_out() {
        let says =
            |text: &str, why: &str| assert_eq!(text.parse::<Quota>().unwrap_err().to_string(), why);
        says(
            "5/fortnight",
            "quota `5/fortnight`: unknown unit `fortnight`; use ms, s, m, h, d or w",
        );
        says(
            "5/month",
            "quota `5/month`: a month has no fixed length; use days or weeks",
        );
        says(
            "\u{1b}[2J",
            "quota `\\u{1b}[2J`: write `100/minute`, `10 per 1 hour` or `5/s burst 20`",
        );
        says(
            "1099511627777/s",
            "quota `1099511627777/s`: count is 1099511627777: use at most 1099511627776",
        );
    }

    #[test]
    fn what_the_grammar_cannot_say_is_written_but_never_read_as_something_else() {
        let second = Duration::from_secs(1);
        for (quota, text) in [
            (Quota::per(5, Duration::from_micros(1_500)), "5/1500 us"),
            (
                Quota::per_second(5).initial_tokens(0),
                "5/second (initially 0)",
            ),
            (
                Quota::fixed_window(5, second).anchor(Anchor::FirstUse),
                "fixed-window:5/second (from first use)",
            ),
            (
                Quota::interval_bucket(5, 1, second).anchor(Anchor::EPOCH),
                "interval:1/second burst 5 (from the epoch + 0 us)",
            ),
        ] {
            assert_eq!(quota.to_string(), text);
            text.parse::<Quota>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), shaped in "[0-9]{0,21} ?(/|per| per ) ?[0-9]{0,11} ?[a-zµſ]{0,5}( burst [0-9]{0,21})?[,;:]?") {
            let _ = (text.parse::<Quota>(), shaped.parse::<Quota>());
            let _ = (Quota::parse_list(&text), Quota::parse_list(&shaped));
        }

        #[test]
        fn what_is_written_reads_back(
            count in 1..=MOST_TOKENS,
            burst in 1..=MOST_TOKENS,
            multiple in 1_u64..1_000,
            unit in 0..UNITS.len(),
            algorithm in 0_u8..5,
        ) {
            let period = Duration::from_micros(multiple * UNITS[unit].0);
            let made = match algorithm {
                0 => Quota::try_token_bucket(burst, count, period),
                1 => Quota::try_interval_bucket(burst, count, period),
                2 => Quota::try_fixed_window(count, period),
                3 => Quota::try_sliding_window(count, period),
                _ => Quota::try_sliding_log(count % 65_535 + 1, period),
            };
            if let Ok(quota) = made {
                prop_assert_eq!(quota.to_string().parse::<Quota>(), Ok(quota));
            }
        }
    }
}
