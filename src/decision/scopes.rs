//! The scopes of a decision over several keys.

use super::{Decision, Snapshot};
use crate::policy::Policy;

impl Decision {
    /// Returns the names of the policies that deny, innermost first; none if the request was allowed.
    ///
    /// A decision of [several scopes](crate::limiter::Scopes) can be denied by some of them. Pass the policy that
    /// decided, such as that of a [`Rejection`](crate::response::Rejection) or a [`Charge`](crate::Charge).
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(1)), MemoryBackend::new());
    /// let decision = limiter.check_now("ann", 2).decision;
    /// assert_eq!(decision.denied_by(limiter.policy()).collect::<Vec<_>>(), ["mails"]);
    /// assert_eq!(decision.snapshot().governed_by(limiter.policy()), "mails");
    /// ```
    pub fn denied_by<'p>(&self, policy: &'p Policy) -> impl Iterator<Item = &'p str> {
        let quotas = policy.quotas().iter().zip(self.snapshot().quotas());
        let denies = quotas.filter(|(_, answer)| !answer.is_allowed());
        let mut scopes = smallvec::SmallVec::<[usize; 8]>::new();
        for (named, _) in denies {
            // The quotas of a scope follow each other.
            if scopes.last() != Some(&named.scope()) {
                scopes.push(named.scope());
            }
        }
        scopes
            .into_iter()
            .map(move |scope| policy.scope_name(scope))
    }
}

impl Snapshot {
    /// Returns the name of the policy whose quota [governs](Self::governing). Pass the policy that decided.
    ///
    /// See the example of [`Decision::denied_by`].
    #[must_use]
    pub fn governed_by<'p>(&self, policy: &'p Policy) -> &'p str {
        let governing = policy.quotas().get(self.governing());
        governing.map_or(policy.name(), |named| policy.scope_name(named.scope()))
    }
}
