use std::fmt;
use std::sync::Arc;

use http::Method;

use super::{
    Bearer, ClientIp, Cookie, Extension, FirstOf, Global, Header, Key, KeyError, KeyExtractor,
    KeyFn, Path, PeerIp, Query,
};
use crate::head::{Head, RequestHead};

/// Methods of key extractors that exempt requests from the limit.
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
/// let from = |peer: [u8; 4]| {
///     Request::builder().extension(PeerAddr((peer, 4711).into())).header("x-api-key", "s3cret")
/// };
/// assert!(key.key(&from([198, 51, 100, 1]).body(())?).is_ok());
/// assert_eq!(key.key(&from([198, 51, 100, 1]).uri("/health").body(())?), Err(KeyError::Exempt));
/// assert_eq!(key.key(&from([198, 51, 100, 1]).method("HEAD").body(())?), Err(KeyError::Exempt));
/// assert_eq!(key.key(&from([203, 0, 113, 1]).body(())?), Err(KeyError::Exempt));
/// # Ok::<(), http::Error>(())
/// ```
///
/// An exempt request passes uncounted, without rate-limit fields. CORS pre-flight requests are exempt by default; see
/// [`count_preflights`](crate::response::Http::count_preflights).
///
/// Each extractor of this crate implements it. For an extractor of your own, write `impl KeyExt for Mine {}`.
pub trait KeyExt: Sized {
    /// Exempts requests for which `f` returns true.
    ///
    /// See the example of [`KeyExt`].
    fn skip_if<F>(self, f: F) -> SkipIf<Self, F>
    where
        F: Fn(&Head<'_>) -> bool,
    {
        SkipIf {
            key: self,
            skips: f,
        }
    }

    /// Exempts requests of this method, such as `OPTIONS`. A `HEAD` request is often as much work as a `GET` request:
    /// axum's `get` answers both by the same handler.
    ///
    /// See the example of [`KeyExt`].
    fn skip_method(self, method: Method) -> SkipMethod<Self> {
        SkipMethod { key: self, method }
    }

    /// Checks `guard` first, and returns its error if it has one. The key of `guard` is not used. This puts the lists
    /// of a [`ClientIp`](super::ClientIp) in front of a key of another kind.
    ///
    /// See the example of [`KeyExt`].
    fn guarded_by<G>(self, guard: G) -> Guarded<Self, G> {
        Guarded { key: self, guard }
    }
}

macro_rules! extended {
    ($([$($parameter:ident),*] $kind:ty;)+) => {$(
        impl<$($parameter),*> KeyExt for $kind {}
    )+};
}

extended! {
    [] Bearer;
    [] ClientIp;
    [] Cookie;
    [T] Extension<T>;
    [T] FirstOf<T>;
    [] Global;
    [] Header;
    [F] KeyFn<F>;
    [] super::Method;
    [] Path;
    [] PeerIp;
    [] Query;
    [K, F] SkipIf<K, F>;
    [K] SkipMethod<K>;
    [K, G] Guarded<K, G>;
    [K] Arc<K>;
    [K] Box<K>;
    [A, B] (A, B);
    [A, B, C] (A, B, C);
    [A, B, C, D] (A, B, C, D);
}

#[cfg(feature = "axum")]
impl KeyExt for super::MatchedPath {}

/// A key with exempt requests, made by [`KeyExt::skip_if`].
#[derive(Clone, Copy)]
pub struct SkipIf<K, F> {
    key: K,
    skips: F,
}

impl<R, K, F> KeyExtractor<R> for SkipIf<K, F>
where
    R: RequestHead,
    K: KeyExtractor<R>,
    F: Fn(&Head<'_>) -> bool,
{
    fn key(&self, request: &R) -> Result<Key, KeyError> {
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

/// A key with an exempt method, made by [`KeyExt::skip_method`].
#[derive(Clone, Debug)]
pub struct SkipMethod<K> {
    key: K,
    method: Method,
}

impl<R: RequestHead, K: KeyExtractor<R>> KeyExtractor<R> for SkipMethod<K> {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        if *request.method() == self.method {
            return Err(KeyError::Exempt);
        }
        self.key.key(request)
    }

    fn is_global(&self) -> bool {
        self.key.is_global()
    }
}

/// A key behind a guard, made by [`KeyExt::guarded_by`].
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
