//! Policies that join the quotas of several scopes for one decision.
//!
//! A joined policy is a policy like any other. Its quotas know their scope, and its key holds one key for each scope;
//! see `Key::of_scopes`.

use std::sync::{PoisonError, RwLock, Weak};

use super::named::NamedQuota;
use super::rate::{Policy, PolicyInner};
use super::scope_error::ScopeError;
use crate::quota::Cost;

/// The joined policies that are kept. More are created for each decision.
const MOST_KEPT: usize = 64;

/// The joined policies of one inner policy, so that each is prepared once.
#[derive(Default)]
struct JoinedPolicies(RwLock<Vec<Joined>>);

struct Joined {
    /// Weak, because two policies can be each other's outer one.
    outer: Weak<PolicyInner>,
    policy: Policy,
}

/// The same joined policy with [`Policy::by_outermost`].
struct ByOutermost(Policy);

impl Policy {
    /// The most scopes of one decision.
    pub(crate) const MAX_SCOPES: usize = 8;

    /// Returns the number of scopes: 1 unless the policy joins several.
    #[inline]
    pub(crate) fn scopes(&self) -> usize {
        self.joined_names().len().max(1)
    }

    /// Whether the policy joins several scopes.
    #[inline]
    pub(crate) fn has_scopes(&self) -> bool {
        !self.joined_names().is_empty()
    }

    /// Returns the name of the policy of a scope.
    pub(crate) fn scope_name(&self, scope: usize) -> &str {
        self.joined_names()
            .get(scope)
            .map_or(self.name(), |name| name)
    }

    /// Joins the quotas of this policy and of `outer`. The result is a shadow if one of them is.
    ///
    /// # Errors
    ///
    /// If there would be more than 8 scopes.
    pub(crate) fn within(&self, outer: &Self) -> Result<Self, ScopeError> {
        let count = self.scopes() + outer.scopes();
        if count > Self::MAX_SCOPES {
            return Err(ScopeError::Count(count));
        }
        let joined = self.joined_with(outer);
        Ok(joined.with_shadow(self.is_shadow() || outer.is_shadow()))
    }

    fn joined_with(&self, outer: &Self) -> Self {
        let kept = &self.derived(|_| JoinedPolicies::default()).0;
        let is_it = |joined: &&Joined| std::ptr::eq(joined.outer.as_ptr(), outer.as_ptr());
        let found = |kept: &[Joined]| kept.iter().find(is_it).map(|joined| joined.policy.clone());
        if let Some(policy) = found(&kept.read().unwrap_or_else(PoisonError::into_inner)) {
            return policy;
        }
        let mut kept = kept.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(policy) = found(&kept) {
            return policy;
        }
        kept.retain(|joined| joined.outer.strong_count() > 0);
        let policy = self.join(outer);
        if kept.len() < MOST_KEPT {
            kept.push(Joined {
                outer: outer.downgrade(),
                policy: policy.clone(),
            });
        }
        policy
    }

    fn join(&self, outer: &Self) -> Self {
        let names: Box<[Box<str>]> = [self, outer]
            .into_iter()
            .flat_map(|policy| (0..policy.scopes()).map(|scope| policy.scope_name(scope).into()))
            .collect();
        let moved = |named: &NamedQuota| {
            let scope = self.scopes() + named.scope();
            named.in_scope(u8::try_from(scope).unwrap_or(u8::MAX))
        };
        let outer = outer.quotas().iter().map(moved);
        let quotas = self.quotas().iter().cloned().chain(outer).collect();
        Self::from_parts(&names.join("/"), quotas, names, self.is_by_outermost())
    }

    /// Returns the joined policy whose inner keys belong to the outermost key, and share its slot in a cluster.
    pub(crate) fn by_outermost(&self) -> Self {
        if !self.has_scopes() || self.is_by_outermost() {
            return self.clone();
        }
        let tagged = self.derived(|policy| {
            let names: Box<[Box<str>]> = policy.joined_names().into();
            ByOutermost(Self::from_parts(
                policy.name(),
                policy.quotas().to_vec(),
                names,
                true,
            ))
        });
        let tagged = tagged.0.clone().with_shadow(self.is_shadow());
        tagged.with_off_scopes(self.off_scopes())
    }

    /// Returns the quotas of a scope, by their indexes in this policy.
    fn quotas_of(&self, scope: usize) -> std::ops::Range<usize> {
        let quotas = self.quotas();
        let start = quotas.partition_point(|named| named.scope() < scope);
        let end = quotas.partition_point(|named| named.scope() <= scope);
        start..end
    }

    /// Returns the cost of all quotas, with a cost for each scope. A further scope has the last cost.
    pub(crate) fn join_costs(&self, costs: &[Cost]) -> Cost {
        let cost = |index: usize| {
            let scope = self.quotas()[index].scope();
            let cost = costs.get(scope).or(costs.last());
            cost.map_or(0, |cost| cost.get(index - self.quotas_of(scope).start))
        };
        Cost::from_fn(self.quotas().len(), cost)
    }

