use std::fmt;
use std::sync::Arc;

use http::{Request, Response};

use super::headers::{self, HeaderFormat};
use super::{AsError, Http, NoHook, RefusalBody, Reject, ResponseBody, grpc, reject};
use crate::concurrency::{HeldPermit, Hold};
use crate::semaphore::Permit;

/// How a service is answered for whose requests hold permits: what takes a permit along, and until when.
///
/// [`Http`] does so until the end of the response's body; [`AsError`] until there is an answer.
pub trait CarryPermit<Req, Res, Err>: Reject<Req, Res, Err> {
    /// What holds the permit of a request until it is answered. Dropped, it gives it back.
    type Carried;

    /// Sees a request that goes on, and its permit; `None` if it goes on without one.
    fn enter(&self, request: &mut Req, permit: Option<Permit>, hold: Hold) -> Self::Carried;

    /// Passes the service's answer on.
    fn leave(carried: Self::Carried, response: Res) -> Self::Response;
}

/// What holds the permit of an HTTP request until it is answered.
pub struct HttpCarried {
    permit: Option<Arc<Permit>>,
    hold: Hold,
    format: HeaderFormat,
    on_redirects: bool,
    extensions: bool,
}

impl<B, ResBody, E, F> CarryPermit<Request<B>, Response<ResBody>, E> for Http<F, NoHook>
where
    F: RefusalBody,
{
    type Carried = HttpCarried;

    fn enter(&self, request: &mut Request<B>, permit: Option<Permit>, hold: Hold) -> HttpCarried {
        let permit = permit.map(Arc::new);
        if self.extensions {
            let held: &mut HeldPermit = request.extensions_mut().get_or_insert_default();
            if let Some(permit) = &permit {
                held.push(permit);
            }
        }
        HttpCarried {
            permit,
            hold,
            format: self.format,
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
            headers::write_permits(carried.format, permit.permits(), permit.decision(), headers);
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

    fn enter(&self, _: &mut Req, permit: Option<Permit>, _: Hold) -> Option<Permit> {
        permit
    }

    fn leave(_: Option<Permit>, response: Res) -> Res {
        response
    }
}
