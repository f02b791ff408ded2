use std::mem;
use std::time::Duration;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN};
use http::{HeaderMap, Method, Request, Response};

use super::body::ResponseBody;
use super::body_mode::BodyMode;
use super::context::{AllowedContext, RejectedContext};
use super::format::HeaderFormats;
use super::hook::ResponseHook;
use super::http::Http;
use super::in_flight::{HttpInFlight, InnerLayerFields, LayerFields, PendingFields, shown_quota};
use super::prepared::{FieldOptions, PreparedFields, write_permits};
use super::protocol::Protocol;
use super::rejection::Rejection;
use super::rejection_body::RejectionBody;
use super::{deadline, field, grpc, retry_after};
use crate::backend::BackendContext;
use crate::budget::TimeBudget;
use crate::clock::Timestamp;
use crate::decision::RetryAfter;
use crate::head::Head;
use crate::key::Key;
use crate::limiter::charge::Charge;
use crate::partition::PartitionKey;
use crate::wait::Deadline;

impl<B, ResBody, E, F, H, M> Protocol<Request<B>, Response<ResBody>, E> for Http<F, H, M>
where
    F: RejectionBody<ResBody>,
    H: ResponseHook,
    M: BodyMode<ResBody>,
{
    type Response = Response<M::Body>;
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
        let states_time = match &rejection {
            Rejection::Limited { joined, policy, .. } => *joined || policy.has_calendar(),
            _ => false,
        };
        let at = self.at(context, states_time);
        let options = FieldOptions {
            formats: self.formats,
            existing: self.existing,
            written: HeaderFormats::NONE,
            at,
            partition_key: partition_key.as_ref().map(PartitionKey::as_bytes),
            shown: match &rejection {
                Rejection::Limited { policy, .. } => shown_quota(self.shown.as_deref(), policy),
                _ => None,
            },
        };
        let mut response = if grpc::is_call(request.method(), request.headers()) {
            grpc::reject(request.headers(), &rejection, jitter).map(M::body)
        } else {
            let (mut head, body) = self
                .body
                .response(&Head::from(request), &rejection)
                .into_parts();
            let write_wait = |wait, headers: &mut HeaderMap| {
                retry_after::write_wait(wait, jitter, self.existing, || context.now(), headers);
            };
            match &rejection {
                Rejection::NoKey(_) | Rejection::NoCost(_) => {}
                // On a redirect, `Retry-After` would delay the redirect itself (RFC 9110 §10.2.3).
                _ if !field::is_written_on(head.status, self.on_redirects) => {}
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
                // Requests in flight may end at any time. So the wait is a hint of one second, and not the end of a
                // lease.
                Rejection::Busy {
                    policy,
                    decision,
                    is_global: false,
                } => {
                    write_wait(retry_after::busy_retry_after(decision), &mut head.headers);
                    write_permits(options, policy, decision, &mut head.headers);
                }
                Rejection::Busy { .. } | Rejection::Unavailable => {
                    write_wait(RetryAfter::In(retry_after::A_SECOND), &mut head.headers);
                }
            }
            let body = if request.method() == Method::HEAD {
                // The response to `HEAD` has the same head and no body (RFC 9110 §9.3.2).
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
            Response::from_parts(head, M::body(body))
        };
        field::write_no_store(response.headers_mut());
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
        if self.response_extensions {
            match rejection {
                Rejection::Limited { decision, .. } | Rejection::Busy { decision, .. } => {
                    drop(response.extensions_mut().insert(decision))
                }
                Rejection::NoKey(error) => drop(response.extensions_mut().insert(error)),
                Rejection::NoCost(error) => drop(response.extensions_mut().insert(error)),
                Rejection::Unavailable => {}
            }
        }
        Ok(response)
    }

    #[inline(always)] // a call would pass the context and the result through memory
    fn allow(&self, request: &mut Request<B>, allowed: AllowedContext<'_>) -> HttpInFlight<H> {
        let AllowedContext {
            answer,
            joined,
            partition_key,
            deferred_charge,
            context,
        } = allowed;
        let is_kept = self.extensions || joined || H::IS_CALLED;
        let is_written = self.response_extensions || !self.formats.is_empty() || self.shadow_header;
        if !is_kept && !is_written {
            return HttpInFlight::default();
        }
        // The time is also needed to compare a `Retry-After` of the response with the wait for used-up tokens.
        let is_used_up = answer.is_some_and(|(_, decision)| decision.snapshot().remaining() == 0);
        let has_calendar = answer.is_some_and(|(policy, _)| policy.has_calendar());
        let at = self.at(context, joined || is_used_up || has_calendar);
        let (mut hook, mut depth) = (H::Kept::default(), None);
        if is_kept {
            let charge = deferred_charge.into_charge(answer);
            if let Some(budget) = request.extensions().get::<TimeBudget>() {
                charge.set_budget(budget.clone());
            }
            if joined || !self.extensions {
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
        let is_written = is_written || joined || self.extensions;
        let fields = answer
            .filter(|_| is_written)
            .map(|(policy, decision)| PendingFields {
                policy: policy.clone(),
                decision: decision.clone(),
                formats: self.formats,
                existing: self.existing,
                at,
                partition_key,
                on_redirects: self.on_redirects,
                response_extensions: self.response_extensions,
                shadow_header: self.shadow_header,
                depth,
                joined,
                shown: self.shown.clone(),
            });
        HttpInFlight { fields, hook }
    }

    #[inline]
    fn partition_key(&self, key: &Key) -> Option<PartitionKey> {
        self.partitioner.as_ref().map(|by| by.partition_key(key))
    }

    fn observe_rejection(&self, request: &Request<B>, key: Option<&Key>, rejection: &Rejection) {
        if let Some(observer) = &self.observer {
            observer.observe(&Head::from(request), key, rejection);
        }
    }

    fn charge<'r>(&self, request: &'r Request<B>) -> Option<&'r Charge> {
        request.extensions().get::<Charge>()
    }

    #[inline]
    fn is_exempt(&self, request: &Request<B>) -> bool {
        // A preflight by the Fetch standard (§4.9): a browser sends it before the actual request.
        *request.method() == Method::OPTIONS
            && !self.preflights
            && request.headers().contains_key(ORIGIN)
            && request
                .headers()
                .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    fn time_budget(&self, request: &mut Request<B>, limit: Duration) -> Option<TimeBudget> {
        let extensions = request.extensions_mut();
        let budget = extensions.get_or_insert_with(|| TimeBudget::new(limit));
        Some(budget.clone())
    }

    fn deadline(&self, request: &mut Request<B>, now: Timestamp) -> Option<Deadline> {
        // The headers are taken out to borrow two parts of the request at once.
        let headers = mem::take(request.headers_mut());
        let deadline = deadline::from_request(&headers, request.extensions_mut(), now);
        *request.headers_mut() = headers;
        deadline
    }

    #[inline]
    fn response(in_flight: &mut HttpInFlight<H>, response: Response<ResBody>) -> Self::Response {
        let mut response = response;
        if H::IS_CALLED {
            let (parts, body) = response.into_parts();
            H::call(mem::take(&mut in_flight.hook), &parts);
            response = Response::from_parts(parts, body);
        }
        match &in_flight.fields {
            // A response that is not changed need not be in memory.
            None => response.map(M::inner),
            Some(fields) => {
                fields.write(&mut response);
                response.map(M::inner)
            }
        }
    }

    fn error(error: E) -> E {
        error
    }
}

impl<F, H, M> Http<F, H, M> {
    /// Returns the time of an answer if a field states it.
    fn at(&self, context: &BackendContext, matters: bool) -> Timestamp {
        if self.formats.needs_time() || matters {
            context.now()
        } else {
            Timestamp::default()
        }
    }

    /// Returns a random delay for one client, in µs.
    fn jitter(&self, context: &BackendContext) -> u64 {
        match self.jitter {
            0 => 0,
            max => context.random() % max.saturating_add(1),
        }
    }
}
