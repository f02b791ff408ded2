//! The fields `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-11 (23 May 2026). They are
//! lists of strings with parameters in the canonical form of RFC 9651.

use super::base64;
use super::field::Field;
use super::quoted::push_quoted;
use crate::clock::Timestamp;
use crate::decision::{NEVER, QuotaSnapshot};
use crate::policy::{NamedQuota, SemaphorePolicy};
use crate::quota::{Calendar, Rule, Unit};

pub(super) const MICROS: u64 = 1_000_000;

/// The parts of the fields that describe one limit, of a policy or of a semaphore.
#[derive(Clone, Debug)]
pub(super) struct FieldItem {
    /// The name as an RFC 9651 string, with its quotes.
    name: Box<str>,
    quota: u64,
    unit: Option<&'static str>,
    window: FieldWindow,
    /// The time for one token in whole seconds, of a bucket.
    one_token: Option<u64>,
}

/// The window of a limit in the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldWindow {
    /// In whole seconds.
    Seconds(u64),
    /// The current window of a calendar, whose length changes.
    Calendar(Calendar),
    /// A total has no window.
    Endless,
    /// A semaphore has no window.
    Concurrency,
}

impl FieldItem {
    pub(super) fn from_quota(named: &NamedQuota) -> Self {
        let quota = named.quota();
        let window = |micros| FieldWindow::Seconds(seconds(micros));
        let (window, one_token) = match quota.rule {
            Rule::TokenBucket(bucket) => {
                let (refill, period) = (u128::from(bucket.refill), u128::from(bucket.period));
                let fill =
                    (u128::from(bucket.capacity) * period).div_ceil(refill * u128::from(MICROS));
                let token = period.div_ceil(refill * u128::from(MICROS));
                (
                    FieldWindow::Seconds(u64::try_from(fill).unwrap_or(u64::MAX)),
                    Some(u64::try_from(token).unwrap_or(u64::MAX)),
                )
            }
            Rule::IntervalBucket(bucket) => {
                let (refill, period) = (u128::from(bucket.refill), u128::from(bucket.period));
                let fill =
                    (u128::from(bucket.capacity) * period).div_ceil(refill * u128::from(MICROS));
                (
                    FieldWindow::Seconds(u64::try_from(fill).unwrap_or(u64::MAX)),
                    Some(seconds(bucket.period)),
                )
            }
            Rule::FixedWindow(fixed) => (window(fixed.window), None),
            Rule::SlidingWindow(sliding) => (window(sliding.window), None),
            Rule::SlidingLog(log) => (window(log.window), None),
            Rule::Total(_) => (FieldWindow::Endless, None),
            Rule::CalendarWindow(window) => (FieldWindow::Calendar(window.calendar), None),
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
            window,
            one_token,
        }
    }

    pub(super) fn from_policy(policy: &SemaphorePolicy) -> Self {
        Self {
            name: quoted(policy.name()),
            quota: policy.capacity().into(),
            unit: Some("concurrent-requests"),
            window: FieldWindow::Concurrency,
            one_token: None,
        }
    }

    /// Returns whether the window is the same in all answers.
    pub(super) const fn is_constant(&self) -> bool {
        !matches!(self.window, FieldWindow::Calendar(_))
    }

    /// Returns the window in whole seconds. That of a calendar is the window in which `answer` was given at about `at`.
    pub(super) fn window(&self, answer: Option<&QuotaSnapshot>, at: Timestamp) -> Option<u64> {
        match self.window {
            FieldWindow::Seconds(window) => Some(window),
            FieldWindow::Calendar(calendar) => {
                let answer = answer?;
                let at = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
                let window = calendar.window_of_answer(at, answer.reset_after);
                Some(seconds(window.length()))
            }
            FieldWindow::Endless | FieldWindow::Concurrency => None,
        }
    }

    /// Writes the item of drafts 06 and 07, which cannot express concurrency. An item needs a window.
    pub(super) fn plain(&self, window: Option<u64>, out: &mut Field) {
        if let Some(window) = window {
            separate(out);
            out.extend_from_slice(itoa::Buffer::new().format(self.quota).as_bytes());
            Self::parameter(out, ";w=", window);
        }
    }

    fn parameter(out: &mut Field, text: &str, value: u64) {
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Writes a byte sequence (RFC 9651 §4.1.8).
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

    /// Writes the member of `RateLimit-Policy`.
    pub(super) fn policy(
        &self,
        partition_key: Option<&[u8]>,
        window: Option<u64>,
        out: &mut Field,
    ) {
        separate(out);
        out.extend_from_slice(self.name.as_bytes());
        Self::parameter(out, ";q=", self.quota);
        if let Some(unit) = self.unit {
            out.extend_from_slice(b";qu=\"");
            out.extend_from_slice(unit.as_bytes());
            out.push(b'"');
        }
        if let Some(window) = window {
            Self::parameter(out, ";w=", window);
        }
        Self::partition(out, partition_key);
    }

    /// Writes the member of `RateLimit`.
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
            // A request in flight may end at any time, so one second is a guess.
            (wait, _) if self.window == FieldWindow::Concurrency => (wait > 0).then_some(1),
            (0, _) if answer.reset_after == NEVER => None,
            (0, Some(one_token)) => (answer.remaining == 0).then_some(one_token),
            (0, None) => (answer.remaining < self.quota).then(|| seconds(answer.reset_after)),
            (wait, _) => Some(seconds(wait)),
        }
    }
}

