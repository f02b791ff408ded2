use std::fmt;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN};
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode};

use super::headers::{self, Prepared, Telling};
use super::{
    ExistingHeaders, Granted, HeaderFormats, NoHook, Problem, Refusal, RefusalBody, Refused,
    ResponseBody, ResponseHook, grpc, patience,
};
use crate::backend::Lobby;
use crate::charge::Charge;
use crate::clock::Timestamp;
use crate::decision::{Decision, RetryAfter};
use crate::head::Head;
use crate::partition::PartitionKey;
use crate::policy::Policy;
use crate::wait::Deadline;

/// How a service is answered for: what refuses a request, and what an answer takes with it.
///
/// [`Http`] is for HTTP services and the default; [`AsError`] for any other.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot refuse requests of type `{Req}`",
    label = "this service does not speak HTTP",
    note = "add `.reject_with(AsError)`: refusals are then errors of the service"
)]
pub trait Reject<Req, Res, Err>: Clone {
    /// What the limited service answers.
    type Response;
    /// The limited service's error.
    type Error;
    /// What is kept of a request that goes on until it is answered.
    type Pass;

    /// Answers in place of the service.
    ///
    /// # Errors
    ///
    /// If a refusal is an error in this protocol.
    fn refuse(&self, request: &Req, refused: Refused<'_>) -> Result<Self::Response, Self::Error>;

    /// Sees a request that goes on, and what it was granted.
    fn admit(&self, request: &mut Req, granted: Granted<'_>) -> Self::Pass;

    /// The charge that a layer around this one has left in a request.
    fn charge<'r>(&self, request: &'r Req) -> Option<&'r Charge> {
        let _ = request;
        None
    }

    /// Whether the request goes on uncounted, whosever it is.
    fn is_free(&self, request: &Req) -> bool {
        let _ = request;
        false
    }

    /// By when the client of a request that is seen at `now` will have gone, if the request says so.
    fn deadline(&self, request: &mut Req, now: Timestamp) -> Option<Deadline> {
        let _ = (request, now);
        None
    }

    /// Passes the service's answer on.
    fn response(pass: Self::Pass, response: Res) -> Self::Response;

    /// Passes the service's error on.
    fn error(error: Err) -> Self::Error;
}

/// Refuses with 429 and problem details, or as gRPC expects it; leaves header fields and the [`Decision`] in what passes.
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
    fn at(&self, lobby: &Lobby, matters: bool) -> Timestamp {
        if self.formats.tells_time() || matters {
            lobby.now()
        } else {
            Timestamp::default()
        }
    }

    /// How much later than it could this client is told to come back, in µs.
    fn jitter(&self, lobby: &Lobby) -> u64 {
        match self.jitter {
            0 => 0,
            most => lobby.random() % most.saturating_add(1),
        }
    }
}

