//! The formats with room for one limit: draft 06, draft 07, and `X-RateLimit-*`.

use std::cmp::Ordering;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::draft11::MICROS;
use super::existing::{self, OneLimit};
use super::field::{Field, RATELIMIT, value};
use crate::clock::Timestamp;
use crate::decision::{Decision, NEVER, QuotaSnapshot, Snapshot};

const DRAFT_06: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];

const X: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// The numbers of the one quota that is shown.
#[derive(Clone, Copy)]
pub(super) struct ShownQuota {
    limit: u64,
    remaining: u64,
    /// µs from now; `None` if it never comes.
    reset: Option<u64>,
}

impl ShownQuota {
    /// Chooses the quota at the index `named`, or otherwise the one that denies for longest or, if all allow, has the
    /// smallest share left.
    pub(super) fn from_decision(decision: &Decision, named: Option<usize>) -> Self {
        let snapshot = decision.snapshot();
        let named = named.and_then(|index| snapshot.quotas().get(index));
        let shown = match named {
            Some(named) => named,
            None if decision.is_allowed() => smallest_share(snapshot),
            None => snapshot.governor(),
        };
        Self {
            limit: shown.limit,
            remaining: shown.remaining,
            reset: match shown.retry_after {
                0 | NEVER => Some(shown.reset_after).filter(|reset| *reset != NEVER),
                wait => Some(wait),
            },
        }
    }

    /// The reset in seconds from now, rounded up.
    fn delta(self) -> Option<u64> {
        Some(self.reset?.div_ceil(MICROS))
    }

    /// The reset in seconds since the epoch, rounded up.
    fn epoch(self, now: Timestamp) -> Option<u64> {
        Some(now.as_micros().saturating_add(self.reset?).div_ceil(MICROS))
    }

    /// Writes three fields, unless the existing ones have as small a share left. `since` is the time now, if the
    /// reset is a point in time.
    pub(super) fn write(self, format: OneLimit, since: Option<Timestamp>, headers: &mut HeaderMap) {
        if self.keeps_existing(format, headers) {
            return;
        }
        let names = match format {
            OneLimit::X => &X,
            _ => &DRAFT_06,
        };
        let [limit, remaining, reset] = names;
        let seconds = since.map_or_else(|| self.delta(), |now| self.epoch(now));
        let fields = [
            (limit, Some(self.limit)),
            (remaining, Some(self.remaining)),
            (reset, seconds),
        ];
        for (name, number) in fields {
            let Some(number) = number else {
                headers.remove(name);
                continue;
            };
            // Formatted by hand, because `HeaderValue::from` a number allocates twice.
            if let Ok(value) = HeaderValue::from_str(itoa::Buffer::new().format(number)) {
                headers.insert(name, value);
            }
        }
    }

    /// Writes the field of draft 07, unless the existing one has as small a share left.
    pub(super) fn write_draft07(self, headers: &mut HeaderMap) {
        if self.keeps_existing(OneLimit::Draft07, headers) {
            return;
        }
        let mut field = Field::new();
        let fields = [
            ("limit=", Some(self.limit)),
            (", remaining=", Some(self.remaining)),
            (", reset=", self.delta()),
        ];
        for (text, number) in fields {
            let Some(number) = number else { continue };
            field.extend_from_slice(text.as_bytes());
            field.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        }
        if let Some(value) = value(&field) {
            headers.insert(RATELIMIT, value);
        }
    }

    /// Whether the existing limit stays, because it has as small a share left.
    fn keeps_existing(self, format: OneLimit, headers: &HeaderMap) -> bool {
        existing::limit_and_remaining(format, headers).is_some_and(|[limit, remaining]| {
            compare_shares((remaining, limit), (self.remaining, self.limit)).is_le()
        })
    }
}

/// Returns the quota with the smallest share left, then with the latest reset, then the first.
fn smallest_share(snapshot: &Snapshot) -> &QuotaSnapshot {
    let by_share = |a: &&QuotaSnapshot, b: &&QuotaSnapshot| {
        compare_shares((a.remaining, a.limit), (b.remaining, b.limit))
            .then(b.reset_after.cmp(&a.reset_after))
    };
    let smallest = snapshot.quotas().iter().min_by(by_share);
    smallest.unwrap_or_else(|| snapshot.governor())
}

/// Compares two shares, each of which is the remaining tokens of a limit. Exact, without a division.
fn compare_shares(a: (u64, u64), b: (u64, u64)) -> Ordering {
    let product = |remaining: u64, limit: u64| u128::from(remaining) * u128::from(limit);
    product(a.0, b.1).cmp(&product(b.0, a.1))
}
