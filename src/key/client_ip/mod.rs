//! The address of the client, with and without proxies.

mod element;
mod forwarded;
mod prefix_error;
mod proxies;
mod read;

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName};

use super::peer;
use super::{Key, KeyError, KeyExtractor, Networks};
use crate::head::{Head, RequestHead};

pub use self::prefix_error::PrefixError;
pub use self::proxies::TrustedProxies;

/// The network of the client: an IPv4 address, or an IPv6 /64. [`new`](Self::new) reads no header, as
/// [`PeerIp`](super::PeerIp) does. Behind proxies, choose the header that your proxies write, and name the proxies.
///
/// Guide: [choose a key](crate::_guide::keys).
///
/// ```
/// use http::Request;
/// use tower_sluice::key::{ClientIp, KeyExtractor, PeerAddr, TrustedProxies};
///
/// let client = ClientIp::new().forwarded_for(TrustedProxies::new(["10.0.0.0/8"]));
/// let from = |peer: [u8; 4], header: &str| {
///     let request = Request::builder().extension(PeerAddr((peer, 4711).into()));
///     request.header("x-forwarded-for", header).body(())
/// };
/// // The address that our proxy has added counts, not the one that the client sent.
/// let key = client.key(&from([10, 0, 0, 1], "1.2.3.4, 203.0.113.7")?)?;
/// assert_eq!(key.as_bytes(), b"203.0.113.7");
/// // A client that bypasses the proxy has the address of its connection.
/// let key = client.key(&from([198, 51, 100, 1], "1.2.3.4")?)?;
/// assert_eq!(key.as_bytes(), b"198.51.100.1");
/// // The proxy has added a malformed address: 400.
/// let error = client.key(&from([10, 0, 0, 1], "1.2.3.4, 203.0.113.256")?).unwrap_err();
/// assert_eq!(error.status(), 400);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// One header is read, from right to left:
///
/// - Trusted addresses are skipped. The first other address is the client.
/// - If all addresses are trusted, the leftmost is the client.
/// - A proxy that hides its client (`unknown`, `_name`) counts as the client.
/// - Elements further to the left are ignored, because any client can write them.
///
/// In `Forwarded`, **a line with a syntax error is rejected as a whole**, even if the error is further to the left. Let
/// the outermost proxy replace the field and not append to it.
///
/// The server inserts the address of the peer into the request; see [`PeerIp`](super::PeerIp). A request without it is
/// rejected with 500, with or without a header. [`TrustedProxies::hops`] of at least 1 does not need it, because a Unix
/// socket has no address.
///
/// Addresses mapped into IPv6 (`::ffff:0:0/96`) count as IPv4 everywhere.
#[derive(Clone, Debug)]
pub struct ClientIp {
    source: AddressSource,
    on_malformed: OnMalformed,
    prefixes: Prefixes,
    nat64: bool,
    /// `None` without lists, so that the common case skips the check.
    lists: Option<Lists>,
}

#[derive(Clone, Debug, Default)]
struct Lists {
    allowed: Networks,
    denied: Networks,
}

#[derive(Clone, Debug)]
enum AddressSource {
    Peer,
    ForwardedFor(TrustedProxies),
    Forwarded(TrustedProxies),
    Header(HeaderName, Networks),
}

/// The treatment of a request in which a trusted proxy wrote a malformed address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMalformed {
    /// Rejects the request with 400.
    #[default]
    Reject,
    /// Uses the nearest address to the right: that of the proxy, or of the peer. The clients of that proxy share the
    /// bucket. A request without such an address is rejected with 400, as from the first proxy on a Unix socket.
    Nearest,
}

#[derive(Clone, Copy, Debug)]
struct Prefixes {
    v4: u8,
    v6: u8,
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientIp {
    /// Uses the peer of the connection. No header is read.
    #[must_use]
    pub fn new() -> Self {
        Self {
            source: AddressSource::Peer,
            on_malformed: OnMalformed::Reject,
            prefixes: Prefixes { v4: 32, v6: 64 },
            nat64: false,
            lists: None,
        }
    }

    /// Reads `X-Forwarded-For`, and no other header.
    ///
    /// ```
    /// use http::Request;
    /// use tower_sluice::key::{KeyExtractor, PeerAddr, TrustedProxies};
    /// use tower_sluice::{ClientIp, Key};
    ///
    /// let client = ClientIp::new().forwarded_for(TrustedProxies::new(["10.0.0.0/8"]));
    /// let mut request = Request::get("/").header("x-forwarded-for", "1.2.3.4, 203.0.113.7").body(())?;
    /// request.extensions_mut().insert(PeerAddr("10.0.0.2:4711".parse()?));
    /// assert_eq!(client.key(&request)?, Key::from("203.0.113.7".parse::<std::net::IpAddr>()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn forwarded_for(self, proxies: impl Into<TrustedProxies>) -> Self {
        self.with_source(AddressSource::ForwardedFor(proxies.into()))
    }

