//! A decision as header fields, in whichever format: everything that is written into a response's head is written here.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue, RETRY_AFTER};

use super::draft11::{Field, Item, seconds};
use super::problem;
use crate::decision::{Decision, QuotaSnapshot, RetryAfter, Snapshot};
use crate::policy::Policy;
use crate::semaphore::Permits;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const SHADOW: HeaderName = HeaderName::from_static("x-ratelimit-shadow");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// How clients are told of limits, beside the `Retry-After` of a refusal. The version of a draft is part of its name and never
/// moves under a user's feet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderFormat {
    /// `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-11.
    #[default]
    Draft11,
    /// Nothing.
    None,
}

/// What a policy's answers have in common, made once.
#[derive(Debug)]
pub(super) struct Prepared {
    items: Vec<Item>,
    /// The value of `RateLimit-Policy`.
    policy: Option<HeaderValue>,
    /// The body of a refusal, if the policy has a single quota.
    problem: Option<Bytes>,
}

impl Prepared {
    pub(super) fn of(policy: &Policy) -> Self {
        let problem = match policy.quotas() {
            [only] => Some(problem::quota_exceeded([only.name()].into_iter())),
            _ => None,
        };
        Self::new(policy.quotas().iter().map(Item::of).collect(), problem)
    }

    pub(super) fn new(items: Vec<Item>, problem: Option<Bytes>) -> Self {
        let mut field = Field::new();
        items.iter().for_each(|item| item.policy(&mut field));
        Self {
            items,
            policy: value(&field),
            problem,
        }
    }

    /// The names of the quotas that refused, as a problem body.
    pub(super) fn problem(&self, policy: &Policy, snapshot: &Snapshot) -> Bytes {
        match &self.problem {
            Some(problem) => problem.clone(),
            None => problem::quota_exceeded(violated(policy, snapshot)),
        }
    }

    /// Adds the fields of `format` behind what a layer further in has written.
    pub(super) fn write_limits(
        &self,
        format: HeaderFormat,
        decision: &Decision,
        headers: &mut HeaderMap,
    ) {
        match format {
            HeaderFormat::None => {}
            HeaderFormat::Draft11 => {
                if let Some(policy) = &self.policy {
                    headers.append(RATELIMIT_POLICY, policy.clone());
                }
                let mut field = Field::new();
                let told = |answer: &QuotaSnapshot| decision.is_allowed() || !answer.is_allowed();
                for (item, answer) in self.items.iter().zip(decision.snapshot().quotas()) {
                    if told(answer) {
                        item.limit(answer, &mut field);
                    }
                }
                if let Some(field) = value(&field) {
                    headers.append(RATELIMIT, field);
                }
            }
        }
    }
}

/// Tells of a refusal that is not enforced.
pub(super) fn write_shadow(policy: &Policy, headers: &mut HeaderMap) {
    if let Ok(name) = HeaderValue::from_str(policy.name()) {
        headers.append(SHADOW, name);
    }
}

/// Adds the fields of permits behind what a layer further in has written.
pub(super) fn write_permits(
    format: HeaderFormat,
    permits: &Permits,
    decision: &Decision,
    headers: &mut HeaderMap,
) {
    match format {
        HeaderFormat::Draft11 => {
            let item = Item::of_permits(permits);
            let (mut policy, mut limit) = (Field::new(), Field::new());
            item.policy(&mut policy);
            for answer in decision.snapshot().quotas() {
                item.limit(answer, &mut limit);
            }
            for (name, field) in [(RATELIMIT_POLICY, policy), (RATELIMIT, limit)] {
                if let Some(field) = value(&field) {
                    headers.append(name, field);
                }
            }
        }
        HeaderFormat::None => {}
    }
}

/// The fields of a refusal for want of permits. Nobody knows when a request will end: a second is what is told, not when a lease
/// would.
pub(super) fn write_busy(
    format: HeaderFormat,
    permits: &Permits,
    decision: &Decision,
    headers: &mut HeaderMap,
) {
    let wait = match decision.retry_after() {
        Some(RetryAfter::In(wait)) => RetryAfter::In(wait.min(A_SECOND)),
        _ => RetryAfter::Never,
    };
    write_refusal(wait, headers);
    write_permits(format, permits, decision, headers);
}

const A_SECOND: Duration = Duration::from_secs(1);

/// The fields of every refusal: when to come back, and that caches must not keep it (RFC 6585 §4).
pub(super) fn write_refusal(retry_after: RetryAfter, headers: &mut HeaderMap) {
    if let RetryAfter::In(wait) = retry_after {
        write_retry_after(
            seconds(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)),
            headers,
        );
    }
    headers.insert(CACHE_CONTROL, NO_STORE);
}

/// The fields of an answer that the backend did not give: it may well in a second.
pub(super) fn write_unavailable(headers: &mut HeaderMap) {
    write_retry_after(1, headers);
    headers.insert(CACHE_CONTROL, NO_STORE);
}

/// `Retry-After` in whole seconds (RFC 9110 §10.2.3). If one has been set the longer wait stays, and so does a date.
fn write_retry_after(seconds: u64, headers: &mut HeaderMap) {
    if let Some(set) = headers.get(RETRY_AFTER) {
        let set = set.to_str().unwrap_or_default();
        if set.ends_with("GMT") || set.parse::<u64>().is_ok_and(|set| set >= seconds) {
            return;
        }
    }
    // By way of text: `HeaderValue::from` a number allocates twice.
    if let Ok(value) = HeaderValue::from_str(itoa::Buffer::new().format(seconds)) {
        headers.insert(RETRY_AFTER, value);
    }
}

fn violated<'a>(policy: &'a Policy, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a str> {
    let both = policy.quotas().iter().zip(snapshot.quotas());
    both.filter(|(_, answer)| !answer.is_allowed())
        .map(|(named, _)| named.name())
}

fn value(field: &Field) -> Option<HeaderValue> {
    // Only printable ASCII is ever written.
    if field.is_empty() {
        None
    } else {
        HeaderValue::from_bytes(field).ok()
    }
}
