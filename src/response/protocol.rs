use std::fmt;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN};
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode};

use super::headers::{self, FieldOptions, PreparedFields};
use super::{
    AllowedContext, ExistingHeaders, HeaderFormats, NoHook, Problem, RejectedContext, Rejection,
    RejectionBody, ResponseBody, ResponseHook, deadline, grpc,
};
use crate::backend::BackendContext;
use crate::clock::Timestamp;
use crate::decision::{Decision, RetryAfter};
use crate::head::Head;
use crate::limiter::charge::Charge;
use crate::partition::PartitionKey;
use crate::policy::Policy;
use crate::wait::Deadline;

/// How a service is answered for: what rejects a request, and what an answer takes with it.
///
/// [`Http`] is for HTTP services and the default; [`AsError`] for any other.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot reject requests of type `{Req}`",
    label = "this service does not speak HTTP",
    note = "add `.protocol(AsError)`: rejections are then errors of the service"
)]
pub trait Protocol<Req, Res, Err>: Clone {
    /// What the limited service answers.
    type Response;
    /// The limited service's error.
    type Error;
    /// What is kept of a request that goes on until it is answered.
    type InFlight;

    /// Answers in place of the service.
    ///
    /// # Errors
    ///
    /// If a rejection is an error in this protocol.
    fn reject(
        &self,
        request: &Req,
        rejected: RejectedContext<'_>,
    ) -> Result<Self::Response, Self::Error>;

    /// Sees a request that goes on, and what it was granted.
    fn allow(&self, request: &mut Req, allowed: AllowedContext<'_>) -> Self::InFlight;

    /// The charge that a layer around this one has left in a request.
    fn charge<'r>(&self, request: &'r Req) -> Option<&'r Charge> {
        let _ = request;
        None
    }

    /// Whether the request goes on uncounted, whosever it is.
    fn is_exempt(&self, request: &Req) -> bool {
        let _ = request;
        false
    }

    /// By when the client of a request that is seen at `now` will have gone, if the request says so.
    fn deadline(&self, request: &mut Req, now: Timestamp) -> Option<Deadline> {
        let _ = (request, now);
        None
    }

    /// Passes the service's answer on.
    fn response(pass: Self::InFlight, response: Res) -> Self::Response;

    /// Passes the service's error on.
    fn error(error: Err) -> Self::Error;
}

/// Rejects with 429 and problem details, or as gRPC expects it; leaves header fields and the [`Decision`] in what
/// passes.
///
/// The inner error goes through untouched, and so does the inner body, within a [`ResponseBody`].
#[derive(Clone, Copy, Debug)]
pub struct Http<F = Problem, H = NoHook> {
    pub(crate) formats: HeaderFormats,
    pub(crate) existing: ExistingHeaders,
    pub(crate) on_redirects: bool,
    /// Whether pre-flights are counted.
    pub(crate) preflights: bool,
    pub(crate) extensions: bool,
    pub(crate) shadow_header: bool,
    /// What is added to waits at the most, in µs.
    pub(crate) jitter: u64,
    pub(crate) body: F,
    pub(crate) hook: H,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            formats: HeaderFormats::default(),
            existing: ExistingHeaders::default(),
            on_redirects: false,
            preflights: false,
            extensions: true,
            shadow_header: false,
            jitter: 0,
            body: Problem::default(),
            hook: NoHook,
        }
    }
}

impl<F, H> Http<F, H> {
    pub(crate) fn with_body<G>(self, body: G) -> Http<G, H> {
        Http {
            formats: self.formats,
            existing: self.existing,
            on_redirects: self.on_redirects,
            preflights: self.preflights,
            extensions: self.extensions,
            shadow_header: self.shadow_header,
            jitter: self.jitter,
            body,
            hook: self.hook,
        }
    }

    pub(crate) fn with_hook<G>(self, hook: G) -> Http<F, G> {
        Http {
            formats: self.formats,
            existing: self.existing,
            on_redirects: self.on_redirects,
            preflights: self.preflights,
            extensions: self.extensions,
            shadow_header: self.shadow_header,
            jitter: self.jitter,
            body: self.body,
            hook,
        }
    }

