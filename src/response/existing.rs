//! The treatment of rate-limit fields that the limited service has set, such as a gateway's upstream.

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, header};

use super::format::{Draft, HeaderFormats, Reset};
use super::structured::{Value, is_dictionary, is_list};
use crate::clock::Timestamp;

/// The treatment of rate-limit fields and a `Retry-After` that a response already has. They come from the limited
/// service, from an inner layer, or from the closure of a rejection.
///
/// The fields of a format are `RateLimit`, `RateLimit-Policy`, `RateLimit-Limit`, `RateLimit-Remaining` and
/// `RateLimit-Reset` for the drafts, and `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
///
/// | | fields of the layer's format | of another format | `Retry-After` |
/// |---|---|---|---|
/// | `Append` | the layer adds its own; a format with room for one limit keeps the limit with the smallest share left | the layer replaces them, if they have the same names | the longer wait stays |
/// | `Replace` | the layer replaces them | the layer removes them | the layer replaces it, if it has a wait |
/// | `Keep` | they stay, and the layer adds none | they stay, and the layer adds none | it stays |
///
/// The layer leaves a response unchanged if it writes no fields: for a request that is not counted, a redirect, gRPC,
/// or a shadow policy.
///
/// ```
/// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
/// use tower_sluice::response::ExistingHeaders;
///
/// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
/// let gateway = limit.existing_headers(ExistingHeaders::Replace); // clients see no limit of the upstream
/// # let _: axum::Router = axum::Router::new().layer(gateway);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExistingHeaders {
    /// Appends to fields of the same format, and replaces fields of another one.
    #[default]
    Append,
    /// Replaces all rate-limit fields.
    Replace,
    /// Keeps existing fields, and adds fields only if there are none.
    Keep,
}

impl ExistingHeaders {
    /// Removes the fields that must not stay beside `formats`, and returns the formats to write. An inner layer has set
    /// the fields of `written` for this layer, so they stay.
    #[inline]
    pub(super) fn make_room(
        self,
        formats: HeaderFormats,
        written: HeaderFormats,
        now: Timestamp,
        headers: &mut HeaderMap,
    ) -> HeaderFormats {
        if headers.keys().any(is_rate_limit) {
            self.resolve_conflicts(formats, written, now, headers)
        } else {
            formats
        }
    }

    #[cold]
    fn resolve_conflicts(
        self,
        formats: HeaderFormats,
        written: HeaderFormats,
        now: Timestamp,
        headers: &mut HeaderMap,
    ) -> HeaderFormats {
        let of_drafts = written.draft.is_none() && has_any(&DRAFTS, headers);
        let of_x = written.x.is_none() && has_any(&XS, headers);
        match self {
            Self::Append => {
                if let Some(draft) = formats.draft
                    && of_drafts
                    && !is_draft(draft, headers)
                {
                    remove(&DRAFTS, headers);
                }
                if let Some(reset) = formats.x
                    && of_x
                    && !is_x(reset, now, headers)
                {
                    remove(&XS, headers);
                }
                formats
            }
            Self::Replace => {
                if of_drafts {
                    remove(&DRAFTS, headers);
                }
                if of_x {
                    remove(&XS, headers);
                }
                formats
            }
            Self::Keep if of_drafts || of_x => HeaderFormats::NONE,
            Self::Keep => formats,
        }
    }

    /// Whether an existing `Retry-After` is replaced by one of `seconds`.
    pub(super) fn replaces_retry_after(
        self,
        seconds: u64,
        now: impl FnOnce() -> Timestamp,
        headers: &HeaderMap,
    ) -> bool {
        let mut lines = headers.get_all(header::RETRY_AFTER).iter();
        let Some(set) = lines.next() else {
            return true;
        };
        match self {
            Self::Replace => true,
            Self::Keep => false,
            Self::Append if lines.next().is_some() => true,
            Self::Append => {
                wait(set, now).is_none_or(|set| set < u128::from(seconds) * u128::from(MICROS))
            }
        }
    }
}

const MICROS: u64 = 1_000_000;

/// The wait of a `Retry-After` in µs: a number of seconds, or a date (RFC 9110 §10.2.3).
fn wait(value: &HeaderValue, now: impl FnOnce() -> Timestamp) -> Option<u128> {
    if let Some(seconds) = count(value) {
        return Some(u128::from(seconds) * u128::from(MICROS));
    }
    let date = httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_micros();
    Some(since.saturating_sub(now().as_micros().into()))
}

/// The fields of all drafts.
const DRAFTS: [&str; 5] = [
    "ratelimit",
    "ratelimit-policy",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
];

const XS: [&str; 3] = [
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];

