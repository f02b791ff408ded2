//! The keys and policies of a layer over several scopes.

use std::fmt;
use std::sync::OnceLock;

use smallvec::SmallVec;

use super::policy_of::{PolicyFn, PolicyOf};
use crate::key::{Key, KeyError, KeyExtractor};
use crate::policy::{Policy, ScopeError};

/// The keys of a request in several scopes. [`RateLimitLayer::within`](crate::RateLimitLayer::within) creates it.
#[derive(Clone, Copy, Debug)]
pub struct WithinKey<K, O> {
    pub(super) inner: K,
    pub(super) outer: O,
}

impl<R, K: KeyExtractor<R>, O: KeyExtractor<R>> KeyExtractor<R> for WithinKey<K, O> {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        Ok(Key::of_scopes([
            &self.inner.key(request)?,
            &self.outer.key(request)?,
        ]))
    }
}

/// The keys of a request in several outer scopes.
/// [`RateLimitLayer::try_within_each`](crate::RateLimitLayer::try_within_each) creates it.
#[derive(Clone, Debug)]
pub struct KeyList<K>(pub(super) Vec<K>);

impl<R, K: KeyExtractor<R>> KeyExtractor<R> for KeyList<K> {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        let keys = self.0.iter().map(|key| key.key(request));
        let keys: SmallVec<[Key; 4]> = keys.collect::<Result<_, _>>()?;
        Ok(Key::of_scopes(&keys))
    }
}

/// The policies of several scopes. [`RateLimitLayer::within`](crate::RateLimitLayer::within) creates it.
#[derive(Clone)]
pub struct WithinPolicy<P, O> {
    pub(super) inner: P,
    pub(super) outer: O,
    pub(super) is_by_outermost: bool,
    /// The joined policy, if it is the same for all requests.
    fixed: OnceLock<Option<Policy>>,
}

impl<P, O> WithinPolicy<P, O> {
    pub(super) const fn new(inner: P, outer: O, is_by_outermost: bool) -> Self {
        Self {
            inner,
            outer,
            is_by_outermost,
            fixed: OnceLock::new(),
        }
    }

    fn join(&self, inner: &Policy, outer: &Policy) -> Policy {
        // The layer has checked the number of scopes.
        let joined = inner.within(outer).unwrap_or_else(|_| inner.clone());
        match self.is_by_outermost {
            true => joined.by_outermost(),
            false => joined,
        }
    }
}

impl<R, P: PolicyOf<R>, O: PolicyOf<R>> PolicyOf<R> for WithinPolicy<P, O> {
    fn policy(&self, request: &R, key: &Key) -> Policy {
        // An outer policy that joins several scopes is fixed, and needs no key.
        let outer_scopes = self.outer.fixed().map_or(1, Policy::scopes);
        let (inner, outer) = key.split_scopes(outer_scopes);
        self.join(
            &self.inner.policy(request, &inner),
            &self.outer.policy(request, &outer),
        )
    }

    fn fixed(&self) -> Option<&Policy> {
        let join = || Some(self.join(self.inner.fixed()?, self.outer.fixed()?));
        self.fixed.get_or_init(join).as_ref()
    }
}

impl<P: fmt::Debug, O: fmt::Debug> fmt::Debug for WithinPolicy<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithinPolicy")
            .field("inner", &self.inner)
            .field("outer", &self.outer)
            .finish_non_exhaustive()
    }
}

/// The policy of a layer, whose innermost part can be replaced.
///
/// Implement it for a [`PolicyOf`] of your own to replace it by another one in the same layer.
pub trait ReplacePolicy<Q> {
    /// The type with `Q` as the innermost policy.
    type Replaced;

    /// Replaces the innermost policy.
    fn replace(self, policy: Q) -> Self::Replaced;
}

impl<Q> ReplacePolicy<Q> for Policy {
    type Replaced = Q;

    fn replace(self, policy: Q) -> Q {
        policy
    }
}

impl<Q, G> ReplacePolicy<Q> for PolicyFn<G> {
    type Replaced = Q;

    fn replace(self, policy: Q) -> Q {
        policy
    }
}

impl<Q, P: ReplacePolicy<Q>, O> ReplacePolicy<Q> for WithinPolicy<P, O> {
    type Replaced = WithinPolicy<P::Replaced, O>;

    fn replace(self, policy: Q) -> Self::Replaced {
        WithinPolicy::new(self.inner.replace(policy), self.outer, self.is_by_outermost)
    }
}

/// The scopes of a layer.
#[derive(Clone, Debug)]
pub(super) struct LayerScopes {
    names: Vec<Box<str>>,
    pub(super) are_by_outermost: bool,
}

impl LayerScopes {
    pub(super) fn new(innermost: &Policy) -> Self {
        Self {
            names: vec![innermost.name().into()],
            are_by_outermost: false,
        }
    }

    /// Adds the scope of `policy`.
    pub(super) fn add(&mut self, policy: &Policy) -> Result<(), ScopeError> {
        let name = policy.name();
        if self.names.iter().any(|other| **other == *name) {
            return Err(ScopeError::Duplicate(name.to_owned()));
        }
        self.names.push(name.into());
        match self.names.len() {
            count if count > Policy::MAX_SCOPES => Err(ScopeError::Count(count)),
            _ => Ok(()),
        }
    }

    /// Returns whether a decision has keys in several slots of a cluster.
    pub(super) fn have_several_hash_tags(&self) -> bool {
        self.names.len() > 1 && !self.are_by_outermost
    }
}
