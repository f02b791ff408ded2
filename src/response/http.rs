use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;

use super::body_mode::{DefaultBodyMode, WrapBody};
use super::existing::ExistingHeaders;
use super::format::HeaderFormats;
use super::hook::NoHook;
use super::observer::RejectionObserver;
use super::problem::ProblemType;
use super::rejection::Rejection;
use super::rejection_body::{PlainText, Problem, RejectFn, RespondFn};
use crate::clock::micros_up;
use crate::head::Head;
use crate::partition::Partitioner;
#[cfg(feature = "partition-key")]
use crate::partition::ShortSecret;

/// The protocol of HTTP services: which header fields clients see, and how requests are rejected.
///
/// A rejection is a response with status 429 and problem details by default. gRPC requests are rejected as gRPC clients
/// expect. The error of the inner service passes through unchanged. Its body becomes one of axum with the feature
/// `axum`, and a [`ResponseBody`](super::ResponseBody) otherwise; see [`wrap_body`](Self::wrap_body).
///
/// Both layers use it by default, and have a method of the same name for each setting that applies to them. To
/// configure several layers alike, build one value and give it to each:
///
/// ```
/// use std::time::Duration;
/// use tower_sluice::response::{HeaderFormat, Http, Reset};
/// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer, SemaphoreLayer, SemaphorePolicy};
///
/// let http = Http::new()
///     .headers([HeaderFormat::Draft11, HeaderFormat::XRateLimit { reset: Reset::Epoch }])
///     .retry_after_jitter(Duration::from_secs(2))
///     .plain_text();
/// let backend = MemoryBackend::new();
/// let rate = RateLimitLayer::new(Policy::new("api", Quota::per_second(10)), PeerIp::new(), backend.clone())
///     .protocol(http.clone());
/// let in_flight = SemaphoreLayer::new(SemaphorePolicy::new("in-flight", 4), PeerIp::new(), backend).protocol(http);
/// # let _: axum::Router = axum::Router::new().layer(rate).layer(in_flight);
/// ```
#[derive(Clone, Debug)]
pub struct Http<F = Problem, H = NoHook, M = DefaultBodyMode> {
    pub(super) formats: HeaderFormats,
    pub(super) existing: ExistingHeaders,
    /// The name of the quota to show in a format with room for one.
    pub(super) shown: Option<Arc<str>>,
    pub(super) on_redirects: bool,
    /// Whether preflights are counted.
    pub(super) preflights: bool,
    pub(super) extensions: bool,
    pub(super) response_extensions: bool,
    pub(super) shadow_header: bool,
    /// The longest delay that is added to `Retry-After`, in µs.
    pub(super) jitter: u64,
    pub(super) partitioner: Option<Partitioner>,
    pub(super) observer: Option<RejectionObserver>,
    pub(super) body: F,
    pub(super) hook: H,
    pub(super) body_mode: M,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            formats: HeaderFormats::default(),
            existing: ExistingHeaders::default(),
            shown: None,
            on_redirects: false,
            preflights: false,
            extensions: true,
            response_extensions: false,
            shadow_header: false,
            jitter: 0,
            partitioner: None,
            observer: None,
            body: Problem::default(),
            hook: NoHook,
            body_mode: DefaultBodyMode::default(),
        }
    }
}

impl Http {
    /// Creates the default protocol: the fields of draft 11, problem details, and no jitter.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<F, H, M> Http<F, H, M> {
    /// Sets the formats of the rate-limit fields; [`HeaderFormat::Draft11`](super::HeaderFormat::Draft11) by default.
    ///
    /// A [`SemaphoreLayer`](crate::SemaphoreLayer) writes only the fields of draft 11, the one format that has a unit
    /// for requests in flight.
    ///
    /// ```
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// use tower_sluice::response::{HeaderFormat, Http, Reset};
    ///
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let x = HeaderFormat::XRateLimit { reset: Reset::Epoch };
    /// let draft_6 = Http::new().headers(HeaderFormat::Draft06);
    /// let both = Http::new().headers([HeaderFormat::Draft11, x]);
    /// # let _: axum::Router = axum::Router::new().layer(limit.clone().protocol(draft_6)).layer(limit.protocol(both));
    /// ```
    #[must_use]
    pub fn headers(mut self, formats: impl Into<HeaderFormats>) -> Self {
        self.formats = formats.into();
        self
    }

    /// Sets the quota that formats with room for one limit show: drafts 06 and 07, and `X-RateLimit-*`.
    ///
    /// By default they show the quota that denies for longest or, if all quotas allow, has the smallest share left. So
    /// the shown quota can change from response to response. A quota with a name is always shown, also while another
    /// one denies; `Retry-After` is that of the denial. A policy without a quota of this name shows its tightest.
    ///
    /// ```
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// use tower_sluice::response::{HeaderFormat, Reset};
    ///
    /// let policy = Policy::new("api", Quota::per_second(10)).and("daily", Quota::per_day(10_000));
    /// let limit = RateLimitLayer::new(policy, Global, MemoryBackend::new())
    ///     .headers(HeaderFormat::XRateLimit { reset: Reset::Epoch })
    ///     .shown_quota("daily");
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    #[must_use]
    pub fn shown_quota(mut self, name: &str) -> Self {
        self.shown = Some(name.into());
        self
    }