/// Converts to whole seconds, rounded up, at least 1.
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

/// Returns a string in quotes (RFC 9651 §4.1.6). Names are printable ASCII.
fn quoted(name: &str) -> Box<str> {
    let mut text = String::with_capacity(name.len() + 2);
    push_quoted(name, &mut text);
    text.into()
}

#[cfg(test)]
impl FieldItem {
    /// An item of a concurrency limit with any name.
    pub(super) fn raw(name: &str, capacity: u32) -> Self {
        Self {
            name: quoted(name),
            quota: capacity.into(),
            unit: Some("concurrent-requests"),
            window: FieldWindow::Concurrency,
            one_token: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use sfv::{BareItem, FieldType, Item, List, ListEntry, Parser};

    use super::*;
    use crate::policy::Policy;
    use crate::quota::Quota;

    /// Parses a line with an independent parser, which must serialize it to the same bytes.
    fn parsed(field: &Field) -> Vec<Item> {
        let list: List = Parser::new(field.as_slice()).parse().expect("a list");
        let line = std::str::from_utf8(field).expect("ASCII");
        assert_eq!(list.serialize().as_deref(), Some(line), "canonical");
        let items = list.into_iter().map(|entry| match entry {
            ListEntry::Item(item) => item,
            ListEntry::InnerList(_) => panic!("an inner list in {line}"),
        });
        items.collect()
    }

    fn integer(item: &Item, parameter: &str) -> Option<u64> {
        let BareItem::Integer(number) = item.params.get(parameter)? else {
            panic!("{parameter} is no integer");
        };
        Some(u64::try_from(i64::from(*number)).expect("not negative"))
    }

    fn bytes<'a>(item: &'a Item, parameter: &str) -> Option<&'a [u8]> {
        match item.params.get(parameter)? {
            BareItem::ByteSequence(bytes) => Some(bytes),
            other => panic!("{parameter} is {other:?}"),
        }
    }

    fn quota() -> impl Strategy<Value = Quota> {
        let limit = 1..=1_u64 << 40;
        let seconds = (1..=86_400_u64).prop_map(Duration::from_secs);
        let unit = prop::sample::select(vec![Unit::Requests, Unit::ContentBytes]);
        (limit, seconds, unit, 0..3_u8).prop_map(|(limit, period, unit, kind)| {
            let quota = match kind {
                0 => Quota::token_bucket(limit, limit.div_ceil(1_000), period),
                1 => Quota::interval_bucket(limit, limit, period),
                _ => Quota::fixed_window(limit, period),
            };
            quota.with_unit(unit)
        })
    }

    proptest! {
        #[test]
        fn fields_are_what_an_independent_serializer_writes(
            quotas in prop::collection::btree_map("[ -~]{1,64}", quota(), 1..=4),
            partition_key in prop::option::of(prop::collection::vec(any::<u8>(), 0..=32)),
            used in 0..=1_u64 << 40,
            wait in 0..=1_u64 << 50,
        ) {
            let policy = Policy::try_from_quotas("p", quotas).expect("valid");
            let partition_key = partition_key.as_deref();
            let (mut policies, mut limits) = (Field::new(), Field::new());
            let mut remaining = Vec::new();
            for named in policy.quotas() {
                let item = FieldItem::from_quota(named);
                let limit = named.quota().limit();
                let answer = QuotaSnapshot {
                    limit,
                    remaining: limit.saturating_sub(used),
                    retry_after: if used > limit { wait } else { 0 },
                    reset_after: wait,
                };
                item.policy(partition_key, item.window(None, Timestamp::default()), &mut policies);
                item.limit(&answer, partition_key, &mut limits);
                remaining.push(answer.remaining);
            }
            let (policies, limits) = (parsed(&policies), parsed(&limits));
            prop_assert_eq!(policies.len(), policy.quotas().len());
            prop_assert_eq!(limits.len(), policy.quotas().len());
            for (index, named) in policy.quotas().iter().enumerate() {
                let unit = (named.quota().unit() == Unit::ContentBytes).then_some("content-bytes");
                let (policy, limit) = (&policies[index], &limits[index]);
                for item in [policy, limit] {
                    let name = item.bare_item.as_string().expect("a string");
                    prop_assert_eq!(name.as_str(), named.name());
                    prop_assert_eq!(bytes(item, "pk"), partition_key);
                }
                prop_assert_eq!(integer(policy, "q"), Some(named.quota().limit()));
                prop_assert!(integer(policy, "w").is_some_and(|window| window > 0));
                let written = policy.params.get("qu").map(|unit| unit.as_string().expect("a string").as_str());
                prop_assert_eq!(written, unit);
                prop_assert_eq!(integer(limit, "r"), Some(remaining[index]));
                prop_assert!(integer(limit, "t").is_none_or(|seconds| seconds > 0));
            }
        }
    }
}
