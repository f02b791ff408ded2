//! What clients are told: rejections, header fields, and how a service of any protocol is answered for ([`Protocol`]).
//!
//! | case | status | fields |
//! |---|---|---|
//! | over the limit | 429 | `Retry-After`, `Cache-Control: no-store`, rate-limit fields, problem body |
//! | cost above the limit | 429 | the same without `Retry-After` and `t`: waiting does not help |
//! | too many in flight | 429, or 503 for a whole service | see [`concurrency`](crate::concurrency#what-clients-are-told) |
//! | no key | 400, 403, 404 or 500, as [`KeyError`] says | `Cache-Control: no-store`, problem body |
//! | no answer from the backend, and `Deny` chosen | 503 | `Retry-After: 1`, `Cache-Control: no-store`, problem body |
//! | allowed | the service's own | rate-limit fields appended; none on 1xx, and on 3xx only if asked for |
//!
//! Rate-limit fields and a `Retry-After` that the service has set itself stay if they are of the same format, and are
//! replaced otherwise: [`ExistingHeaders`] has other choices for a gateway.
//!
//! Every rejection carries `Cache-Control: no-store`, also in gRPC and in a response of a closure: it depends on the
//! client. A `Cache-Control` of the closure stays if it has `no-store`, and is replaced otherwise.
//!
//! `Retry-After` is in whole seconds, rounded up and never 0 (RFC 9110 §10.2.3). Policy names are public; keys and the
//! texts of errors are never sent. [`HeaderFormat`] says in which fields limits are told, [`RejectionBody`] what is
//! told to people: [`reject_fn`](crate::RateLimitLayer::reject_fn) has a page for browsers. To scripts of other origins
//! browsers show only the fields that the server exposes (`Access-Control-Expose-Headers`), which is for a layer of
//! CORS around this one.
//!
//! A request is a gRPC call if its method is POST and its `content-type` is `application/grpc`, followed by the end,
//! `+`, `;` or `-web`. Any other request is plain HTTP.
//!
//! A gRPC request is rejected with `grpc-status` 8 (without a key 3, 7, 12 or 13; without a backend 14) in one head, as
//! its clients expect, and without rate-limit fields. When it may come again is in `grpc-retry-pushback-ms` (whole
//! milliseconds, rounded up; -1: never) and, as `RetryInfo`, in `grpc-status-details-bin`, beside a `QuotaFailure` with
//! the names of what is used up.
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
mod context;
mod deadline;
mod draft11;
mod existing;
mod field;
mod format;
mod grpc;
mod hook;
mod http;
mod in_flight;
mod legacy_headers;
mod permit_protocol;
mod prepared;
mod problem;
mod protobuf;
mod protocol;
mod rejection;
mod rejection_body;
mod retry_after;
mod structured;
#[cfg(test)]
mod vectors;

pub use self::as_error::{AsError, LimitError};
pub use self::body::ResponseBody;
pub(crate) use self::context::DeferredCharge;
pub use self::context::{AllowedContext, PermitContext, RejectedContext};
pub use self::existing::ExistingHeaders;
pub use self::format::{HeaderFormat, HeaderFormats, Reset};
pub(crate) use self::grpc::is_grpc;
pub use self::hook::{NoHook, OnResponse, ResponseHook};
pub use self::http::Http;
pub use self::in_flight::HttpInFlight;
pub use self::permit_protocol::{HttpPermitHolder, PermitProtocol};
pub use self::problem::ProblemType;
pub use self::protocol::Protocol;
pub use self::rejection::Rejection;
pub use self::rejection_body::{PlainText, Problem, RejectFn, RejectionBody, RespondFn};
pub use crate::partition::PartitionKey;
#[cfg(feature = "partition-key")]
pub use crate::partition::ShortSecret;
