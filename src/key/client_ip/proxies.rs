use std::str::FromStr;

use super::super::{Networks, ParseNetworksError};

/// The trusted proxies in front of a server: all proxies in some networks, or a number of hops.
///
/// ```
/// use tower_sluice::key::{Networks, TrustedProxies};
///
/// let ours = TrustedProxies::new(["10.0.0.0/8", "2001:db8:7::/48"]);
/// let from_a_file: TrustedProxies = "# load balancers\n10.0.0.0/8\n2001:db8:7::/48\n".parse()?;
/// assert_eq!(ours, from_a_file);
/// let nearby = TrustedProxies::loopback_and_private();
/// assert_eq!(nearby, Networks::loopback_and_private().into());
/// let two = TrustedProxies::hops(2);
/// # Ok::<(), tower_sluice::key::ParseNetworksError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies(pub(super) Trust);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Networks(Networks),
    Hops(usize),
}

impl TrustedProxies {
    /// Trusts the proxies in these networks, each as `10.0.0.0/8`, `2001:db8::/32` or an address.
    ///
    /// # Panics
    ///
    /// Panics if a text is not a network. Use `parse` or [`Networks::from_lines`] for configuration.
    #[must_use]
    #[track_caller]
    pub fn new<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Self {
        Networks::new(networks).into()
    }

    /// Trusts loopback and private addresses, as listed at [`Networks::loopback_and_private`]. Use it only if no client
    /// can reach the server from such an address.
    #[must_use]
    pub fn loopback_and_private() -> Self {
        Networks::loopback_and_private().into()
    }

    /// Trusts this number of proxies, whatever their addresses. Use it for proxies whose addresses change. The client
    /// is the `hops`-th address from the right; with 0 it is the peer. Requests with fewer addresses are rejected.
    ///
    /// With at least 1 hop, the address of the peer is not needed. Use this behind a proxy on a Unix socket.
    ///
    /// **A client that bypasses the proxies chooses its address.** Use networks where you can.
    ///
    /// ```
    /// use http::Request;
    /// use tower_sluice::key::{KeyExtractor, PeerAddr, TrustedProxies};
    /// use tower_sluice::{ClientIp, Key};
    ///
    /// let client = ClientIp::new().forwarded_for(TrustedProxies::hops(2));
    /// let mut request = Request::get("/").header("x-forwarded-for", "1.2.3.4, 203.0.113.7, 10.0.0.3").body(())?;
    /// request.extensions_mut().insert(PeerAddr("10.0.0.2:4711".parse()?));
    /// assert_eq!(client.key(&request)?, Key::from("203.0.113.7".parse::<std::net::IpAddr>()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn hops(hops: usize) -> Self {
        Self(Trust::Hops(hops))
    }
}

impl From<Networks> for TrustedProxies {
    fn from(networks: Networks) -> Self {
        Self(Trust::Networks(networks))
    }
}

/// Parses a text with one network a line, as [`Networks`] does.
impl FromStr for TrustedProxies {
    type Err = ParseNetworksError;

    fn from_str(text: &str) -> Result<Self, ParseNetworksError> {
        text.parse::<Networks>().map(Self::from)
    }
}
