use std::panic::{RefUnwindSafe, UnwindSafe};

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use proptest::prelude::*;
use serde_json::Value;

use super::super::{Quota, Rule};
use super::latest::LatestWindow;
use super::*;

const HOUR: i64 = 3_600_000_000;

fn calendar(every: Every, zone: &str) -> Calendar {
    Calendar::new(every, zone).expect("a calendar")
}

/// Zones with jumps of half an hour, jumps across midnight and skipped dates.
const ZONES: [&str; 14] = [
    "UTC",
    "Europe/Zurich",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "America/Havana",
    "America/St_Johns",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Pacific/Chatham",
    "Antarctica/Casey",
    "Africa/Casablanca",
    "Asia/Pyongyang",
];

fn every() -> impl Strategy<Value = Every> {
    prop_oneof![
        Just(Every::Day),
        (1..=7_u8).prop_map(|weekday| Every::Week { weekday }),
        (1..=31_u8).prop_map(|day| Every::Month { day }),
        (1..=31_u8).prop_map(|day| Every::Quarter { day }),
        (1..=12_u8, 1..=31_u8).prop_map(|(month, day)| Every::Year { month, day }),
    ]
}

fn calendars() -> impl Strategy<Value = Calendar> {
    let zone = prop::sample::select(ZONES.to_vec());
    (every(), zone).prop_map(|(every, zone)| calendar(every, zone))
}

/// Returns the local date of a time as a number that orders dates.
fn date_at(zone: &TimeZone, at: i64) -> (i16, i8, i8) {
    let date = zone
        .to_datetime(Timestamp::from_microsecond(at).expect("in range"))
        .date();
    (date.year(), date.month(), date.day())
}

#[test]
fn edges_equal_those_of_an_independent_calendar() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/calendar.json");
    let text = std::fs::read_to_string(path).expect("reads");
    let vectors: Value = serde_json::from_str(&text).expect("JSON");
    let boundaries = vectors["boundaries"].as_array().expect("a list");
    assert_eq!(boundaries.len(), 207);
    for boundary in boundaries {
        let period = boundary["period"].as_object().expect("an object");
        let number = |field: &str| {
            let value = period.get(field)?.as_u64().expect("a number");
            Some(u8::try_from(value).expect("small"))
        };
        let (day, month) = (number("day").unwrap_or(1), number("month").unwrap_or(1));
        let weekday = number("weekday").unwrap_or(1);
        let every = match period["every"].as_str().expect("a text") {
            "day" => Every::Day,
            "week" => Every::Week { weekday },
            "month" => Every::Month { day },
            "quarter" => Every::Quarter { day },
            "year" => Every::Year { month, day },
            other => panic!("{other}"),
        };
        let calendar = calendar(every, period["zone"].as_str().expect("a text"));
        let micros = |value: &Value| value.as_i64().expect("a time");
        let expected = Window {
            start: micros(&boundary["expect"]["start_us"]),
            end: micros(&boundary["expect"]["end_us"]),
        };
        let at = micros(&boundary["at_us"]);
        assert_eq!(calendar.window_of(at), expected, "{}", boundary["name"]);
        // The kept window gives the same answer as the computed one.
        assert_eq!(calendar.window_of(at), expected, "{}", boundary["name"]);
        assert_eq!(
            calendar.other_window_of(at),
            expected,
            "{}",
            boundary["name"]
        );
    }
}

#[test]
fn date_that_begins_twice_starts_at_its_first_instant() {
    // At 00:01 on 7 November 2010 the clock of St. John's went back to 23:01 of the day before.
    let days = calendar(Every::Day, "America/St_Johns");
    let midnight = 1_289_097_000_000_000;
    let zone = TimeZoneDatabase::bundled()
        .get("America/St_Johns")
        .expect("a zone");
    assert_eq!(date_at(&zone, midnight), (2010, 11, 7));
    assert_eq!(date_at(&zone, midnight + HOUR / 2), (2010, 11, 6));
    for at in [midnight, midnight + HOUR / 2, midnight + 24 * HOUR] {
        let window = days.window_of(at);
        assert_eq!(
            (window.start, window.length()),
            (midnight, 25 * 3_600_000_000)
        );
    }
    assert_eq!(days.window_of(midnight - 1).end, midnight);
}

