use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a proxy says of who came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// In its one form: an address that is mapped into IPv6 is one of IPv4.
    Address(IpAddr),
    /// It does not want to say: `unknown`, or a name that it made up.
    Silent,
    Malformed,
}

impl Element {
    /// `ip`, `ip:port`, `[v6]`, `[v6]:port`, `unknown` or `_name`, without white space around it.
    pub(super) fn of(text: &[u8]) -> Self {
        match address(text) {
            Some(ip) => Self::Address(ip.to_canonical()),
            None if text.eq_ignore_ascii_case(b"unknown") || is_obfuscated(text) => Self::Silent,
            None => Self::Malformed,
        }
    }
}

fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']')?;
        let may_follow = rest.is_empty() || is_port(rest.strip_prefix(':')?);
        let ip = ip.parse::<Ipv6Addr>().ok()?;
        return may_follow.then_some(ip.into());
    }
    match text.split_once(':') {
        // With one colon it is a port, with more an address.
        Some((ip, port)) if !port.contains(':') => {
            let ip = ip.parse::<Ipv4Addr>().ok()?;
            is_port(port).then_some(ip.into())
        }
        Some(_) => Some(text.parse::<Ipv6Addr>().ok()?.into()),
        None => Some(text.parse::<Ipv4Addr>().ok()?.into()),
    }
}

/// RFC 7239 §6: one to five digits.
fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit())
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
        ] {
            let ip = ip.parse().expect("an address");
            assert_eq!(Element::of(text.as_bytes()), Element::Address(ip), "{text}");
        }
    }

    #[test]
    fn silence_has_two_forms_and_all_else_is_malformed() {
        for text in ["unknown", "Unknown", "_a", "__", "_SEVKISEK", "_a.b-c_9"] {
            assert_eq!(Element::of(text.as_bytes()), Element::Silent, "{text}");
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
            "[fe80::1%eth0]",
            "1.2.3",
            "01.2.3.4",
            "1.2.3.4.5",
            "0x1.2.3.4",
            "1.2.3.٤",
            ":80",
            "::g",
        ] {
            assert_eq!(Element::of(text.as_bytes()), Element::Malformed, "{text}");
        }
        assert_eq!(Element::of(b"1.2.3.4\xff"), Element::Malformed);
    }
}
