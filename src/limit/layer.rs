use std::fmt;

use super::policy_of::PolicyFn;
use super::scopes::{LayerScopes, ReplacePolicy};
use crate::backend::Backend;
use crate::cost::{CostFn, IntoCostOf, cost_fn};
use crate::head::Head;
use crate::key::Key;
use crate::limiter::Unspecified;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::Http;
use crate::switch::Switch;
use crate::wait::MaxWait;

/// Limits the rate of requests by key.
///
/// Guide: [getting started](crate::_guide::getting_started).
///
/// `K` extracts the key of a request, and `B` keeps the buckets. The other type parameters have defaults, which methods
/// change: the cost `C`, the failure policy `F`, the protocol `R` and the choice of a policy `P`.
///
/// # Shared buckets
///
/// Clones of a layer share their buckets. Layers share buckets if they have the same policy name, and their backends
/// are clones of each other. `.cost(20)` on a clone raises the cost of a route; the route still uses the same bucket.
///
/// # Nested layers
///
/// Each layer charges a request that reaches it. A request that an inner layer rejects stays charged in the outer
/// layers. For several keys in one decision, such as a user within an organization, use [`within`](Self::within).
///
/// Nested layers of the same policy, key and backend are one limit, and charge a request once:
///
/// - The cost is that of the innermost layer. It charges the difference, or refunds it.
/// - A rejection by the inner layer refunds the whole charge.
/// - The request waits at most as long as one of the layers allows.
/// - The response has the rate-limit fields once.
/// - A request that the outer layer rejects does not reach the inner one. Its `Retry-After` is for the outer cost.
///
/// An inner layer finds the outer charge in the extensions of the request. It does not find it if the outer layer has
/// [`extensions(false)`](Self::extensions), or with the protocol [`AsError`](crate::response::AsError).
///
/// # Failure policy
///
/// A backend that can fail needs a failure policy. Without one the layer does not compile:
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
/// With a failure policy it compiles:
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
/// The service is ready when the inner service is. A request releases the readiness of the inner service, such as a
/// slot of a `ConcurrencyLimit`, when it is rejected, waits for tokens, or waits for a remote backend. An allowed
/// request waits for readiness again. So a slow Redis holds no slots. A memory backend decides at once: the layer calls
/// the service that was ready, and clones nothing.
///
/// With a remote backend, a `LoadShed` around this layer sees a free slot while a request is undecided. Place
/// `LoadShed` inside this layer: `RateLimitLayer`, `LoadShed`, `ConcurrencyLimit`.
#[derive(Clone)]
#[must_use = "a layer has no effect until it wraps a service"]
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
    pub(super) switch: Option<Switch>,
    pub(super) scopes: LayerScopes,
}

impl<K, B: Backend> RateLimitLayer<K, B> {
    /// Creates a layer that applies `policy` to each key, with the state in `backend`. A request costs 1.
    ///
    /// [`key_fn`](crate::key_fn) makes a key extractor from a closure: `key_fn(|head| ..)`.
    pub fn new(policy: Policy, key: K, backend: B) -> Self {
        Self {
            scopes: LayerScopes::new(&policy),
            policy,
            key,
            backend,
            cost: Cost::ONE,
            on_error: Unspecified,
            protocol: Http::default(),
            skip_unkeyed: false,
            max_wait: MaxWait::NONE,
            refund_unserved: false,
            switch: None,
        }
    }
}

impl<K, B, C, F, R, P> RateLimitLayer<K, B, C, F, R, P> {
    /// Sets the cost of a request; 1 by default.
    ///
    /// `cost` is a number, a [`Cost`], [`RouteCosts`](crate::RouteCosts), a [`HeaderCost`](crate::cost::HeaderCost), or
    /// a [`CostOf`](crate::cost::CostOf) of your own that also implements [`IntoCostOf`]. For a closure there is
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
    /// let by_size = limit.cost(HeaderCost::new(CONTENT_LENGTH, 1_000_000).per(1_024));
    /// # let _: axum::Router = axum::Router::new().layer(fixed).layer(by_route).layer(by_size);
    /// ```
    pub fn cost<T: IntoCostOf>(self, cost: T) -> RateLimitLayer<K, B, T::CostOf, F, R, P> {
        let cost = cost.into_cost_of();
        self.rebuilt(|_, on_error, protocol, policy| (cost, on_error, protocol, policy))
    }

