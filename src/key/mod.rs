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

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::header::HeaderName;
use http::{Request, StatusCode};

use crate::head::Head;
use crate::telemetry::ServerFault;

pub use self::bearer::Bearer;
pub use self::client_ip::{ClientIp, OnMalformed, PrefixError, TrustedProxies};
pub use self::cookie::{Cookie, InvalidCookieName};
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

/// Why a request has no key. Neither values nor addresses are part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The address of the peer is not in the request. The server does not insert it, or the connection has none (a Unix
    /// socket).
    MissingPeer,
    /// A layer in front should have left a value of this type.
    MissingExtension(&'static str),
    /// The header field is not there, or empty.
    MissingHeader(HeaderName),
    /// The header field is there more than once, and nobody can say which one counts.
    RepeatedHeader(HeaderName),
    /// This part of the request is not there, or empty.
    Missing(Part),
    /// This part of the request is there more than once.
    Repeated(Part),
    /// This part of the request is there, and is not as it should be written.
    Malformed(Part),
    /// The request has come past fewer proxies than are counted on.
    TooFewHops {
        /// In which they would have left the addresses.
        header: HeaderName,
        /// How many there should be.
        hops: usize,
    },
    /// The element for the client in this header field is no address. Or it is `unknown` or `_name`, and the connection
    /// of that proxy has no address, as on a Unix socket.
    MalformedAddress(HeaderName),
    /// The client's address is in a [`deny_list`](ClientIp::deny_list).
    Denied,
    /// The request is not to be limited: it goes on, uncounted.
    Exempt,
    /// The client's fault, in the words of a closure or of an extractor of your own.
    Client(Cow<'static, str>),
    /// The server's fault, likewise.
    Server(Cow<'static, str>),
}

/// A part of a request that a key is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The cookie of this name.
    Cookie(Arc<str>),
    /// The bearer token in `Authorization`.
    Bearer,
    /// The query parameter of this name.
    Query(Arc<str>),
    /// The route that axum's router has matched.
    MatchedPath,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(name) => write!(f, "cookie `{name}`"),
            Self::Bearer => f.write_str("bearer token in `authorization`"),
            Self::Query(name) => write!(f, "query parameter `{}`", name.escape_debug()),
            Self::MatchedPath => f.write_str("matched route"),
        }
    }
}

impl KeyError {
    /// The request is at fault: rejected with 400. The reason is for logs, the client is not told.
    #[must_use]
    pub fn client(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Client(why.into())
    }

    /// The server is set up wrongly: rejected with 500. The reason is for logs, the client is not told.
    #[must_use]
    pub fn server(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Server(why.into())
    }

    /// With which status the request is rejected: 400, 403, 404 or 500.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Missing(Part::MatchedPath) => StatusCode::NOT_FOUND,
            Self::MissingHeader(_)
            | Self::RepeatedHeader(_)
            | Self::Missing(_)
            | Self::Repeated(_)
            | Self::Malformed(_)
            | Self::TooFewHops { .. }
            | Self::MalformedAddress(_)
            | Self::Client(_) => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::FORBIDDEN,
            // A layer does not reject what is exempt; whoever does has not looked.
            Self::MissingPeer | Self::MissingExtension(_) | Self::Server(_) | Self::Exempt => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// Returns the fault of the server, if the server is at fault.
    pub(crate) const fn server_fault(&self) -> Option<ServerFault> {
        match self {
            Self::MissingPeer => Some(ServerFault::MissingPeer),
            Self::MissingExtension(_) => Some(ServerFault::MissingExtension),
            Self::Server(_) => Some(ServerFault::Other),
            _ => None,
        }
    }

    /// Whether the request goes on uncounted, in a layer that lets requests without a key through or in one that does
    /// not. What cannot be read frees nobody, nor does what is said twice: an application may know a way to read it.
    pub(crate) const fn skips_limit(&self, unkeyed: bool) -> bool {
        match self {
            Self::Exempt => true,
            Self::Denied
            | Self::RepeatedHeader(_)
            | Self::Repeated(_)
            | Self::Malformed(_)
            | Self::TooFewHops { .. }
            | Self::MalformedAddress(_) => false,
            _ => unkeyed,
        }
    }

    /// Whether there is nothing that a key could be made of, and no reason to stop at that.
    const fn is_none(&self) -> bool {
        matches!(
            self,
            Self::MissingHeader(_) | Self::MissingExtension(_) | Self::Missing(_) | Self::Client(_)
        )
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingPeer => f.write_str(
                "the address of the peer is not in the request; on TCP serve an axum app with \
                 `into_make_service_with_connect_info::<SocketAddr>()`; behind a proxy on a Unix socket use `ClientIp` with \
                 `TrustedProxies::hops(1)`; elsewhere insert a `PeerAddr` into the request's extensions",
            ),
            Self::MissingExtension(name) => {
                write!(f, "no `{name}` in the request's extensions: put the layer that inserts it in front of the limit")
            }
            Self::MissingHeader(name) => write!(f, "header `{name}` is missing"),
            Self::RepeatedHeader(name) => write!(f, "header `{name}` is there more than once"),
            Self::Missing(Part::MatchedPath) => f.write_str(
                "no route was matched: put the limit into `Router::layer` or at a route, or have another key for the fallback",
            ),
            Self::Missing(part) => write!(f, "{part} is missing"),
            Self::Repeated(part) => write!(f, "{part} is there more than once"),
            Self::Malformed(part) => write!(f, "{part} cannot be read"),
            Self::TooFewHops { header, hops } => write!(
                f,
                "header `{header}` has fewer than {hops} addresses; count only the proxies that append to it as hops, and block \
                 requests that bypass them"
            ),
            Self::MalformedAddress(header) => write!(
                f,
                "header `{header}` does not name the client; configure the proxy to write its address, or choose \
                 `OnMalformed::Nearest` if the proxy connects from an address"
            ),
            Self::Denied => f.write_str("the client's address is in the deny-list"),
            Self::Exempt => f.write_str("the request is not to be limited"),
            Self::Client(why) | Self::Server(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for KeyError {}

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

/// Without white space at both ends.
fn trim(text: &[u8]) -> &[u8] {
    let mut text = trim_start(text);
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// With what is escaped as `%41` decoded, and `plus` for a `+`; a `%` that nothing follows stands for itself.
fn decoded(text: &[u8], plus: u8) -> impl Iterator<Item = u8> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (letter, after) = rest.split_first()?;
        rest = after;
        Some(match letter {
            b'+' => plus,
            b'%' => match after {
                [high, low, after @ ..] => match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        high << 4 | low
                    }
                    _ => b'%',
                },
                _ => b'%',
            },
            letter => *letter,
        })
    })
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        b'A'..=b'F' => Some(letter - b'A' + 10),
        _ => None,
    }
}

/// Whether a letter may be in a token (RFC 9110 §5.6.2).
const fn is_token(letter: u8) -> bool {
    letter.is_ascii_alphanumeric()
        || matches!(
            letter,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
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
