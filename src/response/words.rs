//! What a refusal says to people: the body of its response, and the head that goes with it.

use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;

use super::{Refusal, ResponseBody, problem};
use crate::head::Head;

/// What a refusal says to people, in a service whose responses have bodies of type `B`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot refuse in place of a service whose bodies are `{B}`",
    note = "the closure of `.respond_fn(..)` returns a `Response` with the service's own body; that of `.reject_fn(..)` text or bytes"
)]
pub trait RefusalBody<B>: Clone {
    /// The answer to a request with this head; the fields that every refusal has are added afterwards, and the body is taken off
    /// if the request is a `HEAD`.
    fn response(&self, head: &Head<'_>, refusal: &Refusal) -> Response<ResponseBody<B>>;

    /// How long a body is, if that is known: what a `HEAD` is told.
    fn length(&self, body: &ResponseBody<B>) -> Option<u64> {
        body.own_length().map(|length| length as u64)
    }
}

/// Problem details (RFC 9457), the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Problem {
    pub(crate) kind: ProblemType,
}

/// What a client that is over a limit is told its problem is: one of the types of
/// draft-ietf-httpapi-ratelimit-headers-11. (Its third one, `temporary-reduced-capacity`, is that of a service which has
/// too much in flight in all.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemType {
    /// `quota-exceeded`.
    #[default]
    QuotaExceeded,
    /// `abnormal-usage-detected`: for a limit that nobody meets who uses the service as it is meant, on attempts to log in say.
    AbnormalUsageDetected,
}

impl<B> RefusalBody<B> for Problem {
    fn response(&self, _: &Head<'_>, refusal: &Refusal) -> Response<ResponseBody<B>> {
        let mut response = Response::new(problem::body(refusal, self.kind).into());
        problem::write_head(refusal, &mut response);
        response
    }
}

/// A line of plain text; see [`plain_text`](crate::RateLimitLayer::plain_text).
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainText(());

impl<B> RefusalBody<B> for PlainText {
    fn response(&self, _: &Head<'_>, refusal: &Refusal) -> Response<ResponseBody<B>> {
        let text = match refusal {
            Refusal::Limited { .. } => "rate limit exceeded\n",
            Refusal::Busy {
                is_global: false, ..
            } => "too many requests in flight\n",
            Refusal::NoKey(error) => match error.status() {
                StatusCode::BAD_REQUEST => "bad request\n",
                StatusCode::FORBIDDEN => "forbidden\n",
                StatusCode::NOT_FOUND => "not found\n",
                _ => "internal server error\n",
            },
            Refusal::Busy { .. } | Refusal::Unavailable => "service unavailable\n",
        };
        let mut response = Response::new(Bytes::from_static(text.as_bytes()).into());
        *response.status_mut() = refusal.status();
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// What a closure makes of the head and the refusal; see [`reject_fn`](crate::RateLimitLayer::reject_fn).
#[derive(Clone, Copy)]
pub struct RejectFn<F>(pub(crate) F);

impl<B, F, T> RefusalBody<B> for RejectFn<F>
where
    F: Fn(&Head<'_>, &Refusal) -> Response<T> + Clone,
    T: Into<Bytes>,
{
    fn response(&self, head: &Head<'_>, refusal: &Refusal) -> Response<ResponseBody<B>> {
        (self.0)(head, refusal).map(|body| body.into().into())
    }
}

impl<F> fmt::Debug for RejectFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RejectFn(..)")
    }
}

/// The same with a body of the service's own type; see [`respond_fn`](crate::RateLimitLayer::respond_fn).
#[derive(Clone, Copy)]
pub struct RespondFn<F>(pub(crate) F);

impl<B, F> RefusalBody<B> for RespondFn<F>
where
    F: Fn(&Head<'_>, &Refusal) -> Response<B> + Clone,
    B: Body<Data = Bytes>,
{
    fn response(&self, head: &Head<'_>, refusal: &Refusal) -> Response<ResponseBody<B>> {
        (self.0)(head, refusal).map(ResponseBody::inner)
    }

    fn length(&self, body: &ResponseBody<B>) -> Option<u64> {
        body.size_hint().exact()
    }
}

impl<F> fmt::Debug for RespondFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RespondFn(..)")
    }
}
