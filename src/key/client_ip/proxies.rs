use std::str::FromStr;

use super::super::{Networks, ParseNetworksError};

/// Which proxies in front of a server are believed: those in some networks, or a number of them.
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
    In(Networks),
    Hops(usize),
}

impl TrustedProxies {
    /// Those in these networks, each as `10.0.0.0/8`, `2001:db8::/32` or an address.
    ///
    /// # Panics
    ///
    /// As [`Networks::new`].
    #[must_use]
    #[track_caller]
    pub fn new<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Self {
        Networks::new(networks).into()
    }

    /// Those with loopback and private addresses; [`Networks::loopback_and_private`] says which. Right if nobody else
    /// can reach the server from one.
    #[must_use]
    pub fn loopback_and_private() -> Self {
        Networks::loopback_and_private().into()
    }

    /// Exactly so many, whatever their addresses: for proxies that change theirs. The client is the `hops`-th address
    /// from the right, with 0 the peer; requests with fewer are rejected.
    ///
    /// With at least 1 hop, the address of the peer is not needed. This is the choice behind a proxy on a Unix socket.
    ///
    /// **Whoever can reach the server past them is believed as well**, and chooses its address: use networks where you
    /// can.
    #[must_use]
    pub const fn hops(hops: usize) -> Self {
        Self(Trust::Hops(hops))
    }
}

impl From<Networks> for TrustedProxies {
    fn from(networks: Networks) -> Self {
        Self(Trust::In(networks))
    }
}

/// From a text with one network a line, as [`Networks`].
impl FromStr for TrustedProxies {
    type Err = ParseNetworksError;

    fn from_str(text: &str) -> Result<Self, ParseNetworksError> {
        text.parse::<Networks>().map(Self::from)
    }
}
