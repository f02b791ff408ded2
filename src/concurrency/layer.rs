use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;

use super::{Hold, SemaphoreService};
use crate::backend::PermitBackend;
use crate::clock::micros_up;
use crate::cost::{CostFn, cost_fn};
use crate::head::Head;
use crate::key::Key;
use crate::limiter::{HandlesFailure, NoChoice};
use crate::partition::{PartitionKey, Partitioner};
use crate::policy::Permits;
use crate::quota::Cost;
#[cfg(feature = "partition-key")]
use crate::response::ShortSecret;
use crate::response::{
    ExistingHeaders, HeaderFormats, Http, NoHook, PlainText, Refusal, RejectFn, RespondFn,
};
use crate::semaphore::Semaphore;
use crate::wait::MaxWait;

/// Bounds what a service has in flight at a time, for each key: `K` says whose request it is, `S` keeps who holds a permit
/// ([`MemorySemaphore`](crate::MemorySemaphore), `RedisSemaphore`, or a backend of rate limits).
///
/// Clones share their permits, and so do layers of the same name of [`Permits`] over clones of one backend, and semaphores
/// without Tower. Each layer that a request passes takes a permit for itself: one of the same name within another one takes a
/// second one, and with a capacity of 1 refuses everything. If it [waits](Self::wait), requests that each hold a first one wait
/// for each other, until the bound of the wait: give layers within each other names of their own.
///
/// A backend that can fail asks for a choice, and the compiler says so:
///
/// ```compile_fail,E0277
/// # use tower_sluice::{Global, Permits};
/// # use tower_sluice::concurrency::SemaphoreLayer;
/// # let backend = tower_sluice::AnyBackend::from_url("memory:").unwrap();
/// // error[E0277]: this backend can fail with `BackendError`, and nothing says what happens to requests then
/// let limit = SemaphoreLayer::new(Permits::new("exports", 5), Global, backend);
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// With one it compiles:
///
/// ```
/// # use tower_sluice::{Global, OnBackendError, Permits};
/// # use tower_sluice::concurrency::SemaphoreLayer;
/// # let backend = tower_sluice::AnyBackend::from_url("memory:").unwrap();
/// let limit = SemaphoreLayer::new(Permits::new("exports", 5), Global, backend)
///     .on_backend_error(OnBackendError::Deny);
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// # Readiness
///
/// The service is ready when the inner service is. A request that is rejected, that waits, or that waits for the answer of a
/// remote backend releases the inner service's readiness, a slot of a `ConcurrencyLimit` say. Once it has its permit it waits
/// for readiness again. A backend in memory answers at once: the service that was ready is called.
#[derive(Clone)]
#[must_use = "a layer limits nothing until a service is wrapped in it"]
pub struct SemaphoreLayer<K, S, W = Cost, F = NoChoice, R = Http, P = Permits> {
    pub(super) semaphore: Semaphore<S>,
    pub(super) permits: P,
    pub(super) key: K,
    pub(super) weight: W,
    pub(super) on_error: F,
    pub(super) reject: R,
    pub(super) hold: Hold,
    pub(super) skip_unkeyed: bool,
    pub(super) max_wait: MaxWait,
    pub(super) partitioner: Option<Partitioner>,
}

/// Says how many permits a request of type `R` competes for. [`Permits`] are the same for all.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot pick permits for `{R}`",
    note = "use `.permits_fn(|head, key| ..)`"
)]
pub trait PermitsOf<R> {
    /// The permits for `request`, whose key is `key`.
    fn permits(&self, request: &R, key: &Key) -> Permits;
}

impl<R> PermitsOf<R> for Permits {
    fn permits(&self, _: &R, _: &Key) -> Permits {
        self.clone()
    }
}

/// Permits by a closure; see [`SemaphoreLayer::permits_fn`].
#[derive(Clone, Copy)]
pub struct PermitsFn<F>(F);

impl<B, F> PermitsOf<Request<B>> for PermitsFn<F>
where
    F: Fn(&Head<'_>, &Key) -> Permits,
{
    fn permits(&self, request: &Request<B>, key: &Key) -> Permits {
        (self.0)(&Head::from(request), key)
    }
}

impl<F> fmt::Debug for PermitsFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PermitsFn(..)")
    }
}

