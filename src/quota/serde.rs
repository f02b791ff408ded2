//! The serde forms of a quota. `docs/serde.md` shows them.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Anchor, Origin, Quota, QuotaError, Rule, Unit};

#[derive(Serialize, Deserialize)]
#[serde(tag = "algorithm", rename_all = "kebab-case")]
enum QuotaForm {
    TokenBucket(Bucket),
    Interval(Bucket),
    FixedWindow(Window),
    SlidingWindow(Window),
    SlidingLog(Window),
    Total(Count),
    #[cfg(feature = "calendar")]
    CalendarWindow(super::calendar::CalendarForm),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    capacity: u64,
    refill: u64,
    period_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initial_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    anchor: Option<AnchorForm>,
    #[serde(default, skip_serializing_if = "Unit::is_default")]
    unit: Unit,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    limit: u64,
    window_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    anchor: Option<AnchorForm>,
    #[serde(default, skip_serializing_if = "Unit::is_default")]
    unit: Unit,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    limit: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_after_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Unit::is_default")]
    unit: Unit,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AnchorForm {
    FirstUse,
    Epoch { offset_us: u64 },
}

impl Unit {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Requests => "requests",
            Self::ContentBytes => "content-bytes",
        })
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "requests" => Ok(Self::Requests),
            "content-bytes" => Ok(Self::ContentBytes),
            other => Err(D::Error::unknown_variant(
                other,
                &["requests", "content-bytes"],
            )),
        }
    }
}

impl From<AnchorForm> for Anchor {
    fn from(start: AnchorForm) -> Self {
        match start {
            AnchorForm::FirstUse => Self::FirstUse,
            AnchorForm::Epoch { offset_us } => Self::Epoch {
                offset: Duration::from_micros(offset_us),
            },
        }
    }
}

impl From<Origin> for AnchorForm {
    fn from(origin: Origin) -> Self {
        origin.map_or(Self::FirstUse, |offset_us| Self::Epoch { offset_us })
    }
}

impl TryFrom<QuotaForm> for Quota {
    type Error = QuotaError;

    fn try_from(form: QuotaForm) -> Result<Self, QuotaError> {
        let micros = Duration::from_micros;
        let (quota, initial, anchor, unit) = match form {
            QuotaForm::TokenBucket(b) => (
                Self::try_token_bucket(b.capacity, b.refill, micros(b.period_us))?,
                b.initial_tokens,
                b.anchor,
                b.unit,
            ),
            QuotaForm::Interval(b) => (
                Self::try_interval_bucket(b.capacity, b.refill, micros(b.period_us))?,
                b.initial_tokens,
                b.anchor,
                b.unit,
            ),
            QuotaForm::FixedWindow(w) => (
                Self::try_fixed_window(w.limit, micros(w.window_us))?,
                None,
                w.anchor,
                w.unit,
            ),
            QuotaForm::SlidingWindow(w) => (
                Self::try_sliding_window(w.limit, micros(w.window_us))?,
                None,
                w.anchor,
                w.unit,
            ),
            QuotaForm::SlidingLog(w) => (
                Self::try_sliding_log(w.limit, micros(w.window_us))?,
                None,
                w.anchor,
                w.unit,
            ),
            QuotaForm::Total(total) => {
                let quota = Self::try_total(total.limit)?;
                let quota = match total.forget_after_us {
                    Some(span) => quota.try_forget_after(micros(span))?,
                    None => quota,
                };
                (quota, None, None, total.unit)
            }
            #[cfg(feature = "calendar")]
            QuotaForm::CalendarWindow(form) => (form.quota()?, None, None, form.unit),
        };
        let quota = initial.map_or(Ok(quota), |initial| quota.try_initial_tokens(initial))?;
        let quota = anchor.map_or(Ok(quota), |anchor| quota.try_anchor(anchor.into()))?;
        Ok(quota.with_unit(unit))
    }
}

