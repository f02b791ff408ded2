use std::fmt;
use std::sync::{Arc, Weak};

use super::error::PolicyError;
use super::named::NamedQuota;
use crate::quota::{Cost, MAX_QUOTAS, Quota, Rule};
use crate::slots::{Slot, TypedSlots};
use crate::telemetry::Labels;

/// A name and 1 to 8 quotas. Clones are cheap.
///
/// A bucket belongs to a policy name and a key. So all limits of one policy name share their state, even with different
/// quotas, such as tiers. When a quota changes, the spent tokens stay spent. A quota with another name, algorithm,
/// window, anchor or unit is another limit.
///
/// Guide: [quotas and tiers](crate::_guide::quotas_and_tiers).
#[derive(Clone)]
pub struct Policy {
    inner: Arc<PolicyInner>,
    is_shadow: bool,
    /// The scopes that are switched off, a bit each. Their blocks deny nothing.
    off_scopes: u8,
}

pub(super) struct PolicyInner {
    labels: Labels,
    quotas: Vec<NamedQuota>,
    /// The names of the policies that it joins, innermost first; empty unless it joins several.
    scopes: Box<[Box<str>]>,
    /// Whether the keys of inner scopes belong to the outermost key.
    by_outermost: bool,
    /// The values that other modules derive from the policy.
    slots: TypedSlots,
}

impl Policy {
    /// Creates a policy of one quota. The quota has the policy's name.
    ///
    /// ```
    /// use tower_sluice::{Policy, Quota};
    ///
    /// const SEARCH: Quota = Quota::per_second(10).burst(30);
    /// assert_eq!(Policy::new("search", SEARCH).name(), "search");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_new`](Self::try_new) would return an error.
    #[must_use]
    pub fn new(name: &str, quota: Quota) -> Self {
        must(Self::try_new(name, quota))
    }

    /// Creates a policy of one quota. The quota has the policy's name.
    ///
    /// ```
    /// use tower_sluice::{Policy, Quota};
    ///
    /// assert!(Policy::try_new("", Quota::per_second(1)).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the name is not 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
    pub fn try_new(name: &str, quota: Quota) -> Result<Self, PolicyError> {
        Self::try_from_quotas(name, [(name, quota)])
    }

    /// Adds a quota. A request is allowed if all quotas allow it, and is charged to all or to none.
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let policy = Policy::new("api", Quota::per_hour(10)).and("daily", Quota::per_day(4));
    /// let limiter = Limiter::new(policy, MemoryBackend::new());
    /// assert!(limiter.check_now("ann", 4).decision.is_allowed());
    /// let denied = limiter.check_now("ann", 1).decision; // by the second quota
    /// assert_eq!(denied.snapshot().quotas()[0].remaining(), 6); // which charges the first one nothing
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_and`](Self::try_and) would return an error.
    #[must_use]
    pub fn and(self, name: &str, quota: Quota) -> Self {
        must(self.try_and(name, quota))
    }

    /// Adds a quota. A request is allowed if all quotas allow it, and is charged to all or to none.
    ///
    /// ```
    /// use tower_sluice::{Policy, Quota};
    ///
    /// let api = Policy::new("api", Quota::per_second(5));
    /// assert!(api.clone().try_and("daily", Quota::per_day(100)).is_ok());
    /// assert!(api.try_and("api", Quota::per_day(100)).is_err()); // the first quota has this name
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if
    ///
    /// - the name is not 1 to 64 characters of printable ASCII,
    /// - another quota of the policy has the name, or
    /// - the policy already has 8 quotas.
    pub fn try_and(self, name: &str, quota: Quota) -> Result<Self, PolicyError> {
        let had = self
            .inner
            .quotas
            .iter()
            .map(|named| (&*named.name, named.quota));
        let made = Self::try_from_quotas(self.name(), had.chain([(name, quota)]))?;
        Ok(Self {
            is_shadow: self.is_shadow,
            off_scopes: self.off_scopes,
            ..made
        })
    }