    /// Sets how the layer treats rate-limit fields and a `Retry-After` that the service has set itself.
    /// [`ExistingHeaders::Append`] by default.
    #[must_use]
    pub fn existing_headers(mut self, existing: ExistingHeaders) -> Self {
        self.existing = existing;
        self
    }

    /// Sets whether CORS preflights of browsers are counted; false by default.
    ///
    /// A preflight is an `OPTIONS` request with `Origin` and `Access-Control-Request-Method`. It precedes the request
    /// that is counted, and carries no cookies and no API key. A client in a deny list is rejected in any case.
    ///
    /// **Any client can send these two fields.** Answer preflights in a CORS layer, before any expensive work. If
    /// `OPTIONS` reaches a handler (axum's `any`, a proxy), count them: otherwise the limit does not hold for that
    /// method.
    #[must_use]
    pub fn count_preflights(mut self, count: bool) -> Self {
        self.preflights = count;
        self
    }

    /// Adds a random delay of at most `max` to `Retry-After`, so that rejected clients do not return all at once; zero
    /// by default.
    ///
    /// The delay never shortens a wait. It applies to what gRPC clients receive, and not to the rate-limit fields.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::response::Http;
    ///
    /// let http = Http::new().retry_after_jitter(Duration::from_secs(2));
    /// # let _ = http;
    /// ```
    #[must_use]
    pub fn retry_after_jitter(mut self, max: Duration) -> Self {
        self.jitter = micros_up(max);
        self
    }

    /// Adds the partition key to the fields of draft 11, as parameter `pk`: a keyed hash of the request's key.
    ///
    /// The hash is the first half of an HMAC with SHA-256. Servers with the same secret send the same hash. The key
    /// itself is never sent.
    ///
    /// # Panics
    ///
    /// Panics if [`try_partition_key`](Self::try_partition_key) would return an error.
    #[cfg(feature = "partition-key")]
    #[cfg_attr(docsrs, doc(cfg(feature = "partition-key")))]
    #[must_use]
    pub fn partition_key(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.partitioner = Some(Partitioner::new(secret.as_ref()));
        self
    }

    /// Adds the partition key, as [`partition_key`](Self::partition_key) does, with a secret from a configuration.
    ///
    /// # Errors
    ///
    /// Returns an error if the secret has fewer than 16 bytes. A client that knows a key could find a shorter secret.
    #[cfg(feature = "partition-key")]
    #[cfg_attr(docsrs, doc(cfg(feature = "partition-key")))]
    pub fn try_partition_key(mut self, secret: impl AsRef<[u8]>) -> Result<Self, ShortSecret> {
        self.partitioner = Some(Partitioner::try_new(secret.as_ref())?);
        Ok(self)
    }

    /// Sets whether redirects carry rate-limit fields; false by default, because a client could wait before it follows.
    #[must_use]
    pub fn headers_on_redirects(mut self, on_redirects: bool) -> Self {
        self.on_redirects = on_redirects;
        self
    }

    /// Sets whether a response names the shadow policies ([`Policy::shadow`](crate::Policy::shadow),
    /// [`SemaphorePolicy::shadow`](crate::SemaphorePolicy::shadow)) that would have rejected its request, in the field
    /// `x-ratelimit-shadow`; false by default.
    #[must_use]
    pub fn shadow_header(mut self, shadow_header: bool) -> Self {
        self.shadow_header = shadow_header;
        self
    }

    /// Sets whether a request that continues carries the [`Charge`](crate::Charge) or the
    /// [`HeldPermit`](crate::concurrency::HeldPermit) in its extensions; true by default.
    ///
    /// Of nested layers, the request shows the innermost charge. An outer rate limit without extensions is unknown to
    /// inner layers of the same policy, and each of them charges.
    #[must_use]
    pub fn extensions(mut self, extensions: bool) -> Self {
        self.extensions = extensions;
        self
    }