#[inline]
fn is_rate_limit(name: &HeaderName) -> bool {
    let name = name.as_str();
    // Most names differ in the first letter.
    matches!(name.as_bytes().first(), Some(b'r' | b'x'))
        && (DRAFTS.contains(&name) || XS.contains(&name))
}

fn has_any(names: &[&str], headers: &HeaderMap) -> bool {
    names.iter().any(|name| headers.contains_key(*name))
}

fn remove(names: &[&str], headers: &mut HeaderMap) {
    for name in names {
        headers.remove(*name);
    }
}

/// Whether the fields of the drafts have the format of this draft.
fn is_draft(draft: Draft, headers: &HeaderMap) -> bool {
    let [limit, policy, triplet @ ..] = DRAFTS;
    let is_count = |value: Option<Value>| value.is_some_and(|value| value.count().is_some());
    let all = |name: &str, is: &dyn Fn(&[u8]) -> bool| {
        let mut lines = headers.get_all(name).iter();
        lines.all(|line| is(line.as_bytes()))
    };
    let named = |line: &[u8], parameter: &[u8]| {
        is_list(line, parameter, |value, parameter| {
            value == Value::String && is_count(parameter)
        })
    };
    let is_plain_policy = |line: &[u8]| {
        is_list(line, b"w", |value, window| {
            is_count(Some(value)) && is_count(window)
        })
    };
    match draft {
        Draft::D11 => {
            !has_any(&triplet, headers)
                && all(policy, &|line| named(line, b"q"))
                && all(limit, &|line| named(line, b"r"))
        }
        Draft::D07 => {
            !has_any(&triplet, headers)
                && all(policy, &is_plain_policy)
                && (!headers.contains_key(limit)
                    || single(headers, limit).is_some_and(|line| draft07(line).is_some()))
        }
        Draft::D06 => {
            !headers.contains_key(limit)
                && all(policy, &is_plain_policy)
                && (!has_any(&triplet, headers) || counts(&triplet, headers).is_some())
        }
    }
}

/// Whether the fields exist and their reset is of this kind.
fn is_x(reset: Reset, now: Timestamp, headers: &HeaderMap) -> bool {
    /// In seconds: longer than any wait, and shorter than any time since the epoch.
    const AGES: u64 = 1_000_000_000;

    // A total has no reset.
    counts(&XS, headers).is_some_and(|[_, _, value]| match (value, reset) {
        (None, _) => true,
        (Some(value), Reset::Delta) => value < AGES,
        (Some(value), Reset::Epoch) => value.saturating_add(AGES) >= now.as_micros() / MICROS,
    })
}

/// The value of a field with one line.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => Some(line),
        _ => None,
    }
}

fn count(value: &HeaderValue) -> Option<u64> {
    let text = value.as_bytes().trim_ascii();
    if !text.iter().all(u8::is_ascii_digit) {
        return None; // `parse` reads `+1` as well
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Limit, remaining and reset. The fields of a total have no reset.
fn counts(names: &[&str; 3], headers: &HeaderMap) -> Option<[Option<u64>; 3]> {
    let [limit, remaining, reset] = names.map(|name| count(single(headers, name)?));
    let is_known = reset.is_some() || !headers.contains_key(names[2]);
    (limit.is_some() && remaining.is_some() && is_known).then_some([limit, remaining, reset])
}

/// Limit, remaining and reset of draft 07. The field of a total has no reset.
fn draft07(line: &HeaderValue) -> Option<[Option<u64>; 3]> {
    let (mut values, mut is_known) = ([None; 3], true);
    let parses = is_dictionary(line.as_bytes(), |key, value| {
        let place = [&b"limit"[..], b"remaining", b"reset"]
            .iter()
            .position(|name| *name == key);
        if let Some(place) = place {
            values[place] = value.count();
            is_known &= values[place].is_some();
        }
    });
    let is_whole = parses && is_known && values[0].is_some() && values[1].is_some();
    is_whole.then_some(values)
}

/// The limit and its remaining tokens in the fields of a format with room for one limit.
pub(super) fn limit_and_remaining(format: OneLimit, headers: &HeaderMap) -> Option<[u64; 2]> {
    let [_, _, triplet @ ..] = DRAFTS;
    let [limit, remaining, _] = match format {
        OneLimit::Draft06 => counts(&triplet, headers)?,
        OneLimit::Draft07 => draft07(single(headers, DRAFTS[0])?)?,
        OneLimit::X => counts(&XS, headers)?,
    };
    Some([limit?, remaining?])
}

/// A format with room for one limit.
#[derive(Clone, Copy)]
pub(super) enum OneLimit {
    Draft06,
    Draft07,
    X,
}
