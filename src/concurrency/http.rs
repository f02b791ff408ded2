//! The settings of [`Http`] as methods of the layer.
#![allow(clippy::type_complexity)] // the type of a layer lists its parts

use std::time::Duration;

use bytes::Bytes;
use http::Response;

use super::SemaphoreLayer;
use crate::head::Head;
use crate::key::Key;
#[cfg(feature = "partition-key")]
use crate::response::ShortSecret;
use crate::response::{
    ExistingHeaders, HeaderFormats, Http, NoHook, PlainText, RejectFn, Rejection, RespondFn,
    WrapBody,
};

impl<K, S, W, F, T, M, P> SemaphoreLayer<K, S, W, F, Http<T, NoHook, M>, P> {
    /// Sets the formats of the rate-limit fields; see [`Http::headers`].
    pub fn headers(self, formats: impl Into<HeaderFormats>) -> Self {
        self.map_http(|http| http.headers(formats))
    }

    /// Sets how fields of the service are treated; see [`Http::existing_headers`].
    pub fn existing_headers(self, existing: ExistingHeaders) -> Self {
        self.map_http(|http| http.existing_headers(existing))
    }

    /// Sets whether CORS preflights are counted; see [`Http::count_preflights`].
    pub fn count_preflights(self, count: bool) -> Self {
        self.map_http(|http| http.count_preflights(count))
    }

    /// Adds a random delay of at most `max` to `Retry-After`; see [`Http::retry_after_jitter`].
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
    pub fn shadow_header(self, shadow_header: bool) -> Self {
        self.map_http(|http| http.shadow_header(shadow_header))
    }

    /// Sets whether a request carries its permit in its extensions; see [`Http::extensions`].
    pub fn extensions(self, extensions: bool) -> Self {
        self.map_http(|http| http.extensions(extensions))
    }

    /// Sets whether a response carries the decision in its extensions; see [`Http::response_extensions`].
    pub fn response_extensions(self, response_extensions: bool) -> Self {
        self.map_http(|http| http.response_extensions(response_extensions))
    }

    /// Makes rejections with a closure, whose body is text or bytes; see [`Http::reject_fn`].
    pub fn reject_fn<G, A>(
        self,
        f: G,
    ) -> SemaphoreLayer<K, S, W, F, Http<RejectFn<G>, NoHook, M>, P>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
        A: Into<Bytes>,
    {
        self.map_http(|http| http.reject_fn(f))
    }

    /// Makes rejections with a closure, whose body has the type of the service's own; see [`Http::respond_fn`].
    pub fn respond_fn<G, A>(
        self,
        f: G,
    ) -> SemaphoreLayer<K, S, W, F, Http<RespondFn<G>, NoHook, M>, P>
    where
        G: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
    {
        self.map_http(|http| http.respond_fn(f))
    }

    /// Rejects with one line of plain text; see [`Http::plain_text`].
    pub fn plain_text(self) -> SemaphoreLayer<K, S, W, F, Http<PlainText, NoHook, M>, P> {
        self.map_http(Http::plain_text)
    }

    /// Calls `f` for each request that is rejected, with its key; see [`Http::on_rejected`].
    pub fn on_rejected<G>(self, f: G) -> Self
    where
        G: Fn(&Head<'_>, Option<&Key>, &Rejection) + Send + Sync + 'static,
    {
        self.map_http(|http| http.on_rejected(f))
    }

    /// Wraps the response bodies of the inner service, whatever their type; see [`Http::wrap_body`].
    pub fn wrap_body(self) -> SemaphoreLayer<K, S, W, F, Http<T, NoHook, WrapBody>, P> {
        self.map_http(Http::wrap_body)
    }

    fn map_http<U, N>(
        self,
        f: impl FnOnce(Http<T, NoHook, M>) -> Http<U, NoHook, N>,
    ) -> SemaphoreLayer<K, S, W, F, Http<U, NoHook, N>, P> {
        self.rebuilt(|weight, on_error, protocol, policy| (weight, on_error, f(protocol), policy))
    }
}