    /// When an answer is given, if that is told.
    fn at(&self, context: &BackendContext, matters: bool) -> Timestamp {
        if self.formats.needs_time() || matters {
            context.now()
        } else {
            Timestamp::default()
        }
    }

    /// How much later than it could this client is told to come back, in µs.
    fn jitter(&self, context: &BackendContext) -> u64 {
        match self.jitter {
            0 => 0,
            most => context.random() % most.saturating_add(1),
        }
    }
}

impl<B, ResBody, E, F, H> Protocol<Request<B>, Response<ResBody>, E> for Http<F, H>
where
    F: RejectionBody<ResBody>,
    H: ResponseHook,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = E;
    type InFlight = HttpInFlight<H>;

    fn reject(
        &self,
        request: &Request<B>,
        rejected: RejectedContext<'_>,
    ) -> Result<Self::Response, E> {
        let RejectedContext {
            rejection,
            partition_key,
            context,
        } = rejected;
        let jitter = self.jitter(context);
        let joined = matches!(rejection, Rejection::Limited { joined: true, .. });
        let at = self.at(context, joined);
        let options = FieldOptions {
            formats: self.formats,
            existing: self.existing,
            spoken: HeaderFormats::NONE,
            at,
            partition_key: partition_key.as_ref().map(PartitionKey::as_bytes),
        };
        let mut response = if grpc::is_call(request.method(), request.headers()) {
            grpc::reject(request.headers(), &rejection, jitter)
        } else {
            let (mut head, body) = self
                .body
                .response(&Head::from(request), &rejection)
                .into_parts();
            let write_wait = |wait, headers: &mut HeaderMap| {
                headers::write_wait(wait, jitter, self.existing, || context.now(), headers);
            };
            match &rejection {
                Rejection::NoKey(_) => {}
                // A wait would be one before the redirect is followed (RFC 9110 §10.2.3).
                _ if !writes_fields_on(head.status, self.on_redirects) => {}
                Rejection::Limited {
                    policy, decision, ..
                } => {
                    if let Some(retry_after) = decision.retry_after() {
                        write_wait(retry_after, &mut head.headers);
                    }
                    policy.derived(PreparedFields::from_policy).write_limits(
                        options,
                        decision,
                        &mut head.headers,
                    );
                }
                // Requests in flight may end at any time: a second is a hint, and the end of a lease is not.
                Rejection::Busy {
                    policy,
                    decision,
                    is_global: false,
                } => {
                    write_wait(headers::busy_retry_after(decision), &mut head.headers);
                    headers::write_permits(options, policy, decision, &mut head.headers);
                }
                Rejection::Busy { .. } | Rejection::Unavailable => {
                    write_wait(RetryAfter::In(headers::A_SECOND), &mut head.headers);
                }
            }
            let body = if request.method() == Method::HEAD {
                // The same head: as long as the body would be, without it (RFC 9110 §9.3.2).
                match self.body.length(&body) {
                    Some(length) => {
                        head.headers.insert(CONTENT_LENGTH, length.into());
                        ResponseBody::empty()
                    }
                    None => ResponseBody::omitted(),
                }
            } else {
                body
            };
            Response::from_parts(head, body)
        };
        headers::write_no_store(response.headers_mut());
        if let Rejection::Limited {
            decision,
            joined: true,
            ..
        } = &rejection
            && let Some(outer) = request.extensions().get::<Charge>()
            && let Some(depth) = outer.rejected_at()
        {
            let inner = LayerFields {
                depth,
                decision: decision.clone(),
                at,
                formats: self.formats,
                as_shadow: false,
            };
            InnerLayerFields::record(response.extensions_mut(), inner);
        }
        if self.extensions {
            match rejection {
                Rejection::Limited { decision, .. } | Rejection::Busy { decision, .. } => {
                    drop(response.extensions_mut().insert(decision))
                }
                Rejection::NoKey(error) => drop(response.extensions_mut().insert(error)),
                Rejection::Unavailable => {}
            }
        }
        Ok(response)
    }

    #[inline]
    fn allow(&self, request: &mut Request<B>, allowed: AllowedContext<'_>) -> HttpInFlight<H> {
        let extensions = self.extensions;
        let AllowedContext {
            answer,
            joined,
            partition_key,
            deferred_charge,
            context,
        } = allowed;
        // A `Retry-After` of the response is compared with the wait for what is used up.
        let is_used_up = answer
            .as_ref()
            .is_some_and(|(_, decision)| decision.snapshot().remaining() == 0);
        let at = self.at(context, joined || is_used_up);
        let (mut hook, mut depth) = (H::Kept::default(), None);
        if extensions || joined || H::IS_CALLED {
            let charge = deferred_charge.into_charge(answer.as_ref());
            if joined || !extensions {
                depth = joined.then(|| charge.depth());
                hook = self.hook.keep(charge);
            } else {
                if H::IS_CALLED {
                    hook = self.hook.keep(charge.clone());
                }
                depth = Some(0);
                if let Some(outer) = request.extensions_mut().insert(charge)
                    && let Some(charge) = request.extensions().get::<Charge>()
                {
                    depth = Some(outer.depth() + 1);
                    charge.set_outer(outer);
                }
            }
        }
        let tells = extensions || !self.formats.is_empty() || self.shadow_header;
        let answer = answer.filter(|_| tells);
        let fields = answer.map(|(policy, decision)| PendingFields {
            policy: policy.clone(),
            decision,
            formats: self.formats,
            existing: self.existing,
            at,
            partition_key,
            on_redirects: self.on_redirects,
            extensions,
            shadow_header: self.shadow_header,
            depth,
            joined,
        });
        HttpInFlight { fields, hook }
    }

    fn charge<'r>(&self, request: &'r Request<B>) -> Option<&'r Charge> {
        request.extensions().get::<Charge>()
    }

    #[inline]
    fn is_exempt(&self, request: &Request<B>) -> bool {
        // A pre-flight as the Fetch standard has it (§4.9): the browser's own question before a request.
        *request.method() == Method::OPTIONS
            && !self.preflights
            && request.headers().contains_key(ORIGIN)
            && request
                .headers()
                .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    fn deadline(&self, request: &mut Request<B>, now: Timestamp) -> Option<Deadline> {
        // Parts of one request, borrowed apart.
        let headers = std::mem::take(request.headers_mut());
        let deadline = deadline::from_request(&headers, request.extensions_mut(), now);
        *request.headers_mut() = headers;
        deadline
    }

    #[inline]
    fn response(pass: HttpInFlight<H>, response: Response<ResBody>) -> Self::Response {
        let mut response = response.map(ResponseBody::inner);
        if H::IS_CALLED {
            let (parts, body) = response.into_parts();
            H::call(pass.hook, &parts);
            response = Response::from_parts(parts, body);
        }
        if let Some(fields) = pass.fields {
            fields.write(&mut response);
        }
        response
    }

    fn error(error: E) -> E {
        error
    }
}

