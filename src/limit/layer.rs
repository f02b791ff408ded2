use std::fmt;

use super::policy_of::PolicyFn;
use crate::backend::Backend;
use crate::cost::{CostFn, IntoCostOf, cost_fn};
use crate::head::Head;
use crate::key::Key;
use crate::limiter::Unspecified;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::Http;
use crate::wait::MaxWait;

/// Limits a service by key: `K` says whose request it is, `B` keeps the buckets.
///
/// Clones share their buckets, and so do layers of the same policy name over clones of one backend: `.cost(20)` on a
/// clone makes a route dearer, not separate. Each layer that a request passes charges for itself; one that is rejected
/// by an inner layer has been charged by the outer ones.
///
/// But layers of the same policy, key and backend within each other charge once, what the innermost says: it charges
/// what is missing or gives back what is too much, and if it rejects, everything goes back. They wait for no longer
/// than one of them may, and tell the client once. They know of each other by the request's extensions: not with
/// [`extensions(false)`](Self::extensions) at the outer one, nor with [`AsError`](crate::response::AsError). A request
/// that the outer one rejects never gets to the inner one: it is told when the outer cost will be there.
///
/// The other parameters have defaults and are changed by methods: what a request costs, what happens when a backend
/// that can fail does, how requests are rejected, and which policy applies.
///
/// A backend that can fail asks for a choice, and the compiler says so:
///
/// ```compile_fail,E0277
/// # use std::future::{Ready, ready};
/// # use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
/// # use tower_sluice::{Global, Key, Policy, Quota, RateLimitLayer};
/// # #[derive(Clone, Default)] struct Remote(std::sync::Arc<BackendContext>);
/// # impl Backend for Remote {
/// #     type Error = std::io::Error;
/// #     type Future = Ready<Result<Reply, std::io::Error>>;
/// #     fn ask(&self, _: Op, _: &Policy, _: &Key) -> Answer<Result<Reply, std::io::Error>, Self::Future> {
/// #         Answer::Later(ready(Err(std::io::Error::other("down"))))
/// #     }
/// #     fn context(&self) -> &BackendContext { &self.0 }
/// # }
/// // error[E0277]: this backend can fail with `std::io::Error`, and no failure policy is chosen
/// let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, Remote::default());
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// With one it compiles:
///
/// ```
/// # use std::future::{Ready, ready};
/// # use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
/// # use tower_sluice::{Global, Key, FailurePolicy, Policy, Quota, RateLimitLayer};
/// # #[derive(Clone, Default)] struct Remote(std::sync::Arc<BackendContext>);
/// # impl Backend for Remote {
/// #     type Error = std::io::Error;
/// #     type Future = Ready<Result<Reply, std::io::Error>>;
/// #     fn ask(&self, _: Op, _: &Policy, _: &Key) -> Answer<Result<Reply, std::io::Error>, Self::Future> {
/// #         Answer::Later(ready(Err(std::io::Error::other("down"))))
/// #     }
/// #     fn context(&self) -> &BackendContext { &self.0 }
/// # }
/// let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, Remote::default())
///     .on_backend_error(FailurePolicy::FailClosed);
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// # Readiness
///
/// The service is ready when the inner service is. A request that is rejected, that waits, or that waits for the answer
/// of a remote backend releases the inner service's readiness, a slot of a `ConcurrencyLimit` say. Once it is allowed
/// it waits for readiness again. A slow or stalled Redis holds no slots. A backend in memory answers at once: the
/// service that was ready is called, and nothing is cloned.
///
/// With a remote backend a `LoadShed` around this layer sees a slot that is free while requests are decided. Place it
/// inside: this layer, `LoadShed`, `ConcurrencyLimit`.
#[derive(Clone)]
#[must_use = "a layer limits nothing until a service is wrapped in it"]
pub struct RateLimitLayer<K, B, C = Cost, F = Unspecified, R = Http, P = Policy> {
    pub(super) policy: P,
    pub(super) key: K,
    pub(super) backend: B,
    pub(super) cost: C,
    pub(super) on_error: F,
    pub(super) protocol: R,
    pub(super) skip_unkeyed: bool,
    pub(super) max_wait: MaxWait,
    pub(super) refund_unserved: bool,
}

impl<K, B: Backend> RateLimitLayer<K, B> {
    /// Limits by `policy`, each key for itself, with the state in `backend`. A request costs 1. A closure for `key` is
    /// made one by [`key_fn`](crate::key_fn): `key_fn(|head| ..)`.
    pub fn new(policy: Policy, key: K, backend: B) -> Self {
        Self {
            policy,
            key,
            backend,
            cost: Cost::ONE,
            on_error: Unspecified,
            protocol: Http::default(),
            skip_unkeyed: false,
            max_wait: MaxWait::NONE,
            refund_unserved: false,
        }
    }
}

