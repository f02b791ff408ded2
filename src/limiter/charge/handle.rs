use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::error::SettleErrorKind;
use super::open::OpenCharge;
use super::settle::Settle;
use super::settlement::Settlement;
use crate::backend::BackendContext;
use crate::decision::{Decision, Op};
use crate::key::Key;
use crate::limiter::acquired::Acquired;
use crate::policy::Policy;
use crate::quota::Cost;

/// What a request was charged, worth one settlement. Clones are the same charge.
///
/// Requests that a [`RateLimitLayer`](crate::RateLimitLayer) has let through carry it in their extensions, and with the
/// feature `axum` it is an extractor. One that passed uncharged, because the backend failed, it has no key, or only a
/// [shadow](Policy::shadow) policy would have rejected it, carries one of which nothing can be taken and to which
/// nothing can be added: settling it does nothing, and is no error.
pub struct Charge(Mutex<Account>);

/// The entry is in place until there is a second handle to it: a request that nobody settles needs no allocation of its
/// own.
#[allow(clippy::large_enum_variant)] // the large one is the usual one
enum Account {
    Own(ChargeEntry),
    Shared(Arc<Mutex<ChargeEntry>>),
}

#[derive(Default)]
struct ChargeEntry {
    decision: Option<Decision>,
    waited: Duration,
    /// None: it has been settled, or there never was anything to settle.
    open: Option<OpenCharge>,
    policy: Option<Policy>,
    /// Whether there was something, and a settlement has taken it.
    settled: bool,
    /// Whether a layer further in has given it back, because it rejected the request.
    rejected: bool,
    /// That of a layer around this one, by another policy or key.
    outer: Option<Box<Charge>>,
}

impl Charge {
    #[inline(always)] // what is moved here is large
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

    /// Of a request that goes on by this decision, and was charged nothing that could be settled.
    pub(crate) fn from_decision(policy: Policy, decision: Decision) -> Self {
        Self(Mutex::new(Account::Own(ChargeEntry {
            decision: Some(decision),
            policy: Some(policy),
            ..ChargeEntry::default()
        })))
    }

    /// Of a request that passed uncounted.
    pub(crate) fn uncounted() -> Self {
        Self(Mutex::new(Account::Own(ChargeEntry::default())))
    }

    /// Charges `extra` beside the estimate, without asking.
    pub fn charge(&self, extra: impl Into<Cost>) -> Settlement {
        let extra = extra.into();
        self.settle_by(|estimate, quotas| estimate.with(&extra, quotas, u64::saturating_add))
    }

    /// Gives back `less` of the estimate, all of it at the most.
    pub fn refund(&self, less: impl Into<Cost>) -> Settlement {
        let less = less.into();
        self.settle_by(|estimate, quotas| estimate.with(&less, quotas, u64::saturating_sub))
    }

    /// Charges `actual` in place of the estimate: the rest is charged without asking, or given back.
    pub fn settle(&self, actual: impl Into<Cost>) -> Settlement {
        let actual = actual.into();
        self.settle_by(|_, _| actual)
    }

    /// Gives the whole estimate back.
    pub fn cancel(&self) -> Settlement {
        self.settle(Cost::ZERO)
    }

    /// What has been charged and can be settled: the estimate. `None` after a settlement, or if nothing was counted.
    #[must_use]
    pub fn estimate(&self) -> Option<Cost> {
        self.with_entry(|entry| entry.open.as_ref().map(|open| open.cost.clone()))
    }

    /// The policy that decided; `None` if the request passed uncounted.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.with_entry(|entry| entry.policy.clone())
    }

    /// The answer by which the request was let through, with the numbers after its estimate was charged; a rejection,
    /// if its policy is a [shadow](Policy::shadow). `None` if it passed uncounted.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.with_entry(|entry| entry.decision.clone())
    }

    /// How long the request has waited to be allowed; zero if it was at once.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.with_entry(|entry| entry.waited)
    }

    /// The charge of the next layer around the one that made this one, if that was by another policy or key.
    #[must_use]
    pub fn outer(&self) -> Option<Self> {
        self.with_entry(|entry| entry.outer.as_deref().cloned())
    }

    pub(crate) fn set_outer(&self, outer: Self) {
        self.with_entry(|entry| entry.outer = Some(Box::new(outer)));
    }

    /// The open charge among this one and those around it that was made for `key` by `policy` in the backend of
    /// `context`.
    pub(crate) fn find(
        &self,
        context: &BackendContext,
        policy: &Policy,
        key: &Key,
    ) -> Option<Self> {
        let is_it = |entry: &ChargeEntry| {
            entry.policy.as_ref() == Some(policy)
                && entry.open.as_ref().is_some_and(|open| {
                    std::ptr::eq(open.settler.context(), context) && open.key == *key
                })
        };
        if self.with_entry(|entry| is_it(entry)) {
            return Some(self.clone());
        }
        self.with_entry(|entry| entry.outer.as_ref()?.find(context, policy, key))
    }

    /// How many there are around it.
    pub(crate) fn depth(&self) -> usize {
        self.with_entry(|entry| entry.outer.as_ref().map_or(0, |outer| outer.depth() + 1))
    }

    /// Adds what another check has charged for the same request. If it has been settled meanwhile, that stays charged.
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

    /// The numbers have changed.
    pub(crate) fn set_decision(&self, decision: Decision) {
        self.with_entry(|entry| entry.decision = Some(decision));
    }

    /// Gives back what the charge is above `cost`, and leaves it open; `None` if that is nothing.
    pub(crate) fn lower(&self, cost: &Cost) -> Option<Settlement> {
        self.with_entry(|entry| {
            let (open, policy) = (entry.open.as_mut()?, entry.policy.as_ref()?);
            let quotas = policy.quotas().len();
            let ops = open.give_back(cost, quotas);
            open.cost = open.cost.with(cost, quotas, u64::min);
            let some = !ops.is_empty();
            some.then(|| open.settler.begin(ops, policy, &open.key))
        })
    }

    /// Gives everything back, for a layer further in that rejects the request.
    pub(crate) fn reject(&self) -> Settlement {
        self.with_entry(|entry| entry.rejected = true);
        self.cancel()
    }

    /// The [depth](Self::depth) of the one among this and those around it that was [rejected](Self::reject).
    pub(crate) fn rejected_at(&self) -> Option<usize> {
        if self.with_entry(|entry| entry.rejected) {
            return Some(self.depth());
        }
        self.with_entry(|entry| entry.outer.as_ref()?.rejected_at())
    }

    fn settle_by(&self, actual: impl FnOnce(&Cost, usize) -> Cost) -> Settlement {
        // Taken out in one step: of any number of callers one finds it.
        let taken = self.with_entry(|entry| {
            let (open, settled) = (entry.open.take(), entry.settled);
            entry.settled |= open.is_some();
            (open.zip(entry.policy.clone()), settled)
        });
        let (mut open, policy) = match taken {
            (Some(taken), _) => taken,
            (None, true) => return Settlement::failed(SettleErrorKind::Settled),
            (None, false) => return Settlement::done(None),
        };
        let quotas = policy.quotas().len();
        let actual = actual(&open.cost, quotas);
        let mut ops = open.give_back(&actual, quotas);
        let more = actual.with(&open.cost, quotas, u64::saturating_sub);
        if !more.is_zero() {
            ops.push(Op::Penalize(more));
        }
        open.settler.begin(ops, &policy, &open.key)
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

/// Shows no key.
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
