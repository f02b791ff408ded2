use std::time::Duration;

use super::limiter::Limiter;
use crate::backend::BlockingBackend;
use crate::decision::{Receipt, Reply, Reservation, Snapshot};
use crate::key::Key;
use crate::limiter::charge::Charge;
use crate::limiter::{Rejected, RejectedScopes, join_scopes};
use crate::policy::{Policy, ScopeError};
use crate::quota::Cost;
use crate::wait::MaxWait;

/// One scope of a decision over several keys: a limiter, a key and a cost. [`Limiter::scope`] creates it.
#[derive(Clone, Debug)]
#[must_use = "a scope has no effect until it is decided"]
pub struct Scope<'a, B> {
    limiter: &'a Limiter<B>,
    key: &'a Key,
    cost: Cost,
}

/// Several scopes that are decided together, on plain threads; see [`crate::limiter::Scopes`].
///
/// ```
/// use tower_sluice::blocking::Limiter;
/// use tower_sluice::{Key, MemoryBackend, Policy, Quota};
///
/// let backend = MemoryBackend::new();
/// let users = Limiter::new(Policy::new("user", Quota::per_hour(10)), backend.clone());
/// let orgs = Limiter::new(Policy::new("org", Quota::per_hour(12)), backend);
/// let (ann, bob, acme) = (Key::from("ann"), Key::from("bob"), Key::from("acme"));
///
/// Limiter::try_acquire_all([users.scope(&ann, 8), orgs.scope(&acme, 8)])?;
/// let rejected = Limiter::try_acquire_all([users.scope(&bob, 8), orgs.scope(&acme, 8)]).unwrap_err();
/// assert_eq!(rejected.denied_by(), ["org"]);
/// assert_eq!(users.peek(&bob)?.remaining(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "scopes have no effect until they are decided"]
pub struct Scopes<B> {
    limiter: Limiter<B>,
    key: Key,
    cost: Cost,
}

impl<B: BlockingBackend> Limiter<B> {
    /// Returns a scope of a decision over several keys; see [`Scopes`].
    pub fn scope<'a>(&'a self, key: &'a Key, cost: impl Into<Cost>) -> Scope<'a, B> {
        Scope {
            limiter: self,
            key,
            cost: cost.into(),
        }
    }

    /// Joins 1 to 8 scopes, innermost first, to decide them together.
    ///
    /// The scope of a limiter that is [off](Self::enabled) costs 0: it is not charged and denies nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if there are no scopes or more than 8, if two scopes have the same policy name and key, or if
    /// the limiters have different backends.
    pub fn all<'a>(scopes: impl IntoIterator<Item = Scope<'a, B>>) -> Result<Scopes<B>, ScopeError>
    where
        B: 'a,
    {
        let scopes: Vec<_> = scopes.into_iter().collect();
        let Some(first) = scopes.first().map(|scope| scope.limiter) else {
            return Err(ScopeError::Count(0));
        };
        let id = |limiter: &Self| limiter.backend().context().id();
        if scopes.iter().any(|scope| id(scope.limiter) != id(first)) {
            return Err(ScopeError::Backends);
        }
        let are_off = scopes.iter().all(|scope| scope.limiter.is_off());
        let parts: Vec<_> = scopes
            .into_iter()
            .map(|Scope { limiter, key, cost }| {
                (limiter.policy(), key, (!limiter.is_off()).then_some(cost))
            })
            .collect();
        let (policy, key, cost) = join_scopes(&parts)?;
        let mut limiter = Limiter::new(policy, first.backend().clone());
        if are_off {
            limiter = limiter.enabled(false);
        }
        Ok(Scopes { limiter, key, cost })
    }

    /// Spends the cost of every scope without waiting, or of none; see [`Scopes`].
    ///
    /// # Errors
    ///
    /// - [`RejectedScopes::Denied`] if a scope denies the request. Nothing was charged.
    /// - [`RejectedScopes::Backend`] if the backend fails.
    /// - [`RejectedScopes::Invalid`] if [`all`](Self::all) returns an error.
    pub fn try_acquire_all<'a>(
        scopes: impl IntoIterator<Item = Scope<'a, B>>,
    ) -> Result<Charge, RejectedScopes<B::Error>>
    where
        B: 'a,
    {
        let scopes = Self::all(scopes).map_err(RejectedScopes::Invalid)?;
        let acquired = scopes.try_acquire();
        acquired.map_err(|rejected| RejectedScopes::new(rejected, scopes.policy()))
    }
}

