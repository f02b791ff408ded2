//! Repairs an invalid quota string, for the example in its error. Every returned example is valid.

use super::bytes::Size;
use super::constructors::LOG_MAX;
use super::grammar::{AlgorithmName, Cursor, parse, saturated, trim, unit};
use super::parse_error::Cause;
use super::units::MOST_GRAINS;
use super::{MOST_TOKENS, QuotaError};

/// The longest text that is repaired, in bytes.
const LONGEST: usize = 80;

/// Returns a valid quota, or a valid list of quotas, that is close to `text`.
pub(super) fn example(text: &str, cause: &Cause) -> Option<String> {
    if text.len() > LONGEST || !text.is_ascii() {
        return None;
    }
    // One space for each run of white space: the message would show a tab as an escape, which is no valid quota.
    let words: Vec<&str> = text
        .split([' ', '\t'])
        .filter(|word| !word.is_empty())
        .collect();
    let text = &*words.join(" ");
    if text.is_empty() {
        return None;
    }
    match cause {
        Cause::Empty => None,
        Cause::Syntax => repaired(text, is_list),
        Cause::List => repaired(text, is_quota).or_else(|| first_of(text)),
        Cause::MixedUnits => with_one_unit(text),
        Cause::PeriodOfTotal => cut(text, is_list),
        Cause::Unit(unit) => with_unit(text, unit, known_unit(unit)),
        Cause::CalendarUnit(unit) => {
            let is_month = unit.starts_with(['m', 'M']);
            with_unit(text, unit, if is_month { "30 days" } else { "365 days" })
        }
        #[cfg(feature = "calendar")]
        Cause::CalendarSyntax => checked(super::calendar::repaired(text)?, is_quota),
        #[cfg(not(feature = "calendar"))]
        Cause::NoCalendar => None,
        #[cfg(feature = "calendar")]
        Cause::Quota(_) if is_calendar(text) => checked(super::calendar::repaired(text)?, is_quota),
        Cause::Algorithm(name) => with_algorithm(text, name),
        Cause::Quota(QuotaError::Zero { .. }) => checked(without_zeros(text), is_list),
        Cause::Quota(QuotaError::NotASettingOf { .. }) => cut(text, is_list),
        Cause::Quota(_) => checked(within_bounds(text)?, is_quota),
    }
}

fn is_quota(text: &str) -> bool {
    !text.contains([',', ';']) && parse(text).is_ok()
}

#[cfg(feature = "calendar")]
fn is_calendar(text: &str) -> bool {
    let name = text.split_once(':').map(|(name, _)| trim(name));
    name.is_some_and(|name| name.eq_ignore_ascii_case("calendar"))
}

fn is_list(text: &str) -> bool {
    text.split([',', ';'])
        .all(|member| parse(trim(member)).is_ok())
}

fn checked(text: String, is_valid: fn(&str) -> bool) -> Option<String> {
    is_valid(&text).then_some(text)
}

/// Repairs one mistake after the other, until the text is valid.
fn repaired(text: &str, is_valid: fn(&str) -> bool) -> Option<String> {
    let repairs = [
        without_separators,
        without_white_space_at_ends,
        with_burst,
        with_plain_count,
        with_per,
        with_whole_count,
        with_a_unit,
    ];
    let mut text = text.to_owned();
    for repair in repairs {
        if let Some(better) = repair(&text) {
            text = better;
        }
        if is_valid(&text) {
            return Some(text);
        }
    }
    cut(&text, is_valid)
}

/// `1,000/s` and `1_000/s`: `1000/s`.
fn without_separators(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let separates = |at: usize| {
        let follows = is_digit(at + 1) && is_digit(at + 2) && is_digit(at + 3) && !is_digit(at + 4);
        matches!(bytes[at], b',' | b'_' | b'\'') && at > 0 && is_digit(at - 1) && follows
    };
    let letters = text.char_indices();
    let kept = letters
        .filter(|(at, _)| !separates(*at))
        .map(|(_, letter)| letter);
    Some(kept.collect())
}

