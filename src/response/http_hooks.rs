//! The closures of [`Http`] that see responses and rejections.

use http::StatusCode;
use http::response::Parts;

use super::hook::{OnResponse, RefundOnStatus};
use super::http::Http;
use super::observer::RejectionObserver;
use super::rejection::Rejection;
use crate::head::Head;
use crate::key::Key;
use crate::limiter::charge::Charge;

impl<F, H, M> Http<F, H, M> {
    /// Calls `f` with the head of each response of the service, and with the charge of its request.
    ///
    /// The closure can settle the charge by the response: charge only failures, refund failures, or read the cost from
    /// a header field. A [`Charge`] that the handler has settled stays as it is. The client receives the numbers from
    /// before the closure.
    ///
    /// An uncounted request has a charge whose settlement does nothing. The closure is not called if the service
    /// returns an error or the client disconnects; the charge stays.
    ///
    /// For a [`RateLimitLayer`](crate::RateLimitLayer) only: a request of a semaphore has no charge.
    ///
    /// ```
    /// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    /// use tower_sluice::response::Http;
    ///
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Global, MemoryBackend::new());
    /// let only_failures_count = Http::new().on_response(|parts, charge| {
    ///     if !parts.status.is_client_error() {
    ///         charge.cancel();
    ///     }
    /// });
    /// let as_the_response_says = Http::new().on_response(|parts, charge| {
    ///     let tokens = parts.headers.get("x-tokens").and_then(|tokens| tokens.to_str().ok()?.parse::<u64>().ok());
    ///     if let Some(tokens) = tokens {
    ///         charge.settle(tokens);
    ///     }
    /// });
    /// # let estimated = limit.clone().cost(10).protocol(as_the_response_says);
    /// # let _: axum::Router = axum::Router::new().layer(limit.protocol(only_failures_count)).layer(estimated);
    /// ```
    #[must_use]
    pub fn on_response<G>(self, f: G) -> Http<F, OnResponse<G>, M>
    where
        G: Fn(&Parts, &Charge) + Clone,
    {
        self.rebuilt(|body, _, body_mode| (body, OnResponse(f), body_mode))
    }

    /// Refunds the charge of a request whose response has one of these statuses.
    ///
    /// An upload that is charged by its length, and that a layer or handler inside then rejects, costs nothing. It is
    /// [`on_response`](Self::on_response) with [`Charge::cancel`], and replaces a closure set there. A charge that was
    /// settled stays as it is, such as one with a [`Meter`](crate::charge::Meter) that has counted the body.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::body::Bytes;
    /// use axum::extract::DefaultBodyLimit;
    /// use axum::routing::post;
    /// use http::StatusCode;
    /// use http::header::CONTENT_LENGTH;
    /// use tower_sluice::cost::HeaderCost;
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
    ///
    /// let policy = Policy::new("uploads", "1GB/day".parse::<Quota>()?);
    /// let limit = RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new())
    ///     .cost(HeaderCost::required(CONTENT_LENGTH))
    ///     .refund_on_status(|status| status == StatusCode::PAYLOAD_TOO_LARGE || status.is_server_error());
    /// let app: Router = Router::new()
    ///     .route("/upload", post(|body: Bytes| async move { format!("{} bytes", body.len()) }))
    ///     .layer(DefaultBodyLimit::max(5_000_000)) // 413 above
    ///     .layer(limit);
    /// # Ok::<(), tower_sluice::quota::ParseQuotaError>(())
    /// ```
    #[must_use]
    pub fn refund_on_status<G>(self, f: G) -> Http<F, RefundOnStatus<G>, M>
    where
        G: Fn(StatusCode) -> bool + Clone,
    {
        self.rebuilt(|body, _, body_mode| (body, RefundOnStatus(f), body_mode))
    }

    /// Calls `f` for each request that is rejected, with its head, its key and the reason. The response does not change.
    ///
    /// Audit logs, counts of offenders and alerts can be built on it. It is called once for a request of HTTP or gRPC:
    ///
    /// | request | key | [`Rejection`] |
    /// |---|---|---|
    /// | over a rate limit, or too many in flight | yes | `Limited`, `Busy` |
    /// | the same under a [shadow](crate::Policy::shadow) policy, which allows the request | yes | `Limited`, `Busy` with the shadow policy |
    /// | without a [known cost](crate::cost::HeaderCost::required); also under a shadow policy | yes | `NoCost` |
    /// | without a key, or in a deny-list; also under a shadow policy | `None` | `NoKey` |
    /// | the backend failed, with [`FailClosed`](crate::FailurePolicy::FailClosed) | yes | `Unavailable` |
    ///
    /// **A key can be personal data**, such as an address or a user name. Keys appear nowhere else in logs or metrics.
    /// Secrets, such as API keys, are digests already.
    ///
    /// The closure runs on the path of the request, so it must not block. An allowed request pays nothing for it. A
    /// second call replaces the closure of the first.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use std::sync::{Arc, Mutex};
    ///
    /// use http::{Request, Response};
    /// use tower::{Service, ServiceBuilder, ServiceExt};
    /// use tower_sluice::response::Http;
    /// use tower_sluice::{Header, Key, MemoryBackend, Policy, Quota, RateLimitLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let offenders = Arc::new(Mutex::new(HashMap::<Key, u32>::new()));
    /// let counts = offenders.clone();
    /// let audited = Http::new().on_rejected(move |head, key, rejection| {
    ///     println!("rejected {} {}: {rejection}", head.method, head.path());
    ///     if let (Some(key), Ok(mut counts)) = (key, counts.lock()) {
    ///         *counts.entry(key.clone()).or_default() += 1;
    ///     }
    /// });
    ///
    /// let policy = Policy::new("api", Quota::per_hour(1));
    /// let limit = RateLimitLayer::new(policy, Header::new("x-user"), MemoryBackend::new()).protocol(audited);
    /// let mut service = ServiceBuilder::new()
    ///     .layer(limit)
    ///     .service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) });
    /// for _ in 0..3 {
    ///     service.ready().await?.call(Request::builder().header("x-user", "ann").body(())?).await?;
    /// }
    /// assert_eq!(offenders.lock().unwrap()[&Key::secret("ann")], 2); // header fields are digested
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn on_rejected<G>(mut self, f: G) -> Self
    where
        G: Fn(&Head<'_>, Option<&Key>, &Rejection) + Send + Sync + 'static,
    {
        self.observer = Some(RejectionObserver::new(f));
        self
    }
}
