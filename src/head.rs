#[cfg(feature = "axum")]
use axum::extract::OriginalUri;
use http::{Extensions, HeaderMap, Method, Request, Uri};

/// The head of an HTTP request by reference, whatever its body: the argument of closures for keys, costs, policies and rejections.
///
/// A [`KeyExtractor`](crate::key::KeyExtractor) or [`CostOf`](crate::cost::CostOf) of your own makes one by
/// `Head::from(request)`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target as the client has sent it. A nested router of axum cuts the prefix that it was nested at; this target is whole
    /// in every place (feature `axum`).
    pub uri: &'a Uri,
    /// The target as the limited service sees it: without the prefix in a nested router of axum, as rewritten by a middleware.
    pub local_uri: &'a Uri,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// What layers in front have left.
    pub extensions: &'a Extensions,
}

impl<'a> Head<'a> {
    /// The path of [`uri`](Self::uri), whole in nested routers, and without its query.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.uri.path()
    }
}

impl<'a, B> From<&'a Request<B>> for Head<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: original_uri(request),
            local_uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

/// The outermost router of axum keeps the target here before a nested one cuts it.
#[cfg(feature = "axum")]
fn original_uri<B>(request: &Request<B>) -> &Uri {
    match request.extensions().get() {
        Some(OriginalUri(uri)) => uri,
        None => request.uri(),
    }
}

#[cfg(not(feature = "axum"))]
fn original_uri<B>(request: &Request<B>) -> &Uri {
    request.uri()
}
