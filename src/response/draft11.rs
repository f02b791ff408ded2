//! The `RateLimit` and `RateLimit-Policy` fields of draft-ietf-httpapi-ratelimit-headers-11 (23 May 2026): RFC 9651
//! lists of strings with parameters, written canonically.

use super::base64;
use super::field::Field;
use crate::decision::{NEVER, QuotaSnapshot};
use crate::policy::{NamedQuota, SemaphorePolicy};
use crate::quota::{Rule, Unit};

pub(super) const MICROS: u64 = 1_000_000;

/// What the fields say of one limit, whoever keeps it.
#[derive(Clone, Debug)]
pub(super) struct FieldItem {
    /// The name as an RFC 9651 string, with its quotes.
    name: Box<str>,
    quota: u64,
    unit: Option<&'static str>,
    /// Whole seconds; none for concurrency.
    window: Option<u64>,
    /// How long one token takes in whole seconds, for a bucket.
    one_token: Option<u64>,
}

impl FieldItem {
    pub(super) fn from_quota(named: &NamedQuota) -> Self {
        let quota = named.quota();
        let (window, one_token) = match quota.rule {
            Rule::TokenBucket(bucket) => {
                let (refill, period) = (u128::from(bucket.refill), u128::from(bucket.period));
                let fill =
                    (u128::from(bucket.capacity) * period).div_ceil(refill * u128::from(MICROS));
                let token = period.div_ceil(refill * u128::from(MICROS));
                (
                    u64::try_from(fill).unwrap_or(u64::MAX),
                    Some(u64::try_from(token).unwrap_or(u64::MAX)),
                )
            }
            Rule::IntervalBucket(bucket) => {
                let (refill, period) = (u128::from(bucket.refill), u128::from(bucket.period));
                let fill =
                    (u128::from(bucket.capacity) * period).div_ceil(refill * u128::from(MICROS));
                (
                    u64::try_from(fill).unwrap_or(u64::MAX),
                    Some(seconds(bucket.period)),
                )
            }
            Rule::FixedWindow(fixed) => (seconds(fixed.window), None),
            Rule::SlidingWindow(sliding) => (seconds(sliding.window), None),
            Rule::SlidingLog(log) => (seconds(log.window), None),
        };
        let unit = match quota.unit() {
            Unit::Requests => None,
            Unit::ContentBytes => Some("content-bytes"),
        };
        let name = quoted(named.name());
        Self {
            name,
            quota: quota.limit(),
            unit,
            window: Some(window),
            one_token,
        }
    }

    pub(super) fn from_policy(policy: &SemaphorePolicy) -> Self {
        Self {
            name: quoted(policy.name()),
            quota: policy.capacity().into(),
            unit: Some("concurrent-requests"),
            window: None,
            one_token: None,
        }
    }

    /// What drafts 06 and 07 say of it, for which there is no concurrency.
    pub(super) fn plain(&self, out: &mut Field) {
        if let Some(window) = self.window {
            separate(out);
            out.extend_from_slice(itoa::Buffer::new().format(self.quota).as_bytes());
            Self::parameter(out, ";w=", window);
        }
    }

    fn parameter(out: &mut Field, text: &str, value: u64) {
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A byte sequence of RFC 9651 (§4.1.8).
    #[inline]
    fn partition(out: &mut Field, partition_key: Option<&[u8]>) {
        if let Some(bytes) = partition_key {
            Self::byte_sequence(out, bytes);
        }
    }

    #[cold]
    fn byte_sequence(out: &mut Field, bytes: &[u8]) {
        out.extend_from_slice(b";pk=:");
        out.extend(base64::digits(bytes));
        out.extend_from_slice(base64::padding(bytes.len()));
        out.push(b':');
    }

    /// The member of `RateLimit-Policy`.
    pub(super) fn policy(&self, partition_key: Option<&[u8]>, out: &mut Field) {
        separate(out);
        out.extend_from_slice(self.name.as_bytes());
        Self::parameter(out, ";q=", self.quota);
        if let Some(unit) = self.unit {
            out.extend_from_slice(b";qu=\"");
            out.extend_from_slice(unit.as_bytes());
            out.push(b'"');
        }
        if let Some(window) = self.window {
            Self::parameter(out, ";w=", window);
        }
        Self::partition(out, partition_key);
    }

    /// The member of `RateLimit`.
    pub(super) fn limit(
        &self,
        answer: &QuotaSnapshot,
        partition_key: Option<&[u8]>,
        out: &mut Field,
    ) {
        separate(out);
        out.extend_from_slice(self.name.as_bytes());
        Self::parameter(out, ";r=", answer.remaining);
        if let Some(seconds) = self.effective_window(answer) {
            Self::parameter(out, ";t=", seconds);
        }
        Self::partition(out, partition_key);
    }

    /// "The number of seconds within which the client can use no more than the available quota" (`t`).
    pub(super) fn effective_window(&self, answer: &QuotaSnapshot) -> Option<u64> {
        match (answer.retry_after, self.one_token) {
            (NEVER, _) => None,
            // A request may end at any time: no window, and a second is a guess.
            (wait, _) if self.window.is_none() => (wait > 0).then_some(1),
            (0, Some(one_token)) => (answer.remaining == 0).then_some(one_token),
            (0, None) => (answer.remaining < self.quota).then(|| seconds(answer.reset_after)),
            (wait, _) => Some(seconds(wait)),
        }
    }
}

/// Whole seconds, rounded up, never 0.
pub(super) const fn seconds(micros: u64) -> u64 {
    if micros == 0 {
        1
    } else {
        micros.div_ceil(MICROS)
    }
}

fn separate(out: &mut Field) {
    if !out.is_empty() {
        out.extend_from_slice(b", ");
    }
}

/// An RFC 9651 string (§4.1.6); names are printable ASCII.
fn quoted(name: &str) -> Box<str> {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for letter in name.chars() {
        if matches!(letter, '"' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('"');
    text.into()
}

#[cfg(test)]
impl FieldItem {
    /// An item of a concurrency limit, whatever its name.
    pub(super) fn raw(name: &str, capacity: u32) -> Self {
        Self {
            name: quoted(name),
            quota: capacity.into(),
            unit: Some("concurrent-requests"),
            window: None,
            one_token: None,
        }
    }
}
