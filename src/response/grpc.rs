//! Refusals that a gRPC client understands: trailers-only answers with HTTP status 200.
//!
//! A plain 429 would be read as `UNAVAILABLE` and retried at once; with a text body it becomes `INTERNAL`.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::{Refusal, ResponseBody};

const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether the message is of a gRPC call, by its `content-type`.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let is = |value: &HeaderValue| {
        value
            .as_bytes()
            .get(..GRPC.len())
            .is_some_and(|own| own.eq_ignore_ascii_case(GRPC.as_bytes()))
    };
    headers.get(CONTENT_TYPE).is_some_and(is)
}

/// One head that ends the stream. gRPC-Web is answered in its own type.
pub(super) fn refuse<B>(request: &HeaderMap, refusal: &Refusal) -> Response<ResponseBody<B>> {
    let (code, message) = match refusal {
        Refusal::Limited { .. } => ("8", "rate limit exceeded"),
        Refusal::Busy {
            is_global: false, ..
        } => ("8", "too many requests in flight"),
        Refusal::NoKey(error) => match error.status() {
            StatusCode::BAD_REQUEST => ("3", "bad request"),
            StatusCode::FORBIDDEN => ("7", "forbidden"),
            StatusCode::NOT_FOUND => ("12", "not found"),
            _ => ("13", "internal error"),
        },
        Refusal::Busy { .. } | Refusal::Unavailable => ("14", "service unavailable"),
    };
    let mut response = Response::new(ResponseBody::empty());
    let headers = response.headers_mut();
    let web = request.get(CONTENT_TYPE).filter(|own| {
        own.as_bytes()
            .get(GRPC.len()..)
            .is_some_and(|rest| rest.starts_with(b"-web"))
    });
    headers.insert(
        CONTENT_TYPE,
        web.cloned().unwrap_or(HeaderValue::from_static(GRPC)),
    );
    headers.insert(GRPC_STATUS, HeaderValue::from_static(code));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    response
}
