//! The types of response bodies.

use super::body::ResponseBody;

/// How a limited service types its response bodies; see [`Http::wrap_body`](super::Http::wrap_body).
///
/// `AxumBody` is the default with the feature `axum`, and [`WrapBody`] without it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot pass on response bodies of type `{B}`",
    note = "`AxumBody` needs a `Body<Data = Bytes> + Send + 'static`; `.wrap_body()` takes any body"
)]
pub trait BodyMode<B>: Clone {
    /// The body of the limited service's responses.
    type Body;

    /// Converts a body of the inner service or of a rejection.
    fn body(body: ResponseBody<B>) -> Self::Body;

    /// Converts a body of the inner service that holds no permit.
    fn inner(body: B) -> Self::Body {
        Self::body(ResponseBody::inner(body))
    }
}

/// Wraps the bodies of the inner service, of any type, in a [`ResponseBody`].
#[derive(Clone, Copy, Debug, Default)]
pub struct WrapBody;

impl<B> BodyMode<B> for WrapBody {
    type Body = ResponseBody<B>;

    #[inline]
    fn body(body: ResponseBody<B>) -> ResponseBody<B> {
        body
    }
}

/// Responds with the body type of axum. A body of that type passes through as it is, so that a limited service has the
/// same type of response as the service itself.
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
#[derive(Clone, Copy, Debug, Default)]
pub struct AxumBody;

#[cfg(feature = "axum")]
impl<B> BodyMode<B> for AxumBody
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Body = axum::body::Body;

    fn body(body: ResponseBody<B>) -> Self::Body {
        match body.into_bytes() {
            Ok(bytes) => bytes.into(),
            Err(body) => axum::body::Body::new(body),
        }
    }

    #[inline]
    fn inner(body: B) -> Self::Body {
        axum::body::Body::new(body)
    }
}

/// The default mode.
#[cfg(feature = "axum")]
pub type DefaultBodyMode = AxumBody;
/// The default mode.
#[cfg(not(feature = "axum"))]
pub type DefaultBodyMode = WrapBody;
