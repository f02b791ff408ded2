//! Rejections of gRPC calls: trailers-only responses with HTTP status 200.
//!
//! Clients would read a plain 429 as `UNAVAILABLE` and retry at once, and one with a text body as `INTERNAL`. The wait
//! is sent in two fields. `grpc-retry-pushback-ms` is for automatic retries (gRFC A6). `grpc-status-details-bin` is for
//! the application, with the names of the exceeded limits in a `google.rpc.Status`.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::body::ResponseBody;
use super::rejection::Rejection;
use super::retry_after::{self, A_SECOND};
use super::{base64, problem, protobuf};
use crate::clock::micros_up;
use crate::decision::RetryAfter;

const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Whether a request is a gRPC call: its method is POST and its `content-type` is that of gRPC.
pub(crate) fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::POST && is_grpc(headers)
}

/// Whether the `content-type` is `application/grpc`, followed by the end, `+`, `;` or `-web`.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let Some((start, rest)) = value.as_bytes().split_at_checked(GRPC.len()) else {
        return false;
    };
    let is_web = |rest: &[u8]| {
        rest.get(..4)
            .is_some_and(|web| web.eq_ignore_ascii_case(b"-web"))
    };
    start.eq_ignore_ascii_case(GRPC.as_bytes())
        && (matches!(rest, [] | [b'+' | b';', ..]) || is_web(rest))
}

/// The status of a rejected call.
struct GrpcStatus {
    code: u8,
    message: &'static str,
    /// The wait. `None` if the rejection does not depend on time.
    retry_after: Option<RetryAfter>,
}

const INVALID_ARGUMENT: u8 = 3;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;

impl GrpcStatus {
    fn from_rejection(rejection: &Rejection) -> Self {
        let (code, message, retry_after) = match rejection {
            Rejection::Limited { decision, .. } => (
                RESOURCE_EXHAUSTED,
                "rate limit exceeded",
                decision.retry_after(),
            ),
            Rejection::Busy {
                decision,
                is_global: false,
                ..
            } => (
                RESOURCE_EXHAUSTED,
                "too many requests in flight",
                Some(retry_after::busy_retry_after(decision)),
            ),
            Rejection::NoKey(error) => match error.status() {
                StatusCode::BAD_REQUEST => (INVALID_ARGUMENT, "bad request", None),
                StatusCode::FORBIDDEN => (PERMISSION_DENIED, "forbidden", None),
                StatusCode::NOT_FOUND => (UNIMPLEMENTED, "not found", None),
                _ => (INTERNAL, "internal error", None),
            },
            Rejection::NoCost(_) => (INVALID_ARGUMENT, "bad request", None),
            Rejection::Busy { .. } | Rejection::Unavailable => (
                UNAVAILABLE,
                "service unavailable",
                Some(RetryAfter::In(A_SECOND)),
            ),
        };
        Self {
            code,
            message,
            retry_after,
        }
    }

    /// Adds `jitter` µs to the wait.
    fn delayed(mut self, jitter: u64) -> Self {
        if let Some(RetryAfter::In(wait)) = &mut self.retry_after {
            *wait = Duration::from_micros(micros_up(*wait).saturating_add(jitter));
        }
        self
    }
}

/// Returns a single head that ends the stream. A gRPC-Web call gets its own content type.
pub(super) fn reject<B>(
    request: &HeaderMap,
    rejection: &Rejection,
    jitter: u64,
) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::empty());
    write(rejection, jitter, kind(request), response.headers_mut());
    response
}

/// The content type of the response. Only known types are copied from the request, because clients choose theirs.
fn kind(request: &HeaderMap) -> HeaderValue {
    /// The longest first.
    const WEB: [&str; 7] = [
        "application/grpc-web-text+proto",
        "application/grpc-web-text+json",
        "application/grpc-web-text",
        "application/grpc-web+thrift",
        "application/grpc-web+proto",
        "application/grpc-web+json",
        "application/grpc-web",
    ];
    let own = request
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let known = WEB.iter().find(|web| {
        own.get(..web.len())
            .is_some_and(|own| own.eq_ignore_ascii_case(web.as_bytes()))
    });
    HeaderValue::from_static(known.copied().unwrap_or(GRPC))
}

pub(super) fn write(
    rejection: &Rejection,
    jitter: u64,
    kind: HeaderValue,
    headers: &mut HeaderMap,
) {
    let status = GrpcStatus::from_rejection(rejection).delayed(jitter);
    headers.insert(CONTENT_TYPE, kind);
    insert(GRPC_STATUS, &number(status.code.into()), headers);
    insert(GRPC_MESSAGE, &percent_encoded(status.message), headers);
    let Some(retry_after) = status.retry_after else {
        return;
    };
    let pushback = match retry_after {
        RetryAfter::In(wait) => number(micros_up(wait).div_ceil(1_000)),
        RetryAfter::Never => "-1".into(),
    };
    insert(PUSHBACK, &pushback, headers);

    let mut message = protobuf::StatusMessage::new(status.code, status.message);
    if let RetryAfter::In(wait) = retry_after {
        message.retry_info(wait);
    }
    match rejection {
        Rejection::Limited {
            policy, decision, ..
        } => message.quota_failure(
            problem::violated(policy, decision.snapshot()),
            "quota exceeded",
        ),
        Rejection::Busy {
            policy,
            is_global: false,
            ..
        } => message.quota_failure([policy.name()].into_iter(), status.message),
        _ => {}
    }
    let details: String = base64::digits(&message.into_bytes())
        .map(char::from)
        .collect();
    insert(DETAILS, &details, headers);
}

fn insert(name: HeaderName, text: &str, headers: &mut HeaderMap) {
    // Only printable ASCII is written, so the conversion succeeds.
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn number(number: u64) -> Cow<'static, str> {
    Cow::Owned(itoa::Buffer::new().format(number).to_owned())
}

/// Encodes a `grpc-message`: `%` and all bytes but printable ASCII (PROTOCOL-HTTP2 of gRPC, "Responses").
fn percent_encoded(message: &str) -> Cow<'_, str> {
    const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');
    utf8_percent_encode(message, ESCAPED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_content_type_has_a_known_suffix_or_none() {
        let is = |text: &'static str| {
            let kind = (CONTENT_TYPE, HeaderValue::from_static(text));
            is_grpc(&HeaderMap::from_iter([kind]))
        };
        for kind in [
            "application/grpc",
            "Application/GRPC",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
            "application/grpc-web",
            "application/grpc-Web-text+proto",
        ] {
            assert!(is(kind), "{kind}");
        }
        for kind in [
            "",
            "application/grp",
            "application/grpcxyz",
            "application/grpc-we",
            "application/grpc/x",
            "application/grpc, text/html",
            "text/application/grpc",
        ] {
            assert!(!is(kind), "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn grpc_status_details_decode() {
        let messages = [
            ("rate limit exceeded", "rate limit exceeded"),
            ("100% of ~\u{7f}\n", "100%25 of ~%7F%0A"),
            ("zu viel für heute", "zu viel f%C3%BCr heute"),
        ];
        for (message, encoded) in messages {
            assert_eq!(percent_encoded(message), encoded);
            let mut headers = HeaderMap::new();
            insert(GRPC_STATUS, "8", &mut headers);
            insert(GRPC_MESSAGE, encoded, &mut headers);
            let status = tonic::Status::from_header_map(&headers).expect("a status");
            assert_eq!(status.message(), message);
        }
    }
}
