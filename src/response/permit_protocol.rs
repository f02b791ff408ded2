use std::fmt;
use std::sync::Arc;

use http::{Request, Response};

use super::as_error::AsError;
use super::body::ResponseBody;
use super::body_mode::BodyMode;
use super::context::PermitContext;
use super::existing::ExistingHeaders;
use super::format::HeaderFormats;
use super::hook::NoHook;
use super::http::Http;
use super::prepared::{FieldOptions, write_permits};
use super::protocol::Protocol;
use super::rejection_body::RejectionBody;
use super::{field, grpc};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::partition::PartitionKey;
use crate::policy::SemaphorePolicy;
use crate::semaphore::{HeldPermit, Hold, Permit};

/// A [`Protocol`] whose requests can hold permits.
///
/// [`Http`] holds the permit until the end of the response's body, and [`AsError`] until the response.
pub trait PermitProtocol<Req, Res, Err>: Protocol<Req, Res, Err> {
    /// Holds the permit of a request until its response. Dropping it releases the permit.
    type PermitHolder;

    /// Passes an allowed request on and takes its permit.
    fn hold_permit(&self, request: &mut Req, context: PermitContext) -> Self::PermitHolder;

    /// Passes the service's response on.
    fn permit_response(holder: Self::PermitHolder, response: Res) -> Self::Response;
}

/// Holds the permit of an HTTP request until its response.
pub struct HttpPermitHolder {
    permit: Option<Arc<Permit>>,
    denial: Option<Box<(SemaphorePolicy, Decision)>>,
    hold: Hold,
    formats: HeaderFormats,
    existing: ExistingHeaders,
    partition_key: Option<PartitionKey>,
    on_redirects: bool,
    response_extensions: bool,
    shadow_header: bool,
}

impl<B, ResBody, E, F, M> PermitProtocol<Request<B>, Response<ResBody>, E> for Http<F, NoHook, M>
where
    F: RejectionBody<ResBody>,
    M: BodyMode<ResBody>,
{
    type PermitHolder = HttpPermitHolder;

    fn hold_permit(&self, request: &mut Request<B>, context: PermitContext) -> HttpPermitHolder {
        let permit = context.permit.map(Arc::new);
        if self.extensions {
            let held: &mut HeldPermit = request.extensions_mut().get_or_insert_default();
            if let Some(permit) = &permit {
                held.push(permit);
            }
        }
        HttpPermitHolder {
            permit,
            denial: context.denial,
            hold: context.hold,
            formats: self.formats,
            existing: self.existing,
            partition_key: context.partition_key,
            on_redirects: self.on_redirects,
            response_extensions: self.response_extensions,
            shadow_header: self.shadow_header,
        }
    }

    fn permit_response(
        holder: HttpPermitHolder,
        mut response: Response<ResBody>,
    ) -> Self::Response {
        let Some(permit) = holder.permit else {
            if let Some((policy, decision)) = holder.denial.map(|denial| *denial) {
                if holder.shadow_header {
                    field::write_shadow(policy.name(), response.headers_mut());
                }
                if holder.response_extensions {
                    response.extensions_mut().insert(decision);
                }
            }
            return response.map(M::inner);
        };
        if !permit.policy().is_shadow()
            && field::is_written_on(response.status(), holder.on_redirects)
            && !grpc::is_grpc(response.headers())
        {
            let headers = response.headers_mut();
            let options = FieldOptions {
                formats: holder.formats,
                existing: holder.existing,
                written: HeaderFormats::NONE,
                at: Timestamp::default(), // draft 11 has no point in time
                partition_key: holder.partition_key.as_ref().map(PartitionKey::as_bytes),
                shown: None,
            };
            write_permits(options, permit.policy(), permit.decision(), headers);
        }
        if holder.response_extensions {
            response.extensions_mut().insert(permit.decision().clone());
        }
        match holder.hold {
            Hold::Body => response.map(|body| M::body(ResponseBody::holding(body, permit))),
            Hold::Head => response.map(M::inner),
        }
    }
}

impl fmt::Debug for HttpPermitHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPermitHolder")
            .field("permit", &self.permit)
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}

impl<Req, Res, E> PermitProtocol<Req, Res, E> for AsError {
    type PermitHolder = Option<Permit>;

    fn hold_permit(&self, _: &mut Req, context: PermitContext) -> Option<Permit> {
        context.permit
    }

    fn permit_response(_: Option<Permit>, response: Res) -> Res {
        response
    }
}
