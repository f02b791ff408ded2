//! The address of the client, behind proxies or not.

mod element;
mod forwarded;
mod prefix_error;
mod proxies;
mod read;

use std::net::IpAddr;

use http::Request;
use http::header::{HeaderMap, HeaderName};

use super::peer;
use super::{Key, KeyError, KeyExtractor, Networks};
use crate::head::Head;

pub use self::prefix_error::PrefixError;
pub use self::proxies::TrustedProxies;

/// The network of the client: an IPv4 address, an IPv6 /64. As it is made by [`new`](Self::new) it reads no header, and
/// is the same as [`PeerIp`](super::PeerIp); behind proxies it reads the one that is named, as far as those are
/// trusted.
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
/// // What our proxy has added counts, not what the client has sent.
/// let key = client.key(&from([10, 0, 0, 1], "1.2.3.4, 203.0.113.7")?)?;
/// assert_eq!(key.as_bytes(), b"203.0.113.7");
/// // Who comes past the proxy has the address it comes from.
/// let key = client.key(&from([198, 51, 100, 1], "1.2.3.4")?)?;
/// assert_eq!(key.as_bytes(), b"198.51.100.1");
/// // What the proxy has added cannot be read: 400.
/// let error = client.key(&from([10, 0, 0, 1], "1.2.3.4, 203.0.113.256")?).unwrap_err();
/// assert_eq!(error.status(), 400);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Exactly one header is read, from right to left: trusted addresses are passed over, and the first other one is the
/// client; if all are trusted, it is the leftmost. A proxy that does not say who came to it (`unknown`, `_name`) is
/// taken for the client itself. What stands further to the left was written by who knows whom: it neither helps nor
/// harms. In `Forwarded` that holds for what the elements say; **a line that breaks the grammar is rejected as a
/// whole**, so let the outermost proxy replace the field rather than append to it.
///
/// The server leaves the address of the peer in the request, as [`PeerIp`](super::PeerIp) says. A request without it is
/// rejected with 500, with or without a header. [`TrustedProxies::hops`] of at least 1 does not need it: a Unix socket
/// has no address.
///
/// Addresses that are mapped into IPv6 (`::ffff:0:0/96`) are those of IPv4 everywhere.
#[derive(Clone, Debug)]
pub struct ClientIp {
    source: AddressSource,
    on_malformed: OnMalformed,
    prefixes: Prefixes,
    nat64: bool,
    /// None, for those who have none.
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

/// What happens to a request if what a trusted proxy says of its client makes no sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMalformed {
    /// It is rejected with 400.
    #[default]
    Reject,
    /// The nearest address to the right is taken for the client: that proxy, or the peer. Its other clients share the
    /// bucket. A request without such an address is rejected with 400: on a Unix socket the first proxy has none.
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
    /// The peer of the connection; no header is read.
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
    #[must_use]
    pub fn forwarded_for(self, proxies: impl Into<TrustedProxies>) -> Self {
        self.reading(AddressSource::ForwardedFor(proxies.into()))
    }

    /// Reads `Forwarded` (RFC 7239), and no other header.
    #[must_use]
    pub fn forwarded(self, proxies: impl Into<TrustedProxies>) -> Self {
        self.reading(AddressSource::Forwarded(proxies.into()))
    }

    /// Reads the field `name`, in which a proxy leaves one address: `x-real-ip`, `cf-connecting-ip`, `true-client-ip`;
    /// no other header. More than one line or address is malformed. **The proxy must set it, not pass on what it
    /// gets.**
    #[must_use]
    pub fn header(self, name: HeaderName, proxies: Networks) -> Self {
        self.reading(AddressSource::Header(name, proxies))
    }

    fn reading(mut self, source: AddressSource) -> Self {
        self.source = source;
        self
    }

    /// What happens to requests if what a trusted proxy says cannot be read; they are rejected by default.
    #[must_use]
    pub const fn on_malformed(mut self, on_malformed: OnMalformed) -> Self {
        self.on_malformed = on_malformed;
        self
    }

