use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{Extensions, Request};

use super::{Key, KeyError, KeyExtractor};

/// The network of the connection's peer: an IPv4 address, or an IPv6 /64, which is what one customer owns at least. IPv4
/// addresses mapped into IPv6 (`::ffff:192.0.2.1`) count as IPv4. No header is read, so that nobody can choose a bucket.
///
/// Behind a proxy every peer is the proxy, and all its clients share one bucket.
///
/// The address comes from the server: in axum from `into_make_service_with_connect_info::<SocketAddr>()` (feature `axum`), in
/// tonic by itself (feature `tonic`; its TLS hides the address in a type of its own, an interceptor in front can read
/// `request.remote_addr()` and leave a [`PeerAddr`]); with plain hyper, insert a [`PeerAddr`] into each request.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerIp(());

/// The address of a connection's peer, as a request extension: for servers that leave none of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

impl PeerIp {
    /// The network of the connection's peer.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl<B> KeyExtractor<Request<B>> for PeerIp {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        peer(request.extensions())
            .map(|peer| network(peer.ip()))
            .ok_or(KeyError::MissingPeer)
    }
}

fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    #[cfg(feature = "axum")]
    {
        use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};

        if let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>() {
            return Some(*peer);
        }
        if let Some(MockConnectInfo(peer)) = extensions.get::<MockConnectInfo<SocketAddr>>() {
            return Some(*peer);
        }
    }
    #[cfg(feature = "tonic")]
    {
        use tonic::transport::server::TcpConnectInfo;

        if let Some(info) = extensions.get::<TcpConnectInfo>() {
            return info.remote_addr();
        }
    }
    extensions.get::<PeerAddr>().map(|peer| peer.0)
}

/// The key of an address: `203.0.113.7`, `2001:db8:1:2::/64`.
fn network(ip: IpAddr) -> Key {
    let mut key = Key::new("");
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, rest @ ..] = ip.octets();
            key.push_number(first.into());
            for octet in rest {
                key.push(b'.');
                key.push_number(octet.into());
            }
        }
        IpAddr::V6(ip) => {
            let network = Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX));
            // Writing to a key does not fail.
            let _ = write!(key, "{network}/64");
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(peer: &str) -> String {
        String::from_utf8_lossy(network(peer.parse().expect("an address")).as_bytes()).into_owned()
    }

    #[test]
    fn the_key_is_the_network() {
        assert_eq!(key("203.0.113.7"), "203.0.113.7");
        assert_eq!(key("0.10.200.255"), "0.10.200.255");
        assert_eq!(key("::ffff:203.0.113.7"), "203.0.113.7");
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2:ffff::1"), "2001:db8:1:2::/64");
        assert_eq!(key("::1"), "::/64");
    }

    #[test]
    fn no_address_is_a_refusal_that_says_what_to_add() {
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
    fn an_address_of_our_own_is_read() {
        let peer = PeerAddr("192.0.2.1:80".parse().expect("an address"));
        let request = Request::builder().extension(peer).body(()).expect("valid");
        assert_eq!(PeerIp::new().key(&request), Ok(Key::from("192.0.2.1")));
    }
}
