use std::fmt;
use std::time::Duration;

use super::charge::Charge;
use super::handle::Limiter;
use super::rejected::Rejected;
use crate::backend::Backend;
use crate::decision::{Decision, Receipt, Reply, Reservation, RetryAfter, Snapshot};
use crate::key::Key;
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

/// Several scopes that are decided together: a user within a team within an organization.
///
/// A request is allowed if every quota of every scope allows it. Then all scopes are charged; otherwise none is. The
/// decision is one step: a memory backend locks all keys, and Redis runs one script.
///
/// A scope shares its bucket with all limiters and layers of its policy name and key. Its
/// [`hash_by_outermost`](Self::hash_by_outermost) changes that.
///
/// ```
/// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = MemoryBackend::new();
/// let users = Limiter::new(Policy::new("user", Quota::per_hour(10)), backend.clone());
/// let orgs = Limiter::new(Policy::new("org", Quota::per_hour(12)), backend);
/// let (ann, bob, acme) = (Key::from("ann"), Key::from("bob"), Key::from("acme"));
///
/// let charge = Limiter::try_acquire_all([users.scope(&ann, 8), orgs.scope(&acme, 8)]).await?;
/// let rejected = Limiter::try_acquire_all([users.scope(&bob, 8), orgs.scope(&acme, 8)]).await.unwrap_err();
/// assert_eq!(rejected.denied_by(), ["org"]);
/// assert_eq!(users.peek(&bob).await?.remaining(), 10, "the user is not charged");
///
/// charge.settle(3).await?; // in both scopes
/// assert_eq!(orgs.peek(&acme).await?.remaining(), 9);
/// # Ok(()) }
/// ```
///
/// # Order
///
/// The innermost scope comes first. [`Snapshot::quotas`] has the quotas of all scopes in this order.
/// [`Decision::denied_by`] and [`Snapshot::governed_by`] name the scopes, given [`policy`](Self::policy).
///
/// # Blocks
///
/// A [block](Limiter::block) of one scope denies the decision. [`Decision::denied_by`] names that scope, and each scope
/// whose quotas deny the request anyway. With `hash_by_outermost` an inner key is another key in each outermost one;
/// [`block`](Self::block) blocks it there.
///
/// # Semaphores
///
/// A semaphore cannot be a scope. Its permit is a lease that the holder renews and gives back, and it is kept in
/// another structure than the buckets. A decision over both would not be one step. Acquire the permit first: if the
/// limit denies the request, the permit is released, and nothing stays charged.
#[derive(Clone, Debug)]
#[must_use = "scopes have no effect until they are decided"]
pub struct Scopes<B> {
    limiter: Limiter<B>,
    key: Key,
    cost: Cost,
}

/// Joins the scopes of a decision to one policy, key and cost. A scope without a cost is switched off.
pub(crate) fn join_scopes(
    scopes: &[(&Policy, &Key, Option<Cost>)],
) -> Result<(Policy, Key, Cost), ScopeError> {
    let Some(((first, ..), outer)) = scopes.split_first() else {
        return Err(ScopeError::Count(0));
    };
    let mut policy = Policy::clone(first);
    for (outer, ..) in outer {
        policy = policy.within(outer)?;
    }
    policy.check_scopes(|scope| scopes.get(scope).map(|(_, key, _)| *key))?;
    let key = match scopes {
        [(_, key, _)] => Key::clone(key),
        _ => Key::of_scopes(scopes.iter().map(|(_, key, _)| *key)),
    };
    let mut off_scopes = 0_u8;
    let mut costs = Vec::with_capacity(scopes.len());
    for (scope, (.., cost)) in scopes.iter().enumerate() {
        off_scopes |= u8::from(cost.is_none()) << scope;
        costs.push(cost.clone().unwrap_or(Cost::ZERO));
    }
    let cost = policy.join_costs(&costs);
    Ok((policy.with_off_scopes(off_scopes), key, cost))
}

impl<B: Backend> Limiter<B> {
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
    /// See the example of [`Scopes`].
    ///
    /// # Errors
    ///
    /// - [`RejectedScopes::Denied`] if a scope denies the request. Nothing was charged.
    /// - [`RejectedScopes::Backend`] if the backend fails.
    /// - [`RejectedScopes::Invalid`] if [`all`](Self::all) returns an error.
    pub async fn try_acquire_all<'a>(
        scopes: impl IntoIterator<Item = Scope<'a, B>>,
    ) -> Result<Charge, RejectedScopes<B::Error>>
    where
        B: 'a,
    {
        let scopes = Self::all(scopes).map_err(RejectedScopes::Invalid)?;
        scopes
            .try_acquire()
            .await
            .map_err(|rejected| RejectedScopes::new(rejected, scopes.policy()))
    }
}

impl<B: Backend> Scopes<B> {
    /// Lets the keys of inner scopes belong to the outermost key, on every backend.
    ///
    /// A Redis Cluster needs this: all keys then have the hash tag of the outermost key, and so one slot. Inner quotas
    /// count for each outermost key: a user in two organizations has two budgets. Other backends do not need it.
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

