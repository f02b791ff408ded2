//! [`HeldPermit`] as an axum extractor.

use std::convert::Infallible;
use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use super::HeldPermit;
use crate::response::write_no_store;

/// The error of a request without a permit.
///
/// There is no [`SemaphoreLayer`](super::SemaphoreLayer) around the handler, or its
/// [`extensions`](super::SemaphoreLayer::extensions) are off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingPermit;

impl fmt::Display for MissingPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "no permit in the request's extensions: put a `SemaphoreLayer` around this handler",
        )
    }
}

impl std::error::Error for MissingPermit {}

/// Responds with status 500 and an empty body. The error is in the extensions of the response.
impl IntoResponse for MissingPermit {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        write_no_store(response.headers_mut());
        response.extensions_mut().insert(self);
        response
    }
}

impl<S: Sync> FromRequestParts<S> for HeldPermit {
    type Rejection = MissingPermit;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingPermit> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingPermit)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for HeldPermit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}
