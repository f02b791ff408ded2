mod error;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::nat64;

pub use self::error::{ParseNetworksError, ParseNetworksErrorKind};

/// A set of networks, such as the addresses of your proxies. Clones share it.
///
/// A text has one network a line. A `#` begins a comment. An address without a prefix is a network of one address:
///
/// ```
/// use tower_sluice::key::Networks;
///
/// let text = "203.0.113.0/24 # the office\n\n# and its IPv6\n2001:db8:7::/48\n198.51.100.7\n";
/// let office: Networks = text.parse()?;
/// assert!(office.contains("203.0.113.9".parse()?));
/// assert!(office.contains("::ffff:203.0.113.9".parse()?), "the same address, mapped into IPv6");
/// assert!(!office.contains("198.51.100.8".parse()?));
///
/// let why = "10.0.0.0/8\n10.1.2.3/16".parse::<Networks>().unwrap_err();
/// assert!(why.to_string().starts_with(r#"line 2: invalid network "10.1.2.3/16": "#));
/// assert!(why.to_string().ends_with(r#"use "10.1.0.0/16" or "10.1.2.3/32""#));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Addresses and networks mapped into IPv6 (`::ffff:0:0/96`) count as IPv4; `::/0` contains no IPv4 address. For a
/// [`ClientIp`](super::ClientIp) with [`nat64`](super::ClientIp::nat64), networks in `64:ff9b::/96` count as IPv4 as
/// well. A lookup is a binary search.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Networks(Arc<Ranges>);

/// First and last addresses of disjoint ranges, in order.
#[derive(Default, PartialEq, Eq)]
struct Ranges {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
    /// The IPv4 networks that are written in the prefix of NAT64. They are in `v6` as well.
    nat64: Box<[(u32, u32)]>,
}

impl Networks {
    /// Creates a set of networks, each as `10.0.0.0/8`, `2001:db8::/32` or an address. Use it for literals.
    ///
    /// ```
    /// use tower_sluice::key::Networks;
    ///
    /// let proxies = Networks::new(["10.0.0.0/8", "2001:db8::/32"]);
    /// assert!(proxies.contains("10.1.2.3".parse()?));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if a text is not a network. Use `parse` or [`from_lines`](Self::from_lines) for configuration.
    #[must_use]
    #[track_caller]
    pub fn new<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Self {
        Self::from_lines(networks).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Creates a set from lines, with comments and blank lines as in a text.
    ///
    /// ```
    /// use tower_sluice::key::Networks;
    ///
    /// let file = "# our proxies\n10.0.0.0/8\n\n192.0.2.7 # the old one\n";
    /// assert!(Networks::from_lines(file.lines())?.contains("192.0.2.7".parse()?));
    /// assert_eq!(Networks::from_lines(["10.0.0.0/8", "10.0.0.0/33"]).unwrap_err().line(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error with the number of the line, from 1 on, if a line is not a network.
    pub fn from_lines<T: AsRef<str>>(
        lines: impl IntoIterator<Item = T>,
    ) -> Result<Self, ParseNetworksError> {
        let mut networks = Vec::new();
        for (index, line) in lines.into_iter().enumerate() {
            let line = line.as_ref();
            let value = line.split_once('#').map_or(line, |(value, _)| value).trim();
            if value.is_empty() {
                continue;
            }
            let network = network(value).map_err(|kind| ParseNetworksError {
                line: index + 1,
                value: value.into(),
                kind,
            })?;
            networks.push(network);
        }
        Ok(Self::from_networks(networks))
    }

    /// Creates a set from addresses and the lengths of their prefixes, in bits. Bits beyond a prefix are ignored.
    ///
    /// ```
    /// use std::net::{IpAddr, Ipv4Addr};
    /// use tower_sluice::key::Networks;
    ///
    /// let address = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    /// assert_eq!(Networks::from_prefixes([(address, 8)])?, Networks::new(["10.0.0.0/8"]));
    /// # Ok::<(), tower_sluice::key::ParseNetworksError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if a prefix is longer than its address. The number of its line is its position, from 1 on.
    pub fn from_prefixes(
        networks: impl IntoIterator<Item = (IpAddr, u8)>,
    ) -> Result<Self, ParseNetworksError> {
        let networks = networks.into_iter().enumerate();
        let networks = networks.map(|(index, (address, prefix))| {
            IpNet::new(address, prefix).map_err(|_| ParseNetworksError {
                line: index + 1,
                value: format!("{address}/{prefix}").into(),
                kind: ParseNetworksErrorKind::TooLong {
                    most: most_bits(address),
                },
            })
        });
        Ok(Self::from_networks(
            networks.collect::<Result<Vec<_>, _>>()?,
        ))
    }

    /// Ignores bits beyond a prefix.
    fn from_networks(networks: Vec<IpNet>) -> Self {
        let (mut v4, mut v6, mut nat64) = (Vec::new(), Vec::new(), Vec::new());
        let range = |net: Ipv4Net| (net.network().to_bits(), net.broadcast().to_bits());
        for network in networks {
            match canonical(network) {
                IpNet::V4(net) => v4.push(range(net)),
                IpNet::V6(net) => {
                    v6.push((net.network().to_bits(), net.broadcast().to_bits()));
                    nat64.extend(nat64::network(net).map(range));
                }
            }
        }
        Self(Arc::new(Ranges {
            v4: merged(v4),
            v6: merged(v6),
            nat64: merged(nat64),
        }))
    }

    /// Returns loopback and private addresses: `127.0.0.0/8`, `::1`, `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16`
    /// and `fc00::/7` (RFC 1918, RFC 4193). In a shared data centre, neighbours may have such addresses as well.
    ///
    /// ```
    /// use tower_sluice::key::Networks;
    ///
    /// let inside = Networks::loopback_and_private();
    /// assert!(inside.contains("192.168.1.7".parse()?) && !inside.contains("203.0.113.9".parse()?));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn loopback_and_private() -> Self {
        Self::new([
            "127.0.0.0/8",
            "::1",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "fc00::/7",
        ])
    }

