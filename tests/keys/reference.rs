//! The client address, implemented a second time as SEMANTICS.md §14 states it: character lists, no early exit, nothing
//! borrowed. Slow, and without code of the crate.
//!
//! The file is long because it uses nothing of the crate, not even its parsers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The configuration. The networks of proxies are 10.0.0.0/8, fd00::/8 and 64:ff9b::9.9.9.0/120. Whole addresses are
/// compared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust {
    Networks,
    Hops(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) nearest: bool,
    pub(crate) nat64: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ip(IpAddr),
    TooFewHops,
    Malformed,
    MissingPeer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Ip(IpAddr),
    Silent,
    Malformed,
}

impl Options {
    /// With `nat64`, the IPv4 address in `64:ff9b::/96` if it is global.
    fn decoded(self, ip: IpAddr) -> IpAddr {
        let IpAddr::V6(v6) = ip else { return ip };
        let [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] = v6.octets() else {
            return ip;
        };
        let is_global = !matches!(
            (a, b),
            (0 | 10 | 127 | 224..=255, _)
                | (100, 64..=127)
                | (169, 254)
                | (172, 16..=31)
                | (192, 168)
        );
        if self.nat64 && is_global {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            ip
        }
    }

    fn is_trusted(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip.octets()[0] == 10 || self.nat64 && ip.octets()[..3] == [9; 3],
            IpAddr::V6(ip) => {
                let written = ip.segments()[..7] == [0x64, 0xff9b, 0, 0, 0, 0, 0x909];
                ip.octets()[0] == 0xfd || written && ip.octets()[14] == 9
            }
        }
    }
}

pub(crate) fn forwarded_for(
    lines: &[&[u8]],
    peer: Option<IpAddr>,
    trust: Trust,
    options: Options,
) -> Answer {
    let mut elements = Vec::new();
    for line in lines {
        for text in split(line, b',') {
            let text = without_space(&text);
            if !text.is_empty() {
                elements.push(element(&text, Field::Other));
            }
        }
    }
    walk(&elements, peer, trust, options)
}

pub(crate) fn forwarded(
    lines: &[&[u8]],
    peer: Option<IpAddr>,
    trust: Trust,
    options: Options,
) -> Answer {
    let mut elements = Vec::new();
    for line in lines {
        match forwarded_line(line) {
            Some(of_line) => elements.extend(of_line),
            None => elements.push(Element::Malformed),
        }
    }
    walk(&elements, peer, trust, options)
}

pub(crate) fn single(lines: &[&[u8]], peer: Option<IpAddr>, options: Options) -> Answer {
    let Some(peer) = peer else {
        return Answer::MissingPeer;
    };
    let peer = options.decoded(peer);
    if !options.is_trusted(peer) {
        return Answer::Ip(peer);
    }
    let malformed = if options.nearest {
        Answer::Ip(peer)
    } else {
        Answer::Malformed
    };
    match lines {
        [] => Answer::Ip(peer),
        [line] if without_space(line).is_empty() => Answer::Ip(peer),
        [line] => match element(&without_space(line), Field::Other) {
            Element::Ip(ip) => Answer::Ip(options.decoded(ip)),
            _ => malformed,
        },
        _ => malformed,
    }
}

fn walk(elements: &[Element], peer: Option<IpAddr>, trust: Trust, options: Options) -> Answer {
    if peer.is_none() && matches!(trust, Trust::Networks | Trust::Hops(0)) {
        return Answer::MissingPeer;
    }
    // The peer is the rightmost element. A connection without an address counts as `unknown`.
    let mut all = vec![peer.map_or(Element::Silent, Element::Ip)];
    all.extend(elements.iter().rev());
    for element in &mut all {
        if let Element::Ip(ip) = element {
            *ip = options.decoded(*ip);
        }
    }
    let place = match trust {
        Trust::Hops(hops) if hops >= all.len() => return Answer::TooFewHops,
        Trust::Hops(hops) => hops,
        Trust::Networks => {
            let is_passed =
                |element: &Element| matches!(element, Element::Ip(ip) if options.is_trusted(*ip));
            let first = all.iter().position(|element| !is_passed(element));
            first.unwrap_or(all.len() - 1)
        }
    };
    match all[place] {
        Element::Ip(ip) => Answer::Ip(ip),
        Element::Malformed if !options.nearest => Answer::Malformed,
        _ => {
            let mut right = all[..place].iter().rev();
            let ip = right.find_map(|element| match element {
                Element::Ip(ip) => Some(*ip),
                _ => None,
            });
            ip.map_or(Answer::Malformed, Answer::Ip)
        }
    }
}

