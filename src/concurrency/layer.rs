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
use crate::switch::Switch;
use crate::wait::MaxWait;

/// Bounds the requests in flight by key.
///
/// Guide: [limit what is in flight](crate::_guide::concurrency).
///
/// `K` extracts the key of a request, and `S` keeps the permits: [`MemorySemaphore`](crate::MemorySemaphore),
/// `RedisSemaphore`, or a backend of rate limits. The other type parameters have defaults, which methods change: the
/// weight `W`, the failure policy `F`, the protocol `R` and the choice of a policy `P`.
///
/// # Shared permits
///
/// Clones of a layer share their permits. So do layers and semaphores with the same policy name, if their backends are
/// clones of each other.
///
/// Nested layers take one permit each. Give them different names. Two nested layers of one name and a capacity of 1
/// reject every request. If such layers [wait](Self::wait), requests with one permit each wait for each other until
/// their bound.
///
/// # Failure policy
///
/// A backend that can fail needs a failure policy. Without one the layer does not compile:
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
/// With a failure policy it compiles:
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
/// The service is ready when the inner service is. A request releases the readiness of the inner service, such as a
/// slot of a `ConcurrencyLimit`, when it is rejected, waits for a permit, or waits for a remote backend. A request with
/// a permit waits for readiness again. A memory backend decides at once, and the layer calls the service that was
/// ready.
#[derive(Clone)]
#[must_use = "a layer has no effect until it wraps a service"]
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
    /// Creates a layer that applies `policy` to each key, with the permits in `backend`. A request takes one permit.
    ///
    /// [`key_fn`](crate::key_fn) makes a key extractor from a closure: `key_fn(|head| ..)`.
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
    /// Sets how many permits a request takes; 1 by default. With 0 it takes none and is never rejected.
    ///
    /// `weight` is a number, [`RouteCosts`](crate::RouteCosts), a [`HeaderCost`](crate::cost::HeaderCost), or a
    /// [`CostOf`](crate::cost::CostOf) of your own that also implements [`IntoCostOf`]. Of a [`Cost`] with several
    /// parts the first one counts. For a closure there is [`weight_fn`](Self::weight_fn).
    ///
    /// ```
    /// # use tower_sluice::{Header, MemorySemaphore, RouteCosts, SemaphoreLayer, SemaphorePolicy};
    /// # let policy = SemaphorePolicy::new("exports", 8);
    /// # let limit = SemaphoreLayer::new(policy, Header::new("x-api-key"), MemorySemaphore::new());
    /// let limit = limit.weight(RouteCosts::new().route("/export", 4));
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn weight<T: IntoCostOf>(self, weight: T) -> SemaphoreLayer<K, S, T::CostOf, F, R, P> {
        let weight = weight.into_cost_of();
        self.rebuilt(|_, on_error, protocol, policy| (weight, on_error, protocol, policy))
    }

    /// Sets how many permits a request takes by a closure of its [`Head`].
    ///
    /// ```
    /// # use tower_sluice::{Header, MemorySemaphore, SemaphoreLayer, SemaphorePolicy};
    /// # let policy = SemaphorePolicy::new("exports", 8);
    /// # let limit = SemaphoreLayer::new(policy, Header::new("x-api-key"), MemorySemaphore::new());
    /// let limit = limit.weight_fn(|head| if head.path().ends_with("/large") { 4 } else { 1 });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn weight_fn<G>(self, f: G) -> SemaphoreLayer<K, S, CostFn<G>, F, R, P>
    where
        G: Fn(&Head<'_>) -> u64,
    {
        self.weight(cost_fn(f))
    }

    /// Sets the failure policy, such as [`FailurePolicy::FailClosed`](crate::FailurePolicy::FailClosed). It is required
    /// if the backend can fail.
    ///
    /// With [`FailOpen`](crate::FailurePolicy::FailOpen) requests continue without a permit, and are counted in
    /// [`BackendStats::unpermitted`](crate::backend::BackendStats::unpermitted). A fallback bounds the requests of this
    /// process by the same capacity.
    pub fn on_backend_error<G>(self, on_error: G) -> SemaphoreLayer<K, S, W, G, R, P> {
        self.rebuilt(|weight, _, protocol, policy| (weight, on_error, protocol, policy))
    }

    /// Sets the protocol, which determines how requests are rejected; [`Http`] by default.
    ///
    /// Several layers can use one [`Http`] value. [`AsError`](crate::response::AsError) is for services without HTTP;
    /// it releases a permit with the response.
    pub fn protocol<T>(self, protocol: T) -> SemaphoreLayer<K, S, W, F, T, P> {
        self.rebuilt(|weight, on_error, _, policy| (weight, on_error, protocol, policy))
    }

    /// Chooses the policy of a request by a closure, such as a capacity for each key. It replaces the policy of
    /// [`new`](Self::new).
    ///
    /// Create the policies once, or derive them by [`try_capacity`](SemaphorePolicy::try_capacity). Give all of them
    /// one name: a key whose capacity changes then keeps its permits.
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

    /// Chooses the policy of a request by a [`SemaphorePolicyOf`](super::SemaphorePolicyOf) of your own.
    pub fn with_policy<Q>(self, policy: Q) -> SemaphoreLayer<K, S, W, F, R, Q> {
        self.rebuilt(|weight, on_error, protocol, _| (weight, on_error, protocol, policy))
    }

    /// Returns the layer with other parts.
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

    /// Lets requests wait for at most `max_wait` for a permit; no wait by default.
    ///
    /// The waiters of one process are served in order of arrival; see [`semaphore`](crate::semaphore#waiting).
    ///
    /// - A request is rejected at once if [`max_waiters`](crate::backend::BackendContext::max_waiters) requests wait
    ///   already.
    /// - A [`Deadline`](crate::Deadline) in the extensions and the field `grpc-timeout` shorten the wait.
    /// - A waiting request does not hold the readiness of the inner service. It waits for readiness afterwards, and
    ///   holds its permit meanwhile.
    /// - A request whose client disconnects leaves the queue.
    ///
    /// Over HTTP/1.1 a server does not notice a disconnect while the request has a longer unread body; see
    /// [`drain`](crate::drain#clients-that-leave-while-they-wait).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_sluice::{Header, MemorySemaphore, SemaphoreLayer, SemaphorePolicy};
    /// # let policy = SemaphorePolicy::new("exports", 8);
    /// # let limit = SemaphoreLayer::new(policy, Header::new("x-api-key"), MemorySemaphore::new());
    /// let limit = limit.wait(Duration::from_secs(2));
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn wait(mut self, max_wait: impl Into<MaxWait>) -> Self {
        self.max_wait = max_wait.into();
        self
    }

    /// Sets when a permit is released; with the response body by default.
    ///
    /// ```
    /// use tower_sluice::concurrency::Hold;
    /// use tower_sluice::{MemorySemaphore, PeerIp, SemaphoreLayer, SemaphorePolicy};
    ///
    /// let renders = SemaphoreLayer::new(SemaphorePolicy::new("renders", 8), PeerIp::new(), MemorySemaphore::new())
    ///     .hold(Hold::Head); // the response's body does not count
    /// # let _: axum::Router = axum::Router::new().layer(renders);
    /// ```
    pub fn hold(mut self, hold: Hold) -> Self {
        self.hold = hold;
        self
    }

    /// Sets whether the limit is on; true by default. A [`Switch`] turns it off and on at run time.
    ///
    /// While it is off, a request passes without a permit, its key is not read, and its response gets no header field.
    /// The [`HeldPermit`](crate::concurrency::HeldPermit) of the request is empty.
    ///
    /// ```
    /// # use tower_sluice::{Header, MemorySemaphore, SemaphoreLayer, SemaphorePolicy, Switch};
    /// # let policy = SemaphorePolicy::new("exports", 8);
    /// # let limit = SemaphoreLayer::new(policy, Header::new("x-api-key"), MemorySemaphore::new());
    /// let switch = Switch::new(true);
    /// let limit = limit.enabled(&switch);
    /// switch.set(false);
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn enabled(mut self, switch: impl Into<Switch>) -> Self
    where
        S: PermitBackend,
    {
        self.semaphore = self.semaphore.enabled(switch);
        self
    }

    /// Passes requests without a key on, without a permit; they are rejected by default.
    ///
    /// A request with a malformed or repeated key is still rejected, and so is a client in the deny-list of a
    /// [`ClientIp`](crate::ClientIp).
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