#[test]
fn date_without_midnight_starts_with_the_jump_of_the_clock() {
    // The clock jumps from 23:30 on 14 March 2027 to 00:30.
    let zone = TimeZone::posix("AAA0BBB,M3.2.0/23:30,M11.1.0/2").expect("a zone");
    let jump = 1_805_067_000_000_000;
    let (before, after) = (date_at(&zone, jump - 1), date_at(&zone, jump));
    assert_eq!((before, after), ((2027, 3, 14), (2027, 3, 15)));
    let window = zone::window_of(Every::Day, &zone, jump);
    assert_eq!(
        (window.start, window.length()),
        (jump, 23 * 3_600_000_000 + 1_800_000_000)
    );
    assert_eq!(zone::window_of(Every::Day, &zone, jump - 1).end, jump);
}

#[test]
fn month_from_a_date_that_never_was_starts_right_after_it() {
    // Samoa had no 30 December 2011.
    let days = calendar(Every::Day, "Pacific/Apia");
    let months = calendar(Every::Month { day: 30 }, "Pacific/Apia");
    let first = days.window_of(1_325_239_200_000_000);
    assert_eq!(months.window_of(first.start).start, first.start);
    assert_eq!(months.window_of(first.start - 1).end, first.start);
}

#[test]
fn any_time_has_a_window() {
    for every in [Every::Day, Every::Year { month: 2, day: 31 }] {
        let calendar = calendar(every, "Europe/Zurich");
        let largest = i64::try_from(crate::clock::Timestamp::MAX.as_micros()).expect("fits");
        for at in [0, 1, largest - 1, largest] {
            let window = calendar.window_of(at);
            assert!(window.holds(at), "{at} in {window:?}");
        }
        for at in [i64::MIN, i64::MAX, -largest, largest + 1] {
            assert!(calendar.window_of(at).length() > 0);
            let edges = calendar.edges_around(at);
            assert!(edges.is_sorted(), "{edges:?}");
        }
        // Nothing is counted in the window of an answer without a reset.
        assert_eq!(calendar.window_of_answer(5, 0), calendar.window_of(5));
        assert!(calendar.window_of_answer(i64::MAX, u64::MAX).length() > 0);
    }
}

#[test]
fn equal_calendars_are_one_value() {
    let calendar = |zone| calendar(Every::Month { day: 15 }, zone);
    assert_eq!(calendar("Europe/Zurich"), calendar("europe/zurich"));
    assert_ne!(calendar("Europe/Zurich"), calendar("Europe/Vaduz"));
    assert_eq!(calendar("utc").to_string(), "month@15 UTC");
    fn is_plain<T: Copy + Send + Sync + UnwindSafe + RefUnwindSafe>() {}
    is_plain::<Quota>();
}

#[test]
fn invalid_calendars_name_the_value_and_the_remedy() {
    let why = |limit, every, zone| {
        let error = Quota::try_calendar_window(limit, every, zone).expect_err("invalid");
        error.to_string()
    };
    assert_eq!(why(0, Every::Day, "UTC"), "limit is 0; use at least 1");
    assert_eq!(
        why(1, Every::Week { weekday: 8 }, "UTC"),
        "weekday is 8; use at most 7"
    );
    assert_eq!(
        why(1, Every::Month { day: 0 }, "UTC"),
        "day of the month is 0; use at least 1"
    );
    assert_eq!(
        why(1, Every::Quarter { day: 32 }, "UTC"),
        "day of the month is 32; use at most 31"
    );
    assert_eq!(
        why(1, Every::Year { month: 13, day: 1 }, "UTC"),
        "month is 13; use at most 12"
    );
    for zone in [
        "Europe/Bern",
        "",
        "Etc/Unknown",
        "UTC0",
        "../etc/passwd",
        "localtime",
    ] {
        assert_eq!(
            why(1, Every::Day, zone),
            format!(
                "time zone \"{zone}\" is unknown; use a name of the IANA database, such as Europe/Zurich"
            )
        );
    }
    let long = "x\n".repeat(100);
    let shown = format!("time zone \"{}\" is unknown", "x?".repeat(20));
    assert!(why(1, Every::Day, &long).starts_with(&shown));
}

#[test]
fn window_of_an_answer_is_that_of_the_clock_that_decided() {
    let months = calendar(Every::Month { day: 1 }, "UTC");
    let february = months.window_of(1_803_000_000_000_000);
    let march = months.window_of(february.end);
    assert_ne!(february.length(), march.length());
    // The clock of the server and the clock of this process are on different sides of the edge.
    for skew in [-12 * HOUR, -1, 0, 1, 12 * HOUR] {
        for server in [february.end - HOUR, february.end - 1] {
            let left = (february.end - server).unsigned_abs();
            assert_eq!(months.window_of_answer(server + skew, left), february);
        }
        for server in [march.start, march.start + HOUR] {
            let left = (march.end - server).unsigned_abs();
            assert_eq!(months.window_of_answer(server + skew, left), march);
        }
    }
}