    /// Reads `Forwarded` (RFC 7239), and no other header.
    ///
    /// ```
    /// use http::Request;
    /// use tower_sluice::key::{KeyExtractor, PeerAddr, TrustedProxies};
    /// use tower_sluice::{ClientIp, Key};
    ///
    /// let client = ClientIp::new().forwarded(TrustedProxies::loopback_and_private());
    /// let mut request = Request::get("/").header("forwarded", "for=1.2.3.4, for=203.0.113.7").body(())?;
    /// request.extensions_mut().insert(PeerAddr("10.0.0.2:4711".parse()?));
    /// assert_eq!(client.key(&request)?, Key::from("203.0.113.7".parse::<std::net::IpAddr>()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn forwarded(self, proxies: impl Into<TrustedProxies>) -> Self {
        self.with_source(AddressSource::Forwarded(proxies.into()))
    }

    /// Reads the field `name`, in which a proxy writes one address: `x-real-ip`, `cf-connecting-ip`, `true-client-ip`.
    /// No other header is read. A second line or address is malformed. **The proxy must set the field, and must not
    /// pass on the field of a client.**
    #[must_use]
    pub fn header(self, name: HeaderName, proxies: Networks) -> Self {
        self.with_source(AddressSource::Header(name, proxies))
    }

    fn with_source(mut self, source: AddressSource) -> Self {
        self.source = source;
        self
    }

    /// Sets the treatment of malformed addresses from trusted proxies; [`OnMalformed::Reject`] by default.
    #[must_use]
    pub const fn on_malformed(mut self, on_malformed: OnMalformed) -> Self {
        self.on_malformed = on_malformed;
        self
    }

    /// Sets how many bits of an IPv4 address are the key, 1 to 32; 32 by default.
    ///
    /// # Panics
    ///
    /// Panics if `bits` is not from 1 to 32.
    #[must_use]
    pub const fn ipv4_prefix(mut self, bits: u8) -> Self {
        assert!(1 <= bits && bits <= 32, "prefix of IPv4: use 1 to 32 bits");
        self.prefixes.v4 = bits;
        self
    }

    /// Sets how many bits of an IPv6 address are the key, 1 to 128; 64 by default. A customer owns a /64 at least, and
    /// often a /56 or a /48.
    ///
    /// ```
    /// use tower_sluice::ClientIp;
    ///
    /// let per_household = ClientIp::new().ipv6_prefix(56);
    /// # let _ = per_household;
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if `bits` is not from 1 to 128.
    #[must_use]
    pub const fn ipv6_prefix(mut self, bits: u8) -> Self {
        assert!(
            1 <= bits && bits <= 128,
            "prefix of IPv6: use 1 to 128 bits"
        );
        self.prefixes.v6 = bits;
        self
    }

    /// Sets both prefixes from configuration; see [`ipv4_prefix`](Self::ipv4_prefix) and
    /// [`ipv6_prefix`](Self::ipv6_prefix).
    ///
    /// # Errors
    ///
    /// Returns an error if `ipv4` is not from 1 to 32, or `ipv6` not from 1 to 128.
    pub fn try_prefixes(mut self, ipv4: u8, ipv6: u8) -> Result<Self, PrefixError> {
        if ipv4 == 0 || ipv4 > 32 {
            return Err(PrefixError {
                bits: ipv4,
                most: 32,
            });
        }
        if ipv6 == 0 || ipv6 > 128 {
            return Err(PrefixError {
                bits: ipv6,
                most: 128,
            });
        }
        self.prefixes = Prefixes { v4: ipv4, v6: ipv6 };
        Ok(self)
    }

    /// Decodes the IPv4 addresses that a translator writes into `64:ff9b::/96` (RFC 6052); off by default.
    ///
    /// Behind a stateless translator (SIIT, RFC 7915), all IPv4 clients have addresses in `64:ff9b::/96`. This network
    /// is in one /64, so without this option they share one bucket. With it, `64:ff9b::203.0.113.7` is the client
    /// `203.0.113.7` everywhere: as the peer, in the header, in networks of proxies, and in both lists.
    /// [`ipv4_prefix`](Self::ipv4_prefix) applies to it.
    ///
    /// **Turn it on only if your network routes `64:ff9b::/96` to a translator of its own.** Elsewhere, a peer that
    /// owns this route chooses any IPv4 address: a trusted one, or another one for each request.
    ///
    /// These addresses are not decoded:
    ///
    /// - Private, shared, loopback, link-local and reserved addresses in the prefix. RFC 6052 §3.1 forbids them there,
    ///   and `64:ff9b::10.0.0.1` must not count as the proxy `10.0.0.1`.
    /// - `64:ff9b:1::/48` (RFC 8215) and prefixes of your own. The place of the IPv4 address in them depends on your
    ///   network. Decode them in front of the limit, and insert a [`PeerAddr`](super::PeerAddr).
    ///
    /// ```
    /// use http::Request;
    /// use tower_sluice::ClientIp;
    /// use tower_sluice::key::{KeyExtractor, PeerAddr};
    ///
    /// let peer = PeerAddr("[64:ff9b::203.0.113.7]:4711".parse()?);
    /// let request = Request::builder().extension(peer).body(())?;
    /// assert_eq!(ClientIp::new().key(&request)?.as_bytes(), b"64:ff9b::/64");
    /// assert_eq!(ClientIp::new().nat64(true).key(&request)?.as_bytes(), b"203.0.113.7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn nat64(mut self, decode: bool) -> Self {
        self.nat64 = decode;
        self
    }

    /// Exempts clients in these networks from the limit. Their requests pass uncounted.
    ///
    /// ```
    /// use tower_sluice::ClientIp;
    /// use tower_sluice::key::Networks;
    ///
    /// let key = ClientIp::new().allow_list(Networks::loopback_and_private()); // not limited
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn allow_list(mut self, networks: Networks) -> Self {
        self.lists.get_or_insert_default().allowed = networks;
        self
    }

    /// Rejects clients in these networks with 403, even if they are in [`allow_list`](Self::allow_list).
    ///
    /// The lists are checked when this key is extracted. An earlier extractor of [`first_of`](super::first_of), or an
    /// earlier part of a tuple, can end the search before that. **Put the lists in front** by
    /// [`guarded_by`](super::KeyExt::guarded_by).
    ///
    /// ```
    /// use http::Request;
    /// use tower_sluice::ClientIp;
    /// use tower_sluice::key::{KeyExtractor, Networks, PeerAddr};
    ///
    /// let key = ClientIp::new().deny_list(Networks::new(["192.0.2.0/24"]));
    /// let mut request = Request::new(());
    /// request.extensions_mut().insert(PeerAddr("192.0.2.7:4711".parse()?));
    /// assert_eq!(key.key(&request).unwrap_err().status(), 403);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn deny_list(mut self, networks: Networks) -> Self {
        self.lists.get_or_insert_default().denied = networks;
        self
    }

    /// Returns the whole address of the client, for logs and decisions of your own. The lists are not checked.
    ///
    /// # Errors
    ///
    /// - [`KeyError::MissingPeer`] if the peer is unknown and needed.
    /// - [`KeyError::TooFewHops`] if the header has fewer addresses than hops.
    /// - [`KeyError::MalformedAddress`] if the header does not name the client.
    pub fn ip(&self, head: &Head<'_>) -> Result<IpAddr, KeyError> {
        self.read(peer::address(head.extensions), head.headers)
    }

    /// Returns the key of a client in all but the most common case.
    #[inline(never)]
    fn general_key(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Result<Key, KeyError> {
        let ip = self.read(peer, headers)?;
        if let Some(lists) = &self.lists {
            lists.screen(ip, self.nat64)?;
        }
        Ok(self.prefixes.key(ip))
    }
}

