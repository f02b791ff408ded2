use std::str::FromStr;

use super::Quota;
use super::grammar::{parse, trim};
use super::parse_error::{Cause, ParseQuotaError};
use super::repair;

impl FromStr for Quota {
    type Err = ParseQuotaError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if blank(text) {
            return Err(error(text, Cause::Empty));
        }
        if text.contains([',', ';']) {
            return Err(error(text, Cause::List));
        }
        parse(trim(text)).map_err(|cause| error(text, cause))
    }
}

impl Quota {
    /// Reads one or more quotas, separated by `,` or `;`: `10/s, 1000/h`.
    ///
    /// # Errors
    ///
    /// Returns an error if a member is empty or not a quota.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::Quota;
    ///
    /// let quotas = Quota::parse_list("10/s, 1000/h")?;
    /// assert_eq!(quotas, [Quota::per_second(10), Quota::per_hour(1_000)]);
    /// # Ok::<(), tower_sluice::quota::ParseQuotaError>(())
    /// ```
    pub fn parse_list(text: &str) -> Result<Vec<Self>, ParseQuotaError> {
        if blank(text) {
            return Err(error(text, Cause::Empty));
        }
        let members = text.split([',', ';']).map(trim);
        let read = |member| parse(member).map_err(|cause| (member, cause));
        members
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(|(member, cause)| match cause {
                // The separator may be the mistake, as in `5/s, burst 20`, so the error shows the whole text.
                Cause::Syntax => error(text, cause),
                cause => error(member, cause),
            })
    }
}

fn blank(text: &str) -> bool {
    trim(text).is_empty()
}

