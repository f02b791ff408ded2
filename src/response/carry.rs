use std::fmt;
use std::sync::Arc;

use http::{Request, Response};

use super::headers::{self, Telling};
use super::{
    AsError, Entered, ExistingHeaders, HeaderFormats, Http, NoHook, RefusalBody, Reject,
    ResponseBody, grpc, reject,
};
use crate::clock::Timestamp;
use crate::partition::PartitionKey;
use crate::semaphore::{HeldPermit, Hold, Permit};

/// How a service is answered for whose requests hold permits: what takes a permit along, and until when.
///
/// [`Http`] does so until the end of the response's body; [`AsError`] until there is an answer.
pub trait CarryPermit<Req, Res, Err>: Reject<Req, Res, Err> {
    /// What holds the permit of a request until it is answered. Dropped, it gives it back.
    type Carried;

    /// Sees a request that goes on, and its permit.
    fn enter(&self, request: &mut Req, entered: Entered) -> Self::Carried;

    /// Passes the service's answer on.
    fn leave(carried: Self::Carried, response: Res) -> Self::Response;
}

/// What holds the permit of an HTTP request until it is answered.
pub struct HttpCarried {
    permit: Option<Arc<Permit>>,
    hold: Hold,
    formats: HeaderFormats,
    existing: ExistingHeaders,
    partition_key: Option<PartitionKey>,
    on_redirects: bool,
    extensions: bool,
}

impl<B, ResBody, E, F> CarryPermit<Request<B>, Response<ResBody>, E> for Http<F, NoHook>
where
    F: RefusalBody<ResBody>,
{
    type Carried = HttpCarried;

    fn enter(&self, request: &mut Request<B>, entered: Entered) -> HttpCarried {
        let permit = entered.permit.map(Arc::new);
        if self.extensions {
            let held: &mut HeldPermit = request.extensions_mut().get_or_insert_default();
            if let Some(permit) = &permit {
                held.push(permit);
            }
        }
        HttpCarried {
            permit,
            hold: entered.hold,
            formats: self.formats,
            existing: self.existing,
            partition_key: entered.partition_key,
            on_redirects: self.on_redirects,
            extensions: self.extensions,
        }
    }

    fn leave(carried: HttpCarried, mut response: Response<ResBody>) -> Self::Response {
        let Some(permit) = carried.permit else {
            return response.map(ResponseBody::inner);
        };
        if reject::speaks_on(response.status(), carried.on_redirects)
            && !grpc::is_grpc(response.headers())
        {
            let headers = response.headers_mut();
            let telling = Telling {
                formats: carried.formats,
                existing: carried.existing,
                spoken: HeaderFormats::NONE,
                at: Timestamp::default(), // draft 11 tells no point in time
                partition_key: carried.partition_key.as_ref().map(PartitionKey::as_bytes),
            };
            headers::write_permits(telling, permit.permits(), permit.decision(), headers);
        }
        if carried.extensions {
            response.extensions_mut().insert(permit.decision().clone());
        }
        match carried.hold {
            Hold::Body => response.map(|body| ResponseBody::holding(body, permit)),
            Hold::Head => response.map(ResponseBody::inner),
        }
    }
}

impl fmt::Debug for HttpCarried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCarried")
            .field("permit", &self.permit)
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}

impl<Req, Res, E> CarryPermit<Req, Res, E> for AsError {
    type Carried = Option<Permit>;

    fn enter(&self, _: &mut Req, entered: Entered) -> Option<Permit> {
        entered.permit
    }

    fn leave(_: Option<Permit>, response: Res) -> Res {
        response
    }
}