/// What is kept of a request until it is answered: what its client will be told, and who wants to see the answer.
pub struct HttpInFlight<H: ResponseHook = NoHook> {
    fields: Option<PendingFields>,
    hook: H::Kept,
}

impl<H: ResponseHook> fmt::Debug for HttpInFlight<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpInFlight")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

/// In a response's extensions: what layers further in have said in place of those around them whose charge they have
/// joined.
#[derive(Clone, Default)]
struct InnerLayerFields(Vec<LayerFields>);

#[derive(Clone)]
struct LayerFields {
    /// That of the charge.
    depth: usize,
    decision: Decision,
    /// When it was made.
    at: Timestamp,
    /// In which formats it has been told.
    formats: HeaderFormats,
    /// Whether it has been told that a shadow policy would have rejected.
    as_shadow: bool,
}

impl InnerLayerFields {
    fn record(extensions: &mut Extensions, inner: LayerFields) {
        extensions.get_or_insert_default::<Self>().0.push(inner);
    }

    fn take(extensions: &mut Extensions, depth: usize) -> Option<LayerFields> {
        let inner = &mut extensions.get_mut::<Self>()?.0;
        let place = inner.iter().position(|inner| inner.depth == depth)?;
        Some(inner.swap_remove(place))
    }
}

#[derive(Debug)]
struct PendingFields {
    policy: Policy,
    decision: Decision,
    formats: HeaderFormats,
    existing: ExistingHeaders,
    /// When the decision was made, if that matters.
    at: Timestamp,
    partition_key: Option<PartitionKey>,
    on_redirects: bool,
    extensions: bool,
    shadow_header: bool,
    /// That of the charge, if others can join it.
    depth: Option<usize>,
    joined: bool,
}

