//! Writes decisions into header fields, with values that are prepared once for each policy.

use std::sync::OnceLock;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderValue, RETRY_AFTER};

use super::draft11::FieldItem;
use super::existing::{ExistingHeaders, OneLimit};
use super::field::{Field, RATELIMIT, RATELIMIT_POLICY, append, value};
use super::format::{Draft, HeaderFormats, Reset};
use super::legacy_headers::ShownQuota;
use super::problem::{self, violated};
use super::retry_after::write_retry_after;
use crate::clock::Timestamp;
use crate::decision::{Decision, QuotaSnapshot, Snapshot};
use crate::policy::{Policy, SemaphorePolicy};

/// How one decision is written.
#[derive(Clone, Copy)]
pub(super) struct FieldOptions<'a> {
    pub(super) formats: HeaderFormats,
    /// The treatment of existing fields.
    pub(super) existing: ExistingHeaders,
    /// The formats in which an inner layer has written the same charge.
    pub(super) written: HeaderFormats,
    /// The time of the decision, if a field contains it.
    pub(super) at: Timestamp,
    pub(super) partition_key: Option<&'a [u8]>,
    /// The index of the quota to show in a format with room for one. `None` for the tightest.
    pub(super) shown: Option<usize>,
}

/// The parts of the fields that are the same for all decisions of a policy.
#[derive(Debug)]
pub(super) struct PreparedFields {
    items: Vec<FieldItem>,
    /// The value of `RateLimit-Policy`, without a partition key. `None` if a window is that of a calendar.
    policy: Option<HeaderValue>,
    /// Whether the window of each quota is the same in all answers.
    is_constant: bool,
    /// The value of drafts 06 and 07 of constant windows, built at its first use.
    plain_policy: OnceLock<Option<HeaderValue>>,
    /// The body of a rejection, if the policy has a single quota.
    problem: Option<Bytes>,
}

impl FieldOptions<'_> {
    /// Removes existing fields that must not stay, and keeps only the formats to write.
    #[inline]
    fn make_room(mut self, headers: &mut HeaderMap) -> Self {
        self.formats = self
            .existing
            .make_room(self.formats, self.written, self.at, headers);
        self
    }
}

impl PreparedFields {
    pub(super) fn from_policy(policy: &Policy) -> Self {
        let problem = match policy.quotas() {
            [only] => Some(problem::quota_exceeded([only.name()].into_iter())),
            _ => None,
        };
        Self::new(
            policy.quotas().iter().map(FieldItem::from_quota).collect(),
            problem,
        )
    }

    pub(super) fn new(items: Vec<FieldItem>, problem: Option<Bytes>) -> Self {
        let is_constant = items.iter().all(FieldItem::is_constant);
        let mut field = Field::new();
        for item in &items {
            let window = item.window(None, Timestamp::default());
            item.policy(None, window, &mut field);
        }
        Self {
            policy: value(&field).filter(|_| is_constant),
            is_constant,
            plain_policy: OnceLock::new(),
            problem,
            items,
        }
    }

    /// The problem body with the names of the quotas that deny.
    pub(super) fn problem(&self, policy: &Policy, snapshot: &Snapshot) -> Bytes {
        match &self.problem {
            Some(problem) => problem.clone(),
            None => problem::quota_exceeded(violated(policy, snapshot)),
        }
    }

    /// Writes the fields and applies the option for existing ones.
    #[inline]
    pub(super) fn write_limits(
        &self,
        options: FieldOptions<'_>,
        decision: &Decision,
        headers: &mut HeaderMap,
    ) {
        let options = options.make_room(headers);
        match options.formats {
            HeaderFormats {
                draft: Some(Draft::D11),
                x: None,
            } => self.write_draft11(options, decision, headers),
            HeaderFormats {
                draft: None,
                x: None,
            } => {}
            _ => self.write_others(options, decision, headers),
        }
    }

