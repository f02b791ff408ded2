use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::error::SettleErrorKind;
use super::open::OpenCharge;
use super::settle::Settle;
use super::settlement::Settlement;
use crate::backend::BackendId;
use crate::budget::TimeBudget;
use crate::decision::{Decision, Op};
use crate::key::Key;
use crate::limiter::acquired::Acquired;
use crate::policy::Policy;
use crate::quota::Cost;

/// The tokens that a request was charged. It can be settled once; clones share it.
///
/// A request that a [`RateLimitLayer`](crate::RateLimitLayer) allowed has it in its extensions. With the feature `axum`
/// it is an extractor.
///
/// The charge is empty if the request was not counted: the backend failed, the request has no key, or a
/// [shadow](Policy::shadow) policy denied it. A settlement of an empty charge does nothing and succeeds.
///
/// Guide: [costs](crate::_guide::costs).
pub struct Charge(Mutex<Account>);

/// The entry is stored in place until the charge is cloned, so that most requests need no allocation.
#[allow(clippy::large_enum_variant)] // the large variant is the common one
enum Account {
    Own(ChargeEntry),
    Shared(Arc<Mutex<ChargeEntry>>),
}

#[derive(Default)]
struct ChargeEntry {
    decision: Option<Decision>,
    waited: Duration,
    /// `None` after a settlement, and for an empty charge.
    open: Option<OpenCharge>,
    policy: Option<Policy>,
    /// Whether a settlement has taken `open`.
    settled: bool,
    /// Whether an inner layer rejected the request and cancelled the charge.
    rejected: bool,
    /// The charge of an outer layer with another policy or key.
    outer: Option<Box<Charge>>,
    /// The time budget of the request.
    budget: Option<TimeBudget>,
}

impl Charge {
    #[inline(always)] // the arguments are large
    pub(crate) fn new(
        settler: Arc<dyn Settle>,
        policy: Policy,
        key: Key,
        cost: Cost,
        acquired: Acquired,
    ) -> Self {
        let Acquired {
            decision,
            receipt,
            waited,
        } = acquired;
        let open = OpenCharge {
            settler,
            key,
            cost,
            receipt,
            more: Vec::new(),
        };
        Self(Mutex::new(Account::Own(ChargeEntry {
            decision: Some(decision),
            waited,
            open: Some(open),
            policy: Some(policy),
            ..ChargeEntry::default()
        })))
    }

    /// An empty charge of a request with this decision.
    pub(crate) fn from_decision(policy: Policy, decision: Decision) -> Self {
        Self(Mutex::new(Account::Own(ChargeEntry {
            decision: Some(decision),
            policy: Some(policy),
            ..ChargeEntry::default()
        })))
    }

    /// The empty charge of a request that was not counted.
    pub(crate) fn uncounted() -> Self {
        Self(Mutex::new(Account::Own(ChargeEntry::default())))
    }

    /// Charges `extra` tokens in addition to the estimate, even above the limit.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let charge = limiter.try_acquire(&ann, 4).await?;
    /// charge.charge(1).await?;
    /// assert_eq!(limiter.peek(&ann).await?.remaining(), 5);
    /// # Ok(()) }
    /// ```
    pub fn charge(&self, extra: impl Into<Cost>) -> Settlement {
        self.settle_by(|policy, estimate| {
            let extra = policy.spread(extra.into());
            estimate.with(&extra, policy.quotas().len(), u64::saturating_add)
        })
    }

    /// Refunds `less` tokens of the estimate, and at most the estimate.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let charge = limiter.try_acquire(&ann, 4).await?;
    /// charge.refund(1).await?;
    /// assert_eq!(limiter.peek(&ann).await?.remaining(), 7);
    /// # Ok(()) }
    /// ```
    pub fn refund(&self, less: impl Into<Cost>) -> Settlement {
        self.settle_by(|policy, estimate| {
            let less = policy.spread(less.into());
            estimate.with(&less, policy.quotas().len(), u64::saturating_sub)
        })
    }

