//! Responses to limited requests: rejections, header fields, and protocols other than HTTP ([`Protocol`]).
//!
//! Guide: [what clients see](crate::_guide::clients).
//!
//! | case | status | fields |
//! |---|---|---|
//! | over the limit | 429 | `Retry-After`, `Cache-Control: no-store`, rate-limit fields, problem body |
//! | cost above the limit | 429 | the same without `Retry-After` and `t`: no wait helps |
//! | too many in flight | 429, or 503 for a whole service | see [`concurrency`](crate::concurrency) |
//! | no key | 400, 403, 404 or 500, by [`KeyError`](crate::key::KeyError) | `Cache-Control: no-store`, problem body |
//! | unknown cost, as of an upload without a [required](crate::cost::HeaderCost::required) length | 411 or 400 | the same |
//! | backend failed, [`FailClosed`](crate::FailurePolicy::FailClosed) | 503 | `Retry-After: 1`, `Cache-Control: no-store`, problem body |
//! | allowed | the service's own | rate-limit fields; none on 1xx, and on 3xx only on request |
//!
//! # HTTP
//!
//! - `Retry-After` is in whole seconds, rounded up, and at least 1 (RFC 9110 §10.2.3).
//! - [`HeaderFormat`] determines the rate-limit fields, and [`RejectionBody`] the body.
//!   [`reject_fn`](Http::reject_fn) has an example of a page for browsers.
//! - Rate-limit fields and a `Retry-After` of the service stay if they have the same format. Otherwise they are
//!   replaced. [`ExistingHeaders`] has other options for gateways.
//! - Every rejection has `Cache-Control: no-store`, because it depends on the client. A `Cache-Control` with `no-store`
//!   from a closure stays; any other one is replaced.
//! - Policy names are sent to clients. Keys and the texts of errors are not.
//! - Browsers show only exposed fields to scripts of other origins. Set `Access-Control-Expose-Headers` in a CORS layer
//!   around this one.
//!
//! # gRPC
//!
//! A request is a gRPC call if its method is POST and its `content-type` is `application/grpc`, followed by the end,
//! `+`, `;` or `-web`. Any other request is plain HTTP.
//!
//! A rejection of a gRPC call is a single head with `grpc-status`, without rate-limit fields:
//!
//! - 8 over a limit; 3, 7, 12 or 13 without a key; 3 without a cost; 14 if the backend failed.
//! - `grpc-retry-pushback-ms` has the wait in whole milliseconds, rounded up. It is -1 if no wait helps.
//! - `grpc-status-details-bin` has the wait as `RetryInfo`, and the names of the exceeded limits as `QuotaFailure`.
//!
//! ```
//! use http::{Request, Response};
//! use tower::{Service, ServiceExt};
//! use tower_sluice::key::Global;
//! use tower_sluice::response::HeaderFormat;
//! use tower_sluice::{MemoryBackend, Policy, Quota, RateLimitLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
//! let limit = RateLimitLayer::new(Policy::new("default", Quota::per_hour(2)), Global, MemoryBackend::new());
//! let mut service = tower::ServiceBuilder::new()
//!     .layer(limit)
//!     .service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) });
//! let response = service.ready().await?.call(Request::new(())).await?;
//! assert_eq!(response.headers()["ratelimit-policy"], "\"default\";q=2;w=3600");
//! assert_eq!(response.headers()["ratelimit"], "\"default\";r=1");
//! # Ok(()) }
//! ```
#![doc = include_str!("../docs/clients.md")]

mod as_error;
mod base64;
mod body;
mod body_mode;
mod context;
mod deadline;
mod draft11;
mod existing;
mod field;
mod format;
mod grpc;
mod hook;
mod http;
mod http_hooks;
mod http_protocol;
mod in_flight;
mod legacy_headers;
mod observer;
mod permit_protocol;
mod prepared;
mod problem;
mod protobuf;
mod protocol;
mod quoted;
mod rejection;
mod rejection_body;
mod retry_after;
mod structured;
#[cfg(test)]
mod vectors;

pub use self::as_error::{AsError, LimitError};
pub use self::body::ResponseBody;
#[cfg(feature = "axum")]
pub use self::body_mode::AxumBody;
pub use self::body_mode::{BodyMode, DefaultBodyMode, WrapBody};
pub(crate) use self::context::DeferredCharge;
pub use self::context::{AllowedContext, PermitContext, RejectedContext};
pub use self::existing::ExistingHeaders;
#[cfg(feature = "axum")]
pub(crate) use self::field::write_no_store;
pub use self::format::{HeaderFormat, HeaderFormats, Reset};
pub(crate) use self::grpc::is_call;
pub use self::hook::{NoHook, OnResponse, RefundOnStatus, ResponseHook};
pub use self::http::Http;
pub use self::in_flight::HttpInFlight;
pub use self::permit_protocol::{HttpPermitHolder, PermitProtocol};
pub use self::problem::ProblemType;
pub use self::protocol::Protocol;
pub use self::rejection::Rejection;
pub use self::rejection_body::{
    PlainText, Problem, RejectFn, RejectionBody, RespondFn, ServiceBody,
};
pub use crate::partition::PartitionKey;
#[cfg(feature = "partition-key")]
pub use crate::partition::ShortSecret;