/// The field of the element: RFC 7239 §6 permits ports and names that other fields do not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Forwarded,
    Other,
}

fn element(text: &[u8], field: Field) -> Element {
    let Ok(text) = String::from_utf8(text.to_vec()) else {
        return Element::Malformed;
    };
    // All texts without a port, including the whole text.
    let mut hosts = vec![text.clone()];
    if let Some((host, port)) = text.rsplit_once(':') {
        let digits = port.chars().all(|letter| letter.is_ascii_digit());
        let is_number = digits && (1..=5).contains(&port.len());
        if is_number || field == Field::Forwarded && is_obfuscated(port) {
            hosts.push(host.to_owned());
        }
    }
    for (index, host) in hosts.iter().enumerate() {
        let has_port = index == 1;
        let is_name = host.to_lowercase() == "unknown" || is_obfuscated(host);
        if is_name && (!has_port || field == Field::Forwarded) {
            return Element::Silent;
        }
        if let Some(ip) = ipv4(host) {
            return Element::Ip(ip.into());
        }
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let ip = match inner {
            Some(inner) => ipv6(&without_zone(inner)),
            None if has_port => None, // the port of a bare address is ambiguous
            None => ipv6(&without_zone(host)),
        };
        if let Some(ip) = ip {
            return Element::Ip(canonical(ip));
        }
    }
    Element::Malformed
}

fn is_obfuscated(text: &str) -> bool {
    let good = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.chars().all(good),
        None => false,
    }
}

/// The text without `%` and a zone. An invalid zone stays, and no address has a `%`.
fn without_zone(text: &str) -> String {
    let parts: Vec<&str> = text.splitn(2, '%').collect();
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-._~%".contains(letter);
    match parts[..] {
        [ip, zone] if !zone.is_empty() && zone.chars().all(good) => ip.to_owned(),
        _ => text.to_owned(),
    }
}

fn canonical(ip: Ipv6Addr) -> IpAddr {
    let bits = u128::from_be_bytes(ip.octets());
    if bits >> 32 == 0xffff {
        let [.., a, b, c, d] = ip.octets();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(ip)
    }
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, part) in octets.iter_mut().zip(parts) {
        let digits = !part.is_empty()
            && part.len() <= 3
            && part.chars().all(|letter| letter.is_ascii_digit());
        let leading_zero = part.len() > 1 && part.starts_with('0');
        if !digits || leading_zero {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    Some(octets.into())
}

/// RFC 4291 §2.2.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let groups = |text: &str, is_end: bool| -> Option<Vec<u16>> {
        if text.is_empty() {
            return Some(Vec::new());
        }
        let parts: Vec<&str> = text.split(':').collect();
        let mut groups = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            if part.contains('.') {
                if !is_end || index + 1 != parts.len() {
                    return None;
                }
                let [a, b, c, d] = ipv4(part)?.octets();
                groups.push(u16::from_be_bytes([a, b]));
                groups.push(u16::from_be_bytes([c, d]));
                continue;
            }
            let hex = part.chars().all(|letter| letter.is_ascii_hexdigit());
            if part.is_empty() || part.len() > 4 || !hex {
                return None;
            }
            groups.push(u16::from_str_radix(part, 16).ok()?);
        }
        Some(groups)
    };
    let all = match text.split_once("::") {
        None => groups(text, true)?,
        Some((left, right)) => {
            let (left, right) = (groups(left, false)?, groups(right, true)?);
            let missing = 8_usize.checked_sub(left.len() + right.len())?;
            if missing == 0 {
                return None;
            }
            [left, vec![0; missing], right].concat()
        }
    };
    let all: [u16; 8] = all.try_into().ok()?;
    Some(all.into())
}