    /// Returns the cost of all quotas, if each scope has this cost.
    #[inline]
    pub(crate) fn spread(&self, cost: Cost) -> Cost {
        if cost.is_uniform() || !self.has_scopes() {
            return cost;
        }
        self.join_costs(&[cost])
    }

    /// Returns the error of a duplicate scope, if two scopes have the same name and the keys are equal.
    pub(crate) fn check_scopes<K: PartialEq>(
        &self,
        key: impl Fn(usize) -> K,
    ) -> Result<(), ScopeError> {
        for scope in 1..self.scopes() {
            let name = self.scope_name(scope);
            let is_same = |other: usize| self.scope_name(other) == name && key(other) == key(scope);
            if (0..scope).any(is_same) {
                return Err(ScopeError::Duplicate(name.to_owned()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;

    fn user_and_org() -> (Policy, Policy) {
        let user = Policy::new("user", Quota::per_second(10)).and("daily", Quota::per_day(100));
        (user, Policy::new("org", Quota::per_second(50)))
    }

    #[test]
    fn joined_policy_has_the_quotas_of_all_scopes_innermost_first() {
        let (user, org) = user_and_org();
        let joined = user.within(&org).expect("two scopes");
        assert_eq!(joined.name(), "user/org");
        let quotas: Vec<_> = joined
            .quotas()
            .iter()
            .map(|named| (named.name(), named.scope()))
            .collect();
        assert_eq!(quotas, [("user", 0), ("daily", 0), ("org", 1)]);
        assert_eq!(joined.quotas()[2].id(), org.quotas()[0].id());
        let three = joined
            .within(&Policy::new("all", Quota::per_second(99)))
            .expect("three scopes");
        assert_eq!(three.scopes(), 3);
        assert_eq!(three.scope_name(2), "all");
        assert!(!joined.is_shadow());
        assert!(user.within(&org.shadow()).expect("two scopes").is_shadow());
    }

    #[test]
    fn joined_policy_is_created_once() {
        let (user, org) = user_and_org();
        let first = user.within(&org).expect("two scopes");
        let again = user.clone().within(&org.clone()).expect("two scopes");
        assert!(std::ptr::eq(first.as_ptr(), again.as_ptr()));
        let tagged = first.by_outermost();
        assert!(tagged.is_by_outermost() && !first.is_by_outermost());
        assert_eq!(
            (tagged.name(), tagged.quotas()),
            (first.name(), first.quotas())
        );
        assert_ne!(first, tagged);
        assert!(std::ptr::eq(tagged.as_ptr(), first.by_outermost().as_ptr()));
        // Neither policy keeps the other one alive.
        let _other = org.within(&user);
        let weak = org.downgrade();
        drop((org, _other));
        assert_eq!(weak.strong_count(), 0);
    }

    #[test]
    fn policies_of_short_life_do_not_fill_the_cache() {
        let (user, _) = user_and_org();
        for _ in 0..3 * MOST_KEPT {
            let short = Policy::new("org", Quota::per_second(50));
            let _joined = user.within(&short).expect("two scopes");
        }
        let kept = &user.derived(|_| JoinedPolicies::default()).0;
        assert!(kept.read().expect("no panic").len() <= 2);
    }

    #[test]
    fn costs_apply_to_each_scope() {
        let (user, org) = user_and_org();
        let joined = user.within(&org).expect("two scopes");
        let numbers = |cost: &Cost| [0, 1, 2].map(|index| cost.get(index));
        let spread = joined.spread(Cost::each([1, 4_096]));
        assert_eq!(numbers(&spread), [1, 4_096, 1]);
        let each = joined.join_costs(&[Cost::each([1, 2]), Cost::new(7)]);
        assert_eq!(numbers(&each), [1, 2, 7]);
        assert_eq!(joined.spread(Cost::new(3)), Cost::new(3));
        assert_eq!(user.spread(Cost::each([1, 2])), Cost::each([1, 2]));
    }

    #[test]
    fn more_than_eight_scopes_are_an_error() {
        let level = |index: usize| Policy::new(&format!("l{index}"), Quota::per_second(1));
        let mut all = level(0);
        for index in 1..8 {
            all = all.within(&level(index)).expect("up to eight");
        }
        assert_eq!(all.within(&level(8)), Err(ScopeError::Count(9)));
        assert_eq!(
            ScopeError::Count(9).to_string(),
            "invalid decision over 9 scopes: use 1 to 8"
        );
    }

    #[test]
    fn scopes_with_one_policy_and_one_key_are_an_error() {
        let (user, org) = user_and_org();
        let twice = user.within(&user).expect("two scopes");
        let error = twice.check_scopes(|_| "ann").unwrap_err();
        assert_eq!(
            error.to_string(),
            "duplicate scope \"user\": give each scope of a decision its own policy or key"
        );
        assert_eq!(twice.check_scopes(|scope| ["ann", "bob"][scope]), Ok(()));
        let joined = user.within(&org).expect("two scopes");
        assert_eq!(joined.check_scopes(|_| "same"), Ok(()));
    }
}
