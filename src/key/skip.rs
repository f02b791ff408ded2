use std::fmt;

use http::{Method, Request};

use super::{Key, KeyError, KeyExtractor};
use crate::head::Head;

/// Which requests a limit passes over: methods of every key extractor.
///
/// ```
/// use http::{Method, Request};
/// use tower_sluice::key::{ClientIp, Header, KeyError, KeyExt, KeyExtractor, Networks, PeerAddr};
///
/// let office = ClientIp::new().allow_list(Networks::new(["203.0.113.0/24"]));
/// let key = Header::new("x-api-key")
///     .skip_if(|head| head.path() == "/health")
///     .skip_method(Method::HEAD)
///     .guarded_by(office);
/// let from = |peer: [u8; 4]| Request::builder().extension(PeerAddr((peer, 4711).into())).header("x-api-key", "s3cret");
/// assert!(key.key(&from([198, 51, 100, 1]).body(())?).is_ok());
/// assert_eq!(key.key(&from([198, 51, 100, 1]).uri("/health").body(())?), Err(KeyError::Exempt));
/// assert_eq!(key.key(&from([198, 51, 100, 1]).method("HEAD").body(())?), Err(KeyError::Exempt));
/// assert_eq!(key.key(&from([203, 0, 113, 1]).body(())?), Err(KeyError::Exempt));
/// # Ok::<(), http::Error>(())
/// ```
///
/// A request that is passed over goes on uncounted, without rate-limit fields. The CORS pre-flight of a browser is passed over without
/// being asked for: [`count_preflights`](crate::RateLimitLayer::count_preflights).
pub trait KeyExt: Sized {
    /// Requests of which `f` says so are not limited.
    fn skip_if<F>(self, f: F) -> SkipIf<Self, F>
    where
        F: Fn(&Head<'_>) -> bool,
    {
        SkipIf {
            key: self,
            skips: f,
        }
    }

    /// Requests of this method are not limited: `HEAD`, `OPTIONS`. (What answers `GET` often answers `HEAD` too, with the same work:
    /// axum's `get` for one.)
    fn skip_method(self, method: Method) -> SkipMethod<Self> {
        SkipMethod { key: self, method }
    }

    /// `guard` is asked first, and what it does not pass is not passed: a [`ClientIp`](super::ClientIp) with lists of networks
    /// in front of a key of another kind. Its own key does not count.
    fn guarded_by<G>(self, guard: G) -> Guarded<Self, G> {
        Guarded { key: self, guard }
    }
}

impl<K> KeyExt for K {}

/// A key for all requests but some; see [`KeyExt::skip_if`].
#[derive(Clone, Copy)]
pub struct SkipIf<K, F> {
    key: K,
    skips: F,
}

impl<B, K, F> KeyExtractor<Request<B>> for SkipIf<K, F>
where
    K: KeyExtractor<Request<B>>,
    F: Fn(&Head<'_>) -> bool,
{
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        if (self.skips)(&Head::from(request)) {
            return Err(KeyError::Exempt);
        }
        self.key.key(request)
    }

    fn is_global(&self) -> bool {
        self.key.is_global()
    }
}

impl<K: fmt::Debug, F> fmt::Debug for SkipIf<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SkipIf").field(&self.key).finish()
    }
}

/// A key for requests of other methods; see [`KeyExt::skip_method`].
#[derive(Clone, Debug)]
pub struct SkipMethod<K> {
    key: K,
    method: Method,
}

impl<B, K: KeyExtractor<Request<B>>> KeyExtractor<Request<B>> for SkipMethod<K> {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        if *request.method() == self.method {
            return Err(KeyError::Exempt);
        }
        self.key.key(request)
    }

    fn is_global(&self) -> bool {
        self.key.is_global()
    }
}

/// A key behind another; see [`KeyExt::guarded_by`].
#[derive(Clone, Copy, Debug)]
pub struct Guarded<K, G> {
    key: K,
    guard: G,
}

impl<R, K: KeyExtractor<R>, G: KeyExtractor<R>> KeyExtractor<R> for Guarded<K, G> {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        self.guard.key(request)?;
        self.key.key(request)
    }

    fn is_global(&self) -> bool {
        self.key.is_global()
    }
}
