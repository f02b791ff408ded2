//! [`Charge`] and [`Decision`] as axum extractors.

use std::convert::Infallible;
use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::decision::Decision;
use crate::limiter::charge::Charge;
use crate::response::write_no_store;

/// The error of a request without a charge.
///
/// There is no limit around the handler, or its [`extensions`](crate::RateLimitLayer::extensions) are off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingCharge;

impl fmt::Display for MissingCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "no charge in the request's extensions: put a `RateLimitLayer` around this handler",
        )
    }
}

impl std::error::Error for MissingCharge {}

/// Responds with status 500 and an empty body. The error is in the extensions of the response.
impl IntoResponse for MissingCharge {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        write_no_store(response.headers_mut());
        response.extensions_mut().insert(self);
        response
    }
}

/// Extracts the charge of the innermost [`RateLimitLayer`](crate::RateLimitLayer) around the handler.
impl<S: Sync> FromRequestParts<S> for Charge {
    type Rejection = MissingCharge;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingCharge> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingCharge)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Charge {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// Extracts the decision of the innermost layer around the handler. It is `None` without a layer or for an uncounted
/// request.
impl<S: Sync> OptionalFromRequestParts<S> for Decision {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Charge>().and_then(Charge::decision))
    }
}
