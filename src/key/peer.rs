use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[cfg(feature = "axum")]
use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
use http::Extensions;
#[cfg(feature = "tonic")]
use tonic::transport::server::TcpConnectInfo;

use super::identity::INLINE;
use super::{Key, KeyError, KeyExtractor, nat64};
use crate::head::RequestHead;

/// The network of the connection's peer: an IPv4 address, or an IPv6 /64, the smallest network of one customer. IPv4
/// addresses mapped into IPv6 (`::ffff:192.0.2.1`) count as IPv4. No header is read, so a client cannot choose its
/// bucket.
///
/// Guide: [choose a key](crate::_guide::keys).
///
/// **Behind a proxy every peer is the proxy, and all clients share one bucket.** Use [`ClientIp`](super::ClientIp)
/// there.
///
/// The server inserts the address:
///
/// | server | address |
/// |---|---|
/// | axum (feature `axum`) | serve with `into_make_service_with_connect_info::<SocketAddr>()` |
/// | tonic (feature `tonic`) | inserted by tonic; with its TLS, an interceptor inserts a [`PeerAddr`] |
/// | hyper | insert a [`PeerAddr`] into each request |
/// | any server on a Unix socket | none: use [`ClientIp`](super::ClientIp) with [`hops`](super::TrustedProxies::hops) |
///
/// With the TLS of tonic, the address is in a type of its own. The interceptor reads it by `request.remote_addr()`.
///
/// ```
/// use http::Request;
/// use tower_sluice::PeerIp;
/// use tower_sluice::key::{KeyExtractor, PeerAddr};
///
/// let peer = PeerAddr("[2001:db8:1:2::7]:443".parse()?);
/// let request = Request::builder().extension(peer).body(())?;
/// assert_eq!(PeerIp::new().key(&request)?.as_bytes(), b"2001:db8:1:2::/64");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerIp {
    nat64: bool,
}

/// The address of a connection's peer, as a request extension. Insert it if the server inserts no address, or not the
/// right one, as behind the PROXY protocol. It takes precedence over the address of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

impl PeerIp {
    /// Uses the network of the connection's peer.
    #[must_use]
    pub const fn new() -> Self {
        Self { nat64: false }
    }

    /// Decodes the IPv4 addresses in `64:ff9b::/96`; off by default. See [`ClientIp::nat64`](super::ClientIp::nat64).
    #[must_use]
    pub const fn nat64(mut self, decode: bool) -> Self {
        self.nat64 = decode;
        self
    }
}

impl<R: RequestHead> KeyExtractor<R> for PeerIp {
    #[inline(always)] // a call would move the key once more
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        match address(request.extensions()) {
            Some(ip) if self.nat64 => Ok(network(nat64::decoded(ip), 32, 64)),
            Some(ip) => Ok(network(ip, 32, 64)),
            None => Err(KeyError::MissingPeer),
        }
    }
}

/// Creates the key that [`PeerIp`] makes of a peer with this address: an IPv4 address, or an IPv6 /64. An address
/// mapped into IPv6 becomes IPv4.
///
/// ```
/// use std::net::IpAddr;
/// use tower_sluice::Key;
///
/// let mapped: IpAddr = "::ffff:192.0.2.1".parse()?;
/// assert_eq!(Key::from(mapped).as_bytes(), b"192.0.2.1");
/// assert_eq!(Key::from("2001:db8:1:2::7".parse::<IpAddr>()?).as_bytes(), b"2001:db8:1:2::/64");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
impl From<IpAddr> for Key {
    #[inline]
    fn from(ip: IpAddr) -> Self {
        network(ip.to_canonical(), 32, 64)
    }
}

/// Returns the address of the connection's peer from any known extension. An address mapped into IPv6 becomes IPv4.
#[inline]
pub(super) fn address(extensions: &Extensions) -> Option<IpAddr> {
    // An explicit address takes precedence over the one of the server.
    if let Some(PeerAddr(peer)) = extensions.get() {
        return Some(peer.ip().to_canonical());
    }
    #[cfg(feature = "axum")]
    if let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        return Some(peer.ip().to_canonical());
    }
    less_common_address(extensions).map(|peer| peer.ip().to_canonical())
}

