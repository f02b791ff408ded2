//! The parts of a quota string such as `calendar:10000/month@15 Europe/Zurich`.

use super::super::grammar::{Cursor, ParsedSize, saturated};
use super::Every;

/// The text behind `calendar:`, before its numbers and names are checked.
pub(in super::super) struct CalendarParts<'a> {
    pub(in super::super) count: ParsedSize<'a>,
    unit: &'a str,
    anchor: Option<(&'a str, Option<&'a str>)>,
    pub(in super::super) zone: &'a str,
}

impl<'a> Cursor<'a> {
    pub(in super::super) fn calendar(&mut self) -> Option<CalendarParts<'a>> {
        let count = self.size()?;
        self.space();
        self.0 = self.0.strip_prefix('/')?;
        self.space();
        let unit = self.take(|byte| byte.is_ascii_alphabetic())?;
        let anchor = match self.0.strip_prefix('@') {
            Some(rest) => {
                self.0 = rest;
                let first = self.digits()?;
                let second = match self.0.strip_prefix('-') {
                    Some(rest) => {
                        self.0 = rest;
                        Some(self.digits()?)
                    }
                    None => None,
                };
                Some((first, second))
            }
            None => None,
        };
        let is_spaced = self.space();
        // A zone has no white space. Any other text is shown by the error for an unknown zone.
        let zone = self.0;
        let is_name = !zone.is_empty() && !zone.contains([' ', '\t']);
        (is_spaced && is_name).then_some(CalendarParts {
            count,
            unit,
            anchor,
            zone,
        })
    }
}

impl CalendarParts<'_> {
    /// Returns the dates on which windows begin. A number that is too large becomes 255, which no calendar has.
    ///
    /// `None` if the unit is unknown, or has no such anchor.
    pub(in super::super) fn every(&self) -> Option<Every> {
        let is = |name| self.unit.eq_ignore_ascii_case(name);
        let number = |digits| u8::try_from(saturated(digits, 1)).unwrap_or(u8::MAX);
        let one = match self.anchor {
            None => Some(1),
            Some((only, None)) => Some(number(only)),
            Some(_) => None,
        };
        if is("day") {
            self.anchor.is_none().then_some(Every::Day)
        } else if is("week") {
            one.map(|weekday| Every::Week { weekday })
        } else if is("month") {
            one.map(|day| Every::Month { day })
        } else if is("quarter") {
            one.map(|day| Every::Quarter { day })
        } else if is("year") {
            match self.anchor {
                None => Some(Every::Year { month: 1, day: 1 }),
                Some((month, Some(day))) => Some(Every::Year {
                    month: number(month),
                    day: number(day),
                }),
                Some((_, None)) => None,
            }
        } else {
            None
        }
    }
}

/// Returns a valid text that is close to an invalid one: numbers are cut to their range, and a missing or unknown zone
/// becomes UTC. `None` if the unit is unknown.
pub(in super::super) fn repaired(text: &str) -> Option<String> {
    let (name, rest) = text.split_once(':')?;
    let rest = rest.trim_matches([' ', '\t']);
    let candidates = [rest.to_owned(), format!("{rest} UTC"), with_utc(rest)];
    let parts = candidates.iter().find_map(|text| {
        Cursor(text)
            .calendar()
            .filter(|parts| parts.every().is_some())
    })?;
    let most = super::super::MOST_TOKENS;
    let count =
        super::super::bytes::Size(parts.count.saturated().clamp(1, most), parts.count.unit());
    let every = parts.every()?.clamped();
    let zone = super::zone::named(parts.zone);
    let zone = zone
        .as_ref()
        .and_then(|zone| zone.iana_name())
        .unwrap_or("UTC");
    Some(format!("{name}:{count}/{every} {zone}"))
}

/// Returns the text up to the first white space, with UTC as its zone.
fn with_utc(text: &str) -> String {
    let period = text.split([' ', '\t']).next().unwrap_or_default();
    format!("{period} UTC")
}