impl<B, ResBody, E, F, H> Reject<Request<B>, Response<ResBody>, E> for Http<F, H>
where
    F: RefusalBody<ResBody>,
    H: ResponseHook,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = E;
    type Pass = HttpPass<H>;

    fn refuse(&self, request: &Request<B>, refused: Refused<'_>) -> Result<Self::Response, E> {
        let Refused {
            refusal,
            partition_key,
            lobby,
        } = refused;
        let jitter = self.jitter(lobby);
        let joined = matches!(refusal, Refusal::Limited { joined: true, .. });
        let at = self.at(lobby, joined);
        let telling = Telling {
            formats: self.formats,
            existing: self.existing,
            spoken: HeaderFormats::NONE,
            at,
            partition_key: partition_key.as_ref().map(PartitionKey::as_bytes),
        };
        let mut response = if grpc::is_call(request.method(), request.headers()) {
            grpc::refuse(request.headers(), &refusal, jitter)
        } else {
            let (mut head, body) = self
                .body
                .response(&Head::from(request), &refusal)
                .into_parts();
            let write_wait = |wait, headers: &mut HeaderMap| {
                headers::write_wait(wait, jitter, self.existing, || lobby.now(), headers);
            };
            match &refusal {
                Refusal::NoKey(_) => {}
                // A wait would be one before the redirect is followed (RFC 9110 §10.2.3).
                _ if !speaks_on(head.status, self.on_redirects) => {}
                Refusal::Limited {
                    policy, decision, ..
                } => {
                    if let Some(retry_after) = decision.retry_after() {
                        write_wait(retry_after, &mut head.headers);
                    }
                    policy
                        .derived(Prepared::of)
                        .write_limits(telling, decision, &mut head.headers);
                }
                // Requests in flight may end at any time: a second is a hint, and the end of a lease is not.
                Refusal::Busy {
                    permits,
                    decision,
                    is_global: false,
                } => {
                    write_wait(headers::busy_wait(decision), &mut head.headers);
                    headers::write_permits(telling, permits, decision, &mut head.headers);
                }
                Refusal::Busy { .. } | Refusal::Unavailable => {
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
        if let Refusal::Limited {
            decision,
            joined: true,
            ..
        } = &refusal
            && let Some(outer) = request.extensions().get::<Charge>()
            && let Some(depth) = outer.refused_at()
        {
            let said = Said {
                depth,
                decision: decision.clone(),
                at,
                formats: self.formats,
                as_shadow: false,
            };
            Spoken::leave(response.extensions_mut(), said);
        }
        if self.extensions {
            match refusal {
                Refusal::Limited { decision, .. } | Refusal::Busy { decision, .. } => {
                    drop(response.extensions_mut().insert(decision))
                }
                Refusal::NoKey(error) => drop(response.extensions_mut().insert(error)),
                Refusal::Unavailable => {}
            }
        }
        Ok(response)
    }

    #[inline]
    fn admit(&self, request: &mut Request<B>, granted: Granted<'_>) -> HttpPass<H> {
        let extensions = self.extensions;
        let Granted {
            answer,
            joined,
            partition_key,
            offer,
            lobby,
        } = granted;
        // A `Retry-After` of the response is compared with the wait for what is used up.
        let is_used_up = answer
            .as_ref()
            .is_some_and(|(_, decision)| decision.snapshot().remaining() == 0);
        let at = self.at(lobby, joined || is_used_up);
        let (mut hook, mut depth) = (H::Kept::default(), None);
        if extensions || joined || H::IS_CALLED {
            let charge = offer.into_charge(answer.as_ref());
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
        let told = answer.map(|(policy, decision)| Told {
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
        HttpPass { told, hook }
    }

    fn charge<'r>(&self, request: &'r Request<B>) -> Option<&'r Charge> {
        request.extensions().get::<Charge>()
    }

    #[inline]
    fn is_free(&self, request: &Request<B>) -> bool {
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
        let deadline = patience::of(&headers, request.extensions_mut(), now);
        *request.headers_mut() = headers;
        deadline
    }

    #[inline]
    fn response(pass: HttpPass<H>, response: Response<ResBody>) -> Self::Response {
        let mut response = response.map(ResponseBody::inner);
        if H::IS_CALLED {
            let (parts, body) = response.into_parts();
            H::call(pass.hook, &parts);
            response = Response::from_parts(parts, body);
        }
        if let Some(told) = pass.told {
            told.write(&mut response);
        }
        response
    }

    fn error(error: E) -> E {
        error
    }
}

/// What is kept of a request until it is answered: what its client will be told, and who wants to see the answer.
pub struct HttpPass<H: ResponseHook = NoHook> {
    told: Option<Told>,
    hook: H::Kept,
}

impl<H: ResponseHook> fmt::Debug for HttpPass<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPass")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

/// In a response's extensions: what layers further in have said in place of those around them whose charge they have joined.
#[derive(Clone, Default)]
struct Spoken(Vec<Said>);

#[derive(Clone)]
struct Said {
    /// That of the charge.
    depth: usize,
    decision: Decision,
    /// When it was made.
    at: Timestamp,
    /// In which formats it has been told.
    formats: HeaderFormats,
    /// Whether it has been told that a shadow policy would have refused.
    as_shadow: bool,
}

impl Spoken {
    fn leave(extensions: &mut Extensions, said: Said) {
        extensions.get_or_insert_default::<Self>().0.push(said);
    }

    fn take(extensions: &mut Extensions, depth: usize) -> Option<Said> {
        let said = &mut extensions.get_mut::<Self>()?.0;
        let place = said.iter().position(|said| said.depth == depth)?;
        Some(said.swap_remove(place))
    }
}

#[derive(Debug)]
struct Told {
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

impl Told {
    fn write<B>(self, response: &mut Response<B>) {
        let mut decision = self.decision;
        let (mut at, mut told, mut untold) = (self.at, HeaderFormats::NONE, self.formats);
        let mut as_shadow = false;
        if let Some(depth) = self.depth
            && let Some(said) = Spoken::take(response.extensions_mut(), depth)
        {
            // By a layer further in, which knows the whole charge.
            (decision, at, told) = (said.decision, said.at, said.formats);
            untold = untold.without(told);
            as_shadow = said.as_shadow;
        }
        let is_shadow = self.policy.is_shadow();
        if is_shadow && self.shadow_header && !as_shadow && !decision.is_allowed() {
            headers::write_shadow(&self.policy, response.headers_mut());
            as_shadow = true;
        }
        if !untold.is_empty()
            && !is_shadow
            && speaks_on(response.status(), self.on_redirects)
            && !grpc::is_grpc(response.headers())
        {
            let prepared = self.policy.derived(Prepared::of);
            let telling = Telling {
                formats: untold,
                existing: self.existing,
                spoken: told,
                at,
                partition_key: self.partition_key.as_ref().map(PartitionKey::as_bytes),
            };
            prepared.write_limits(telling, &decision, response.headers_mut());
            told = told.or(untold);
        }
        if let (true, Some(depth)) = (self.joined, self.depth) {
            let said = Said {
                depth,
                decision: decision.clone(),
                at,
                formats: told,
                as_shadow,
            };
            Spoken::leave(response.extensions_mut(), said);
        }
        if self.extensions {
            response.extensions_mut().insert(decision);
        }
    }
}

/// Not on 1xx, and on 3xx only if asked for: a client could stall before it follows.
pub(super) fn speaks_on(status: StatusCode, on_redirects: bool) -> bool {
    !(status.is_informational() || status.is_redirection() && !on_redirects)
}

/// Refuses with an error, for services that do not speak HTTP; see [`LimitError`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AsError;

/// The error of a service that is limited [`AsError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum LimitError<E> {
    /// The limiter did not let the request through; the inner service was not called.
    Refused(Refusal),
    /// The inner service's own.
    Inner(E),
}

impl<E: fmt::Display> fmt::Display for LimitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for LimitError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(Refusal::NoKey(error)) => Some(error),
            Self::Refused(_) => None,
            // Shown in place of this one, so its causes are ours.
            Self::Inner(error) => error.source(),
        }
    }
}

impl<Req, Res, E> Reject<Req, Res, E> for AsError {
    type Response = Res;
    type Error = LimitError<E>;
    type Pass = ();

    fn refuse(&self, _: &Req, refused: Refused<'_>) -> Result<Res, LimitError<E>> {
        Err(LimitError::Refused(refused.refusal))
    }

    fn admit(&self, _: &mut Req, _: Granted<'_>) {}

    fn response((): (), response: Res) -> Res {
        response
    }

    fn error(error: E) -> LimitError<E> {
        LimitError::Inner(error)
    }
}
