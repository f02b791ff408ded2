//! IPv4 addresses in `64:ff9b::/96`, the well-known prefix of NAT64 (RFC 6052 §2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// The first 96 bits of `64:ff9b::`.
const PREFIX: u128 = 0x0064_ff9b << 64;

/// Returns the IPv4 address that a translator wrote into `ip`, and any other address as it is.
#[inline]
pub(super) fn decoded(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => embedded(v6).filter(is_translated).map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Returns the IPv4 network that is written as `net`, if all of `net` is in the prefix.
pub(super) fn network(net: Ipv6Net) -> Option<Ipv4Net> {
    let prefix = net.prefix_len().checked_sub(96)?;
    Ipv4Net::new(embedded(net.addr())?, prefix).ok()
}

/// Returns the last 32 bits of an address in the prefix.
#[allow(clippy::cast_possible_truncation)] // the rest is the prefix
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = ip.to_bits() ^ (PREFIX << 32);
    (bits >> 32 == 0).then(|| Ipv4Addr::from_bits(bits as u32))
}

/// Returns whether a translator may write the address into the prefix. RFC 6052 §3.1 forbids it for addresses that are
/// not global. Such an address must not count as a trusted proxy or an exempt client.
pub(super) fn is_translated(ip: &Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    let is_this_network = first == 0;
    let is_shared = first == 100 && second & 0b1100_0000 == 64; // 100.64.0.0/10, RFC 6598
    let is_class_d_or_e = first >= 224;
    !(is_this_network
        || is_shared
        || is_class_d_or_e
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_prefix_is_decoded_by_bits() {
        for (written, meant) in [
            ("64:ff9b::203.0.113.7", "203.0.113.7"),
            ("64:ff9b::cb00:7107", "203.0.113.7"),
            ("64:FF9B:0:0:0:0:8.8.8.8", "8.8.8.8"),
            ("64:ff9b::1.0.0.0", "1.0.0.0"),
            ("64:ff9b::223.255.255.255", "223.255.255.255"),
            ("203.0.113.7", "203.0.113.7"),
        ] {
            assert_eq!(decoded(ip(written)), ip(meant), "{written}");
        }
    }

    #[test]
    fn other_prefixes_are_not_decoded() {
        for other in [
            "64:ff9b::1:cb00:7107",
            "64:ff9b:1::203.0.113.7", // RFC 8215: the place of the bits depends on the network
            "64:ff9b:0:0:1::cb00:7107",
            "64:ff9a::203.0.113.7",
            "65:ff9b::203.0.113.7",
            "1064:ff9b::203.0.113.7",
            "::203.0.113.7",
            "2002:cb00:7107::",
        ] {
            assert_eq!(decoded(ip(other)), ip(other), "{other}");
        }
    }

    #[test]
    fn address_that_no_translator_may_write_is_not_decoded() {
        for forbidden in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.1",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            let written = ip(&format!("64:ff9b::{forbidden}"));
            assert_eq!(decoded(written), written, "{forbidden}");
        }
        for allowed in ["100.63.255.255", "100.128.0.0", "172.32.0.1", "192.169.0.1"] {
            assert_eq!(decoded(ip(&format!("64:ff9b::{allowed}"))), ip(allowed));
        }
    }

    proptest! {
        #[test]
        fn decoded_address_is_itself_or_its_last_32_bits(bits: u128, last: u32, wrong in 0_u32..96) {
            let v6 = Ipv6Addr::from_bits((PREFIX << 32) | u128::from(last));
            let v4 = Ipv4Addr::from_bits(last);
            let expected = if is_translated(&v4) { IpAddr::V4(v4) } else { IpAddr::V6(v6) };
            prop_assert_eq!(decoded(v6.into()), expected);
            // One bit of the prefix differs.
            let other = IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() ^ (1 << (127 - wrong))));
            prop_assert_eq!(decoded(other), other);
            let any = IpAddr::V6(Ipv6Addr::from_bits(bits));
            prop_assert!(decoded(any) == any || bits >> 32 == PREFIX);
            prop_assert_eq!(decoded(v4.into()), IpAddr::V4(v4));
        }
    }
}