/// `5/s\n` and `5/s,`: `5/s`.
fn without_white_space_at_ends(text: &str) -> Option<String> {
    let is_noise = |letter: char| letter.is_ascii_whitespace() || ",;\"'`\0".contains(letter);
    Some(text.trim_matches(is_noise).to_owned())
}

/// `5/s, burst 20` and `5/s;burst=20`: `5/s burst 20`.
fn with_burst(text: &str) -> Option<String> {
    let (rate, size) = around(text, "burst")?;
    let rate = rate.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
    let size = size.trim_matches([' ', '\t', '=', ':', '(', ')']);
    Some(format!("{rate} burst {size}"))
}

/// `1k/s`: `1000/s`; `10 requests/s` and `10r/s`: `10/s`.
fn with_plain_count(text: &str) -> Option<String> {
    const WORDS: [&str; 8] = [
        "request", "requests", "req", "reqs", "r", "token", "tokens", "calls",
    ];
    let (count, word, rest) = counted(text)?;
    match &*word.to_ascii_lowercase() {
        "k" => Some(format!("{count}000{rest}")),
        word if WORDS.contains(&word) => Some(format!("{count}{rest}")),
        _ => None,
    }
}

/// `5 a minute`, `5 every minute` and `5per minute`: `5 per minute`.
fn with_per(text: &str) -> Option<String> {
    let (count, word, rest) = counted(text)?;
    let is_per = ["per", "a", "an", "each", "every", "in"].contains(&&*word.to_ascii_lowercase());
    is_per.then(|| format!("{count} per {}", trim(rest)))
}

/// `1.5/s`: `15/10s`.
fn with_whole_count(text: &str) -> Option<String> {
    let (count, rest) = text.split_once('.')?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
    let (digits, rest) = rest.split_at(end);
    let (size, unit) = rest.split_once('/')?;
    let count = format!("{count}{digits}");
    let count = count.trim_start_matches('0');
    Some(format!(
        "{count}{size}/1{}{}",
        "0".repeat(digits.len()),
        trim(unit)
    ))
}

/// `100` and `100/`: `100/minute`.
fn with_a_unit(text: &str) -> Option<String> {
    Some(format!("{}/minute", trim(text.trim_end_matches('/'))))
}

/// Returns the count at the start of a text, the word after it, and the rest.
fn counted(text: &str) -> Option<(&str, &str, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (count, rest) = text.split_at(end);
    let rest = trim(rest);
    let end = rest.find(|letter: char| !letter.is_ascii_alphabetic());
    let (word, rest) = rest.split_at(end.unwrap_or(rest.len()));
    (!count.is_empty()).then_some((count, word, rest))
}

/// `5/s please` and `5/m/user`: the longest valid prefix.
fn cut(text: &str, is_valid: fn(&str) -> bool) -> Option<String> {
    let mut ends = text.rmatch_indices([' ', '\t', '/', ',', ';']);
    let begin = ends.find_map(|(end, _)| Some(trim(&text[..end])).filter(|text| is_valid(text)));
    begin.map(str::to_owned)
}

fn first_of(list: &str) -> Option<String> {
    let mut members = list.split([',', ';']).map(trim);
    members.find(|member| is_quota(member)).map(str::to_owned)
}

/// `1MB/s burst 5`: `1MB/s burst 5MB`; `5/s burst 1MB`: `5MB/s burst 1MB`.
fn with_one_unit(text: &str) -> Option<String> {
    let (rate, size) = around(text, " burst")?;
    let (count, period) = around(rate, "/").or_else(|| around(rate, " per "))?;
    let (count, count_unit) = number_and_unit(count);
    let (size, size_unit) = number_and_unit(size);
    // One of them is empty.
    let unit = format!("{count_unit}{size_unit}");
    let period = trim(period);
    checked(
        format!("{count}{unit}/{period} burst {size}{unit}"),
        is_quota,
    )
}

fn number_and_unit(size: &str) -> (&str, &str) {
    let size = trim(size);
    let end = size.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = size.split_at(end.unwrap_or(size.len()));
    (number, trim(unit))
}