/// Creates the error of `text`, with a valid example that is close to it.
fn error(text: &str, cause: Cause) -> ParseQuotaError {
    let example = repair::example(text, &cause);
    ParseQuotaError::new(text, cause, example)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::time::Duration;

    use super::super::grammar::UNITS;
    use super::super::{Anchor, MOST_TOKENS, ParseQuotaErrorKind, Unit};
    use super::*;

    fn kind(text: &str) -> ParseQuotaErrorKind {
        text.parse::<Quota>().unwrap_err().kind()
    }

    #[test]
    fn algorithm_can_be_named() {
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
        assert_eq!("Total: 1000".parse(), Ok(Quota::total(1_000)));
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
    fn byte_units_make_a_quota_of_bytes() {
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
        assert_eq!("total:10 GB".parse(), bytes(Quota::total(10_000_000_000)));
        assert_eq!(kind("total:2TB"), ParseQuotaErrorKind::TooLarge);
        assert_eq!(kind("total:0"), ParseQuotaErrorKind::Zero);
        assert_eq!(kind("0GB/s"), ParseQuotaErrorKind::Zero);
        assert_eq!(
            kind("fixed-window:1MB/d burst 2MB"),
            ParseQuotaErrorKind::Setting
        );
        for text in [
            "total:5/d",
            "total:",
            "total:5 burst 9",
            "10Bper d",
            "10 B B/d",
            "B/d",
            "10b",
            "10/B",
            "1MB/MB",
            "1kB /",
            "1GiB",
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

    #[cfg(feature = "calendar")]
    #[test]
    fn calendar_windows_have_an_anchor_and_a_zone() {
        use super::super::Every;
        let read = |text: &str| text.parse::<Quota>();
        for (text, quota) in [
            (
                "calendar:500/day Asia/Kathmandu",
                Quota::calendar_window(500, Every::Day, "Asia/Kathmandu"),
            ),
            (
                "calendar:5/week@7 UTC",
                Quota::calendar_window(5, Every::Week { weekday: 7 }, "UTC"),
            ),
            (
                "calendar:10000/month@15 Europe/Zurich",
                Quota::calendar_window(10_000, Every::Month { day: 15 }, "Europe/Zurich"),
            ),
            (
                "calendar:9/quarter Etc/GMT+5",
                Quota::calendar_window(9, Every::Quarter { day: 1 }, "Etc/GMT+5"),
            ),
            (
                "calendar:100/year@04-06 Europe/London",
                Quota::calendar_window(100, Every::Year { month: 4, day: 6 }, "Europe/London"),
            ),
        ] {
            assert_eq!(read(text), Ok(quota));
            assert_eq!(quota.to_string(), text);
        }
        assert_eq!(
            read("Calendar : 10 GB / Month@1\t \teurope/zurich "),
            Ok(
                Quota::calendar_window(10_000_000_000, Every::Month { day: 1 }, "Europe/Zurich")
                    .with_unit(Unit::ContentBytes)
            )
        );
        let list = Quota::parse_list("10/s; calendar:5/week@7 UTC");
        assert_eq!(list.map(|quotas| quotas.len()), Ok(2));
        for text in [
            "calendar:5/day",
            "calendar:5/hour UTC",
            "calendar:5/2 days UTC",
            "calendar:5/day@1 UTC",
            "calendar:5/week@ UTC",
            "calendar:5/month@1-2 UTC",
            "calendar:5/year@4 UTC",
            "calendar:5/month @15 UTC",
            "calendar:5/dayUTC",
            "calendar:5 per day UTC",
            "calendar:5/day UTC burst 7",
            "calendar:UTC",
            "calendar:",
        ] {
            assert_eq!(kind(text), ParseQuotaErrorKind::Syntax, "{text}");
        }
        assert_eq!(kind("calendar:0/day UTC"), ParseQuotaErrorKind::Zero);
        assert_eq!(kind("calendar:1/month@0 UTC"), ParseQuotaErrorKind::Zero);
        assert_eq!(
            kind("calendar:1/month@32 UTC"),
            ParseQuotaErrorKind::TooLarge
        );
        assert_eq!(
            kind("calendar:1/week@18446744073709551617 UTC"),
            ParseQuotaErrorKind::TooLarge
        );
        assert_eq!(kind("calendar:2TB/day UTC"), ParseQuotaErrorKind::TooLarge);
        assert_eq!(
            kind("calendar:5/day Europe/Bern"),
            ParseQuotaErrorKind::TimeZone
        );
    }

    #[cfg(feature = "calendar")]
    #[test]
    fn errors_of_calendar_windows_show_a_valid_one() {
        let why = |text: &str| text.parse::<Quota>().expect_err(text).to_string();
        assert_eq!(
            why("calendar:5/day Europe/Bern"),
            "invalid quota \"calendar:5/day Europe/Bern\": time zone \"Europe/Bern\" is unknown; use a name of the \
             IANA database, such as Europe/Zurich, as in \"calendar:5/day UTC\""
        );
        for (text, example) in [
            ("calendar:5/month@15", "calendar:5/month@15 UTC"),
            ("calendar:5/month@40 utc", "calendar:5/month@31 UTC"),
            (
                "calendar:0/week@0 europe/paris",
                "calendar:1/week Europe/Paris",
            ),
            ("calendar:2TB/day UTC", "calendar:1TiB/day UTC"),
            ("calendar:5/day Europe/Paris please", "calendar:5/day UTC"),
            (
                "calendar:5/hour UTC",
                "calendar:10000/month@15 Europe/Zurich",
            ),
        ] {
            let error = why(text);
            assert!(error.ends_with(&format!(" \"{example}\"")), "{error}");
            example.parse::<Quota>().expect("valid");
        }
    }

    #[cfg(not(feature = "calendar"))]
    #[test]
    fn calendar_windows_need_a_feature() {
        let error = "calendar:5/day UTC".parse::<Quota>().unwrap_err();
        assert_eq!(error.kind(), ParseQuotaErrorKind::Algorithm);
        assert!(
            error.to_string().ends_with("enable it in Cargo.toml"),
            "{error}"
        );
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
                Quota::total(5).forget_after(second),
                "total:5 (forgotten after 1000000 us)",
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
            algorithm in 0_u8..6,
            (shift, is_bytes) in (0_u32..40, any::<bool>()),
        ) {
            // The shifts also produce round and small numbers.
            let (count, burst) = ((count >> shift).max(1), (burst >> shift << shift).max(1));
            let period = Duration::from_micros(multiple * UNITS[unit].0);
            let made = match algorithm {
                0 => Quota::try_token_bucket(burst, count, period),
                1 => Quota::try_interval_bucket(burst, count, period),
                2 => Quota::try_fixed_window(count, period),
                3 => Quota::try_sliding_window(count, period),
                4 => Quota::try_total(count),
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
