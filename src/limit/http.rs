//! The settings of [`Http`] as methods of the layer.
#![allow(clippy::type_complexity)] // the type of a layer lists its parts

use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{Response, StatusCode};

use super::RateLimitLayer;
use crate::head::Head;
use crate::key::Key;
use crate::limiter::charge::Charge;
#[cfg(feature = "partition-key")]
use crate::response::ShortSecret;
use crate::response::{
    ExistingHeaders, HeaderFormats, Http, OnResponse, PlainText, Problem, ProblemType,
    RefundOnStatus, RejectFn, Rejection, RespondFn, WrapBody,
};

impl<K, B, C, F, T, H, M, P> RateLimitLayer<K, B, C, F, Http<T, H, M>, P> {
    /// Sets the formats of the rate-limit fields; see [`Http::headers`].
    ///
    /// ```
    /// use tower_sluice::response::HeaderFormat;
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), MemoryBackend::new())
    ///     .headers(HeaderFormat::Draft06);
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn headers(self, formats: impl Into<HeaderFormats>) -> Self {
        self.map_http(|http| http.headers(formats))
    }

    /// Sets the quota that formats with room for one limit show; see [`Http::shown_quota`].
    pub fn shown_quota(self, name: &str) -> Self {
        self.map_http(|http| http.shown_quota(name))
    }

    /// Sets how fields of the service are treated; see [`Http::existing_headers`].
    pub fn existing_headers(self, existing: ExistingHeaders) -> Self {
        self.map_http(|http| http.existing_headers(existing))
    }

    /// Sets whether CORS preflights are counted; see [`Http::count_preflights`].
    ///
    /// ```
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), MemoryBackend::new())
    ///     .count_preflights(true);
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn count_preflights(self, count: bool) -> Self {
        self.map_http(|http| http.count_preflights(count))
    }

    /// Adds a random delay of at most `max` to `Retry-After`; see [`Http::retry_after_jitter`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), MemoryBackend::new())
    ///     .retry_after_jitter(Duration::from_secs(2));
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn retry_after_jitter(self, max: Duration) -> Self {
        self.map_http(|http| http.retry_after_jitter(max))
    }

    /// Adds the partition key to the fields of draft 11; see [`Http::partition_key`].
    ///
    /// # Panics
    ///
    /// Panics if [`try_partition_key`](Self::try_partition_key) would return an error.
    #[cfg(feature = "partition-key")]
    #[cfg_attr(docsrs, doc(cfg(feature = "partition-key")))]
    pub fn partition_key(self, secret: impl AsRef<[u8]>) -> Self {
        self.map_http(|http| http.partition_key(secret))
    }

    /// Adds the partition key to the fields of draft 11; see [`Http::try_partition_key`].
    ///
    /// # Errors
    ///
    /// Returns an error if the secret has fewer than 16 bytes.
    #[cfg(feature = "partition-key")]
    #[cfg_attr(docsrs, doc(cfg(feature = "partition-key")))]
    pub fn try_partition_key(self, secret: impl AsRef<[u8]>) -> Result<Self, ShortSecret> {
        let protocol = self.protocol.try_partition_key(secret)?;
        Ok(Self { protocol, ..self })
    }

    /// Sets whether redirects carry rate-limit fields; see [`Http::headers_on_redirects`].
    pub fn headers_on_redirects(self, on_redirects: bool) -> Self {
        self.map_http(|http| http.headers_on_redirects(on_redirects))
    }

    /// Sets whether responses name a shadow policy that would have rejected; see [`Http::shadow_header`].
    ///
    /// ```
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), MemoryBackend::new())
    ///     .shadow_header(true);
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn shadow_header(self, shadow_header: bool) -> Self {
        self.map_http(|http| http.shadow_header(shadow_header))
    }

    /// Sets whether a request carries its charge in its extensions; see [`Http::extensions`].
    ///
    /// ```
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), MemoryBackend::new())
    ///     .extensions(false);
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn extensions(self, extensions: bool) -> Self {
        self.map_http(|http| http.extensions(extensions))
    }

    /// Sets whether a response carries the decision in its extensions; see [`Http::response_extensions`].
    pub fn response_extensions(self, response_extensions: bool) -> Self {
        self.map_http(|http| http.response_extensions(response_extensions))
    }

    /// Makes rejections with a closure, whose body is text or bytes; see [`Http::reject_fn`].
    pub fn reject_fn<G, A>(self, f: G) -> RateLimitLayer<K, B, C, F, Http<RejectFn<G>, H, M>, P>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
        A: Into<Bytes>,
    {
        self.map_http(|http| http.reject_fn(f))
    }

    /// Makes rejections with a closure, whose body has the type of the service's own; see [`Http::respond_fn`].
    pub fn respond_fn<G, A>(self, f: G) -> RateLimitLayer<K, B, C, F, Http<RespondFn<G>, H, M>, P>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
    {
        self.map_http(|http| http.respond_fn(f))
    }

    /// Rejects with one line of plain text; see [`Http::plain_text`].
    ///
    /// ```
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), MemoryBackend::new())
    ///     .plain_text();
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn plain_text(self) -> RateLimitLayer<K, B, C, F, Http<PlainText, H, M>, P> {
        self.map_http(Http::plain_text)
    }

    /// Calls `f` with the head of each response and the charge of its request; see [`Http::on_response`].
    ///
    /// ```
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_minute(60)), PeerIp::new(), MemoryBackend::new())
    ///     .on_response(|parts, charge| {
    ///         if parts.status.is_server_error() {
    ///             charge.cancel();
    ///         }
    ///     });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    pub fn on_response<G>(self, f: G) -> RateLimitLayer<K, B, C, F, Http<T, OnResponse<G>, M>, P>
    where
        G: Fn(&Parts, &Charge) + Clone,
    {
        self.map_http(|http| http.on_response(f))
    }

    /// Refunds the charge of a request by the status of its response; see [`Http::refund_on_status`].
    pub fn refund_on_status<G>(
        self,
        f: G,
    ) -> RateLimitLayer<K, B, C, F, Http<T, RefundOnStatus<G>, M>, P>
    where
        G: Fn(StatusCode) -> bool + Clone,
    {
        self.map_http(|http| http.refund_on_status(f))
    }

    /// Calls `f` for each request that is rejected, with its key; see [`Http::on_rejected`].
    pub fn on_rejected<G>(self, f: G) -> Self
    where
        G: Fn(&Head<'_>, Option<&Key>, &Rejection) + Send + Sync + 'static,
    {
        self.map_http(|http| http.on_rejected(f))
    }

    /// Wraps the response bodies of the inner service, whatever their type; see [`Http::wrap_body`].
    pub fn wrap_body(self) -> RateLimitLayer<K, B, C, F, Http<T, H, WrapBody>, P> {
        self.map_http(Http::wrap_body)
    }

    fn map_http<U, I, N>(
        self,
        f: impl FnOnce(Http<T, H, M>) -> Http<U, I, N>,
    ) -> RateLimitLayer<K, B, C, F, Http<U, I, N>, P> {
        self.rebuilt(|cost, on_error, protocol, policy| (cost, on_error, f(protocol), policy))
    }
}

impl<K, B, C, F, H, M, P> RateLimitLayer<K, B, C, F, Http<Problem, H, M>, P> {
    /// Sets the problem type of rejections; see [`Http::problem_type`].
    pub fn problem_type(self, kind: ProblemType) -> Self {
        self.map_http(|http| http.problem_type(kind))
    }

    /// Sets whether a problem document tells a client that it is blocked; see [`Http::show_blocks`].
    pub fn show_blocks(self, show: bool) -> Self {
        self.map_http(|http| http.show_blocks(show))
    }
}