impl From<&Quota> for QuotaForm {
    fn from(quota: &Quota) -> Self {
        let unit = quota.unit;
        let window = |limit, window_us, origin: Origin| Window {
            limit,
            window_us,
            anchor: (origin != Some(0)).then(|| AnchorForm::from(origin)),
            unit,
        };
        match quota.rule {
            Rule::TokenBucket(b) => Self::TokenBucket(Bucket {
                capacity: b.capacity,
                refill: b.refill,
                period_us: b.period,
                initial_tokens: (b.initial != b.capacity).then_some(b.initial),
                anchor: None,
                unit,
            }),
            Rule::IntervalBucket(b) => Self::Interval(Bucket {
                capacity: b.capacity,
                refill: b.refill,
                period_us: b.period,
                initial_tokens: (b.initial != b.capacity).then_some(b.initial),
                anchor: b.origin.map(|_| AnchorForm::from(b.origin)),
                unit,
            }),
            Rule::FixedWindow(w) => Self::FixedWindow(window(w.limit, w.window, w.origin)),
            Rule::SlidingWindow(w) => Self::SlidingWindow(window(w.limit, w.window, Some(0))),
            Rule::SlidingLog(w) => Self::SlidingLog(window(w.limit.into(), w.window, Some(0))),
            Rule::Total(total) => Self::Total(Count {
                limit: total.limit,
                forget_after_us: total.forget_after,
                unit,
            }),
            #[cfg(feature = "calendar")]
            Rule::CalendarWindow(w) => {
                Self::CalendarWindow(super::calendar::CalendarForm::new(w, unit))
            }
            #[cfg(not(feature = "calendar"))]
            Rule::CalendarWindow(w) => match w.calendar {},
        }
    }
}

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        QuotaForm::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrMap;

        impl<'de> Visitor<'de> for TextOrMap {
            type Value = Quota;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    r#"a quota such as "100/minute", or a map such as {"algorithm": "fixed-window", "limit": 100, "window_us": 60000000}"#,
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Quota, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Quota, A::Error> {
                QuotaForm::deserialize(MapAccessDeserializer::new(map))?
                    .try_into()
                    .map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(TextOrMap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quota_reads_back_from_json() {
        let second = Duration::from_secs(1);
        for quota in [
            Quota::per_minute(100).burst(20).initial_tokens(3),
            Quota::interval_bucket(9, 2, second).anchor(Anchor::Epoch {
                offset: Duration::from_micros(7),
            }),
            Quota::fixed_window(9, second).anchor(Anchor::FirstUse),
            Quota::fixed_window(9, second).with_unit(Unit::ContentBytes),
            Quota::per_day(1 << 40)
                .burst(1)
                .with_unit(Unit::ContentBytes),
            Quota::sliding_window(9, Duration::from_micros(1_500)),
            Quota::sliding_log(9, second),
            Quota::total(9).with_unit(Unit::ContentBytes),
            Quota::total(9).forget_after(second),
        ] {
            let text = serde_json::to_string(&quota).expect("serializes");
            assert_eq!(
                serde_json::from_str::<Quota>(&text).expect(&text),
                quota,
                "{text}"
            );
        }
        assert_eq!(
            serde_json::from_str::<Quota>("\"5/s burst 20\"").expect("reads"),
            Quota::per_second(5).burst(20)
        );
        let bytes = Quota::per_day(10_000_000_000).with_unit(Unit::ContentBytes);
        assert_eq!(
            serde_json::from_str::<Quota>("\"10GB/day\"").expect("reads"),
            bytes
        );
        let text = serde_json::to_string(&bytes).expect("serializes");
        assert!(text.contains("\"unit\":\"content-bytes\""), "{text}");
    }

    #[cfg(feature = "calendar")]
    #[test]
    fn calendar_windows_read_back_from_json() {
        use super::super::Every;
        for every in [
            Every::Day,
            Every::Week { weekday: 7 },
            Every::Month { day: 15 },
            Every::Quarter { day: 1 },
            Every::Year { month: 4, day: 6 },
        ] {
            let quota = Quota::calendar_window(9, every, "Europe/Zurich");
            for quota in [quota, quota.with_unit(Unit::ContentBytes)] {
                let text = serde_json::to_string(&quota).expect("serializes");
                assert_eq!(serde_json::from_str::<Quota>(&text).expect(&text), quota);
            }
        }
        let read = |rest: &str| {
            let text = format!(r#"{{"algorithm":"calendar-window","limit":5,{rest}}}"#);
            serde_json::from_str::<Quota>(&text).map_err(|error| error.to_string())
        };
        assert_eq!(
            read(r#""every":"year","zone":"utc""#),
            Ok(Quota::calendar_window(
                5,
                Every::Year { month: 1, day: 1 },
                "UTC"
            ))
        );
        for (rest, why) in [
            (
                r#""every":"week","day":2,"zone":"UTC""#,
                "day is no setting of the calendar week; leave it out or use a month, a quarter or a year",
            ),
            (
                r#""every":"month","weekday":2,"zone":"UTC""#,
                "weekday is no setting of the calendar month; leave it out or use a week",
            ),
            (
                r#""every":"month","day":32,"zone":"UTC""#,
                "day of the month is 32; use at most 31",
            ),
            (
                r#""every":"day","zone":"Mars""#,
                "time zone \"Mars\" is unknown",
            ),
            (r#""every":"day""#, "missing field `zone`"),
            (
                r#""every":"day","zone":"UTC","window_us":1"#,
                "unknown field `window_us`",
            ),
        ] {
            let error = read(rest).expect_err(rest);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn invalid_values_fail_with_their_own_text() {
        let why = |text: &str| serde_json::from_str::<Quota>(text).unwrap_err().to_string();
        assert!(
            why("\"0/s\"")
                .starts_with(r#"invalid quota "0/s": count is 0; use at least 1, such as "1/s""#)
        );
        assert!(
            why(r#"{"algorithm":"token-bucket","capacity":5,"refill":0,"period_us":1}"#)
                .starts_with("refill is 0; use at least 1")
        );
        assert!(why(r#"{"algorithm":"leaky","capacity":5}"#).contains("unknown variant `leaky`"));
        assert!(
            why(r#"{"algorithm":"fixed-window","limit":5,"window_us":1,"burst":7}"#)
                .contains("unknown field `burst`")
        );
        assert!(
            why("7").contains(r#"a quota such as "100/minute", or a map such as {"algorithm""#)
        );
    }
}