    /// Sets whether a response carries the [`Decision`](crate::Decision) in its extensions, for middleware around the
    /// layer; false by default, because it takes two allocations.
    ///
    /// A rejection without a key carries its [`KeyError`](crate::key::KeyError), and one without a cost its
    /// [`CostError`](crate::cost::CostError). Of nested layers with this setting, the
    /// response shows the outermost decision.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use tower::{Service, ServiceBuilder, ServiceExt};
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// use tower_sluice::Decision;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_hour(7)), Global, MemoryBackend::new());
    /// let mut service = ServiceBuilder::new()
    ///     .layer(limit.response_extensions(true))
    ///     .service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) });
    /// let response = service.ready().await?.call(Request::new(())).await?;
    /// let decision = response.extensions().get::<Decision>().ok_or("no decision")?;
    /// assert_eq!(decision.snapshot().remaining(), 6);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn response_extensions(mut self, response_extensions: bool) -> Self {
        self.response_extensions = response_extensions;
        self
    }

    /// Makes rejections with a closure, whose body is text or bytes.
    ///
    /// The layer adds `Retry-After`, `Cache-Control` and the rate-limit fields. A redirect gets only `Cache-Control`,
    /// unless [`headers_on_redirects`](Self::headers_on_redirects) is set. A `Cache-Control` of the closure stays if it
    /// contains `no-store`, and is replaced otherwise. The closure is not called for gRPC requests.
    ///
    /// The body is any type that converts to [`Bytes`]. [`respond_fn`](Self::respond_fn) takes the body type of the
    /// service. This example has a page for browsers, and problem details for other clients:
    ///
    /// ```
    /// # use http::Response;
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// use tower_sluice::response::Http;
    ///
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let http = Http::new().reject_fn(|head, rejection| {
    ///     let accepts = head.headers.get("accept").and_then(|accepts| accepts.to_str().ok());
    ///     if !accepts.is_some_and(|accepts| accepts.contains("text/html")) {
    ///         return rejection.problem();
    ///     }
    ///     let mut page = Response::new("<!doctype html><title>Too fast</title><p>Please try again later.".into());
    ///     *page.status_mut() = rejection.status();
    ///     let kind = http::HeaderValue::from_static("text/html; charset=utf-8");
    ///     page.headers_mut().insert("content-type", kind);
    ///     page
    /// });
    /// # let _: axum::Router = axum::Router::new().layer(limit.protocol(http));
    /// ```
    #[must_use]
    pub fn reject_fn<G, A>(self, f: G) -> Http<RejectFn<G>, H, M>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
        A: Into<Bytes>,
    {
        self.with_body(RejectFn(f))
    }

    /// Makes rejections with a closure, whose body has the type of the service's own bodies.
    ///
    /// In axum that is the result of `IntoResponse`, such as a template or a file. The layer adds the same fields as
    /// for [`reject_fn`](Self::reject_fn).
    ///
    /// ```
    /// use axum::response::{Html, IntoResponse};
    /// use tower_sluice::response::Http;
    ///
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let http = Http::new()
    ///     .respond_fn(|_head, rejection| (rejection.status(), Html("<p>Please try again later.")).into_response());
    /// # let _: axum::Router = axum::Router::new().layer(limit.protocol(http));
    /// ```
    #[must_use]
    pub fn respond_fn<G, A>(self, f: G) -> Http<RespondFn<G>, H, M>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
    {
        self.with_body(RespondFn(f))
    }

    /// Rejects with one line of plain text, such as `rate limit exceeded`.
    #[must_use]
    pub fn plain_text(self) -> Http<PlainText, H, M> {
        self.with_body(PlainText::default())
    }

    /// Wraps the response bodies of the inner service in a [`ResponseBody`](super::ResponseBody), whatever their type.
    ///
    /// It is the default without the feature `axum`. With it, bodies become those of axum by default, so that a limited
    /// service and a service without a limit have the same type of response. Use this method if the inner service
    /// has bodies that axum cannot carry, such as bodies that are not `Send`.
    ///
    /// ```
    /// use http::{Request, Response};
    /// use tower::{Service, ServiceBuilder, ServiceExt};
    /// use tower_sluice::response::ResponseBody;
    /// use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
    /// let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let mut service = ServiceBuilder::new()
    ///     .layer(limit.wrap_body())
    ///     .service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) });
    /// let response = service.ready().await?.call(Request::new(())).await?;
    /// let _: ResponseBody<String> = response.into_body();
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn wrap_body(self) -> Http<F, H, WrapBody> {
        self.rebuilt(|body, hook, _| (body, hook, WrapBody))
    }

    fn with_body<G>(self, body: G) -> Http<G, H, M> {
        self.rebuilt(|_, hook, body_mode| (body, hook, body_mode))
    }

    pub(super) fn rebuilt<G, I, N>(
        self,
        parts: impl FnOnce(F, H, M) -> (G, I, N),
    ) -> Http<G, I, N> {
        let (body, hook, body_mode) = parts(self.body, self.hook, self.body_mode);
        Http {
            formats: self.formats,
            existing: self.existing,
            shown: self.shown,
            on_redirects: self.on_redirects,
            preflights: self.preflights,
            extensions: self.extensions,
            response_extensions: self.response_extensions,
            shadow_header: self.shadow_header,
            jitter: self.jitter,
            partitioner: self.partitioner,
            observer: self.observer,
            body,
            hook,
            body_mode,
        }
    }
}

impl<H, M> Http<Problem, H, M> {
    /// Sets the problem type of a response to a client over its rate limit;
    /// [`QuotaExceeded`](ProblemType::QuotaExceeded) by default.
    #[must_use]
    pub fn problem_type(mut self, kind: ProblemType) -> Self {
        self.body.kind = kind;
        self
    }

    /// Sets whether a problem document tells a client that it is [blocked](crate::Limiter::block), with the member
    /// `"reason":"blocked"`; false by default. Then a block looks like any other denial.
    #[must_use]
    pub fn show_blocks(mut self, show: bool) -> Self {
        self.body.shows_blocks = show;
        self
    }
}