impl<B: BlockingBackend> Scopes<B> {
    /// Lets the keys of inner scopes belong to the outermost key; see
    /// [`crate::limiter::Scopes::hash_by_outermost`].
    pub fn hash_by_outermost(self) -> Self {
        let policy = self.limiter.policy().by_outermost();
        Self {
            limiter: self.limiter.with_policy(&policy),
            ..self
        }
    }

    /// Returns the policy that joins the quotas of all scopes. Its name joins their names, as in `user/org`.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        self.limiter.policy()
    }

    /// Spends the cost of every scope, or of none. The receipt covers all scopes.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn check(&self) -> Result<Reply, B::Error> {
        self.limiter.check(&self.key, self.cost.clone())
    }

    /// Spends the cost of every scope without waiting, or of none. The charge covers all scopes.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected::Denied`] if a scope denies the request, and [`Rejected::Backend`] if the backend fails.
    pub fn try_acquire(&self) -> Result<Charge, Rejected<B::Error>> {
        self.acquire(MaxWait::NONE)
    }

    /// Spends the cost of every scope, and waits until all of them allow it, for at most `max_wait`.
    ///
    /// # Errors
    ///
    /// The same as of [`Limiter::acquire`].
    pub fn acquire(&self, max_wait: impl Into<MaxWait>) -> Result<Charge, Rejected<B::Error>> {
        self.limiter.acquire(&self.key, self.cost.clone(), max_wait)
    }

    /// Spends the cost of every scope now, or reserves it in all of them within `max_wait`. It does not wait.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn reserve(&self, max_wait: Duration) -> Result<Reply, B::Error> {
        self.limiter.reserve(&self.key, self.cost.clone(), max_wait)
    }

    /// Cancels a reservation of these scopes. Returns whether its charge was refunded, in all scopes or in none.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn cancel(&self, reservation: Reservation) -> Result<bool, B::Error> {
        self.limiter.cancel(&self.key, reservation)
    }

    /// Returns the numbers of all scopes and changes nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn peek(&self) -> Result<Snapshot, B::Error> {
        self.limiter.peek(&self.key)
    }

    /// Refunds up to `cost` of the tokens on `receipt` to each scope, and takes them off the receipt.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. The tokens are off the receipt even then, because the refund may have
    /// been executed.
    pub fn refund(
        &self,
        receipt: &mut Receipt,
        cost: impl Into<Cost>,
    ) -> Result<Snapshot, B::Error> {
        let cost = self.policy().spread(cost.into());
        self.limiter.refund(&self.key, receipt, cost)
    }

    /// Charges the cost of every scope, even above the limits. The debt of a key is at most twice its limit.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn penalize(&self) -> Result<Snapshot, B::Error> {
        self.limiter.penalize(&self.key, self.cost.clone())
    }

    /// Deletes the state of the keys of all scopes.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn reset(&self) -> Result<Snapshot, B::Error> {
        self.limiter.reset(&self.key)
    }

    /// Blocks the innermost key for `duration`; see [`Scopes::block`](crate::limiter::Scopes::block).
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. The key may be blocked then.
    pub fn block(&self, duration: Duration) -> Result<(), B::Error> {
        self.limiter.block(&self.key, duration)
    }

    /// Ends the block of the innermost key, if there is one.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn unblock(&self) -> Result<(), B::Error> {
        self.limiter.unblock(&self.key)
    }

    /// Returns whether the innermost key is [blocked](Self::block) now.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn is_blocked(&self) -> Result<bool, B::Error> {
        self.limiter.is_blocked(&self.key)
    }
}
