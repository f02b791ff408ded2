use std::fmt;

use super::policy_of::SemaphorePolicyFn;
use crate::backend::PermitBackend;
use crate::cost::{CostFn, IntoCostOf, cost_fn};
use crate::head::Head;
use crate::key::Key;
use crate::limiter::Unspecified;
use crate::policy::SemaphorePolicy;
use crate::quota::Cost;
use crate::response::Http;
use crate::semaphore::{Hold, Semaphore};
use crate::wait::MaxWait;

/// Bounds what a service has in flight at a time, for each key: `K` says whose request it is, `S` keeps who holds a
/// permit ([`MemorySemaphore`](crate::MemorySemaphore), `RedisSemaphore`, or a backend of rate limits).
///
/// Clones share their permits, and so do layers of the same name of [`SemaphorePolicy`] over clones of one backend, and
/// semaphores without Tower. Each layer that a request passes takes a permit for itself: one of the same name within
/// another one takes a second one, and with a capacity of 1 rejects everything. If it [waits](Self::wait), requests
/// that each hold a first one wait for each other, until the bound of the wait: give layers within each other names of
/// their own.
///
/// A backend that can fail asks for a choice, and the compiler says so:
///
/// ```compile_fail,E0277
/// # use tower_sluice::{Global, SemaphorePolicy};
/// # use tower_sluice::concurrency::SemaphoreLayer;
/// # let backend = tower_sluice::AnyBackend::from_url("memory:").unwrap();
/// // error[E0277]: this backend can fail with `BackendError`, and no failure policy is chosen
/// let limit = SemaphoreLayer::new(SemaphorePolicy::new("exports", 5), Global, backend);
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// With one it compiles:
///
/// ```
/// # use tower_sluice::{Global, FailurePolicy, SemaphorePolicy};
/// # use tower_sluice::concurrency::SemaphoreLayer;
/// # let backend = tower_sluice::AnyBackend::from_url("memory:").unwrap();
/// let limit = SemaphoreLayer::new(SemaphorePolicy::new("exports", 5), Global, backend)
///     .on_backend_error(FailurePolicy::FailClosed);
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// # Readiness
///
/// The service is ready when the inner service is. A request that is rejected, that waits, or that waits for the answer
/// of a remote backend releases the inner service's readiness, a slot of a `ConcurrencyLimit` say. Once it has its
/// permit it waits for readiness again. A backend in memory answers at once: the service that was ready is called.
#[derive(Clone)]
#[must_use = "a layer limits nothing until a service is wrapped in it"]
pub struct SemaphoreLayer<K, S, W = Cost, F = Unspecified, R = Http, P = SemaphorePolicy> {
    pub(super) semaphore: Semaphore<S>,
    pub(super) policy: P,
    pub(super) key: K,
    pub(super) weight: W,
    pub(super) on_error: F,
    pub(super) protocol: R,
    pub(super) hold: Hold,
    pub(super) skip_unkeyed: bool,
    pub(super) max_wait: MaxWait,
}

impl<K, S: PermitBackend> SemaphoreLayer<K, S> {
    /// As many requests of each key in flight as there are `policy`, kept in `backend`. A request takes one. A closure
    /// for `key` is made one by [`key_fn`](crate::key_fn): `key_fn(|head| ..)`.
    pub fn new(policy: SemaphorePolicy, key: K, backend: S) -> Self {
        Self {
            semaphore: Semaphore::new(policy.clone(), backend),
            policy,
            key,
            weight: Cost::ONE,
            on_error: Unspecified,
            protocol: Http::default(),
            hold: Hold::Body,
            skip_unkeyed: false,
            max_wait: MaxWait::NONE,
        }
    }
}

impl<K, S, W, F, R, P> SemaphoreLayer<K, S, W, F, R, P> {
    /// Sets how many permits a request takes; 1 by default. 0 takes none, and is never rejected.
    ///
    /// `weight` is a number, [`RouteCosts`](crate::RouteCosts), a [`HeaderCost`](crate::cost::HeaderCost), or a
    /// [`CostOf`](crate::cost::CostOf) of your own that also implements [`IntoCostOf`]. Of a [`Cost`] with several parts
    /// the first one counts. A closure enters by [`weight_fn`](Self::weight_fn).
    pub fn weight<T: IntoCostOf>(self, weight: T) -> SemaphoreLayer<K, S, T::CostOf, F, R, P> {
        let weight = weight.into_cost_of();
        self.rebuilt(|_, on_error, protocol, policy| (weight, on_error, protocol, policy))
    }

