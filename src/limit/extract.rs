//! [`Charge`] and [`Decision`] as arguments of axum's handlers.

use std::convert::Infallible;
use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::decision::Decision;
use crate::limiter::charge::Charge;
use crate::response::write_no_store;

/// There is no charge in the request: no limit is in front of the handler, or its layer was told to leave no
/// [`extensions`](crate::RateLimitLayer::extensions).
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

/// 500 without a word to the client; the reason is in the response's extensions.
impl IntoResponse for MissingCharge {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        write_no_store(response.headers_mut());
        response.extensions_mut().insert(self);
        response
    }
}

/// What the innermost [`RateLimitLayer`](crate::RateLimitLayer) around the handler has charged.
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

/// The answer of the innermost layer around the handler; `None` if there is none, or the request passed uncounted.
impl<S: Sync> OptionalFromRequestParts<S> for Decision {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Charge>().and_then(Charge::decision))
    }
}
