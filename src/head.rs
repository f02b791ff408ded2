#[cfg(feature = "axum")]
use axum::extract::OriginalUri;
use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Request, Uri};

/// The head of a request, which the extractors of this crate read: a [`Request`] with any body, or the [`Parts`] of one.
///
/// [`Parts`] made by hand give the key of a request that does not exist, for a job, a socket or an operator. See
/// [`key`](crate::key#keys-without-a-request).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an HTTP request, so no key can be extracted from its head",
    note = "implement `KeyExtractor<{Self}>` for a type of your own, or use `Global`"
)]
pub trait RequestHead: sealed::Sealed {
    /// Returns the method.
    fn method(&self) -> &Method;

    /// Returns the target.
    fn uri(&self) -> &Uri;

    /// Returns the header fields.
    fn headers(&self) -> &HeaderMap;

    /// Returns the extensions.
    fn extensions(&self) -> &Extensions;
}

mod sealed {
    pub trait Sealed {}

    impl<B> Sealed for http::Request<B> {}

    impl Sealed for http::request::Parts {}
}

impl<B> RequestHead for Request<B> {
    #[inline]
    fn method(&self) -> &Method {
        self.method()
    }

    #[inline]
    fn uri(&self) -> &Uri {
        self.uri()
    }

    #[inline]
    fn headers(&self) -> &HeaderMap {
        self.headers()
    }

    #[inline]
    fn extensions(&self) -> &Extensions {
        self.extensions()
    }
}

impl RequestHead for Parts {
    fn method(&self) -> &Method {
        &self.method
    }

    fn uri(&self) -> &Uri {
        &self.uri
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

/// The head of an HTTP request by reference, independent of its body. It is the argument of closures for keys, costs,
/// policies and rejections.
///
/// A custom [`KeyExtractor`](crate::key::KeyExtractor) or [`CostOf`](crate::cost::CostOf) creates one by
/// `Head::from(request)`.
///
/// ```
/// use http::Request;
/// use tower_sluice::Head;
///
/// let request = Request::get("/search?q=sluice").body(()).expect("a valid request");
/// let head = Head::from(&request);
/// assert_eq!(head.path(), "/search");
/// ```
///
/// Guide: [write a part of your own](crate::_guide::extending).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target as the client has sent it. A nested router of axum removes its prefix from the request's target; with
    /// the feature `axum`, this field still contains the prefix.
    pub uri: &'a Uri,
    /// The target as the limited service sees it: without the prefix of a nested router, and after rewrites by
    /// middleware.
    pub local_uri: &'a Uri,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The extensions, such as values that outer layers have inserted.
    pub extensions: &'a Extensions,
}

impl<'a> Head<'a> {
    /// Returns the path of [`uri`](Self::uri), without the query. It is complete in nested routers.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.uri.path()
    }
}

impl<'a, R: RequestHead> From<&'a R> for Head<'a> {
    fn from(request: &'a R) -> Self {
        Self {
            method: request.method(),
            uri: original_uri(request),
            local_uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

/// Returns the target that axum's outermost router has stored before a nested router removed its prefix.
#[cfg(feature = "axum")]
fn original_uri(request: &impl RequestHead) -> &Uri {
    match request.extensions().get() {
        Some(OriginalUri(uri)) => uri,
        None => request.uri(),
    }
}

#[cfg(not(feature = "axum"))]
fn original_uri(request: &impl RequestHead) -> &Uri {
    request.uri()
}