    /// How many bits of an IPv4 address tell clients apart; 32 by default, all of them.
    ///
    /// # Panics
    ///
    /// If it is not from 1 to 32.
    #[must_use]
    pub const fn ipv4_prefix(mut self, bits: u8) -> Self {
        assert!(1 <= bits && bits <= 32, "prefix of IPv4: use 1 to 32 bits");
        self.prefixes.v4 = bits;
        self
    }

    /// How many bits of an IPv6 address tell clients apart; 64 by default, which is what one customer owns at least.
    /// Many own a /56 or a /48.
    ///
    /// # Panics
    ///
    /// If it is not from 1 to 128.
    #[must_use]
    pub const fn ipv6_prefix(mut self, bits: u8) -> Self {
        assert!(
            1 <= bits && bits <= 128,
            "prefix of IPv6: use 1 to 128 bits"
        );
        self.prefixes.v6 = bits;
        self
    }

    /// As [`ipv4_prefix`](Self::ipv4_prefix) and [`ipv6_prefix`](Self::ipv6_prefix), for numbers that come from
    /// outside.
    ///
    /// # Errors
    ///
    /// If one of them is not in its range.
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
    /// Behind a stateless translator (SIIT, RFC 7915) all clients of IPv4 come from `64:ff9b::/96`, which is in one
    /// /64: without this option they share one bucket. With it, `64:ff9b::203.0.113.7` is the client `203.0.113.7`
    /// everywhere: as the peer, in the header, in networks of proxies, in both lists, and for
    /// [`ipv4_prefix`](Self::ipv4_prefix).
    ///
    /// **Turn it on only if your network routes `64:ff9b::/96` to a translator of its own.** Elsewhere a peer that owns
    /// this route chooses any IPv4 address: one that you trust, or another one for each request.
    ///
    /// These addresses stay as they are:
    ///
    /// - Private, shared, loopback, link-local and reserved addresses in the prefix. RFC 6052 §3.1 forbids them there,
    ///   and `64:ff9b::10.0.0.1` must not pass for the proxy `10.0.0.1`.
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

    /// Clients in these networks are not limited at all. Their requests are passed on without being counted.
    #[must_use]
    pub fn allow_list(mut self, networks: Networks) -> Self {
        self.lists.get_or_insert_default().allowed = networks;
        self
    }

    /// Clients in these networks are rejected with 403, also if they are in [`allow_list`](Self::allow_list).
    ///
    /// The lists are asked when it is the turn of this key. In [`first_of`](super::first_of) behind another, or behind
    /// another part of a tuple that a request may lack, it never is: **put it in front**, by
    /// [`guarded_by`](super::KeyExt::guarded_by).
    #[must_use]
    pub fn deny_list(mut self, networks: Networks) -> Self {
        self.lists.get_or_insert_default().denied = networks;
        self
    }

    /// The address of the client, in whole, for logs and decisions of your own. The lists are not asked.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::MissingPeer`] if the peer is unknown and needed, [`KeyError::TooFewHops`] if the header has
    /// fewer addresses than hops, and [`KeyError::MalformedAddress`] if the header does not name the client.
    pub fn ip(&self, head: &Head<'_>) -> Result<IpAddr, KeyError> {
        self.read(peer::address(head.extensions), head.headers)
    }

    /// The key of a client that is not simply the peer.
    #[inline(never)]
    fn beyond(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Result<Key, KeyError> {
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

impl<B> KeyExtractor<Request<B>> for ClientIp {
    #[inline]
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        // The usual case by itself: what is below moves the key once more.
        match (
            &self.source,
            &self.lists,
            peer::address(request.extensions()),
        ) {
            (AddressSource::Peer, None, Some(IpAddr::V4(ip))) if self.prefixes.v4 == 32 => {
                Ok(peer::ipv4(ip))
            }
            (_, _, peer) => self.beyond(peer, request.headers()),
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
