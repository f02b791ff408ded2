use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use http::header::HeaderName;

use crate::telemetry::ServerFault;

/// The error returned for a request without a key. It contains neither values nor addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The address of the peer is not in the request. The server does not insert it, or the connection has none (a Unix
    /// socket).
    MissingPeer,
    /// No layer in front has inserted a value of this type.
    MissingExtension(&'static str),
    /// The header field is missing or empty.
    MissingHeader(HeaderName),
    /// The header field appears more than once.
    RepeatedHeader(HeaderName),
    /// This part of the request is missing or empty.
    Missing(Part),
    /// This part of the request appears more than once.
    Repeated(Part),
    /// This part of the request is malformed.
    Malformed(Part),
    /// The header has fewer addresses than there are trusted hops.
    TooFewHops {
        /// The header field with the addresses.
        header: HeaderName,
        /// The number of trusted hops.
        hops: usize,
    },
    /// The element for the client in this header field is not an address. Or it is `unknown` or `_name`, and the
    /// connection of that proxy has no address, as on a Unix socket.
    MalformedAddress(HeaderName),
    /// The client's address is in a [`deny_list`](super::ClientIp::deny_list).
    Denied,
    /// The request is exempt from the limit: it passes uncounted.
    Exempt,
    /// A mistake of the client, reported by a closure or by an extractor of your own.
    Client(Cow<'static, str>),
    /// A mistake of the server, reported likewise.
    Server(Cow<'static, str>),
}

/// A part of a request that contains a key.
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
    /// Returns an error for a mistake of the client: status 400. The reason goes to the log and not to the client.
    ///
    /// ```
    /// use tower_sluice::key::KeyError;
    ///
    /// assert_eq!(KeyError::client("no tenant in the path").status(), 400);
    /// ```
    #[must_use]
    pub fn client(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Client(why.into())
    }

    /// Returns an error for a misconfigured server: status 500. The reason goes to the log and not to the client.
    ///
    /// ```
    /// use tower_sluice::key::KeyError;
    ///
    /// assert_eq!(KeyError::server("no session layer").status(), 500);
    /// ```
    #[must_use]
    pub fn server(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Server(why.into())
    }

    /// Returns the status of the rejection: 400, 403, 404 or 500.
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
            // A layer does not reject exempt requests. A caller that rejects them misses a check.
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

    /// Returns whether the request passes uncounted. `unkeyed` is the layer's setting for requests without a key. A
    /// malformed or repeated value never passes: the application may accept it.
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

    /// Returns whether the request has no such key, so that `first_of` tries the next extractor.
    pub(super) const fn is_missing(&self) -> bool {
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
                 `into_make_service_with_connect_info::<SocketAddr>()`; behind a proxy on a Unix socket use \
                 `ClientIp` with `TrustedProxies::hops(1)`; elsewhere insert a `PeerAddr` into the request's \
                 extensions",
            ),
            Self::MissingExtension(name) => {
                write!(
                    f,
                    "no `{name}` in the request's extensions; add the layer that inserts it in front of the limit"
                )
            }
            Self::MissingHeader(name) => write!(f, "header `{name}` is missing"),
            Self::RepeatedHeader(name) => write!(f, "header `{name}` appears more than once"),
            Self::Missing(Part::MatchedPath) => f.write_str(
                "no route matched; add the limit by `Router::layer` or at a route, or use another key for the fallback",
            ),
            Self::Missing(part) => write!(f, "{part} is missing"),
            Self::Repeated(part) => write!(f, "{part} appears more than once"),
            Self::Malformed(part) => write!(f, "{part} is malformed"),
            Self::TooFewHops { header, hops } => write!(
                f,
                "header `{header}` has fewer than {hops} addresses; count only the proxies that append to it as hops, \
                 and block requests that bypass them"
            ),
            Self::MalformedAddress(header) => write!(
                f,
                "header `{header}` does not name the client; configure the proxy to write its address, or choose \
                 `OnMalformed::Nearest` if the proxy connects from an address"
            ),
            Self::Denied => f.write_str("the client's address is in the deny-list"),
            Self::Exempt => f.write_str("the request is exempt from the limit"),
            Self::Client(why) | Self::Server(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for KeyError {}