    /// Writes all formats but `Draft11` alone, which is the common case.
    #[cold]
    fn write_others(
        &self,
        options: FieldOptions<'_>,
        decision: &Decision,
        headers: &mut HeaderMap,
    ) {
        let HeaderFormats { draft, x } = options.formats;
        let shown = ShownQuota::from_decision(decision, options.shown);
        match draft {
            Some(Draft::D11) => self.write_draft11(options, decision, headers),
            Some(Draft::D07) => {
                self.write_plain_policy(options, decision, headers);
                shown.write_draft07(headers);
            }
            Some(Draft::D06) => {
                self.write_plain_policy(options, decision, headers);
                shown.write(OneLimit::Draft06, None, headers);
            }
            None => {}
        }
        match x {
            Some(Reset::Epoch) => shown.write(OneLimit::X, Some(options.at), headers),
            Some(Reset::Delta) => shown.write(OneLimit::X, None, headers),
            None => {}
        }
    }

    fn write_plain_policy(
        &self,
        options: FieldOptions<'_>,
        decision: &Decision,
        headers: &mut HeaderMap,
    ) {
        let make = || {
            let mut field = Field::new();
            for (index, item) in self.items.iter().enumerate() {
                let answer = decision.snapshot().quotas().get(index);
                item.plain(item.window(answer, options.at), &mut field);
            }
            value(&field)
        };
        let made = if self.is_constant {
            self.plain_policy.get_or_init(make).clone()
        } else {
            make()
        };
        if let Some(policy) = made {
            headers.append(RATELIMIT_POLICY, policy);
        }
    }

    fn write_draft11(
        &self,
        options: FieldOptions<'_>,
        decision: &Decision,
        headers: &mut HeaderMap,
    ) {
        let partition_key = options.partition_key;
        match (&self.policy, partition_key) {
            (Some(policy), None) => drop(headers.append(RATELIMIT_POLICY, policy.clone())),
            _ => {
                let mut field = Field::new();
                for (index, item) in self.items.iter().enumerate() {
                    let answer = decision.snapshot().quotas().get(index);
                    let window = item.window(answer, options.at);
                    item.policy(partition_key, window, &mut field);
                }
                append(RATELIMIT_POLICY, &field, headers);
            }
        }
        let mut field = Field::new();
        let mut is_used_up = false;
        let is_listed = |answer: &QuotaSnapshot| decision.is_allowed() || !answer.is_allowed();
        for (item, answer) in self.items.iter().zip(decision.snapshot().quotas()) {
            if is_listed(answer) {
                item.limit(answer, partition_key, &mut field);
                is_used_up |= answer.remaining == 0;
            }
        }
        append(RATELIMIT, &field, headers);
        // The `Retry-After` of a denial already includes the latest window.
        if is_used_up && decision.is_allowed() && headers.contains_key(RETRY_AFTER) {
            self.extend_retry_after(options, decision, headers);
        }
    }

    /// Extends the `Retry-After` of an inner layer: at that time the client would exceed this limit.
    #[cold]
    fn extend_retry_after(
        &self,
        options: FieldOptions<'_>,
        decision: &Decision,
        headers: &mut HeaderMap,
    ) {
        let both = self.items.iter().zip(decision.snapshot().quotas());
        let windows = both
            .filter(|(_, answer)| answer.remaining == 0)
            .filter_map(|(item, answer)| item.effective_window(answer));
        if let Some(seconds) = windows.max() {
            write_retry_after(seconds, options.existing, || options.at, headers);
        }
    }
}

/// Adds the fields of a semaphore behind those of an inner layer. Only draft 11 can express concurrency.
pub(super) fn write_permits(
    options: FieldOptions<'_>,
    policy: &SemaphorePolicy,
    decision: &Decision,
    headers: &mut HeaderMap,
) {
    let is_listed = HeaderFormats {
        x: None,
        ..options.formats
    };
    if is_listed.draft != Some(Draft::D11) {
        return;
    }
    let options = FieldOptions {
        formats: is_listed,
        ..options
    }
    .make_room(headers);
    if !options.formats.is_empty() {
        let item = FieldItem::from_policy(policy);
        let (mut policy, mut limit) = (Field::new(), Field::new());
        item.policy(options.partition_key, None, &mut policy);
        for answer in decision.snapshot().quotas() {
            item.limit(answer, options.partition_key, &mut limit);
        }
        append(RATELIMIT_POLICY, &policy, headers);
        append(RATELIMIT, &limit, headers);
    }
}
