//! The key of a request, which selects its bucket: [`Key`], and the extractors.
//!
//! Guide: [choose a key](crate::_guide::keys).
//!
//! | extractor | key | status without a key |
//! |---|---|---|
//! | [`PeerIp`] | the peer of the connection: IPv4 address, IPv6 /64 | 500: the server does not insert it |
//! | [`ClientIp`] | the client [behind trusted proxies](#behind-a-proxy) | 400: malformed header; 500 as above |
//! | [`Header`] | the value of one header field, as a secret | 400 |
//! | [`Bearer`] | the token in `Authorization`, as a secret | 400 |
//! | [`Cookie`] | the value of one cookie, as a secret | 400 |
//! | [`Query`] | the value of one query parameter, as a secret | 400 |
//! | [`Extension`] | a value that a layer in front inserts: a user, a tenant | 500: that layer is missing |
//! | `MatchedPath` (feature `axum`) | the template of the route: `/users/{id}` | 404: no route matched |
//! | [`Path`], [`Method`] | the path as sent; the method | - |
//! | [`Global`] | one key for all requests | - |
//! | [`key_fn`] | from a closure of the request's head | chosen by the closure |
//! | [`first_of`] | the first key that a request has, of several extractors | that of the last extractor |
//! | a tuple of these | all parts together | that of the first missing part |
//!
//! A request without a key is rejected, with the status of its [`KeyError`], and never falls into a shared bucket. With
//! [`skip_unkeyed`](crate::RateLimitLayer::skip_unkeyed) it passes unlimited. [`KeyExt`] exempts
//! [requests from the limit](#requests-without-a-limit).
//!
//! ```
//! use http::Request;
//! use tower_sluice::key::{Header, KeyError, KeyExtractor, key_fn};
//! use tower_sluice::{Key, PeerIp};
//!
//! let tenant = key_fn(|head| match head.path().split('/').nth(1) {
//!     Some(tenant) if !tenant.is_empty() => Ok(Key::from(tenant)),
//!     _ => Err(KeyError::client("no tenant in the path")),
//! });
//! let both = (tenant, Header::new("x-api-key"));
//!
//! let request = Request::get("/acme/orders").header("x-api-key", "s3cret").body(())?;
//! assert_eq!(both.key(&request)?.as_bytes(), b"4:acme6:s3cret");
//! assert_eq!(PeerIp::new().key(&request).unwrap_err().status(), 500);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(feature = "axum", doc = include_str!("../docs/keys.md"))]

mod bearer;
mod client_ip;
mod cookie;
mod error;
mod extension;
mod first_of;
mod header;
mod identity;
#[cfg(feature = "axum")]
mod keep;
mod nat64;
mod networks;
mod peer;
mod query;
mod scopes;
mod shared;
mod skip;
mod target;
mod text;

use std::fmt;

use crate::head::Head;

pub use self::bearer::Bearer;
pub use self::client_ip::{ClientIp, OnMalformed, PrefixError, TrustedProxies};
pub use self::cookie::{Cookie, InvalidCookieName};
pub use self::error::{KeyError, Part};
pub use self::extension::{Extension, ToKey};
pub use self::first_of::{FirstOf, first_of};
pub use self::header::Header;
pub use self::identity::{Key, KeyRef};
#[cfg(feature = "axum")]
pub use self::keep::Keep;
pub use self::networks::{Networks, ParseNetworksError, ParseNetworksErrorKind};
pub use self::peer::{PeerAddr, PeerIp};
pub use self::query::Query;
pub use self::shared::ArcKey;
pub use self::skip::{Guarded, KeyExt, SkipIf, SkipMethod};
#[cfg(feature = "axum")]
pub use self::target::MatchedPath;
pub use self::target::{Method, Path};
pub use crate::head::RequestHead;