impl<K, S: PermitBackend> SemaphoreLayer<K, S> {
    /// As many requests of each key in flight as there are `permits`, kept in `backend`. A request takes one. A closure for `key`
    /// is made one by [`key_fn`](crate::key_fn): `key_fn(|head| ..)`.
    pub fn new(permits: Permits, key: K, backend: S) -> Self {
        Self {
            semaphore: Semaphore::new(permits.clone(), backend),
            permits,
            key,
            weight: Cost::ONE,
            on_error: NoChoice,
            reject: Http::default(),
            hold: Hold::Body,
            skip_unkeyed: false,
            max_wait: MaxWait::NONE,
            partitioner: None,
        }
    }
}

impl<K, S, W, F, R, P> SemaphoreLayer<K, S, W, F, R, P> {
    /// Every request counts for so many permits; 1 by default. 0 takes none, and is never refused.
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
        self.rebuilt(|_, on_error, reject, permits| (weight, on_error, reject, permits))
    }

    /// What happens to requests while the backend gives no answer: required if it can fail. Those that are let in hold nothing
    /// and are counted ([`Lobby::let_in_without_permit`](crate::backend::Lobby::let_in_without_permit)); a fallback counts those
    /// of this process, by the same capacity.
    pub fn on_backend_error<G>(self, on_error: G) -> SemaphoreLayer<K, S, W, G, R, P> {
        self.rebuilt(|weight, _, reject, permits| (weight, on_error, reject, permits))
    }

    /// How requests are refused: [`AsError`](crate::response::AsError) for services that do not speak HTTP. Their permits end
    /// with the answer.
    pub fn reject_with<T>(self, reject: T) -> SemaphoreLayer<K, S, W, F, T, P> {
        self.rebuilt(|weight, on_error, _, permits| (weight, on_error, reject, permits))
    }

    /// The permits are those that `f` picks, in place of those given to `new`: a capacity for each key. Make them beforehand, or
    /// from those by [`try_capacity`](Permits::try_capacity); with one name, a key whose capacity is changed keeps what it holds.
    ///
    /// ```
    /// # use tower_sluice::concurrency::SemaphoreLayer;
    /// # use tower_sluice::{Header, MemorySemaphore, Permits};
    /// let (free, paid) = (Permits::new("exports", 1), Permits::new("exports", 10));
    /// let limit = SemaphoreLayer::new(free.clone(), Header::new("x-api-key"), MemorySemaphore::new())
    ///     .permits_fn(move |head, _key| if head.headers.contains_key("x-paid") { paid.clone() } else { free.clone() });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn permits_fn<G>(self, f: G) -> SemaphoreLayer<K, S, W, F, R, PermitsFn<G>>
    where
        G: Fn(&Head<'_>, &Key) -> Permits,
    {
        self.with_permits(PermitsFn(f))
    }

    /// The permits are those that `permits` says, a [`PermitsOf`] of your own.
    pub fn with_permits<Q>(self, permits: Q) -> SemaphoreLayer<K, S, W, F, R, Q> {
        self.rebuilt(|weight, on_error, reject, _| (weight, on_error, reject, permits))
    }

    /// What a client may be told of its key.
    pub(super) fn share_of(&self, key: &Key) -> Option<PartitionKey> {
        self.partitioner.as_ref().map(|by| by.of(key))
    }

    /// The same layer with other parts.
    fn rebuilt<V, G, T, Q>(
        self,
        parts: impl FnOnce(W, F, R, P) -> (V, G, T, Q),
    ) -> SemaphoreLayer<K, S, V, G, T, Q> {
        let (weight, on_error, reject, permits) =
            parts(self.weight, self.on_error, self.reject, self.permits);
        SemaphoreLayer {
            semaphore: self.semaphore,
            permits,
            key: self.key,
            weight,
            on_error,
            reject,
            hold: self.hold,
            skip_unkeyed: self.skip_unkeyed,
            max_wait: self.max_wait,
            partitioner: self.partitioner,
        }
    }

    /// Requests wait for a permit, for up to `max_wait`; by default they do not. Those of one process in the order in which they
    /// came; see [`semaphore`](crate::semaphore#waiting).
    ///
    /// A request is refused at once if too many wait already
    /// ([`Lobby::max_waiters`](crate::backend::Lobby::max_waiters)). A [`Deadline`](crate::Deadline) in its extensions and a
    /// `grpc-timeout` shorten its wait. While it waits it does not hold the inner service's readiness: that is taken afterwards,
    /// and the permit is held meanwhile. If its client goes away it leaves the line.
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

    /// Lets requests without a key through, without a permit; they are refused by default.
    pub fn skip_unkeyed(mut self) -> Self {
        self.skip_unkeyed = true;
        self
    }
}

