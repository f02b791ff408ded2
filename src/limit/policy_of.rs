use std::fmt;

use http::Request;

use crate::head::Head;
use crate::key::Key;
use crate::policy::Policy;

/// Chooses the policy of a request of type `R`. A [`Policy`] implements it: the same policy for all requests.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot choose a policy for `{R}`",
    note = "use `.policy_fn(|head, key| ..)`"
)]
pub trait PolicyOf<R> {
    /// Returns the policy for `request`, whose key is `key`.
    fn policy(&self, request: &R, key: &Key) -> Policy;

    /// Returns the policy if it is the same for all requests. The layer then clones no policy.
    fn fixed(&self) -> Option<&Policy> {
        None
    }
}

impl<R> PolicyOf<R> for Policy {
    fn policy(&self, _: &R, _: &Key) -> Policy {
        self.clone()
    }

    fn fixed(&self) -> Option<&Policy> {
        Some(self)
    }
}

/// A choice of policies by a closure, made by [`RateLimitLayer::policy_fn`](super::RateLimitLayer::policy_fn).
#[derive(Clone, Copy)]
pub struct PolicyFn<F>(pub(super) F);

impl<B, F> PolicyOf<Request<B>> for PolicyFn<F>
where
    F: Fn(&Head<'_>, &Key) -> Policy,
{
    fn policy(&self, request: &Request<B>, key: &Key) -> Policy {
        (self.0)(&Head::from(request), key)
    }
}

impl<F> fmt::Debug for PolicyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PolicyFn(..)")
    }
}