/// Extracts a key from a request of type `R`.
///
/// Closures do not implement it. [`key_fn`] wraps a closure, so that the types of the closure are inferred.
///
/// The compiler names a type without the trait:
///
/// ```compile_fail,E0277
/// # use tower_sluice::{MemoryBackend, Policy, Quota, RateLimitLayer};
/// #[derive(Clone)]
/// struct Mine;
/// let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Mine, MemoryBackend::new());
/// // error[E0277]: `Mine` cannot extract a key from `http::Request<Body>`
/// //   note: for a closure: `key_fn(|head| ..)`
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// A bare closure does not compile, with type annotations or without:
///
/// ```compile_fail,E0277
/// # use tower_sluice::{Key, MemoryBackend, Policy, Quota, RateLimitLayer};
/// let closure = |head: &tower_sluice::Head<'_>| Ok(Key::from(head.path()));
/// let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), closure, MemoryBackend::new());
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// ```compile_fail,E0282
/// # use tower_sluice::{Key, MemoryBackend, Policy, Quota, RateLimitLayer};
/// // error[E0282]: type annotations needed; `key_fn(|head| ..)` needs none
/// let closure = |head| Ok(Key::from(head.path()));
/// let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), closure, MemoryBackend::new());
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot extract a key from `{R}`",
    label = "no key extractor for this request",
    note = "for a closure: `key_fn(|head| ..)`"
)]
pub trait KeyExtractor<R> {
    /// Returns the key of `request`.
    ///
    /// # Errors
    ///
    /// Returns an error if the request has no key. The layer then rejects the request, or passes it with
    /// [`skip_unkeyed`](crate::RateLimitLayer::skip_unkeyed).
    fn key(&self, request: &R) -> Result<Key, KeyError>;

    /// Returns whether all requests have the same key; false by default. A concurrency limit of a whole service rejects
    /// with 503 in place of 429, because the service and not the client is at its limit.
    fn is_global(&self) -> bool {
        false
    }
}

/// One key for all requests of any type: the limit of a whole service.
///
/// Guide: [choose a key](crate::_guide::keys).
#[derive(Clone, Copy, Debug, Default)]
pub struct Global;

impl<R> KeyExtractor<R> for Global {
    fn key(&self, _: &R) -> Result<Key, KeyError> {
        Ok(Key::new("global"))
    }

    fn is_global(&self) -> bool {
        true
    }
}

/// A key from a closure of the request's [`Head`], made by [`key_fn`].
#[derive(Clone, Copy)]
pub struct KeyFn<F>(F);

/// Makes a key extractor from a closure. The types of the closure are inferred.
///
/// Guide: [choose a key](crate::_guide::keys).
///
/// ```
/// use http::Request;
/// use tower_sluice::Key;
/// use tower_sluice::key::{KeyExtractor, key_fn};
///
/// let host = key_fn(|head| Ok(Key::from(head.uri.host().unwrap_or_default())));
/// assert_eq!(host.key(&Request::get("http://example.org/").body(())?)?.as_bytes(), b"example.org");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn key_fn<F>(f: F) -> KeyFn<F>
where
    F: Fn(&Head<'_>) -> Result<Key, KeyError>,
{
    KeyFn(f)
}

impl<R, F> KeyExtractor<R> for KeyFn<F>
where
    R: RequestHead,
    F: Fn(&Head<'_>) -> Result<Key, KeyError>,
{
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        (self.0)(&Head::from(request))
    }
}

impl<F> fmt::Debug for KeyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFn(..)")
    }
}

macro_rules! tuples {
    ($($($part:ident)+;)+) => {$(
        impl<R, $($part: KeyExtractor<R>),+> KeyExtractor<R> for ($($part,)+) {
            fn key(&self, request: &R) -> Result<Key, KeyError> {
                #[allow(non_snake_case)]
                let ($($part,)+) = self;
                Ok(Key::join(&[$($part.key(request)?),+]))
            }

            fn is_global(&self) -> bool {
                #[allow(non_snake_case)]
                let ($($part,)+) = self;
                $(KeyExtractor::<R>::is_global($part))&&+
            }
        }
    )+};
}

tuples! {
    A B;
    A B C;
    A B C D;
}