    /// Spends the cost of every scope, or of none; see [`Limiter::check`]. The receipt covers all scopes.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn check(&self) -> Result<Reply, B::Error> {
        self.limiter.check(&self.key, self.cost.clone()).await
    }

    /// Spends the cost of every scope without waiting, or of none; see [`Limiter::try_acquire`]. The charge covers all
    /// scopes.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected::Denied`] if a scope denies the request, and [`Rejected::Backend`] if the backend fails.
    pub async fn try_acquire(&self) -> Result<Charge, Rejected<B::Error>> {
        self.acquire(MaxWait::NONE).await
    }

    /// Spends the cost of every scope, and waits until all of them allow it, for at most `max_wait`; see
    /// [`Limiter::acquire`].
    ///
    /// If the quotas of all scopes are buckets, the request makes a reservation in all scopes at once. Otherwise it
    /// checks again.
    ///
    /// # Errors
    ///
    /// The same as of [`Limiter::acquire`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the reservation in all scopes, or in none if one of them has a later charge.
    pub async fn acquire(
        &self,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Charge, Rejected<B::Error>> {
        self.limiter
            .acquire(&self.key, self.cost.clone(), max_wait)
            .await
    }

    /// Spends the cost of every scope now, or reserves it in all of them within `max_wait`; see [`Limiter::reserve`].
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    ///
    /// # Cancel safety
    ///
    /// A reservation stays charged when the [`Reply`] is dropped.
    pub async fn reserve(&self, max_wait: Duration) -> Result<Reply, B::Error> {
        self.limiter
            .reserve(&self.key, self.cost.clone(), max_wait)
            .await
    }

    /// Cancels a reservation of these scopes. Returns whether its charge was refunded, in all scopes or in none.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn cancel(&self, reservation: Reservation) -> Result<bool, B::Error> {
        self.limiter.cancel(&self.key, reservation).await
    }

    /// Returns the numbers of all scopes and changes nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn peek(&self) -> Result<Snapshot, B::Error> {
        self.limiter.peek(&self.key).await
    }

    /// Refunds up to `cost` of the tokens on `receipt` to each scope, and takes them off the receipt.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. The tokens are off the receipt even then, because the refund may have
    /// been executed.
    pub async fn refund(
        &self,
        receipt: &mut Receipt,
        cost: impl Into<Cost>,
    ) -> Result<Snapshot, B::Error> {
        let cost = self.policy().spread(cost.into());
        self.limiter.refund(&self.key, receipt, cost).await
    }

    /// Charges the cost of every scope, even above the limits. The debt of a key is at most twice its limit.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn penalize(&self) -> Result<Snapshot, B::Error> {
        self.limiter.penalize(&self.key, self.cost.clone()).await
    }

    /// Deletes the state of the keys of all scopes. Blocks stay.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn reset(&self) -> Result<Snapshot, B::Error> {
        self.limiter.reset(&self.key).await
    }

    /// Blocks the innermost key for `duration`, as [`Limiter::block`] does.
    ///
    /// To block an outer key, use the limiter of its scope. To block a key within an outer one with
    /// [`hash_by_outermost`](Self::hash_by_outermost), join the scopes from that key outwards.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. The key may be blocked then.
    pub async fn block(&self, duration: Duration) -> Result<(), B::Error> {
        self.limiter.block(&self.key, duration).await
    }

    /// Ends the block of the innermost key, if there is one.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn unblock(&self) -> Result<(), B::Error> {
        self.limiter.unblock(&self.key).await
    }

    /// Returns whether the innermost key is [blocked](Self::block) now.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn is_blocked(&self) -> Result<bool, B::Error> {
        self.limiter.is_blocked(&self.key).await
    }
}

/// The error of [`Limiter::try_acquire_all`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectedScopes<E> {
    /// At least one scope denies the request. Nothing was charged.
    #[non_exhaustive]
    Denied {
        /// The policy that joins all scopes.
        policy: Policy,
        /// The decision. Its wait is the longest of the scopes that deny.
        decision: Decision,
    },
    /// The backend failed.
    Backend(E),
    /// The scopes cannot be decided together.
    Invalid(ScopeError),
}

impl<E> RejectedScopes<E> {
    pub(crate) fn new(rejected: Rejected<E>, policy: &Policy) -> Self {
        match rejected {
            Rejected::Denied(decision) => Self::Denied {
                policy: policy.clone(),
                decision,
            },
            Rejected::Backend(error) => Self::Backend(error),
        }
    }

    /// Returns the names of the policies that deny, innermost first; none if the request was not denied.
    #[must_use]
    pub fn denied_by(&self) -> Vec<&str> {
        match self {
            Self::Denied { policy, decision } => decision.denied_by(policy).collect(),
            Self::Backend(_) | Self::Invalid(_) => Vec::new(),
        }
    }

    /// Returns the wait after which the same request is allowed, if it was denied.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Denied { decision, .. } => decision.retry_after(),
            Self::Backend(_) | Self::Invalid(_) => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for RejectedScopes<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { decision, .. } => {
                write!(f, "denied by {}: ", self.denied_by().join(", "))?;
                Rejected::<E>::Denied(decision.clone()).fmt(f)
            }
            Self::Backend(error) => error.fmt(f),
            Self::Invalid(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RejectedScopes<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied { .. } | Self::Invalid(_) => None,
            // The message is the backend error's own, so its sources follow.
            Self::Backend(error) => error.source(),
        }
    }
}
