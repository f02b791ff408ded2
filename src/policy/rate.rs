use std::fmt;
use std::sync::Arc;

use super::cache::{Cache, Derived};
use super::error::PolicyError;
use super::named::{NamedQuota, identity};
use crate::quota::{Cost, MAX_QUOTAS, Quota, Rule};
use crate::telemetry::Labels;

/// A name and 1 to 8 quotas. Clones are cheap and the same policy.
///
/// The name and a key together are what a bucket belongs to: limits of one policy name share their state, wherever they
/// stand, also with different quotas (tiers, or a quota that was changed: what was spent stays spent). A quota of
/// another name, algorithm, window, anchor or unit is another limit.
#[derive(Clone)]
pub struct Policy {
    inner: Arc<PolicyInner>,
    is_shadow: bool,
}

struct PolicyInner {
    labels: Labels,
    quotas: Vec<NamedQuota>,
    /// What other modules derive from the policy.
    cache: Cache,
}

impl Policy {
    /// A policy of one quota, which bears the policy's name.
    ///
    /// # Panics
    ///
    /// Where [`try_new`](Self::try_new) errs, with the same sentence.
    #[must_use]
    pub fn new(name: &str, quota: Quota) -> Self {
        must(Self::try_new(name, quota))
    }

    /// A policy of one quota, which bears the policy's name.
    ///
    /// # Errors
    ///
    /// If the name is not 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub fn try_new(name: &str, quota: Quota) -> Result<Self, PolicyError> {
        Self::try_from_quotas(name, [(name, quota)])
    }

    /// Adds a quota: a request passes if all allow it, and is charged to all or to none.
    ///
    /// # Panics
    ///
    /// Where [`try_and`](Self::try_and) errs, with the same sentence.
    #[must_use]
    pub fn and(self, name: &str, quota: Quota) -> Self {
        must(self.try_and(name, quota))
    }

    /// Adds a quota: a request passes if all allow it, and is charged to all or to none.
    ///
    /// # Errors
    ///
    /// If the name is not 1 to 64 printable ASCII characters, another quota has it, or there are 8 already.
    pub fn try_and(self, name: &str, quota: Quota) -> Result<Self, PolicyError> {
        let had = self
            .inner
            .quotas
            .iter()
            .map(|named| (&*named.name, named.quota));
        let made = Self::try_from_quotas(self.name(), had.chain([(name, quota)]))?;
        Ok(Self {
            is_shadow: self.is_shadow,
            ..made
        })
    }

    /// A policy of 1 to 8 quotas, each with a name of its own.
    ///
    /// # Errors
    ///
    /// If a name or their number cannot be.
    pub fn try_from_quotas<N: AsRef<str>>(
        name: &str,
        quotas: impl IntoIterator<Item = (N, Quota)>,
    ) -> Result<Self, PolicyError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if !is_name(name, safe) {
            return Err(PolicyError::Name(name.to_owned()));
        }
        let mut made: Vec<NamedQuota> = Vec::new();
        for (own, quota) in quotas {
            let own = own.as_ref();
            if !is_name(own, |byte| matches!(byte, b' '..=b'~')) {
                return Err(PolicyError::QuotaName(own.to_owned()));
            }
            if made.iter().any(|other| &*other.name == own) {
                return Err(PolicyError::DuplicateName(own.to_owned()));
            }
            let id = identity(name, own, &quota);
            made.push(NamedQuota {
                name: own.into(),
                quota,
                id,
            });
        }
        if !(1..=MAX_QUOTAS).contains(&made.len()) {
            return Err(PolicyError::Count(made.len()));
        }
        let inner = PolicyInner {
            labels: Labels::new(name),
            quotas: made,
            cache: Cache::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            is_shadow: false,
        })
    }

    /// The same policy, not enforced: a layer decides and charges as always, and lets every request through. To see
    /// what a limit would do before it does.
    ///
    /// A request that would have been rejected, or would have waited, goes on at once, charged nothing; its rejection
    /// is the [`Decision`](crate::Decision) in the extensions of request and response, is told to `tracing` and
    /// `metrics`, and to clients by a header field of its own if asked for
    /// ([`shadow_header`](crate::RateLimitLayer::shadow_header)); rate-limit fields are not sent. A request without a
    /// key goes on too, unless the policy is picked for each request, and so does one without an answer of the backend.
    ///
    /// It shares the state of the enforced policy of its name, and a request that passes layers of both is charged by
    /// each; give it another name to keep them apart. Without a layer nothing is different: a
    /// [`Limiter`](crate::Limiter) tells the truth, and whoever asks it does as he likes.
    #[must_use]
    pub fn shadow(self) -> Self {
        Self {
            is_shadow: true,
            ..self
        }
    }

    /// Whether it is [not enforced](Self::shadow).
    #[must_use]
    pub const fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    /// The name: with a key it is what a bucket belongs to.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.labels.name()
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.inner.labels
    }

    /// The quotas in order of declaration, at least one.
    #[must_use]
    #[inline]
    pub fn quotas(&self) -> &[NamedQuota] {
        &self.inner.quotas
    }

    /// Whether a reservation can be made: the future of a window is not one number.
    pub(crate) fn is_of_buckets(&self) -> bool {
        let is_bucket = |named: &NamedQuota| {
            matches!(
                named.quota.rule,
                Rule::TokenBucket(_) | Rule::IntervalBucket(_)
            )
        };
        self.quotas().iter().all(is_bucket)
    }

    /// Whether the wait for a part of a cost, behind the rest of it, is that for the whole. In a sliding window it is
    /// not: what has been charged fades, what is asked for does not.
    pub(crate) fn has_waits_that_add_up(&self) -> bool {
        let adds_up = |named: &NamedQuota| !matches!(named.quota.rule, Rule::SlidingWindow(_));
        self.quotas().iter().all(adds_up)
    }

    /// Whether a quota can never allow `cost`.
    pub(crate) fn is_exceeded_by(&self, cost: &Cost) -> bool {
        let mut quotas = self.quotas().iter().enumerate();
        quotas.any(|(index, named)| cost.get(index) > named.quota.limit())
    }

    /// Whether it is the very same, and not one that looks like it.
    #[cfg(feature = "redis")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns what `make` derives from this policy; clones share it, and it is made once.
    pub(crate) fn derived<T: Derived>(&self, make: impl FnOnce(&Self) -> T) -> &T {
        self.inner.cache.get_or_insert_with(|| make(self))
    }
}

/// A policy is equal to another of the same name and quotas, if both are enforced or neither is.
impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
            && self.inner.quotas == other.inner.quotas
            && self.is_shadow == other.is_shadow
    }
}

impl Eq for Policy {}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name())
            .field("quotas", &self.quotas())
            .field("is_shadow", &self.is_shadow)
            .finish()
    }
}

fn must(made: Result<Policy, PolicyError>) -> Policy {
    match made {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}

fn is_name(name: &str, allowed: impl Fn(u8) -> bool) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}
