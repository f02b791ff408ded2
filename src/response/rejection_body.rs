//! Responses to rejected requests: the body, and the fields that belong to it.

use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;

use super::body::ResponseBody;
use super::prepared::PreparedFields;
use super::problem::{self, ProblemType};
use super::rejection::Rejection;
use crate::decision::{Decision, DenialReason};
use crate::head::Head;

/// The response to a rejected request, for a service whose responses have bodies of type `B`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot reject requests of a service whose bodies are `{B}`",
    note = "return a `Response` with the service's body in `.respond_fn(..)`, or with text or bytes in `.reject_fn(..)`"
)]
pub trait RejectionBody<B>: Clone {
    /// Returns the response to a request with this head. Afterwards the layer adds the fields of every rejection, and
    /// removes the body if the request is a `HEAD`.
    fn response(&self, head: &Head<'_>, rejection: &Rejection) -> Response<ResponseBody<B>>;

    /// Returns the length of a body, if it is known. A response to `HEAD` has it as `content-length`.
    fn length(&self, body: &ResponseBody<B>) -> Option<u64> {
        body.own_length().map(|length| length as u64)
    }
}

/// Problem details (RFC 9457), the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Problem {
    pub(crate) kind: ProblemType,
    /// Whether clients see that they are blocked.
    pub(crate) shows_blocks: bool,
}

impl<B> RejectionBody<B> for Problem {
    fn response(&self, _: &Head<'_>, rejection: &Rejection) -> Response<ResponseBody<B>> {
        let mut body = problem_body(rejection, self.kind);
        if self.shows_blocks && is_blocked(rejection) {
            body = problem::with_reason(&body, "blocked");
        }
        let mut response = Response::new(body.into());
        write_problem_head(rejection, &mut response);
        response
    }
}

impl Rejection {
    /// Returns the default response, problem details. Closures can return it for some clients
    /// ([`reject_fn`](super::Http::reject_fn)).
    #[must_use]
    pub fn problem(&self) -> Response<Bytes> {
        let mut response = Response::new(problem_body(self, ProblemType::default()));
        write_problem_head(self, &mut response);
        response
    }
}

fn is_blocked(rejection: &Rejection) -> bool {
    let reason = rejection.decision().and_then(Decision::denial_reason);
    reason == Some(DenialReason::Blocked)
}

/// The default body.
fn problem_body(rejection: &Rejection, kind: ProblemType) -> Bytes {
    match rejection {
        Rejection::Limited {
            policy, decision, ..
        } => match kind {
            ProblemType::QuotaExceeded => policy
                .derived(PreparedFields::from_policy)
                .problem(policy, decision.snapshot()),
            ProblemType::AbnormalUsageDetected => {
                problem::abnormal_usage(problem::violated(policy, decision.snapshot()))
            }
        },
        Rejection::Busy {
            is_global: true, ..
        } => problem::reduced_capacity(),
        Rejection::Busy { policy, .. } => problem::quota_exceeded([policy.name()].into_iter()),
        _ => problem::about_blank(rejection.status()),
    }
}

fn write_problem_head<B>(rejection: &Rejection, response: &mut Response<B>) {
    *response.status_mut() = rejection.status();
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
}

/// A line of plain text; see [`plain_text`](super::Http::plain_text).
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainText(());

impl<B> RejectionBody<B> for PlainText {
    fn response(&self, _: &Head<'_>, rejection: &Rejection) -> Response<ResponseBody<B>> {
        let text = match rejection {
            Rejection::Limited { .. } => "rate limit exceeded\n",
            Rejection::Busy {
                is_global: false, ..
            } => "too many requests in flight\n",
            Rejection::NoKey(error) => match error.status() {
                StatusCode::BAD_REQUEST => "bad request\n",
                StatusCode::FORBIDDEN => "forbidden\n",
                StatusCode::NOT_FOUND => "not found\n",
                _ => "internal server error\n",
            },
            Rejection::NoCost(error) => match error.status() {
                StatusCode::LENGTH_REQUIRED => "length required\n",
                _ => "bad request\n",
            },
            Rejection::Busy { .. } | Rejection::Unavailable => "service unavailable\n",
        };
        let mut response = Response::new(Bytes::from_static(text.as_bytes()).into());
        *response.status_mut() = rejection.status();
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// The response of a closure; see [`reject_fn`](super::Http::reject_fn).
#[derive(Clone, Copy)]
pub struct RejectFn<F>(pub(crate) F);

impl<B, F, T> RejectionBody<B> for RejectFn<F>
where
    F: Fn(&Head<'_>, &Rejection) -> Response<T> + Clone,
    T: Into<Bytes>,
{
    fn response(&self, head: &Head<'_>, rejection: &Rejection) -> Response<ResponseBody<B>> {
        (self.0)(head, rejection).map(|body| body.into().into())
    }
}

impl<F> fmt::Debug for RejectFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RejectFn(..)")
    }
}

/// A body of the service's own type `B`; see [`respond_fn`](super::Http::respond_fn). Each type implements it for
/// itself.
#[diagnostic::on_unimplemented(
    message = "`.respond_fn(..)` returns a body of type `{Self}`, and the service responds with `{B}`",
    label = "the closure of this layer must return a `Response<{B}>`",
    note = "in axum, end the closure with `.into_response()`; for text or bytes use `.reject_fn(..)`"
)]
pub trait ServiceBody<B> {
    /// Returns the body.
    fn into_service_body(self) -> B;
}

impl<B> ServiceBody<B> for B {
    fn into_service_body(self) -> B {
        self
    }
}

/// The response of a closure, with a body of the service's own type; see
/// [`respond_fn`](super::Http::respond_fn).
#[derive(Clone, Copy)]
pub struct RespondFn<F>(pub(crate) F);

impl<B, F, A> RejectionBody<B> for RespondFn<F>
where
    F: Fn(&Head<'_>, &Rejection) -> Response<A> + Clone,
    A: ServiceBody<B>, // and not `B` itself, for a compiler error that names the remedy
    B: Body<Data = Bytes>,
{
    fn response(&self, head: &Head<'_>, rejection: &Rejection) -> Response<ResponseBody<B>> {
        (self.0)(head, rejection).map(|body| ResponseBody::inner(body.into_service_body()))
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
