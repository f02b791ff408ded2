use std::fmt;

use http::StatusCode;
use http::header::HeaderName;

/// The error returned for a request whose cost is unknown. A layer rejects the request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CostError {
    /// The request has no `content-length`, or `transfer-encoding` overrides it.
    LengthRequired,
    /// The header field is missing, or has anything else than one number.
    NoNumber(HeaderName),
}

impl CostError {
    /// Returns the HTTP status: 411 without a `content-length` (RFC 9110 §15.5.12), and 400 otherwise.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::NoNumber(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for CostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LengthRequired => {
                f.write_str("no `content-length`; send the length of the body in it")
            }
            Self::NoNumber(name) => write!(f, "header `{name}` has no single number"),
        }
    }
}

impl std::error::Error for CostError {}
