use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use http::header::HeaderName;

#[cfg(doc)]
use super::ClientIp;
use crate::telemetry::ServerFault;

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
    pub(super) const fn is_none(&self) -> bool {
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