impl PendingFields {
    fn write<B>(self, response: &mut Response<B>) {
        let mut decision = self.decision;
        let (mut at, mut fields, mut missing) = (self.at, HeaderFormats::NONE, self.formats);
        let mut as_shadow = false;
        if let Some(depth) = self.depth
            && let Some(inner) = InnerLayerFields::take(response.extensions_mut(), depth)
        {
            // By a layer further in, which knows the whole charge.
            (decision, at, fields) = (inner.decision, inner.at, inner.formats);
            missing = missing.without(fields);
            as_shadow = inner.as_shadow;
        }
        let is_shadow = self.policy.is_shadow();
        if is_shadow && self.shadow_header && !as_shadow && !decision.is_allowed() {
            headers::write_shadow(&self.policy, response.headers_mut());
            as_shadow = true;
        }
        if !missing.is_empty()
            && !is_shadow
            && writes_fields_on(response.status(), self.on_redirects)
            && !grpc::is_grpc(response.headers())
        {
            let prepared = self.policy.derived(PreparedFields::from_policy);
            let options = FieldOptions {
                formats: missing,
                existing: self.existing,
                spoken: fields,
                at,
                partition_key: self.partition_key.as_ref().map(PartitionKey::as_bytes),
            };
            prepared.write_limits(options, &decision, response.headers_mut());
            fields = fields.or(missing);
        }
        if let (true, Some(depth)) = (self.joined, self.depth) {
            let inner = LayerFields {
                depth,
                decision: decision.clone(),
                at,
                formats: fields,
                as_shadow,
            };
            InnerLayerFields::record(response.extensions_mut(), inner);
        }
        if self.extensions {
            response.extensions_mut().insert(decision);
        }
    }
}

/// Not on 1xx, and on 3xx only if asked for: a client could stall before it follows.
pub(super) fn writes_fields_on(status: StatusCode, on_redirects: bool) -> bool {
    !(status.is_informational() || status.is_redirection() && !on_redirects)
}

/// Rejects with an error, for services that do not speak HTTP; see [`LimitError`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AsError;

/// The error of a service that is limited [`AsError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum LimitError<E> {
    /// The limiter did not let the request through; the inner service was not called.
    Rejected(Rejection),
    /// The inner service's own.
    Inner(E),
}

impl<E: fmt::Display> fmt::Display for LimitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for LimitError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(Rejection::NoKey(error)) => Some(error),
            Self::Rejected(_) => None,
            // Shown in place of this one, so its causes are ours.
            Self::Inner(error) => error.source(),
        }
    }
}

impl<Req, Res, E> Protocol<Req, Res, E> for AsError {
    type Response = Res;
    type Error = LimitError<E>;
    type InFlight = ();

    fn reject(&self, _: &Req, rejected: RejectedContext<'_>) -> Result<Res, LimitError<E>> {
        Err(LimitError::Rejected(rejected.rejection))
    }

    fn allow(&self, _: &mut Req, _: AllowedContext<'_>) {}

    fn response((): (), response: Res) -> Res {
        response
    }

    fn error(error: E) -> LimitError<E> {
        LimitError::Inner(error)
    }
}