    /// Creates a policy of 1 to 8 quotas, each with a name of its own.
    ///
    /// ```
    /// use tower_sluice::{Policy, Quota};
    ///
    /// let quotas = [("burst", Quota::per_second(5)), ("daily", Quota::per_day(100))];
    /// assert_eq!(Policy::try_from_quotas("api", quotas)?.quotas().len(), 2);
    /// assert!(Policy::try_from_quotas::<&str>("api", []).is_err());
    /// # Ok::<(), tower_sluice::policy::PolicyError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if a name is invalid or used twice, or if the number of quotas is not 1 to 8.
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
            made.push(NamedQuota::new(name, own, quota));
        }
        if !(1..=MAX_QUOTAS).contains(&made.len()) {
            return Err(PolicyError::Count(made.len()));
        }
        Ok(Self::from_parts(name, made, Box::default(), false))
    }

    pub(super) fn from_parts(
        name: &str,
        quotas: Vec<NamedQuota>,
        scopes: Box<[Box<str>]>,
        by_outermost: bool,
    ) -> Self {
        let inner = PolicyInner {
            labels: Labels::new(name),
            quotas,
            scopes,
            by_outermost,
            slots: TypedSlots::default(),
        };
        Self {
            inner: Arc::new(inner),
            is_shadow: false,
            off_scopes: 0,
        }
    }

    pub(super) fn with_shadow(self, is_shadow: bool) -> Self {
        Self { is_shadow, ..self }
    }

    /// Returns the same policy, not enforced. It shows the effect of a limit before it is enforced.
    ///
    /// A layer decides and charges as usual, and allows every request:
    ///
    /// - A request that would be rejected or would wait is allowed at once and not charged.
    /// - Its denial is the decision of the [`Charge`](crate::Charge) in the extensions of the request. It is reported
    ///   to `tracing` and `metrics`. On request a header field
    ///   ([`shadow_header`](crate::RateLimitLayer::shadow_header)) or the extensions of the response
    ///   ([`response_extensions`](crate::RateLimitLayer::response_extensions)) report it, too.
    /// - Rate-limit fields are not sent.
    /// - A request without a key is allowed, unless the policy is chosen for each request.
    /// - A request is allowed if the backend fails.
    ///
    /// A shadow policy shares its state with the enforced policy of the same name. A request through layers of both is
    /// charged by each; use another name to separate them. A [`Limiter`](crate::Limiter) without a layer returns the
    /// decision as usual.
    ///
    /// ```
    /// use tower_sluice::{Policy, Quota};
    ///
    /// assert!(Policy::new("trial", Quota::per_second(5)).shadow().is_shadow());
    /// ```
    #[must_use]
    pub fn shadow(self) -> Self {
        Self {
            is_shadow: true,
            ..self
        }
    }

    /// Returns whether the policy is [not enforced](Self::shadow).
    ///
    /// See the example of [`shadow`](Self::shadow).
    #[must_use]
    pub const fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    /// Returns the name. Buckets belong to the name and a key.
    ///
    /// See the example of [`new`](Self::new).
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.labels.name()
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.inner.labels
    }

    /// The address of what clones share.
    pub(super) fn as_ptr(&self) -> *const PolicyInner {
        Arc::as_ptr(&self.inner)
    }

    pub(super) fn downgrade(&self) -> Weak<PolicyInner> {
        Arc::downgrade(&self.inner)
    }

    /// Returns the names of the policies that it joins; none unless it joins several.
    #[inline]
    pub(super) fn joined_names(&self) -> &[Box<str>] {
        &self.inner.scopes
    }

    /// Whether the keys of inner scopes belong to the outermost key.
    pub(crate) fn is_by_outermost(&self) -> bool {
        self.inner.by_outermost
    }

    /// Returns the quotas in the order of their declaration. There is at least one.
    ///
    /// ```
    /// use tower_sluice::{Policy, Quota};
    ///
    /// let policy = Policy::new("api", Quota::per_second(5)).and("daily", Quota::per_day(100));
    /// let names: Vec<_> = policy.quotas().iter().map(|named| named.name()).collect();
    /// assert_eq!(names, ["api", "daily"]);
    /// ```
    #[must_use]
    #[inline]
    pub fn quotas(&self) -> &[NamedQuota] {
        &self.inner.quotas
    }

    /// Whether a quota is a total, whose denials no wait ends.
    pub(crate) fn has_total(&self) -> bool {
        self.quotas().iter().any(NamedQuota::is_total)
    }

    /// Whether a quota is a calendar window, so that header fields depend on the time.
    pub(crate) fn has_calendar(&self) -> bool {
        let is_calendar = |named: &NamedQuota| matches!(named.quota.rule, Rule::CalendarWindow(_));
        self.quotas().iter().any(is_calendar)
    }

    /// Whether reservations are possible. The wait for a window is not one number.
    pub(crate) fn is_of_buckets(&self) -> bool {
        let is_bucket = |named: &NamedQuota| {
            matches!(
                named.quota.rule,
                Rule::TokenBucket(_) | Rule::IntervalBucket(_)
            )
        };
        self.quotas().iter().all(is_bucket)
    }

    /// Whether the wait for a part of a cost equals the wait for the whole cost after the rest is charged. In a sliding
    /// window it does not, because charged tokens fade and requested tokens do not.
    pub(crate) fn has_waits_that_add_up(&self) -> bool {
        let adds_up = |named: &NamedQuota| !matches!(named.quota.rule, Rule::SlidingWindow(_));
        self.quotas().iter().all(adds_up)
    }

    /// Whether a quota can never allow `cost`.
    pub(crate) fn is_exceeded_by(&self, cost: &Cost) -> bool {
        let mut quotas = self.quotas().iter().enumerate();
        quotas.any(|(index, named)| cost.get(index) > named.quota.limit())
    }

    /// Whether both are clones of one policy.
    #[cfg(feature = "redis")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) && self.off_scopes == other.off_scopes
    }

    /// Sets the scopes that are switched off, a bit each.
    pub(crate) const fn with_off_scopes(mut self, off_scopes: u8) -> Self {
        self.off_scopes = off_scopes;
        self
    }

    pub(super) const fn off_scopes(&self) -> u8 {
        self.off_scopes
    }

    /// Whether a block of this scope denies a decision: the scope is not switched off.
    pub(crate) const fn can_be_blocked(&self, scope: usize) -> bool {
        self.off_scopes >> scope & 1 == 0
    }

    /// Returns the value that `make` derives from this policy. It is created once, and clones share it.
    pub(crate) fn derived<T: Slot>(&self, make: impl FnOnce(&Self) -> T) -> &T {
        self.inner.slots.get_or_insert_with(|| make(self))
    }
}

/// Two policies are equal if they have the same name and quotas, and both or none are enforced.
impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
            && self.inner.quotas == other.inner.quotas
            && self.inner.scopes == other.inner.scopes
            && self.inner.by_outermost == other.inner.by_outermost
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
