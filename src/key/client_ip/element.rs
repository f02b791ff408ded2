use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An element of a forwarding header: the client as a proxy saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// In canonical form: an address mapped into IPv6 is IPv4.
    Address(IpAddr),
    /// The proxy hides the address: `unknown`, or an obfuscated name.
    Hidden,
    Malformed,
}

impl Element {
    /// Reads `ip`, `ip:port`, `[v6]`, `[v6]:port`, `unknown` or `_name`, without white space around it.
    pub(super) fn parse(text: &[u8]) -> Self {
        match address(text, is_port) {
            Some(ip) => Self::Address(ip.to_canonical()),
            None if is_hidden(text) => Self::Hidden,
            None => Self::Malformed,
        }
    }

    /// Reads a node of RFC 7239 §6: its port may be obfuscated, and `unknown` and `_name` may have a port.
    pub(super) fn parse_node(text: &[u8]) -> Self {
        let is_node_port = |port: &str| is_port(port) || is_obfuscated(port.as_bytes());
        if let Some(ip) = address(text, is_node_port) {
            return Self::Address(ip.to_canonical());
        }
        let name = match std::str::from_utf8(text).map(|text| text.split_once(':')) {
            Ok(Some((name, port))) if is_node_port(port) => name.as_bytes(),
            _ => text,
        };
        if is_hidden(name) {
            Self::Hidden
        } else {
            Self::Malformed
        }
    }
}

fn address(text: &[u8], is_port: impl Fn(&str) -> bool) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']')?;
        let may_follow = rest.is_empty() || is_port(rest.strip_prefix(':')?);
        let ip = ipv6(ip)?;
        return may_follow.then_some(ip.into());
    }
    match text.split_once(':') {
        // One colon begins a port. More colons are an IPv6 address.
        Some((ip, port)) if !port.contains(':') => {
            let ip = ip.parse::<Ipv4Addr>().ok()?;
            is_port(port).then_some(ip.into())
        }
        Some(_) => Some(ipv6(text)?.into()),
        None => Some(text.parse::<Ipv4Addr>().ok()?.into()),
    }
}

/// Parses an IPv6 address. A zone (RFC 4007 §11) is removed: it has a meaning only on the host that wrote it.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    match text.split_once('%') {
        Some((ip, zone)) if is_zone(zone) => ip.parse().ok(),
        Some(_) => None,
        None => text.parse().ok(),
    }
}

/// RFC 6874 §2: `1*( unreserved / pct-encoded )`.
fn is_zone(text: &str) -> bool {
    let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || b"-._~%".contains(&letter);
    !text.is_empty() && text.bytes().all(is_letter)
}

/// RFC 7239 §6: one to five digits.
fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit())
}

/// Returns whether the name hides the address on purpose.
fn is_hidden(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"unknown") || is_obfuscated(name)
}

/// RFC 7239 §6.3: `"_" 1*( ALPHA / DIGIT / "." / "_" / "-")`.
fn is_obfuscated(text: &[u8]) -> bool {
    let is_letter = |letter: &u8| letter.is_ascii_alphanumeric() || b"._-".contains(letter);
    matches!(text, [b'_', name @ ..] if !name.is_empty() && name.iter().all(is_letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_four_forms() {
        for (text, ip) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7:0", "203.0.113.7"),
            ("203.0.113.7:99999", "203.0.113.7"),
            ("2001:DB8::3", "2001:db8::3"),
            ("[2001:db8::3]", "2001:db8::3"),
            ("[2001:db8::3]:443", "2001:db8::3"),
            ("[::ffff:1.2.3.4]:443", "1.2.3.4"),
            ("::ffff:0102:0304", "1.2.3.4"),
            ("::1.2.3.4", "::102:304"),
            ("fe80::1%eth0", "fe80::1"),
            ("fe80::1%25", "fe80::1"),
            ("[fe80::1%br-lan.7]:443", "fe80::1"),
            ("::ffff:1.2.3.4%eth0", "1.2.3.4"),
        ] {
            let ip = Element::Address(ip.parse().expect("an address"));
            let text = text.as_bytes();
            assert_eq!(Element::parse(text), ip, "{}", text.escape_ascii());
            assert_eq!(Element::parse_node(text), ip, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn forms_of_rfc_7239_are_read_in_its_own_field_only() {
        for (text, ip) in [
            ("203.0.113.7:_p", "203.0.113.7"),
            ("[2001:db8::3]:_p-1._", "2001:db8::3"),
            ("[fe80::1%eth0]:_p", "fe80::1"),
        ] {
            let ip = Element::Address(ip.parse().expect("an address"));
            assert_eq!(Element::parse_node(text.as_bytes()), ip, "{text}");
            assert_eq!(
                Element::parse(text.as_bytes()),
                Element::Malformed,
                "{text}"
            );
        }
        for text in ["unknown:4711", "UnKnown:_x", "_hidden:0", "_hidden:_p"] {
            assert_eq!(
                Element::parse_node(text.as_bytes()),
                Element::Hidden,
                "{text}"
            );
            assert_eq!(
                Element::parse(text.as_bytes()),
                Element::Malformed,
                "{text}"
            );
        }
        for text in [
            "203.0.113.7:_",
            "203.0.113.7:_p q",
            "203.0.113.7:_p:1",
            "2001:db8::3:_p",
            "[2001:db8::3]_p",
            "unknown:",
            "unknown:123456",
            "unknown:_",
            "unknown:1:2",
            "_hidden:",
            "_:1",
            "_a b:1",
            "hidden:1",
            ":_p",
        ] {
            assert_eq!(
                Element::parse_node(text.as_bytes()),
                Element::Malformed,
                "{text}"
            );
        }
    }

    #[test]
    fn missing_address_has_two_forms() {
        for text in ["unknown", "Unknown", "_a", "__", "_SEVKISEK", "_a.b-c_9"] {
            assert_eq!(Element::parse(text.as_bytes()), Element::Hidden, "{text}");
            assert_eq!(
                Element::parse_node(text.as_bytes()),
                Element::Hidden,
                "{text}"
            );
        }
        for text in [
            "",
            "_",
            "_a b",
            "_a:80",
            "unknown:80",
            "203.0.113.7:",
            "203.0.113.7:123456",
            "203.0.113.7:8a",
            "203.0.113.7:+8",
            "203.0.113.7 ",
            "[203.0.113.7]",
            "[2001:db8::3",
            "2001:db8::3]",
            "[2001:db8::3]443",
            "[2001:db8::3]:",
            "[]",
            "fe80::1%",
            "[fe80::1%]",
            "fe80::1%eth 0",
            "fe80::1%eth0:80",
            "%eth0",
            "203.0.113.7%eth0",
            "203.0.113.7%25:80",
            "1.2.3",
            "01.2.3.4",
            "1.2.3.4.5",
            "0x1.2.3.4",
            "1.2.3.٤",
            ":80",
            "::g",
        ] {
            assert_eq!(
                Element::parse(text.as_bytes()),
                Element::Malformed,
                "{text}"
            );
        }
        assert_eq!(Element::parse(b"1.2.3.4\xff"), Element::Malformed);
        assert_eq!(Element::parse_node(b"1.2.3.4:_\xff"), Element::Malformed);
    }
}