impl<K, B, C, F, R, P> RateLimitLayer<K, B, C, F, R, P> {
    /// Sets the cost of a request; 1 by default.
    ///
    /// `cost` is a number, a [`Cost`], [`RouteCosts`](crate::RouteCosts), a [`HeaderCost`](crate::cost::HeaderCost), or a
    /// [`CostOf`](crate::cost::CostOf) of your own that also implements [`IntoCostOf`]. A closure enters by
    /// [`cost_fn`](Self::cost_fn).
    ///
    /// ```
    /// # use http::header::CONTENT_LENGTH;
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// use tower_sluice::RouteCosts;
    /// use tower_sluice::cost::HeaderCost;
    ///
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(10)), Global, MemoryBackend::new());
    /// let fixed = limit.clone().cost(5);
    /// let by_route = limit.clone().cost(RouteCosts::new().route("/search", 5));
    /// let by_size = limit.cost(HeaderCost::new(CONTENT_LENGTH, 1_000).per(1_024));
    /// # let _: axum::Router = axum::Router::new().layer(fixed).layer(by_route).layer(by_size);
    /// ```
    pub fn cost<T: IntoCostOf>(self, cost: T) -> RateLimitLayer<K, B, T::CostOf, F, R, P> {
        let cost = cost.into_cost_of();
        self.rebuilt(|_, on_error, protocol, policy| (cost, on_error, protocol, policy))
    }

    /// Sets the cost of a request by a closure of its [`Head`].
    pub fn cost_fn<G, T>(self, f: G) -> RateLimitLayer<K, B, CostFn<G>, F, R, P>
    where
        G: Fn(&Head<'_>) -> T,
        T: Into<Cost>,
    {
        self.cost(cost_fn(f))
    }

    /// What happens to requests while the backend gives no answer: required if it can fail.
    pub fn on_backend_error<G>(self, on_error: G) -> RateLimitLayer<K, B, C, G, R, P> {
        self.rebuilt(|cost, _, protocol, policy| (cost, on_error, protocol, policy))
    }

    /// How requests are rejected: [`AsError`](crate::response::AsError) for services that do not speak HTTP.
    pub fn protocol<S>(self, protocol: S) -> RateLimitLayer<K, B, C, F, S, P> {
        self.rebuilt(|cost, on_error, _, policy| (cost, on_error, protocol, policy))
    }

    /// The policy is what `f` picks among policies made beforehand, in place of the one given to `new`: tiers. Give
    /// them one name, and a client that changes its tier takes along what it has spent: until the tier that charged it
    /// has been paid back.
    pub fn policy_fn<G>(self, f: G) -> RateLimitLayer<K, B, C, F, R, PolicyFn<G>>
    where
        G: Fn(&Head<'_>, &Key) -> Policy,
    {
        self.with_policy(PolicyFn(f))
    }

    /// The policy is what `policy` says, a [`PolicyOf`](super::PolicyOf) of your own.
    pub fn with_policy<Q>(self, policy: Q) -> RateLimitLayer<K, B, C, F, R, Q> {
        self.rebuilt(|cost, on_error, protocol, _| (cost, on_error, protocol, policy))
    }

    /// The same layer with other parts.
    pub(super) fn rebuilt<D, G, S, Q>(
        self,
        parts: impl FnOnce(C, F, R, P) -> (D, G, S, Q),
    ) -> RateLimitLayer<K, B, D, G, S, Q> {
        let Self {
            policy,
            key,
            backend,
            cost,
            on_error,
            protocol,
            skip_unkeyed,
            max_wait,
            refund_unserved,
        } = self;
        let (cost, on_error, protocol, policy) = parts(cost, on_error, protocol, policy);
        RateLimitLayer {
            policy,
            key,
            backend,
            cost,
            on_error,
            protocol,
            skip_unkeyed,
            max_wait,
            refund_unserved,
        }
    }

    /// Requests wait to be allowed, for up to `max_wait`; by default they do not. Under a policy of buckets they do in
    /// reservations that are reserved at once, first come, first served, across all servers that share the backend; see
    /// [`wait`](crate::wait).
    ///
    /// A request is rejected as soon as it is known that it would wait for longer, or if too many wait already
    /// ([`BackendContext::max_waiters`](crate::backend::BackendContext::max_waiters)). A [`Deadline`](crate::Deadline)
    /// in its extensions and a `grpc-timeout` shorten its wait. While it waits it does not hold the inner service's
    /// readiness, a slot of a `ConcurrencyLimit` say: that is taken afterwards. If its client goes away before its
    /// time, the reservation is given up, and so is what a layer of the same policy around this one has charged.
    ///
    /// Over HTTP/1.1 a client that leaves is not noticed while its request has an unread body of some length; see
    /// [`drain`](crate::drain#clients-that-leave-while-they-wait).
    pub fn wait(mut self, max_wait: impl Into<MaxWait>) -> Self {
        self.max_wait = max_wait.into();
        self
    }

    /// Gives back what a request was charged if it is dropped before the inner service has begun with it: its client
    /// went away while a remote backend was asked, or while the inner service was not ready after a wait. By default
    /// that stays charged.
    pub fn refund_on_disconnect(mut self) -> Self {
        self.refund_unserved = true;
        self
    }

    /// Lets requests without a key through, unlimited; they are rejected by default. Those whose key or address cannot
    /// be read or is there twice, and those that are denied ([`ClientIp`](crate::ClientIp)), are rejected all the same.
    pub fn skip_unkeyed(mut self) -> Self {
        self.skip_unkeyed = true;
        self
    }
}

impl<K, B, C, F, R, P: fmt::Debug> fmt::Debug for RateLimitLayer<K, B, C, F, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