    /// Sets the cost of a request by a closure of its [`Head`].
    ///
    /// ```
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(10)), Global, MemoryBackend::new());
    /// let limit = limit.cost_fn(|head| if head.method == "POST" { 5 } else { 1 });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn cost_fn<G, T>(self, f: G) -> RateLimitLayer<K, B, CostFn<G>, F, R, P>
    where
        G: Fn(&Head<'_>) -> T,
        T: Into<Cost>,
    {
        self.cost(cost_fn(f))
    }

    /// Sets the failure policy, such as [`FailurePolicy::FailClosed`](crate::FailurePolicy::FailClosed). It is required
    /// if the backend can fail.
    ///
    /// ```
    /// use tower_sluice::{AnyBackend, FailurePolicy, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let backend = AnyBackend::from_url("memory:")?; // or a URL of Redis
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), backend)
    ///     .on_backend_error(FailurePolicy::FailClosed);
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// # Ok::<(), tower_sluice::backend::BackendError>(())
    /// ```
    pub fn on_backend_error<G>(self, on_error: G) -> RateLimitLayer<K, B, C, G, R, P> {
        self.rebuilt(|cost, _, protocol, policy| (cost, on_error, protocol, policy))
    }

    /// Sets the protocol, which determines how requests are rejected; [`Http`] by default.
    ///
    /// Several layers can use one [`Http`] value. [`AsError`](crate::response::AsError) is for services without HTTP.
    pub fn protocol<S>(self, protocol: S) -> RateLimitLayer<K, B, C, F, S, P> {
        self.rebuilt(|cost, on_error, _, policy| (cost, on_error, protocol, policy))
    }

    /// Chooses the policy of a request by a closure, such as a tier by the plan of a client. It replaces the policy of
    /// [`new`](Self::new).
    ///
    /// Create the policies once, outside of the closure. Give all tiers one name: a client that changes its tier then
    /// keeps the debt of its previous tier, until that debt is refilled.
    ///
    /// ```
    /// # use tower_sluice::{Header, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// let (free, paid) = (Policy::new("api", Quota::per_minute(60)), Policy::new("api", Quota::per_minute(6_000)));
    /// let limit = RateLimitLayer::new(free.clone(), Header::new("x-api-key"), MemoryBackend::new())
    ///     .policy_fn(move |head, _key| if head.headers.contains_key("x-paid") { paid.clone() } else { free.clone() });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn policy_fn<G>(self, f: G) -> RateLimitLayer<K, B, C, F, R, P::Replaced>
    where
        G: Fn(&Head<'_>, &Key) -> Policy,
        P: ReplacePolicy<PolicyFn<G>>,
    {
        self.with_policy(PolicyFn(f))
    }

    /// Chooses the policy of a request by a [`PolicyOf`](super::PolicyOf) of your own.
    pub fn with_policy<Q>(self, policy: Q) -> RateLimitLayer<K, B, C, F, R, P::Replaced>
    where
        P: ReplacePolicy<Q>,
    {
        self.rebuilt(|cost, on_error, protocol, own| {
            (cost, on_error, protocol, own.replace(policy))
        })
    }

    /// Returns the layer with other parts.
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
            switch,
            scopes,
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
            switch,
            scopes,
        }
    }

    /// Returns the layer with another key and policy.
    pub(super) fn rekeyed<L, Q>(
        self,
        key: impl FnOnce(K) -> L,
        policy: impl FnOnce(P) -> Q,
    ) -> RateLimitLayer<L, B, C, F, R, Q> {
        RateLimitLayer {
            policy: policy(self.policy),
            key: key(self.key),
            backend: self.backend,
            cost: self.cost,
            on_error: self.on_error,
            protocol: self.protocol,
            skip_unkeyed: self.skip_unkeyed,
            max_wait: self.max_wait,
            refund_unserved: self.refund_unserved,
            switch: self.switch,
            scopes: self.scopes,
        }
    }

    /// Lets requests wait for at most `max_wait` until they are allowed; no wait by default.
    ///
    /// Under a policy of buckets a request reserves its tokens at once, in order of arrival across all servers that
    /// share the backend. See [`wait`](crate::wait) for windows and for the bounds of the queue.
    ///
    /// - A request is rejected as soon as its wait is known to be longer than `max_wait`, or if
    ///   [`max_waiters`](crate::backend::BackendContext::max_waiters) requests wait already.
    /// - A [`Deadline`](crate::Deadline) in the extensions and the field `grpc-timeout` shorten the wait.
    /// - A waiting request does not hold the readiness of the inner service, such as a slot of a `ConcurrencyLimit`. It
    ///   waits for readiness afterwards.
    /// - If the client disconnects during the wait, the reservation is cancelled. The charge of an outer layer of the
    ///   same policy is refunded.
    ///
    /// Over HTTP/1.1 a server does not notice a disconnect while the request has a longer unread body; see
    /// [`drain`](crate::drain#clients-that-leave-while-they-wait).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(10)), Global, MemoryBackend::new());
    /// let limit = limit.wait(Duration::from_secs(2));
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn wait(mut self, max_wait: impl Into<MaxWait>) -> Self {
        self.max_wait = max_wait.into();
        self
    }

    /// Refunds the charge of a request that is dropped before the inner service is called; by default it stays charged.
    ///
    /// That happens if the client disconnects while a remote backend is asked, or while the inner service is not ready
    /// after a wait.
    ///
    /// ```
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), MemoryBackend::new())
    ///     .refund_on_disconnect();
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn refund_on_disconnect(mut self) -> Self {
        self.refund_unserved = true;
        self
    }

    /// Sets whether the limit is on; true by default. A [`Switch`] turns it off and on at run time.
    ///
    /// While it is off, a request passes without being counted, its key is not read, and its response gets no header
    /// field. The [`Charge`](crate::Charge) of the request is empty.
    ///
    /// ```
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer, Switch};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(10)), Global, MemoryBackend::new());
    /// let at_start_up = limit.clone().enabled(std::env::var_os("NO_LIMITS").is_none());
    /// let switch = Switch::new(true);
    /// let at_run_time = limit.enabled(&switch);
    /// switch.set(false);
    /// # let _: axum::Router = axum::Router::new().layer(at_start_up).layer(at_run_time);
    /// ```
    pub fn enabled(mut self, switch: impl Into<Switch>) -> Self {
        self.switch = Some(switch.into());
        self
    }

    /// Passes requests without a key on, without a limit; they are rejected by default.
    ///
    /// A request with a malformed or repeated key is still rejected, and so is a client in the deny-list of a
    /// [`ClientIp`](crate::ClientIp).
    ///
    /// ```
    /// use tower_sluice::{Header, MemoryBackend, Policy, Quota, RateLimitLayer};
    ///
    /// let policy = Policy::new("api", Quota::per_minute(60));
    /// let limit = RateLimitLayer::new(policy, Header::new("x-api-key"), MemoryBackend::new())
    ///     .skip_unkeyed(); // requests without the header are not limited
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
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