proptest! {
    #[test]
    fn windows_tile_the_time_line(calendar in calendars(), at in 0..1_i64 << 53) {
        let window = calendar.window_of(at);
        prop_assert!(window.holds(at));
        for inside in [window.start, window.end - 1, window.start + (window.end - window.start) / 2] {
            prop_assert_eq!(calendar.other_window_of(inside), window);
        }
        let (before, after) = (calendar.other_window_of(window.start - 1), calendar.other_window_of(window.end));
        prop_assert_eq!((before.end, after.start), (window.start, window.end));
        let edges = calendar.edges_around(at);
        prop_assert_eq!(&edges[..4], &[before.start, window.start, window.end, after.end]);
    }

    #[test]
    fn no_window_is_longer_than_the_two_before_it(calendar in calendars(), at in 0..1_i64 << 53) {
        let edges = calendar.edges_around(at);
        for part in edges.windows(4) {
            prop_assert!(part[3] - part[2] < part[2] - part[0], "{:?}", part);
        }
    }

    /// The dates of the zone are read off its clock, second by second around the edge.
    #[test]
    fn edge_is_the_first_instant_of_a_local_date(calendar in calendars(), at in 0..1_i64 << 51) {
        let zone = TimeZoneDatabase::bundled().get(calendar.zone()).expect("a zone");
        let edge = calendar.window_of(at).start;
        let first = date_at(&zone, edge);
        // No clock goes back by more than a day.
        for before in (1..=26 * 60).map(|minutes| edge - minutes * 60_000_000).chain([edge - 1]) {
            prop_assert!(date_at(&zone, before) < first, "{} has a time on its date before {}", calendar, edge);
        }
        let (year, month, day) = first;
        let first = jiff::civil::date(year, month, day);
        let is_anchor = |date: jiff::civil::Date| match calendar.every() {
            Every::Day => true,
            Every::Week { weekday } => date.weekday().to_monday_one_offset().unsigned_abs() == weekday,
            Every::Month { day } => is_day(date, day),
            Every::Quarter { day } => (date.month() - 1) % 3 == 0 && is_day(date, day),
            Every::Year { month, day } => date.month().unsigned_abs() == month && is_day(date, day),
        };
        // A date that the zone skips has its anchor on the next date.
        prop_assert!(is_anchor(first) || is_anchor(first.yesterday().expect("in range")), "{} {}", calendar, first);
    }

    #[test]
    fn text_of_a_calendar_window_reads_back(
        limit in 1..=1_u64 << 40,
        every in every(),
        zone in prop::sample::select(ZONES.to_vec()),
    ) {
        let quota = Quota::calendar_window(limit, every, zone);
        prop_assert_eq!(quota.to_string().parse::<Quota>(), Ok(quota));
        let bytes = quota.with_unit(super::super::Unit::ContentBytes);
        prop_assert_eq!(bytes.to_string().parse::<Quota>(), Ok(bytes));
    }

    #[test]
    fn kept_window_is_returned_only_for_its_times(
        calendar in calendars(),
        at in 0..1_i64 << 53,
        other in 0..1_i64 << 53,
    ) {
        let latest = LatestWindow::default();
        prop_assert_eq!(latest.holding(at), None);
        let window = calendar.window_of(at);
        latest.keep(window);
        for time in [window.start, at, window.end - 1] {
            prop_assert_eq!(latest.holding(time), Some(window));
        }
        for time in [window.start - 1, window.end] {
            prop_assert_eq!(latest.holding(time), None);
        }
        prop_assert_eq!(latest.holding(other), window.holds(other).then_some(window));
    }
}

fn is_day(date: jiff::civil::Date, day: u8) -> bool {
    date.day() == i8::try_from(day).expect("small").min(date.days_in_month())
}

#[test]
fn window_before_the_epoch_starts_before_it() {
    let months = calendar(Every::Month { day: 15 }, "Europe/Zurich");
    let window = months.window_of(0);
    assert_eq!(window.length(), 31 * 86_400_000_000);
    assert!(window.start < 0);
    let Rule::CalendarWindow(rule) =
        Quota::calendar_window(1, Every::Month { day: 15 }, "Europe/Zurich").rule
    else {
        panic!("another rule");
    };
    assert_eq!(rule.calendar, months);
}
