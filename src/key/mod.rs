//! Whose limit it is: [`Key`], and what takes it from a request.
//!
//! | extractor | key | rejected, if there is none |
//! |---|---|---|
//! | [`PeerIp`] | the peer of the connection: IPv4 address, IPv6 /64 | 500: the server was not told to leave it |
//! | [`ClientIp`] | the client [behind proxies](#behind-a-proxy) that are trusted | 400: what they say cannot be read; 500 as above |
//! | [`Header`] | the value of one header field, never kept readable | 400 |
//! | [`Bearer`] | the token in `Authorization`, likewise | 400 |
//! | [`Cookie`] | the value of one cookie, likewise | 400 |
//! | [`Query`] | the value of one query parameter, likewise | 400 |
//! | [`Extension`] | what a layer in front has found out: a user, a tenant | 500: that layer is missing |
//! | `MatchedPath` (feature `axum`) | the template of the route: `/users/{id}` | 404: no route was matched |
//! | [`Path`], [`Method`] | the path as sent; the method | - |
//! | [`Global`] | one for all | - |
//! | [`key_fn`] | what a closure makes of the request's head | as it says |
//! | [`first_of`] | the first of several that a request has | as the last of them |
//! | a tuple of these | all parts together | as the first that is missing |
//!
//! A request without a key is rejected ([`KeyError`] says how) or let through unlimited
//! ([`skip_unkeyed`](crate::RateLimitLayer::skip_unkeyed)); it never falls into a bucket that all share. [`KeyExt`] has
//! what a limit [passes over](#what-is-not-limited).
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
mod skip;
mod target;
mod text;

use std::fmt;

use http::Request;

use crate::head::Head;

pub use self::bearer::Bearer;
pub use self::client_ip::{ClientIp, OnMalformed, PrefixError, TrustedProxies};
pub use self::cookie::{Cookie, InvalidCookieName};
pub use self::error::{KeyError, Part};
pub use self::extension::{Extension, ToKey};
pub use self::first_of::{FirstOf, first_of};
pub use self::header::Header;
pub use self::identity::Key;
#[cfg(feature = "axum")]
pub use self::keep::Keep;
pub use self::networks::{Networks, ParseNetworksError, ParseNetworksErrorKind};
pub use self::peer::{PeerAddr, PeerIp};
pub use self::query::Query;
pub use self::skip::{Guarded, KeyExt, SkipIf, SkipMethod};
#[cfg(feature = "axum")]
pub use self::target::MatchedPath;
pub use self::target::{Method, Path};

/// Takes a key from a request of type `R`.
///
/// There is no implementation for closures: [`key_fn`] names their type, so that nothing needs to be annotated.
///
/// A type without the trait is named in the error:
///
/// ```compile_fail,E0277
/// # use tower_sluice::{MemoryBackend, Policy, Quota, RateLimitLayer};
/// #[derive(Clone)]
/// struct Mine;
/// let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), Mine, MemoryBackend::new());
/// // error[E0277]: `Mine` cannot take a key from `http::Request<Body>`
/// //   note: for a closure: `key_fn(|head| ..)`
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
///
/// So is a bare closure, with its types or without:
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
/// let closure = |head| Ok(Key::from(head.path())); // error[E0282]: type annotations needed; `key_fn(|head| ..)` needs none
/// let limit = RateLimitLayer::new(Policy::new("p", Quota::per_second(1)), closure, MemoryBackend::new());
/// let app: axum::Router = axum::Router::new().layer(limit);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot take a key from `{R}`",
    label = "no key extractor for this request",
    note = "for a closure: `key_fn(|head| ..)`"
)]
pub trait KeyExtractor<R> {
    /// The key of `request`.
    ///
    /// # Errors
    ///
    /// If there is none; the request is then rejected, unless the layer lets such requests through.
    fn key(&self, request: &R) -> Result<Key, KeyError>;

    /// Whether all requests have the same key, so that it is the service and not the client that is over a limit on
    /// what is in flight: then they are rejected with 503 in place of 429. False unless an extractor says so.
    fn is_global(&self) -> bool {
        false
    }
}

/// One key for all requests, of any type: the limit of a whole service.
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

/// A key by a closure of the request's [`Head`]; see [`key_fn`].
#[derive(Clone, Copy)]
pub struct KeyFn<F>(F);

/// Makes a key extractor of a closure; its types need not be written.
pub fn key_fn<F>(f: F) -> KeyFn<F>
where
    F: Fn(&Head<'_>) -> Result<Key, KeyError>,
{
    KeyFn(f)
}

impl<B, F> KeyExtractor<Request<B>> for KeyFn<F>
where
    F: Fn(&Head<'_>) -> Result<Key, KeyError>,
{
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
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