    /// Sets how many permits a request takes by a closure of its [`Head`].
    pub fn weight_fn<G>(self, f: G) -> SemaphoreLayer<K, S, CostFn<G>, F, R, P>
    where
        G: Fn(&Head<'_>) -> u64,
    {
        self.weight(cost_fn(f))
    }

    /// What happens to requests while the backend gives no answer: required if it can fail. Those that are let in hold
    /// nothing and are counted ([`BackendContext::unpermitted`](crate::backend::BackendContext::unpermitted)); a
    /// fallback counts those of this process, by the same capacity.
    pub fn on_backend_error<G>(self, on_error: G) -> SemaphoreLayer<K, S, W, G, R, P> {
        self.rebuilt(|weight, _, protocol, policy| (weight, on_error, protocol, policy))
    }

    /// How requests are rejected: [`AsError`](crate::response::AsError) for services that do not speak HTTP. Their
    /// permits end with the answer.
    pub fn protocol<T>(self, protocol: T) -> SemaphoreLayer<K, S, W, F, T, P> {
        self.rebuilt(|weight, on_error, _, policy| (weight, on_error, protocol, policy))
    }

    /// The permits are those that `f` picks, in place of those given to `new`: a capacity for each key. Make them
    /// beforehand, or from those by [`try_capacity`](SemaphorePolicy::try_capacity); with one name, a key whose
    /// capacity is changed keeps what it holds.
    ///
    /// ```
    /// # use tower_sluice::concurrency::SemaphoreLayer;
    /// # use tower_sluice::{Header, MemorySemaphore, SemaphorePolicy};
    /// let (free, paid) = (SemaphorePolicy::new("exports", 1), SemaphorePolicy::new("exports", 10));
    /// let limit = SemaphoreLayer::new(free.clone(), Header::new("x-api-key"), MemorySemaphore::new())
    ///     .policy_fn(move |head, _key| if head.headers.contains_key("x-paid") { paid.clone() } else { free.clone() });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn policy_fn<G>(self, f: G) -> SemaphoreLayer<K, S, W, F, R, SemaphorePolicyFn<G>>
    where
        G: Fn(&Head<'_>, &Key) -> SemaphorePolicy,
    {
        self.with_policy(SemaphorePolicyFn(f))
    }

    /// The permits are those that `policy` says, a [`SemaphorePolicyOf`](super::SemaphorePolicyOf) of your own.
    pub fn with_policy<Q>(self, policy: Q) -> SemaphoreLayer<K, S, W, F, R, Q> {
        self.rebuilt(|weight, on_error, protocol, _| (weight, on_error, protocol, policy))
    }

    /// The same layer with other parts.
    pub(super) fn rebuilt<V, G, T, Q>(
        self,
        parts: impl FnOnce(W, F, R, P) -> (V, G, T, Q),
    ) -> SemaphoreLayer<K, S, V, G, T, Q> {
        let (weight, on_error, protocol, policy) =
            parts(self.weight, self.on_error, self.protocol, self.policy);
        SemaphoreLayer {
            semaphore: self.semaphore,
            policy,
            key: self.key,
            weight,
            on_error,
            protocol,
            hold: self.hold,
            skip_unkeyed: self.skip_unkeyed,
            max_wait: self.max_wait,
        }
    }

    /// Requests wait for a permit, for up to `max_wait`; by default they do not. Those of one process in the order in
    /// which they came; see [`semaphore`](crate::semaphore#waiting).
    ///
    /// A request is rejected at once if too many wait already
    /// ([`BackendContext::max_waiters`](crate::backend::BackendContext::max_waiters)). A [`Deadline`](crate::Deadline)
    /// in its extensions and a `grpc-timeout` shorten its wait. While it waits it does not hold the inner service's
    /// readiness: that is taken afterwards, and the permit is held meanwhile. If its client goes away it leaves the
    /// line.
    ///
    /// Over HTTP/1.1 a client that leaves is not noticed while its request has an unread body of some length; see
    /// [`drain`](crate::drain#clients-that-leave-while-they-wait).
    pub fn wait(mut self, max_wait: impl Into<MaxWait>) -> Self {
        self.max_wait = max_wait.into();
        self
    }

    /// When permits end; with the response's body by default.
    pub fn hold(mut self, hold: Hold) -> Self {
        self.hold = hold;
        self
    }

    /// Lets requests without a key through, without a permit; they are rejected by default.
    pub fn skip_unkeyed(mut self) -> Self {
        self.skip_unkeyed = true;
        self
    }
}

impl<K, S, W, F, R, P: fmt::Debug> fmt::Debug for SemaphoreLayer<K, S, W, F, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphoreLayer")
            .field("policy", &self.policy)
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}