impl Prefixes {
    #[inline]
    fn key(self, ip: IpAddr) -> Key {
        peer::network(ip, self.v4, self.v6)
    }
}

impl Lists {
    fn screen(&self, ip: IpAddr, nat64: bool) -> Result<(), KeyError> {
        if self.denied.contains_decoded(ip, nat64) {
            return Err(KeyError::Denied);
        }
        if self.allowed.contains_decoded(ip, nat64) {
            return Err(KeyError::Exempt);
        }
        Ok(())
    }
}

impl<R: RequestHead> KeyExtractor<R> for ClientIp {
    #[inline]
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        // The most common case by itself: the other path moves the key once more.
        match (
            &self.source,
            &self.lists,
            peer::address(request.extensions()),
        ) {
            (AddressSource::Peer, None, Some(IpAddr::V4(ip))) if self.prefixes.v4 == 32 => {
                Ok(peer::ipv4(ip))
            }
            (_, _, peer) => self.general_key(peer, request.headers()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_from_outside_are_checked() {
        let why = |v4, v6| {
            ClientIp::new()
                .try_prefixes(v4, v6)
                .map(|_| ())
                .map_err(|why| why.to_string())
        };
        assert_eq!(why(1, 128), Ok(()));
        assert_eq!(
            why(0, 64),
            Err("invalid prefix of 0 bits for IPv4: use 1 to 32, such as 32".into())
        );
        assert_eq!(
            why(33, 64),
            Err("invalid prefix of 33 bits for IPv4: use 1 to 32, such as 32".into())
        );
        assert_eq!(
            why(32, 0),
            Err("invalid prefix of 0 bits for IPv6: use 1 to 128, such as 64".into())
        );
        assert_eq!(
            why(32, 129),
            Err("invalid prefix of 129 bits for IPv6: use 1 to 128, such as 64".into())
        );
    }
}
