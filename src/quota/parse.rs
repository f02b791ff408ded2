//! Quota strings: `100/minute`, `10 per 1 hour`, `5/s burst 20`, `10GB/day`, `fixed-window:1000/day`.
//!
//! ```text
//! list      = quota *( ( "," / ";" ) quota )                 OWS around each
//! quota     = [ algorithm ":" OWS ] size ( OWS "/" OWS / WSP "per" WSP ) [ multiple OWS ] unit [ WSP "burst" WSP size ]
//! size      = count [ OWS bytes ]                        bytes = "B" / "kB" / "KiB" / .. / "TiB", for both sizes or for none
//! algorithm = "token-bucket" / "interval" / "fixed-window" / "sliding-window" / "sliding-log"
//! ```

use std::str::FromStr;
use std::time::Duration;

use super::parse_error::{Cause, ParseQuotaError};
use super::{MOST_TOKENS, Quota, QuotaError, Unit, bytes};

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
        let members = text.split([',', ';']).map(trim);
        let read = |member| parse(member).map_err(|cause| (member, cause));
        members
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(|(member, cause)| match cause {
                // The list may be cut where it should not be, as in `5/s, burst 20`.
                Cause::Syntax => ParseQuotaError::new(text, cause),
                cause => ParseQuotaError::new(member, cause),
            })
    }
}

fn blank(text: &str) -> bool {
    trim(text).is_empty()
}

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
    let token = match parts.count.bytes {
        Some(_) => Unit::ContentBytes,
        None => Unit::Requests,
    };
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
    };
    let quota = quota.map_err(Cause::Quota)?;
    Ok(quota.with_unit(token))
}

/// A window has no burst: the error says so.
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
}

impl AlgorithmName {
    pub(super) const NAMES: [(&str, Self); 5] = [
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
            None => Err(Cause::Algorithm(name.into())),
        }
    }
}

/// What is left to read.
struct Cursor<'a>(&'a str);

struct RateParts<'a> {
    count: ParsedSize<'a>,
    multiple: Option<&'a str>,
    unit: &'a str,
    burst: Option<ParsedSize<'a>>,
}

/// A count, and the bytes of its unit if it has one.
struct ParsedSize<'a> {
    digits: &'a str,
    bytes: Option<u64>,
}

impl ParsedSize<'_> {
    fn tokens(&self, what: &'static str) -> Result<u64, Cause> {
        number(what, self.digits, self.bytes.unwrap_or(1), MOST_TOKENS)
    }
}

impl<'a> Cursor<'a> {
    fn parts(&mut self) -> Option<RateParts<'a>> {
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

    /// A count and its unit of bytes. What comes after a count without one is left to be read.
    fn size(&mut self) -> Option<ParsedSize<'a>> {
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

/// The number times `factor`, from 1 to `max`.
fn number(what: &'static str, digits: &str, factor: u64, max: u64) -> Result<u64, Cause> {
    // Only digits come here: what does not parse is too large.
    match digits.parse().unwrap_or(u64::MAX).saturating_mul(factor) {
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
    if ["month", "months", "mo", "year", "years", "yr", "y"]
        .iter()
        .any(is)
    {
        return Err(Cause::CalendarUnit(name.into()));
    }
    Err(Cause::Unit(name.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Anchor, ParseQuotaErrorKind};
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
    fn bytes_make_a_quota_of_bytes() {
        let bytes = |quota: Quota| Ok(quota.with_unit(Unit::ContentBytes));
        let day = Duration::from_secs(86_400);
        assert_eq!("10GB/day".parse(), bytes(Quota::per_day(10_000_000_000)));
        assert_eq!("1tib / D".parse(), bytes(Quota::per_day(1 << 40)));
        assert_eq!(
            "fixed-window:10 kB per day".parse(),
            bytes(Quota::fixed_window(10_000, day))
        );
        assert_eq!(
            "interval:1KiB/d burst 2 KIB".parse(),
            bytes(Quota::interval_bucket(2_048, 1_024, day))
        );
        assert_eq!(kind("sliding-log:64KiB/s"), ParseQuotaErrorKind::TooLarge);
        assert_eq!(
            kind("18446744073709551615TiB/s"),
            ParseQuotaErrorKind::TooLarge
        );
        assert_eq!(kind("0GB/s"), ParseQuotaErrorKind::Zero);
        assert_eq!(
            kind("fixed-window:1MB/d burst 2MB"),
            ParseQuotaErrorKind::Setting
        );
        for text in [
            "10Bper d", "10 B B/d", "B/d", "10b", "10/B", "1MB/MB", "1kB /", "1GiB",
        ] {
            assert!(
                matches!(
                    kind(text),
                    ParseQuotaErrorKind::Syntax | ParseQuotaErrorKind::Unit
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn quotas_beyond_the_grammar_never_parse_as_another_quota() {
        let second = Duration::from_secs(1);
        for (quota, text) in [
            (Quota::per(5, Duration::from_micros(1_500)), "5/1500 us"),
            (
                Quota::per_second(5)
                    .initial_tokens(0)
                    .with_unit(Unit::ContentBytes),
                "5B/second (initially 0B)",
            ),
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
        fn no_text_panics(text in any::<String>(), shaped in "[0-9]{0,21} ?(/|per| per ) ?[0-9]{0,11} ?(B|MiB|tb)?[a-zµſ]{0,5}( burst [0-9]{0,21})?[,;:]?") {
            let _ = (text.parse::<Quota>(), shaped.parse::<Quota>());
            let _ = (Quota::parse_list(&text), Quota::parse_list(&shaped));
        }

        #[test]
        fn display_parses_back(
            count in 1..=MOST_TOKENS,
            burst in 1..=MOST_TOKENS,
            multiple in 1_u64..1_000,
            unit in 0..UNITS.len(),
            algorithm in 0_u8..5,
            (shift, is_bytes) in (0_u32..40, any::<bool>()),
        ) {
            // Round and small numbers, too.
            let (count, burst) = ((count >> shift).max(1), (burst >> shift << shift).max(1));
            let period = Duration::from_micros(multiple * UNITS[unit].0);
            let made = match algorithm {
                0 => Quota::try_token_bucket(burst, count, period),
                1 => Quota::try_interval_bucket(burst, count, period),
                2 => Quota::try_fixed_window(count, period),
                3 => Quota::try_sliding_window(count, period),
                _ => Quota::try_sliding_log(count % 65_535 + 1, period),
            };
            if let Ok(quota) = made {
                let unit = if is_bytes { Unit::ContentBytes } else { Unit::Requests };
                let quota = quota.with_unit(unit);
                prop_assert_eq!(quota.to_string().parse::<Quota>(), Ok(quota));
            }
        }
    }
}
