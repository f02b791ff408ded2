use std::fmt;

use http::Request;

use crate::head::Head;
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// Chooses the policy of a request of type `R`. A [`SemaphorePolicy`] implements it: the same policy for all requests.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot choose a policy for `{R}`",
    note = "use `.policy_fn(|head, key| ..)`"
)]
pub trait SemaphorePolicyOf<R> {
    /// Returns the policy for `request`, whose key is `key`.
    fn policy(&self, request: &R, key: &Key) -> SemaphorePolicy;

    /// Returns the policy if it is the same for all requests.
    fn fixed(&self) -> Option<&SemaphorePolicy> {
        None
    }
}

impl<R> SemaphorePolicyOf<R> for SemaphorePolicy {
    fn policy(&self, _: &R, _: &Key) -> SemaphorePolicy {
        self.clone()
    }

    fn fixed(&self) -> Option<&SemaphorePolicy> {
        Some(self)
    }
}

/// A choice of policies by a closure, made by [`SemaphoreLayer::policy_fn`](super::SemaphoreLayer::policy_fn).
#[derive(Clone, Copy)]
pub struct SemaphorePolicyFn<F>(pub(super) F);

impl<B, F> SemaphorePolicyOf<Request<B>> for SemaphorePolicyFn<F>
where
    F: Fn(&Head<'_>, &Key) -> SemaphorePolicy,
{
    fn policy(&self, request: &Request<B>, key: &Key) -> SemaphorePolicy {
        (self.0)(&Head::from(request), key)
    }
}

impl<F> fmt::Debug for SemaphorePolicyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SemaphorePolicyFn(..)")
    }
}
