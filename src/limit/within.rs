//! A layer over several scopes: [`RateLimitLayer::within`].
#![allow(clippy::type_complexity)] // the type of a layer lists its parts

use super::layer::RateLimitLayer;
use super::policy_of::PolicyFn;
use super::scopes::{KeyList, WithinKey, WithinPolicy};
use crate::head::Head;
use crate::key::Key;
use crate::policy::{Policy, ScopeError};

/// A layer that [`RateLimitLayer::within`] returns.
type Within<K, L, B, C, F, R, P, Q> =
    RateLimitLayer<WithinKey<K, L>, B, C, F, R, WithinPolicy<P, Q>>;

impl<K, B, C, F, R, P> RateLimitLayer<K, B, C, F, R, P> {
    /// Adds an outer scope: a policy with a key of its own, such as the team of a user.
    ///
    /// A request is allowed if every quota of every scope allows it. Then all scopes are charged; otherwise none is.
    /// The decision is one step. Call it again for a further scope:
    ///
    /// ```
    /// use tower_sluice::{Header, MemoryBackend, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(
    ///     Policy::new("user", Quota::per_minute(60)),
    ///     Header::new("x-user"),
    ///     MemoryBackend::new(),
    /// )
    /// .within(Policy::new("team", Quota::per_minute(300)), Header::new("x-team"))
    /// .within(Policy::new("org", Quota::per_minute(1_000)), Header::new("x-org"));
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    ///
    /// - The header fields list the quotas of all scopes, the outermost last. A rejection names those that deny.
    /// - The [cost](Self::cost) of a request is charged to each scope.
    /// - A request that lacks the key of a scope is a request without a key.
    /// - The decision is a [shadow](Policy::shadow) if one of the policies is. The failure policy, the wait and the
    ///   switch of the layer apply to the whole.
    /// - Limiters and layers with one of the policies and the same key share its bucket.
    ///
    /// Nested layers decide one after the other instead: the charge of the outer layer stays if the inner one denies.
    /// A [`SemaphoreLayer`](crate::SemaphoreLayer) cannot be a scope; see
    /// [`Scopes`](crate::limiter::Scopes#semaphores).
    ///
    /// # Panics
    ///
    /// Panics if [`try_within`](Self::try_within) would return an error.
    pub fn within<L>(self, policy: Policy, key: L) -> Within<K, L, B, C, F, R, P, Policy> {
        match self.try_within(policy, key) {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// Adds an outer scope; see [`within`](Self::within).
    ///
    /// # Errors
    ///
    /// Returns an error if the layer already has 8 scopes, or a scope with a policy of this name.
    pub fn try_within<L>(
        mut self,
        policy: Policy,
        key: L,
    ) -> Result<Within<K, L, B, C, F, R, P, Policy>, ScopeError> {
        self.scopes.add(&policy)?;
        Ok(self.with_outer(policy, key))
    }

    /// Adds several outer scopes, the innermost first, such as those of a configuration file; see
    /// [`within`](Self::within).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use axum::body::Body;
    /// use http::Request;
    /// use tower_sluice::key::ArcKey;
    /// use tower_sluice::{Header, MemoryBackend, Policy, Quota, RateLimitLayer};
    ///
    /// let scopes = [("team", 300, "x-team"), ("org", 1_000, "x-org")].map(|(name, limit, field)| {
    ///     let key: ArcKey<Request<Body>> = Arc::new(Header::new(field));
    ///     (Policy::new(name, Quota::per_minute(limit)), key)
    /// });
    /// let user = Policy::new("user", Quota::per_minute(60));
    /// let limit = RateLimitLayer::new(user, Header::new("x-user"), MemoryBackend::new()).try_within_each(scopes)?;
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// # Ok::<(), tower_sluice::policy::ScopeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as of [`try_within`](Self::try_within), and if `scopes` is empty.
    pub fn try_within_each<L>(
        mut self,
        scopes: impl IntoIterator<Item = (Policy, L)>,
    ) -> Result<Within<K, KeyList<L>, B, C, F, R, P, Policy>, ScopeError> {
        let mut keys = Vec::new();
        let mut joined: Option<Policy> = None;
        for (policy, key) in scopes {
            self.scopes.add(&policy)?;
            joined = Some(match joined {
                Some(inner) => inner.within(&policy)?,
                None => policy,
            });
            keys.push(key);
        }
        let joined = joined.ok_or(ScopeError::Count(0))?;
        Ok(self.with_outer(joined, KeyList(keys)))
    }

    fn with_outer<L, O>(self, outer: O, key: L) -> Within<K, L, B, C, F, R, P, O> {
        let is_by_outermost = self.scopes.are_by_outermost;
        self.rekeyed(
            |inner| WithinKey { inner, outer: key },
            |inner| WithinPolicy::new(inner, outer, is_by_outermost),
        )
    }
}

impl<K, L, B, C, F, R, P, O> Within<K, L, B, C, F, R, P, O> {
    /// Chooses the policy of the outermost scope by a closure, such as a tier by the plan of an organization. The
    /// closure gets the key of that scope.
    ///
    /// [`policy_fn`](Self::policy_fn) chooses the policy of the innermost scope. Give all policies of a scope one name.
    ///
    /// ```
    /// # use tower_sluice::{Header, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// # let user = Policy::new("user", Quota::per_second(1));
    /// # let limit = RateLimitLayer::new(user, Header::new("x-user"), MemoryBackend::new());
    /// let (free, paid) = (Policy::new("org", Quota::per_minute(60)), Policy::new("org", Quota::per_minute(6_000)));
    /// let limit = limit
    ///     .within(free.clone(), Header::new("x-org"))
    ///     .outer_policy_fn(move |head, _org| match head.headers.contains_key("x-paid") {
    ///         true => paid.clone(),
    ///         false => free.clone(),
    ///     });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn outer_policy_fn<G>(self, f: G) -> Within<K, L, B, C, F, R, P, PolicyFn<G>>
    where
        G: Fn(&Head<'_>, &Key) -> Policy,
    {
        self.rekeyed(
            |key| key,
            |policy| WithinPolicy::new(policy.inner, PolicyFn(f), policy.is_by_outermost),
        )
    }

    /// Lets the keys of inner scopes belong to the outermost key, on every backend.
    ///
    /// A Redis Cluster needs this: all keys of a decision then share a slot. Inner quotas count for each outermost key:
    /// a user in two organizations has two budgets. Other backends do not need it.
    pub fn hash_by_outermost(mut self) -> Self {
        self.scopes.are_by_outermost = true;
        self.rekeyed(
            |key| key,
            |policy| WithinPolicy::new(policy.inner, policy.outer, true),
        )
    }
}