/// Returns the address that less common servers and tests insert.
#[cold]
#[inline(never)]
fn less_common_address(extensions: &Extensions) -> Option<SocketAddr> {
    #[cfg(feature = "axum")]
    if let Some(MockConnectInfo(peer)) = extensions.get::<MockConnectInfo<SocketAddr>>() {
        return Some(*peer);
    }
    #[cfg(feature = "tonic")]
    if let Some(info) = extensions.get::<TcpConnectInfo>() {
        return info.remote_addr();
    }
    let _ = extensions;
    None
}

/// For each octet: its decimal digits and a full stop, the first digit lowest, and their count.
const OCTETS: [(u32, u8); 256] = {
    let mut octets = [(0, 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (hundreds, tens, ones) = (
            digit(octet / 100),
            digit(octet / 10 % 10),
            digit(octet % 10),
        );
        let (digits, count) = match octet {
            0..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 3),
            _ => ([hundreds, tens, ones, b'.'], 4),
        };
        octets[octet] = (u32::from_le_bytes(digits), count);
        octet += 1;
    }
    octets
};

#[allow(clippy::cast_possible_truncation)]
const fn digit(value: usize) -> u8 {
    b'0' + value as u8
}

/// Returns the key of an address, cut to the prefix: `203.0.113.7`, `2001:db8:1:2::/64`.
#[inline(always)] // a call would move the key once more
pub(super) fn network(ip: IpAddr, v4: u8, v6: u8) -> Key {
    match ip {
        IpAddr::V4(ip) if v4 == 32 => ipv4(ip),
        IpAddr::V4(ip) => part_of_ipv4(ip, v4),
        IpAddr::V6(ip) => ipv6(ip, v6),
    }
}

/// Builds the text in a register. This runs for every request, and a wide load of bytes that were stored one by one
/// would stall.
#[inline(always)]
pub(super) fn ipv4(ip: Ipv4Addr) -> Key {
    let (mut text, mut len) = (0_u128, 0_u8);
    for octet in ip.octets() {
        let (digits, count) = OCTETS[usize::from(octet)];
        text |= u128::from(digits) << (8 * len);
        len += count;
    }
    let mut bytes = [0; INLINE];
    bytes[..16].copy_from_slice(&text.to_le_bytes());
    Key::inline(bytes, usize::from(len) - 1)
}

#[cold]
fn part_of_ipv4(ip: Ipv4Addr, prefix: u8) -> Key {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix));
    let network = Ipv4Addr::from_bits(ip.to_bits() & mask.unwrap_or(0));
    written(format_args!("{network}/{prefix}"))
}

#[inline(never)]
fn ipv6(ip: Ipv6Addr, prefix: u8) -> Key {
    if prefix == 128 {
        return written(format_args!("{ip}"));
    }
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix));
    let network = Ipv6Addr::from_bits(ip.to_bits() & mask.unwrap_or(0));
    written(format_args!("{network}/{prefix}"))
}

fn written(text: fmt::Arguments<'_>) -> Key {
    let mut key = Key::new("");
    // Writing to a key does not fail.
    let _ = key.write_fmt(text);
    key
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn key(peer: &str) -> String {
        let peer = SocketAddr::new(peer.parse().expect("an address"), 80);
        let request = Request::builder().extension(PeerAddr(peer)).body(());
        let key = PeerIp::new().key(&request.expect("valid"));
        String::from_utf8_lossy(key.expect("a peer").as_bytes()).into_owned()
    }

    #[test]
    fn the_key_is_the_network() {
        assert_eq!(key("203.0.113.7"), "203.0.113.7");
        assert_eq!(key("0.10.200.255"), "0.10.200.255");
        for octet in 0..=255_u8 {
            let address = format!("{octet}.255.{octet}.{octet}");
            assert_eq!(key(&address), address);
        }
        assert_eq!(key("::ffff:203.0.113.7"), "203.0.113.7");
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2:ffff::1"), "2001:db8:1:2::/64");
        assert_eq!(key("::1"), "::/64");
    }

    #[test]
    fn missing_address_error_names_the_remedy() {
        let error = PeerIp::new().key(&Request::new(())).unwrap_err();
        assert_eq!(
            (error.status().as_u16(), &error),
            (500, &KeyError::MissingPeer)
        );
        assert!(
            error
                .to_string()
                .contains("into_make_service_with_connect_info")
        );
    }

    #[test]
    fn peer_addr_extension_is_read() {
        let peer = PeerAddr("192.0.2.1:80".parse().expect("an address"));
        let request = Request::builder().extension(peer).body(()).expect("valid");
        assert_eq!(PeerIp::new().key(&request), Ok(Key::from("192.0.2.1")));
    }
}
