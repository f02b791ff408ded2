//! Responses as clients, handlers and outer services see them.

mod extensions;
mod fields;
mod grpc_calls;
mod reject_fn;
mod rejections;
mod unkeyed;

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::Service;
use tower_sluice::{Charge, Global, RateLimitLayer};

use crate::support::{Memory, memory, two_a_minute};

pub(crate) fn global() -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(two_a_minute(), Global, memory())
}

/// A service that answers with `status`.
pub(crate) fn answers(
    status: u16,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone {
    tower::service_fn(move |_: Request<()>| async move {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        Ok(response)
    })
}

/// A service that answers with the remaining tokens of its request's charge.
pub(crate) fn reports_remaining()
-> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone {
    tower::service_fn(|request: Request<()>| async move {
        let charge = request.extensions().get::<Charge>();
        let text = match charge.and_then(Charge::decision) {
            Some(decision) => decision.snapshot().remaining().to_string(),
            None => "nothing".into(),
        };
        Ok(Response::new(Full::from(text)))
    })
}

pub(crate) fn grpc(kind: &str) -> Request<()> {
    let request = Request::post("/grpc.health.v1.Health/Check").header("content-type", kind);
    request.body(()).expect("a valid head")
}
