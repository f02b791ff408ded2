use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::Response;

use super::policy_of::PolicyFn;
use crate::backend::Backend;
use crate::clock::micros_up;
use crate::cost::{CostFn, RouteCosts, cost_fn};
use crate::head::Head;
use crate::key::Key;
use crate::limiter::Unspecified;
use crate::limiter::charge::Charge;
use crate::partition::Partitioner;
use crate::policy::Policy;
use crate::quota::Cost;
#[cfg(feature = "partition-key")]
use crate::response::ShortSecret;
use crate::response::{
    ExistingHeaders, HeaderFormats, Http, OnResponse, PlainText, Problem, ProblemType, RejectFn,
    Rejection, RespondFn,
};
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
    pub(super) partitioner: Option<Partitioner>,
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
            partitioner: None,
        }
    }
}

impl<K, B, C, F, R, P> RateLimitLayer<K, B, C, F, R, P> {
    /// Every request costs `cost`; 1 by default.
    pub fn cost(self, cost: impl Into<Cost>) -> RateLimitLayer<K, B, Cost, F, R, P> {
        self.with_cost(cost.into())
    }

    /// A request costs what `f` says of its [`Head`].
    pub fn cost_fn<G, T>(self, f: G) -> RateLimitLayer<K, B, CostFn<G>, F, R, P>
    where
        G: Fn(&Head<'_>) -> T,
        T: Into<Cost>,
    {
        self.with_cost(cost_fn(f))
    }

    /// A request costs what the table says of its method and route.
    pub fn costs(self, costs: RouteCosts) -> RateLimitLayer<K, B, RouteCosts, F, R, P> {
        self.with_cost(costs)
    }

    /// A request costs what `cost` says, a [`CostOf`](crate::cost::CostOf) of your own.
    pub fn with_cost<D>(self, cost: D) -> RateLimitLayer<K, B, D, F, R, P> {
        self.rebuilt(|_, on_error, protocol, policy| (cost, on_error, protocol, policy))
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
    fn rebuilt<D, G, S, Q>(
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
            partitioner,
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
            partitioner,
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

impl<K, B, C, F, T, H, P> RateLimitLayer<K, B, C, F, Http<T, H>, P> {
    /// How clients are told of the limit: by one format or several; in the fields of draft 11 if nothing else is said.
    ///
    /// ```
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// use tower_sluice::response::{HeaderFormat, Reset};
    ///
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let x = HeaderFormat::XRateLimit { reset: Reset::Epoch };
    /// let by_draft_6 = limit.clone().headers(HeaderFormat::Draft06);
    /// let by_both = limit.headers([HeaderFormat::Draft11, x]);
    /// # let _: axum::Router = axum::Router::new().layer(by_draft_6).layer(by_both);
    /// ```
    pub fn headers(mut self, formats: impl Into<HeaderFormats>) -> Self {
        self.protocol.formats = formats.into();
        self
    }

    /// What the layer does with rate-limit fields and a `Retry-After` that the service has set itself: appends by
    /// default.
    pub fn existing_headers(mut self, existing: ExistingHeaders) -> Self {
        self.protocol.existing = existing;
        self
    }

    /// Whether the pre-flights of browsers (CORS: `OPTIONS` with `Origin` and `Access-Control-Request-Method`) are
    /// counted as well; they are not by default, for they ask on behalf of a request that will be, and bring no cookies
    /// and no API key. A client that is denied is rejected also there.
    ///
    /// **Anybody can write those two fields.** Answer pre-flights in a layer of CORS, before anything dear is done:
    /// then what they get uncounted is worth nothing, and the layer may as well stand around this one. Where `OPTIONS`
    /// reaches a handler (axum's `any`, a proxy), count them, or the limit does not hold for that method.
    pub fn count_preflights(mut self, count: bool) -> Self {
        self.protocol.preflights = count;
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

    /// Whether rate-limit fields are also sent on redirects; they are not by default, a client could stall before it
    /// follows.
    pub fn headers_on_redirects(mut self, on_redirects: bool) -> Self {
        self.protocol.on_redirects = on_redirects;
        self
    }

    /// Whether responses to requests that a [shadow](crate::Policy::shadow) policy would have rejected say so, in
    /// `x-ratelimit-shadow: api`, by the policy's name; they do not by default.
    pub fn shadow_header(mut self, shadow_header: bool) -> Self {
        self.protocol.shadow_header = shadow_header;
        self
    }

    /// Whether the [`Charge`](crate::Charge), which holds the [`Decision`](crate::Decision), is left in the extensions
    /// of requests that pass, and the decision in those of all responses; they are by default. Of nested layers the
    /// innermost is seen in a request, the outermost in a response. A layer without it is not known to those of its
    /// policy within it, and each charges.
    pub fn extensions(mut self, extensions: bool) -> Self {
        self.protocol.extensions = extensions;
        self
    }

    /// Rejections look as `f` says. `Retry-After`, `Cache-Control` and the rate-limit fields are added, to a redirect
    /// only `Cache-Control` (unless [`headers_on_redirects`](Self::headers_on_redirects)). A `Cache-Control` of the
    /// response stays if it has `no-store`, and is replaced otherwise. gRPC requests are rejected as their clients
    /// expect, without asking `f`. The body is anything that [`Bytes`] are made from: text, JSON already written,
    /// bytes; [`respond_fn`](Self::respond_fn) takes the service's own. A page for browsers, and problem details for
    /// all others:
    ///
    /// ```
    /// # use http::Response;
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let limit = limit.reject_fn(|head, rejection| {
    ///     let accepts = head.headers.get("accept").and_then(|accepts| accepts.to_str().ok());
    ///     if !accepts.is_some_and(|accepts| accepts.contains("text/html")) {
    ///         return rejection.problem();
    ///     }
    ///     let mut page = Response::new("<!doctype html><title>Too fast</title><p>Please try again in a moment.".into());
    ///     *page.status_mut() = rejection.status();
    ///     let kind = http::HeaderValue::from_static("text/html; charset=utf-8");
    ///     page.headers_mut().insert("content-type", kind);
    ///     page
    /// });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn reject_fn<G, A>(self, f: G) -> RateLimitLayer<K, B, C, F, Http<RejectFn<G>, H>, P>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
        A: Into<Bytes>,
    {
        self.rebuilt(|cost, on_error, protocol, policy| {
            (cost, on_error, protocol.with_body(RejectFn(f)), policy)
        })
    }

    /// As [`reject_fn`](Self::reject_fn), with a body of the type that the service's own responses have: whatever
    /// `IntoResponse` makes in axum, a template or a file.
    ///
    /// ```
    /// use axum::response::{Html, IntoResponse};
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let limit = limit.respond_fn(|_head, rejection| (rejection.status(), Html("<p>Please try again in a moment.")).into_response());
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn respond_fn<G, A>(self, f: G) -> RateLimitLayer<K, B, C, F, Http<RespondFn<G>, H>, P>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
    {
        self.rebuilt(|cost, on_error, protocol, policy| {
            (cost, on_error, protocol.with_body(RespondFn(f)), policy)
        })
    }

    /// Rejections are a line of plain text, `rate limit exceeded` say.
    pub fn plain_text(self) -> RateLimitLayer<K, B, C, F, Http<PlainText, H>, P> {
        self.rebuilt(|cost, on_error, protocol, policy| {
            let body = PlainText::default();
            (cost, on_error, protocol.with_body(body), policy)
        })
    }

    /// Calls `f` with the head of each response to a request that was let through, and with what the request was
    /// charged: that only failures count, that failures are free, or what a header field of the response says. If the
    /// handler has settled the [`Charge`](crate::Charge) already, that stays. The client is told the numbers of before.
    ///
    /// A request that passed uncounted has a charge too; settling it does nothing. An error of the service, or a client
    /// that has gone, is no response: what was charged stays.
    ///
    /// ```
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let only_failures_count = limit.clone().on_response(|parts, charge| {
    ///     if !parts.status.is_client_error() {
    ///         charge.cancel();
    ///     }
    /// });
    /// let as_the_response_says = limit.cost(10).on_response(|parts, charge| {
    ///     let tokens = parts.headers.get("x-tokens").and_then(|tokens| tokens.to_str().ok()?.parse::<u64>().ok());
    ///     if let Some(tokens) = tokens {
    ///         charge.settle(tokens);
    ///     }
    /// });
    /// # let _: axum::Router = axum::Router::new().layer(only_failures_count).layer(as_the_response_says);
    /// ```
    pub fn on_response<G>(self, f: G) -> RateLimitLayer<K, B, C, F, Http<T, OnResponse<G>>, P>
    where
        G: Fn(&http::response::Parts, &Charge) + Clone,
    {
        self.rebuilt(|cost, on_error, protocol, policy| {
            (cost, on_error, protocol.with_hook(OnResponse(f)), policy)
        })
    }
}

impl<K, B, C, F, H, P> RateLimitLayer<K, B, C, F, Http<Problem, H>, P> {
    /// What problem clients are told they have; [`QuotaExceeded`](ProblemType::QuotaExceeded) by default.
    pub fn problem_type(mut self, kind: ProblemType) -> Self {
        self.protocol.body.kind = kind;
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