impl<K, S, W, F, T, P> SemaphoreLayer<K, S, W, F, Http<T>, P> {
    /// How clients are told of the limit; by default in the fields of draft 11, the only format that knows of concurrency.
    pub fn headers(mut self, formats: impl Into<HeaderFormats>) -> Self {
        self.reject.formats = formats.into();
        self
    }

    /// Tells those who are refused to come back up to so much later than they could, each another time: so that they do not all
    /// come at once. Never sooner. It is added to `Retry-After`, and to what gRPC clients are told; not to the fields of a format.
    pub fn retry_after_jitter(mut self, most: Duration) -> Self {
        self.reject.jitter = micros_up(most);
        self
    }

    /// Tells clients which share of the limit is their own: the parameter `pk` in the fields of draft 11, a keyed hash of the key
    /// (HMAC with SHA-256, the first half). Servers with the same secret tell the same. The key itself is never told.
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

    /// What the layer does with rate-limit fields and a `Retry-After` that the service has set itself: appends by default.
    pub fn existing_headers(mut self, existing: ExistingHeaders) -> Self {
        self.reject.existing = existing;
        self
    }

    /// Whether the pre-flights of browsers take permits as well; they do not by default. See
    /// [`RateLimitLayer::count_preflights`](crate::RateLimitLayer::count_preflights).
    pub fn count_preflights(mut self, count: bool) -> Self {
        self.reject.preflights = count;
        self
    }

    /// Whether rate-limit fields are also sent on redirects; they are not by default, a client could stall before it follows.
    pub fn headers_on_redirects(mut self, on_redirects: bool) -> Self {
        self.reject.on_redirects = on_redirects;
        self
    }

    /// Whether the [`HeldPermit`](super::HeldPermit) is left in the extensions of requests that pass, and the
    /// [`Decision`](crate::Decision) in those of all responses; they are by default.
    pub fn extensions(mut self, extensions: bool) -> Self {
        self.reject.extensions = extensions;
        self
    }

    /// Refusals look as `f` says, as for [`RateLimitLayer::reject_fn`](crate::RateLimitLayer::reject_fn).
    pub fn reject_fn<G, A>(self, f: G) -> SemaphoreLayer<K, S, W, F, Http<RejectFn<G>, NoHook>, P>
    where
        G: Fn(&Head<'_>, &Refusal) -> Response<A> + Clone,
        A: Into<Bytes>,
    {
        self.rebuilt(|weight, on_error, reject, permits| {
            (weight, on_error, reject.with_body(RejectFn(f)), permits)
        })
    }

    /// Refusals look as `f` says, with a body of the service's own type, as for
    /// [`RateLimitLayer::respond_fn`](crate::RateLimitLayer::respond_fn).
    pub fn respond_fn<G, A>(self, f: G) -> SemaphoreLayer<K, S, W, F, Http<RespondFn<G>, NoHook>, P>
    where
        G: Fn(&Head<'_>, &Refusal) -> Response<A> + Clone,
    {
        self.rebuilt(|weight, on_error, reject, permits| {
            (weight, on_error, reject.with_body(RespondFn(f)), permits)
        })
    }

    /// Refusals are a line of plain text, `too many requests in flight` say.
    pub fn plain_text(self) -> SemaphoreLayer<K, S, W, F, Http<PlainText, NoHook>, P> {
        self.rebuilt(|weight, on_error, reject, permits| {
            let body = PlainText::default();
            (weight, on_error, reject.with_body(body), permits)
        })
    }
}

impl<I, K, S, W, F, R, P> Layer<I> for SemaphoreLayer<K, S, W, F, R, P>
where
    K: Clone,
    S: PermitBackend,
    W: Clone,
    F: HandlesFailure<S::Error>, // here, so that the compiler names the missing choice
    R: Clone,
    P: Clone,
{
    type Service = SemaphoreService<I, K, S, W, F, R, P>;

    fn layer(&self, inner: I) -> Self::Service {
        SemaphoreService {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

impl<K, S, W, F, R, P: fmt::Debug> fmt::Debug for SemaphoreLayer<K, S, W, F, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphoreLayer")
            .field("permits", &self.permits)
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}