    /// Replaces the estimate by `actual`: charges the excess, even above the limit, or refunds the rest.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let charge = limiter.try_acquire(&ann, 4).await?;
    /// charge.settle(6).await?;
    /// assert_eq!(limiter.peek(&ann).await?.remaining(), 4);
    /// # Ok(()) }
    /// ```
    pub fn settle(&self, actual: impl Into<Cost>) -> Settlement {
        self.settle_by(|policy, _| policy.spread(actual.into()))
    }

    /// Replaces the estimate of each [scope](crate::limiter::Scopes) by its own cost, innermost first. Further scopes
    /// have the last cost.
    ///
    /// [`settle`](Self::settle) and the other settlements apply one cost to each scope.
    pub fn settle_each<const N: usize>(&self, actual: [Cost; N]) -> Settlement {
        self.settle_by(|policy, _| policy.join_costs(&actual))
    }

    /// Refunds the whole estimate.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let charge = limiter.try_acquire(&ann, 4).await?;
    /// charge.cancel().await?;
    /// assert_eq!(limiter.peek(&ann).await?.remaining(), 10);
    /// # Ok(()) }
    /// ```
    pub fn cancel(&self) -> Settlement {
        self.settle(Cost::ZERO)
    }

    /// Returns the estimate, in tokens; a number for each quota of all scopes, innermost first. `None` after a settlement and for an empty charge.
    ///
    /// ```
    /// use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let charge = limiter.try_acquire(&Key::from("ann"), 4).await?;
    /// assert_eq!(charge.estimate(), Some(Cost::new(4)));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn estimate(&self) -> Option<Cost> {
        self.with_entry(|entry| entry.open.as_ref().map(|open| open.cost.clone()))
    }

    /// Returns the policy that decided. `None` if the request was not counted.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.with_entry(|entry| entry.policy.clone())
    }

    /// Returns the decision, with the numbers after the estimate was charged. `None` if the request was not counted.
    ///
    /// The decision is a denial if the policy is a [shadow](Policy::shadow) and the request exceeded the limit.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let charge = limiter.try_acquire(&Key::from("ann"), 4).await?;
    /// assert_eq!(charge.decision().map(|decision| decision.snapshot().remaining()), Some(6));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.with_entry(|entry| entry.decision.clone())
    }

    /// Returns how long the request waited until it was allowed. Zero if it did not wait.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.with_entry(|entry| entry.waited)
    }

    /// Returns the charge of the next outer layer that has another policy or key.
    #[must_use]
    pub fn outer(&self) -> Option<Self> {
        self.with_entry(|entry| entry.outer.as_deref().cloned())
    }

    pub(crate) fn set_outer(&self, outer: Self) {
        self.with_entry(|entry| entry.outer = Some(Box::new(outer)));
    }

    /// Lets settlements spend from the budget of the request.
    pub(crate) fn set_budget(&self, budget: TimeBudget) {
        self.with_entry(|entry| entry.budget = Some(budget));
    }

    /// Finds the open charge of `key` by `policy` in `backend`, among this charge and the outer ones.
    pub(crate) fn find(&self, backend: BackendId, policy: &Policy, key: &Key) -> Option<Self> {
        let is_it = |entry: &ChargeEntry| {
            entry.policy.as_ref() == Some(policy)
                && entry
                    .open
                    .as_ref()
                    .is_some_and(|open| open.settler.backend_id() == backend && open.key == *key)
        };
        if self.with_entry(|entry| is_it(entry)) {
            return Some(self.clone());
        }
        self.with_entry(|entry| entry.outer.as_ref()?.find(backend, policy, key))
    }

    /// The number of outer charges.
    pub(crate) fn depth(&self) -> usize {
        self.with_entry(|entry| entry.outer.as_ref().map_or(0, |outer| outer.depth() + 1))
    }

    /// Adds the charge of another check for the same request. After a settlement the added tokens stay charged.
    pub(crate) fn extend(&self, charged: &Cost, acquired: Acquired) {
        self.with_entry(|entry| {
            entry.decision = Some(acquired.decision);
            entry.waited += acquired.waited;
            if let (Some(open), Some(policy)) = (&mut entry.open, &entry.policy) {
                let quotas = policy.quotas().len();
                open.cost = open.cost.with(charged, quotas, u64::saturating_add);
                open.more.extend(acquired.receipt);
            }
        });
    }

    pub(crate) fn set_decision(&self, decision: Decision) {
        self.with_entry(|entry| entry.decision = Some(decision));
    }

    /// Refunds the excess over `cost` and leaves the charge open. `None` if there is no excess.
    pub(crate) fn lower(&self, cost: &Cost) -> Option<Settlement> {
        self.with_entry(|entry| {
            let (open, policy) = (entry.open.as_mut()?, entry.policy.as_ref()?);
            let quotas = policy.quotas().len();
            let ops = open.give_back(cost, quotas);
            open.cost = open.cost.with(cost, quotas, u64::min);
            let some = !ops.is_empty();
            let settlement = some.then(|| open.settler.begin(ops, policy, &open.key))?;
            Some(settlement.within(entry.budget.clone()))
        })
    }

    /// Refunds everything, because an inner layer rejects the request.
    pub(crate) fn reject(&self) -> Settlement {
        self.with_entry(|entry| entry.rejected = true);
        self.cancel()
    }

    /// The [depth](Self::depth) of the charge that was [rejected](Self::reject), among this charge and the outer ones.
    pub(crate) fn rejected_at(&self) -> Option<usize> {
        if self.with_entry(|entry| entry.rejected) {
            return Some(self.depth());
        }
        self.with_entry(|entry| entry.outer.as_ref()?.rejected_at())
    }

    fn settle_by(&self, actual: impl FnOnce(&Policy, &Cost) -> Cost) -> Settlement {
        let mut budget = None;
        // One step, so that only one of several concurrent callers settles.
        let taken = self.with_entry(|entry| {
            let (open, settled) = (entry.open.take(), entry.settled);
            entry.settled |= open.is_some();
            budget.clone_from(&entry.budget);
            (open.zip(entry.policy.clone()), settled)
        });
        let (mut open, policy) = match taken {
            (Some(taken), _) => taken,
            (None, true) => return Settlement::failed(SettleErrorKind::Settled),
            (None, false) => return Settlement::done(None),
        };
        let quotas = policy.quotas().len();
        let actual = actual(&policy, &open.cost);
        let mut ops = open.give_back(&actual, quotas);
        let more = actual.with(&open.cost, quotas, u64::saturating_sub);
        if !more.is_zero() {
            ops.push(Op::Penalize(more));
        }
        open.settler.begin(ops, &policy, &open.key).within(budget)
    }

    fn with_entry<R>(&self, f: impl FnOnce(&mut ChargeEntry) -> R) -> R {
        match &mut *self.0.lock() {
            Account::Own(entry) => f(entry),
            Account::Shared(entry) => f(&mut entry.lock()),
        }
    }
}

impl Clone for Charge {
    fn clone(&self) -> Self {
        let mut account = self.0.lock();
        let entry = match &mut *account {
            Account::Shared(entry) => Arc::clone(entry),
            Account::Own(entry) => {
                let entry = Arc::new(Mutex::new(mem::take(entry)));
                *account = Account::Shared(Arc::clone(&entry));
                entry
            }
        };
        Self(Mutex::new(Account::Shared(entry)))
    }
}

/// Omits the key, which may be personal data.
impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_entry(|entry| {
            f.debug_struct("Charge")
                .field("policy", &entry.policy.as_ref().map(Policy::name))
                .field("estimate", &entry.open.as_ref().map(|open| &open.cost))
                .field("waited", &entry.waited)
                .finish_non_exhaustive()
        })
    }
}