/// Returns the texts before and after a word, which is found in any case.
fn around<'a>(text: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let at = text.to_ascii_lowercase().find(word)?;
    Some((&text[..at], &text[at + word.len()..]))
}

fn known_unit(unit: &str) -> &'static str {
    match unit
        .bytes()
        .next()
        .map(|letter| letter.to_ascii_lowercase())
    {
        Some(b'm') => "m",
        Some(b'h') => "h",
        Some(b'd') => "d",
        Some(b'w') => "w",
        _ => "s",
    }
}

/// Returns the text with another unit of time.
fn with_unit(text: &str, unit: &str, other: &str) -> Option<String> {
    let at = text.rfind(unit)?;
    let (before, after) = (&text[..at], &text[at + unit.len()..]);
    let candidate = format!("{before}{other}{after}");
    let without_multiple = || {
        let before = trim(before).trim_end_matches(|letter: char| letter.is_ascii_digit());
        Some(format!("{before}{other}{after}")).filter(|text| is_list(text))
    };
    checked(candidate, is_list).or_else(without_multiple)
}

/// Returns the text with the algorithm whose name is closest.
fn with_algorithm(text: &str, name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let (_, rest) = text.split_once(':')?;
    let names = || AlgorithmName::NAMES.iter().map(|(known, _)| *known);
    let closest = names().find(|known| !name.is_empty() && known.contains(&*name));
    let closest = closest.unwrap_or("token-bucket");
    checked(format!("{closest}:{}", trim(rest)), is_list)
}

/// Returns the text with 1 in place of each 0.
fn without_zeros(text: &str) -> String {
    let mut better = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let (before, digits) = rest.split_at(start);
        let end = digits.find(|letter: char| !letter.is_ascii_digit());
        let (digits, after) = digits.split_at(end.unwrap_or(digits.len()));
        let is_zero = digits.bytes().all(|digit| digit == b'0');
        better.push_str(before);
        better.push_str(if is_zero { "1" } else { digits });
        rest = after;
    }
    better + rest
}