/// The elements of a line, or nothing if it violates the grammar of RFC 7239 §4. Commas, semicolons and equals signs
/// outside of quotes separate it.
fn forwarded_line(line: &[u8]) -> Option<Vec<Element>> {
    // Each character, and whether it is within quotes. An escaped character is.
    let mut letters = Vec::new();
    let mut quoted = false;
    let mut index = 0;
    while index < line.len() {
        let letter = line[index];
        if quoted && letter == b'\\' {
            letters.push((letter, true));
            letters.push((*line.get(index + 1)?, true));
            index += 2;
            continue;
        }
        if letter == b'"' {
            quoted = !quoted;
            letters.push((letter, false));
        } else {
            letters.push((letter, quoted));
        }
        index += 1;
    }
    if quoted {
        return None;
    }
    let mut elements = Vec::new();
    for part in cut(&letters, b',') {
        let part = bare(&part);
        if part.is_empty() {
            continue;
        }
        let mut names: Vec<String> = Vec::new();
        let mut client = Element::Silent;
        // White space after a final semicolon was removed before.
        for (index, pair) in cut(&part, b';').iter().enumerate() {
            let pair = if index > 0 {
                bare_left(pair)
            } else {
                pair.clone()
            };
            if pair.is_empty() {
                continue;
            }
            let equals = pair.iter().position(|letter| *letter == (b'=', false))?;
            let name = token(&pair[..equals])?.to_ascii_lowercase();
            let value = &pair[equals + 1..];
            let value = match value {
                [(b'"', false), inner @ .., (b'"', false)] => {
                    if inner.contains(&(b'"', false)) {
                        return None;
                    }
                    let mut text = Vec::new();
                    let mut inner = inner.iter();
                    while let Some((letter, _)) = inner.next() {
                        if *letter == b'\\' {
                            text.push(inner.next()?.0);
                        } else {
                            text.push(*letter);
                        }
                    }
                    text
                }
                value => token(value)?.into_bytes(),
            };
            if names.contains(&name) {
                return None;
            }
            if name == "for" {
                client = element(&value, Field::Forwarded);
            }
            names.push(name);
        }
        elements.push(client);
    }
    Some(elements)
}

type Letters = Vec<(u8, bool)>;

fn cut(letters: &[(u8, bool)], at: u8) -> Vec<Letters> {
    let parts = letters.split(|letter| *letter == (at, false));
    parts.map(<[_]>::to_vec).collect()
}

fn bare_left(letters: &[(u8, bool)]) -> Letters {
    let is_space = |letter: &&(u8, bool)| matches!(letter, (b' ' | b'\t', false));
    letters.iter().skip_while(is_space).copied().collect()
}

fn bare(letters: &[(u8, bool)]) -> Letters {
    let mut letters = bare_left(letters);
    while let Some((b' ' | b'\t', false)) = letters.last() {
        letters.pop();
    }
    letters
}

fn token(letters: &[(u8, bool)]) -> Option<String> {
    let text: String = letters
        .iter()
        .map(|(letter, _)| char::from(*letter))
        .collect();
    let good = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
    (!text.is_empty() && text.chars().all(good)).then_some(text)
}

fn split(line: &[u8], at: u8) -> Vec<Vec<u8>> {
    line.split(|letter| *letter == at)
        .map(<[u8]>::to_vec)
        .collect()
}

fn without_space(text: &[u8]) -> Vec<u8> {
    let is_space = |letter: &u8| matches!(letter, b' ' | b'\t');
    let start = text.iter().position(|letter| !is_space(letter));
    let end = text.iter().rposition(|letter| !is_space(letter));
    match (start, end) {
        (Some(start), Some(end)) => text[start..=end].to_vec(),
        _ => Vec::new(),
    }
}
