use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{COOKIE, FORWARDED, HeaderName};
use http::{HeaderValue, Request};
use tower_sluice::key::{
    ClientIp, Cookie, KeyError, KeyExtractor, Networks, OnMalformed, PeerAddr, TrustedProxies,
};
use tower_sluice::{Head, Key};

use super::reference::{self, Answer, Options, Trust};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request with one field line for each line of `data`; `None` if a field cannot have these bytes.
fn request<'a>(name: &HeaderName, data: &'a [u8]) -> Option<(Request<()>, Vec<&'a [u8]>)> {
    let mut request = Request::new(());
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    for line in &lines {
        let value = HeaderValue::from_bytes(line).ok()?;
        request.headers_mut().append(name, value);
    }
    Some((request, lines))
}

/// Each `Forwarded` or `X-Forwarded-For` has the result of the plain parser. The first byte chooses the settings.
pub(crate) fn forwarded(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let bit = |n: u8| choice >> n & 1 == 1;
    let name = if bit(0) { FORWARDED } else { X_FORWARDED_FOR };
    let Some((mut request, lines)) = request(&name, data) else {
        return;
    };
    let options = Options {
        nearest: bit(1),
        nat64: bit(2),
    };
    let on_malformed = if options.nearest {
        OnMalformed::Nearest
    } else {
        OnMalformed::Reject
    };
    let trust = match choice >> 3 & 3 {
        0 => Trust::Networks,
        hops => Trust::Hops(usize::from(hops) - 1),
    };
    let proxies: TrustedProxies = match trust {
        Trust::Networks => Networks::new(["10.0.0.0/8", "fd00::/8", "64:ff9b::9.9.9.0/120"]).into(),
        Trust::Hops(hops) => TrustedProxies::hops(hops),
    };
    let peer = match choice >> 5 {
        0 => None,
        1 => Some("198.51.100.1"),
        2 => Some("64:ff9b::9.9.9.3"),
        3 => Some("fd00::1"),
        _ => Some("10.0.0.1"),
    };
    let peer = peer.map(|peer| peer.parse::<IpAddr>().expect("an address"));
    if let Some(peer) = peer {
        let peer = PeerAddr(SocketAddr::new(peer, 4711));
        request.extensions_mut().insert(peer);
    }
    let client = ClientIp::new()
        .on_malformed(on_malformed)
        .nat64(options.nat64);
    let (client, expected) = if name == FORWARDED {
        (
            client.forwarded(proxies),
            reference::forwarded(&lines, peer, trust, options),
        )
    } else {
        (
            client.forwarded_for(proxies),
            reference::forwarded_for(&lines, peer, trust, options),
        )
    };
    let actual = match client.ip(&Head::from(&request)) {
        Ok(ip) => Answer::Ip(ip),
        Err(KeyError::TooFewHops { .. }) => Answer::TooFewHops,
        Err(KeyError::MalformedAddress(_)) => Answer::Malformed,
        Err(KeyError::MissingPeer) => Answer::MissingPeer,
        Err(other) => panic!("rejected for another reason: {other}"),
    };
    assert_eq!(
        actual, expected,
        "{name} of {peer:?}, {trust:?}, {options:?}"
    );
}

/// A cookie has the value of a plain parser, however it is spelled.
pub(crate) fn cookie(data: &[u8]) {
    let Some((request, lines)) = request(&COOKIE, data) else {
        return;
    };
    let mut values = Vec::new();
    for pair in lines
        .iter()
        .flat_map(|line| line.split(|byte| *byte == b';'))
    {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        if let (Some(name), Some(value)) = (parts.next(), parts.next())
            && percent_decoded(without_space(name)) == b"sid"
        {
            let mut value = percent_decoded(without_space(value));
            if value.len() >= 2 && value.first() == Some(&b'"') && value.last() == Some(&b'"') {
                value = value[1..value.len() - 1].to_vec();
            }
            values.push(value);
        }
    }
    let key = Cookie::new("sid").key(&request);
    match &values[..] {
        [value] if !value.is_empty() => assert_eq!(key, Ok(Key::secret(value))),
        [] | [_] => assert!(matches!(key, Err(KeyError::Missing(_))), "{key:?}"),
        _ => assert!(matches!(key, Err(KeyError::Repeated(_))), "{key:?}"),
    }
}

fn without_space(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(16 * high + low).expect("two digits"));
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// A list of networks contains exactly the addresses of its lines.
pub(crate) fn networks(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(networks) = text.parse::<Networks>() else {
        return;
    };
    let mut ranges = Vec::new();
    for line in text.lines() {
        let value = line.split('#').next().unwrap_or_default().trim();
        if value.is_empty() {
            continue;
        }
        let (address, prefix) = match value.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (value, None),
        };
        let address: IpAddr = address.parse().expect("an accepted address");
        let (bits, width) = match address {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        let prefix = prefix.map_or(width, |prefix| prefix.parse().expect("an accepted prefix"));
        let span = 1_u128
            .checked_shl(width - prefix)
            .map_or(u128::MAX, |addresses| addresses - 1);
        assert_eq!(bits & span, 0, "{value} has bits beyond its prefix");
        // The IPv4 addresses within IPv6 are IPv4 addresses.
        ranges.push(match bits.checked_sub(0xffff << 32) {
            Some(ip) if width == 128 && prefix >= 96 && ip <= u128::from(u32::MAX) => {
                (32, ip, ip + span)
            }
            _ => (width, bits, bits + span),
        });
    }
    assert_eq!(networks.is_empty(), ranges.is_empty());
    for (width, first, last) in &ranges {
        for bits in [*first, *last, first.wrapping_sub(1), last.wrapping_add(1)] {
            let address = if *width == 32 {
                IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            };
            let (width, bits) = match address.to_canonical() {
                IpAddr::V4(ip) => (32, u128::from(ip.to_bits())),
                IpAddr::V6(ip) => (128, ip.to_bits()),
            };
            let is_in = ranges
                .iter()
                .any(|range| range.0 == width && range.1 <= bits && bits <= range.2);
            assert_eq!(networks.contains(address), is_in, "{address}");
        }
    }
}
