use std::sync::Arc;

use super::{Key, KeyError, KeyExtractor};

/// A key extractor that is chosen at run time, for requests of type `R`.
///
/// All keys then have one type, and so have the layers that use them:
///
/// ```
/// use std::sync::Arc;
/// use axum::body::Body;
/// use http::Request;
/// use tower_sluice::key::ArcKey;
/// use tower_sluice::{Global, Header, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
///
/// fn key(name: &str) -> ArcKey<Request<Body>> {
///     match name {
///         "ip" => Arc::new(PeerIp::new()),
///         "api-key" => Arc::new(Header::new("x-api-key")),
///         _ => Arc::new(Global),
///     }
/// }
///
/// let limit = RateLimitLayer::new(Policy::new("api", Quota::per_second(10)), key("api-key"), MemoryBackend::new());
/// # let _: axum::Router = axum::Router::new().layer(limit);
/// ```
pub type ArcKey<R> = Arc<dyn KeyExtractor<R> + Send + Sync>;

impl<R, K: KeyExtractor<R> + ?Sized> KeyExtractor<R> for Arc<K> {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        (**self).key(request)
    }

    fn is_global(&self) -> bool {
        (**self).is_global()
    }
}

impl<R, K: KeyExtractor<R> + ?Sized> KeyExtractor<R> for Box<K> {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        (**self).key(request)
    }

    fn is_global(&self) -> bool {
        (**self).is_global()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Global, Header};
    use super::*;

    type Request = http::Request<()>;

    #[test]
    fn shared_and_boxed_extractors_answer_as_their_inner_one() {
        let request = http::Request::get("/").header("x-api-key", "s3cret");
        let request = request.body(()).expect("a valid head");
        let header = Header::new("x-api-key");
        let shared: ArcKey<Request> = Arc::new(header.clone());
        let boxed: Box<dyn KeyExtractor<Request>> = Box::new(header.clone());
        let key = header.key(&request);
        assert!(key.is_ok());
        assert_eq!(shared.key(&request), key);
        assert_eq!(boxed.key(&request), key);
        let global: ArcKey<Request> = Arc::new(Global);
        assert!(global.is_global() && !shared.is_global() && !boxed.is_global());
    }
}
