use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::Response;

use super::policy_of::SemaphorePolicyFn;
use crate::backend::PermitBackend;
use crate::clock::micros_up;
use crate::cost::{CostFn, cost_fn};
use crate::head::Head;
use crate::key::Key;
use crate::limiter::Unspecified;
use crate::partition::{PartitionKey, Partitioner};
use crate::policy::SemaphorePolicy;
use crate::quota::Cost;
#[cfg(feature = "partition-key")]
use crate::response::ShortSecret;
use crate::response::{
    ExistingHeaders, HeaderFormats, Http, NoHook, PlainText, RejectFn, Rejection, RespondFn,
};
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
    pub(super) partitioner: Option<Partitioner>,
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
            partitioner: None,
        }
    }
}

impl<K, S, W, F, R, P> SemaphoreLayer<K, S, W, F, R, P> {
    /// Every request counts for so many permits; 1 by default. 0 takes none, and is never rejected.
    pub fn weight(self, weight: u64) -> SemaphoreLayer<K, S, Cost, F, R, P> {
        self.with_weight(Cost::from(weight))
    }

    /// A request counts for as many permits as `f` says of its [`Head`].
    pub fn weight_fn<G>(self, f: G) -> SemaphoreLayer<K, S, CostFn<G>, F, R, P>
    where
        G: Fn(&Head<'_>) -> u64,
    {
        self.with_weight(cost_fn(f))
    }

    /// A request counts for as many permits as `weight` says: a [`RouteCosts`](crate::RouteCosts), or a
    /// [`CostOf`](crate::cost::CostOf) of your own. Of a cost with several parts the first one counts.
    pub fn with_weight<V>(self, weight: V) -> SemaphoreLayer<K, S, V, F, R, P> {
        self.rebuilt(|_, on_error, protocol, policy| (weight, on_error, protocol, policy))
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

    /// What a client may be told of its key.
    pub(super) fn partition_key_of(&self, key: &Key) -> Option<PartitionKey> {
        self.partitioner.as_ref().map(|by| by.partition_key(key))
    }

    /// The same layer with other parts.
    fn rebuilt<V, G, T, Q>(
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
            partitioner: self.partitioner,
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

impl<K, S, W, F, T, P> SemaphoreLayer<K, S, W, F, Http<T>, P> {
    /// How clients are told of the limit; by default in the fields of draft 11, the only format that knows of
    /// concurrency.
    pub fn headers(mut self, formats: impl Into<HeaderFormats>) -> Self {
        self.protocol.formats = formats.into();
        self
    }

    /// Tells those who are rejected to come back up to so much later than they could, each another time: so that they
    /// do not all come at once. Never sooner. It is added to `Retry-After`, and to what gRPC clients are told; not to
    /// the fields of a format.
    pub fn retry_after_jitter(mut self, most: Duration) -> Self {
        self.protocol.jitter = micros_up(most);
        self
    }

    /// Tells clients which share of the limit is their own: the parameter `pk` in the fields of draft 11, a keyed hash
    /// of the key (HMAC with SHA-256, the first half). Servers with the same secret tell the same. The key itself is
    /// never told.
    ///
    /// # Panics
    ///
    /// Where [`try_partition_key`](Self::try_partition_key) errs, with the same sentence.
    #[cfg(feature = "partition-key")]
    #[cfg_attr(docsrs, doc(cfg(feature = "partition-key")))]
    pub fn partition_key(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.partitioner = Some(Partitioner::new(secret.as_ref()));
        self
    }

    /// As [`partition_key`](Self::partition_key), with a secret that comes from outside.
    ///
    /// # Errors
    ///
    /// If the secret has less than 16 bytes: who knows a key could find it by trying.
    #[cfg(feature = "partition-key")]
    #[cfg_attr(docsrs, doc(cfg(feature = "partition-key")))]
    pub fn try_partition_key(mut self, secret: impl AsRef<[u8]>) -> Result<Self, ShortSecret> {
        self.partitioner = Some(Partitioner::try_new(secret.as_ref())?);
        Ok(self)
    }

    /// What the layer does with rate-limit fields and a `Retry-After` that the service has set itself: appends by
    /// default.
    pub fn existing_headers(mut self, existing: ExistingHeaders) -> Self {
        self.protocol.existing = existing;
        self
    }

    /// Whether the pre-flights of browsers take permits as well; they do not by default. See
    /// [`RateLimitLayer::count_preflights`](crate::RateLimitLayer::count_preflights).
    pub fn count_preflights(mut self, count: bool) -> Self {
        self.protocol.preflights = count;
        self
    }

    /// Whether rate-limit fields are also sent on redirects; they are not by default, a client could stall before it
    /// follows.
    pub fn headers_on_redirects(mut self, on_redirects: bool) -> Self {
        self.protocol.on_redirects = on_redirects;
        self
    }

    /// Whether the [`HeldPermit`](super::HeldPermit) is left in the extensions of requests that pass, and the
    /// [`Decision`](crate::Decision) in those of all responses; they are by default.
    pub fn extensions(mut self, extensions: bool) -> Self {
        self.protocol.extensions = extensions;
        self
    }

    /// Rejections look as `f` says, as for [`RateLimitLayer::reject_fn`](crate::RateLimitLayer::reject_fn).
    pub fn reject_fn<G, A>(self, f: G) -> SemaphoreLayer<K, S, W, F, Http<RejectFn<G>, NoHook>, P>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
        A: Into<Bytes>,
    {
        self.rebuilt(|weight, on_error, protocol, policy| {
            (weight, on_error, protocol.with_body(RejectFn(f)), policy)
        })
    }

    /// Rejections look as `f` says, with a body of the service's own type, as for
    /// [`RateLimitLayer::respond_fn`](crate::RateLimitLayer::respond_fn).
    pub fn respond_fn<G, A>(self, f: G) -> SemaphoreLayer<K, S, W, F, Http<RespondFn<G>, NoHook>, P>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
    {
        self.rebuilt(|weight, on_error, protocol, policy| {
            (weight, on_error, protocol.with_body(RespondFn(f)), policy)
        })
    }

    /// Rejections are a line of plain text, `too many requests in flight` say.
    pub fn plain_text(self) -> SemaphoreLayer<K, S, W, F, Http<PlainText, NoHook>, P> {
        self.rebuilt(|weight, on_error, protocol, policy| {
            let body = PlainText::default();
            (weight, on_error, protocol.with_body(body), policy)
        })
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