    /// Returns whether the address is in one of the networks.
    ///
    /// ```
    /// use tower_sluice::key::Networks;
    ///
    /// let networks = Networks::new(["10.0.0.0/8"]);
    /// assert!(networks.contains("::ffff:10.0.0.1".parse()?)); // an IPv4 address in IPv6
    /// assert!(!networks.contains("11.0.0.1".parse()?));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(ip) => holds(&self.0.v4, ip.to_bits()),
            IpAddr::V6(ip) => holds(&self.0.v6, ip.to_bits()),
        }
    }

    /// Returns whether a decoded address is in one of the networks. A network in the prefix of NAT64 contains the
    /// addresses that are decoded from it.
    pub(super) fn contains_decoded(&self, address: IpAddr, nat64: bool) -> bool {
        let is_in_prefix = || match address {
            IpAddr::V4(ip) if nat64::is_translated(&ip) => holds(&self.0.nat64, ip.to_bits()),
            _ => false,
        };
        self.contains(address) || nat64 && is_in_prefix()
    }

    /// Returns whether the set has no network.
    ///
    /// ```
    /// use tower_sluice::key::Networks;
    ///
    /// assert!("# no proxies yet\n".parse::<Networks>()?.is_empty());
    /// # Ok::<(), tower_sluice::key::ParseNetworksError>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.v4.is_empty() && self.0.v6.is_empty()
    }
}

fn holds<T: Ord>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && ranges[after - 1].1 >= address
}

/// Returns the length of an address in bits.
const fn most_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn network(value: &str) -> Result<IpNet, ParseNetworksErrorKind> {
    use ParseNetworksErrorKind::{HostBits, Syntax, TooLong, Zone};

    let (address, prefix) = match value.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (value, None),
    };
    // A zone names one interface. Without it, the address would be trusted on every interface.
    if let Some((address, _)) = address.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        return Err(Zone);
    }
    // The parser of the standard library rejects `010.0.0.0`.
    let address: IpAddr = address.parse().map_err(|_| Syntax)?;
    let most = most_bits(address);
    let prefix = match prefix {
        None => most,
        Some(digits)
            if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            return Err(Syntax);
        }
        Some(digits) => digits.parse().unwrap_or(u8::MAX),
    };
    let network = IpNet::new(address, prefix).map_err(|_| TooLong { most })?;
    if network.trunc() == network {
        Ok(network)
    } else {
        Err(HostBits {
            network: network.trunc().addr(),
            prefix,
        })
    }
}

/// Returns the IPv4 network for a network in `::ffff:0:0/96`.
fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(net) = network
        && let Some(prefix) = net.prefix_len().checked_sub(96)
        && let Some(ip) = net.addr().to_ipv4_mapped()
        && let Ok(net) = Ipv4Net::new(ip, prefix)
    {
        return IpNet::V4(net);
    }
    network
}

/// Sorts the ranges and joins overlapping ones.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    ranges.into()
}

impl FromStr for Networks {
    type Err = ParseNetworksError;

    fn from_str(text: &str) -> Result<Self, ParseNetworksError> {
        Self::from_lines(text.lines())
    }
}

/// Shows the first and last address of each range.
impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.0.v4.iter().map(|(first, last)| {
            let (first, last) = (Ipv4Addr::from_bits(*first), Ipv4Addr::from_bits(*last));
            IpAddr::from(first)..=IpAddr::from(last)
        });
        let v6 = self.0.v6.iter().map(|(first, last)| {
            let (first, last) = (Ipv6Addr::from_bits(*first), Ipv6Addr::from_bits(*last));
            IpAddr::from(first)..=IpAddr::from(last)
        });
        f.debug_set().entries(v4.chain(v6)).finish()
    }
}

#[cfg(test)]
mod tests;