/// `2TB/day`: `1TiB/day`; `1/day burst 73050`: `1/day burst 52124`.
fn within_bounds(text: &str) -> Option<String> {
    let (algorithm, rest) = match text.split_once(':') {
        Some((name, rest)) => (format!("{}:", trim(name)), trim(rest)),
        None => (String::new(), text),
    };
    if algorithm.eq_ignore_ascii_case("total:") {
        let size = Cursor(rest).size()?;
        let most = size.saturated().min(MOST_TOKENS);
        return Some(format!("{algorithm}{}", Size(most, size.unit())));
    }
    let parts = Cursor(rest).parts()?;
    let unit_us = unit(parts.unit).ok()?;
    let is_log = algorithm.eq_ignore_ascii_case("sliding-log:");
    let most = if is_log { LOG_MAX.into() } else { MOST_TOKENS };
    let token = parts.count.unit();
    let count = parts.count.saturated().min(most);
    let longest = (MOST_GRAINS / unit_us).min(u32::MAX.into());
    let multiple = parts
        .multiple
        .map(|digits| saturated(digits, 1).min(longest));
    let mut better = format!("{algorithm}{}/", Size(count, token));
    if let Some(multiple) = multiple {
        better += &format!("{multiple} ");
    }
    better += parts.unit;
    if let Some(burst) = parts.burst {
        let periods = MOST_GRAINS / (multiple.unwrap_or(1) * unit_us).max(1);
        let fills = count.saturating_mul(periods);
        let burst = burst.saturated().min(fills).min(MOST_TOKENS);
        better += &format!(" burst {}", Size(burst, token));
    }
    Some(better)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Quota;
    use super::*;

    /// Returns the example in the message.
    fn shown(text: &str) -> String {
        let error = text.parse::<Quota>().expect_err(text).to_string();
        let at = error.rfind(" \"").expect("an example");
        error[at + 2..].trim_end_matches('"').to_owned()
    }

    #[test]
    fn example_is_close_to_the_invalid_text() {
        for (text, example) in [
            ("5/s, burst 20", "5/s burst 20"),
            ("10/second;burst=20", "10/second burst 20"),
            ("5/S Burst=20", "5/S burst 20"),
            ("5/s (burst: 20)", "5/s burst 20"),
            ("5/s burst", "5/s"),
            ("5/s burst 2 burst 3", "5/s burst 2"),
            ("1,000/s", "1000/s"),
            ("1_000_000/s", "1000000/s"),
            ("1k/s", "1000/s"),
            ("10r/s", "10/s"),
            ("100 requests per minute", "100 per minute"),
            ("10 a minute", "10 per minute"),
            ("10per minute", "10 per minute"),
            ("10 per5m", "10 per 5m"),
            ("1.5/s", "15/10s"),
            ("0.25/s", "25/100s"),
            ("1.5GB/s", "15GB/10s"),
            ("100", "100/minute"),
            ("100/", "100/minute"),
            ("10MB", "10MB/minute"),
            ("100\t\tGiB", "100 GiB/minute"),
            ("10 \t/ s,  burst\t5", "10 / s burst 5"),
            ("100/minute/user", "100/minute"),
            ("5/s please", "5/s"),
            ("5/s\n", "5/s"),
            ("10/s, 1000/h", "10/s"),
            ("5/s burst 1MB", "5MB/s burst 1MB"),
            ("1MiB/s burst 5", "1MiB/s burst 5MiB"),
            ("5/fortnight", "5/s"),
            ("5/mintues", "5/m"),
            ("5/2 sceonds burst 9", "5/2 s burst 9"),
            ("5/month", "5/30 days"),
            ("5 per 2 years", "5 per 365 days"),
            ("fixed:5/d", "fixed-window:5/d"),
            ("leaky:5/d", "token-bucket:5/d"),
            ("0/s", "1/s"),
            ("10/00s burst 0", "10/1s burst 1"),
            ("fixed-window:5/d burst 9", "fixed-window:5/d"),
            ("2TB/day", "1TiB/day"),
            ("2000000000000 per minute", "1099511627776/minute"),
            (
                "99999999999999999999/s burst 2000000000000",
                "1099511627776/s burst 1099511627776",
            ),
            ("sliding-log:70000/d", "sliding-log:65535/d"),
            ("sliding-log:64KiB/s", "sliding-log:65535B/s"),
            ("1/4294967296s", "1/4294967295 s"),
            ("fixed-window:9/60000 days", "fixed-window:9/52124 days"),
            ("1/day burst 73050", "1/day burst 52124"),
            ("interval:2/week burst 99999", "interval:2/week burst 14892"),
            ("total:5/day", "total:5"),
            ("total:2000000000000", "total:1099511627776"),
            ("Total: 5 MB please", "Total: 5 MB"),
            ("total:0", "total:1"),
            ("often", "5/s burst 20"),
            ("5\u{661}/s", "5/s burst 20"),
        ] {
            assert_eq!(shown(text), example, "{text:?}");
            assert!(is_quota(example), "{example}");
        }
        let list = Quota::parse_list("10/s, 1000/h, burst 20").expect_err("a burst is not a quota");
        assert!(
            list.to_string()
                .ends_with(r#"use for example "10/s, 1000/h burst 20""#),
            "{list}"
        );
    }

    proptest! {
        #[test]
        fn example_is_always_valid(
            text in "(fixed-window:|total:|calendar:|x:)?[0-9.,_k]{0,6} ?(MB|r|requests)? ?(/|per| per |a )? ?[0-9]{0,3} ?[a-z]{0,6}[,; ]{0,2}(burst[ =]?[0-9]{0,3}[kMG]?B?|@[0-9]{0,3}(-[0-9]{1,3})?( utc| Asia/X)?)?[,;/]?",
        ) {
            for error in [text.parse::<Quota>().map(drop), Quota::parse_list(&text).map(drop)] {
                let Err(error) = error else { continue };
                prop_assert!(error.example().is_none_or(is_list), "{}", error);
            }
        }
    }
}
