//! A million random headers: each result equals that of the plain parser in `reference.rs`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use http::header::{FORWARDED, HeaderName};
use http::{HeaderValue, Request};
use tower_sluice::key::{KeyError, Networks, OnMalformed, PeerAddr, TrustedProxies};
use tower_sluice::{ClientIp, Head};

use crate::reference::{self, Answer, Options, Trust};

/// Seeded numbers (SplitMix64): equal in each run, and fast without optimisation.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, bound: usize) -> usize {
        let state = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed >> 33) % bound as u64).expect("fits")
    }

    fn pick<'a>(&self, among: &[&'a [u8]]) -> &'a [u8] {
        among[self.below(among.len())]
    }
}

const NODES: &[&[u8]] = &[
    b"10.0.0.2",
    b"10.255.255.255",
    b"10.1.2.3:8080",
    b"fd00::2",
    b"[fd00::2]",
    b"[fd00::2]:443",
    b"::ffff:10.0.0.9",
    b"::ffff:a00:9",
    b"203.0.113.7",
    b"203.0.113.7:51234",
    b"2001:db8::7",
    b"[2001:db8::7]:1",
    b"2001:DB8:0:0:0:0:0:7",
    b"::ffff:203.0.113.7",
    b"unknown",
    b"UnKnown",
    b"_hidden",
    b"_",
    b"_a.b-c",
    b"",
    b"11.0.0.1",
    b"9.9.9.9",
    b"::",
    b"::1",
    b"1::2::3",
    b"010.0.0.1",
    b"127.1",
    b"203.0.113.256",
    b"203.0.113.7:",
    b"203.0.113.7:123456",
    b"[203.0.113.7]",
    b"[2001:db8::7",
    b"2001:db8::7]",
    b"fe80::1%eth0",
    b"fe80::1%",
    b"[fe80::1%25]:443",
    b"::ffff:203.0.113.7%x",
    b"203.0.113.7%eth0",
    b"203.0.113.7:_p",
    b"203.0.113.7:_",
    b"[2001:db8::7]:_p-1",
    b"[fd00::2]:_p",
    b"10.0.0.2:_p",
    b"unknown:4711",
    b"unknown:_x",
    b"_hidden:4711",
    b"_hidden:_p",
    b"64:ff9b::203.0.113.7",
    b"64:ff9b::10.0.0.2",
    b"[64:ff9b::909:901]:1",
    b"9.9.9.1",
    b"2001:db8::7:80",
    b"1:2:3:4:5:6:7:8:9",
    b"1:2:3:4:5:6:7::",
    b"::1.2.3.4",
    b"1:2:3:4:5:6:1.2.3.4",
    b"::12345",
    b"<script>",
    b"?",
];

const GLUE: &[&[u8]] = &[
    b",",
    b", ",
    b" , ",
    b",,",
    b"\t,",
    b";",
    b"; ",
    b" ;",
    b";;",
    b" ",
    b"\"",
    b"\\",
    b"=",
    b".",
    b":",
    b"[",
    b"]",
    b"\xff",
    b"0",
    b"for=",
    b", for=",
    b", for=\"",
    b"\", for=",
    b"a",
    b"%",
    b"_",
];

const PAIRS: &[&[u8]] = &[
    b"proto=https",
    b"by=203.0.113.43",
    b"host=\"a,b;c=d\"",
    b"ext=\"\\\"x\\\\\"",
    b"secret=_x",
    b"For=1.2.3.4",
    b"proto",
    b"=x",
    b"x=",
    b"",
];

/// A list that is almost valid.
fn forwarded_for(random: &Random, value: &mut Vec<u8>) {
    for index in 0..=random.below(4) {
        if index > 0 {
            value.extend_from_slice(if random.below(8) > 0 {
                b", "
            } else {
                random.pick(GLUE)
            });
        }
        value.extend_from_slice(random.pick(NODES));
    }
}

/// A line that is almost valid by RFC 7239.
fn forwarded(random: &Random, value: &mut Vec<u8>) {
    for index in 0..=random.below(3) {
        if index > 0 {
            value.extend_from_slice(if random.below(8) > 0 {
                b", "
            } else {
                random.pick(GLUE)
            });
        }
        if random.below(4) == 0 {
            value.extend_from_slice(random.pick(PAIRS));
            value.push(b';');
        }
        value.extend_from_slice([&b"for="[..], b"For=", b"for=\"", b"for=\""][random.below(4)]);
        let (quoted, node) = (value.ends_with(b"\""), random.pick(NODES));
        for letter in node {
            if quoted && random.below(16) == 0 {
                value.push(b'\\');
            }
            value.push(*letter);
        }
        if quoted && random.below(16) > 0 {
            value.push(b'"');
        }
        if random.below(4) == 0 {
            value.extend_from_slice(if random.below(4) > 0 {
                b";"
            } else {
                random.pick(GLUE)
            });
            value.extend_from_slice(random.pick(PAIRS));
        }
    }
}

/// Removes, doubles or changes a few characters.
fn damage(random: &Random, value: &mut Vec<u8>) {
    while !value.is_empty() && random.below(3) == 0 {
        let at = random.below(value.len());
        match random.below(4) {
            0 => drop(value.remove(at)),
            1 => value.insert(at, value[at]),
            2 => value.truncate(at),
            _ => {
                let glue = random.pick(GLUE);
                value.splice(at..at, glue.iter().copied());
            }
        }
    }
}

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Each header with networks and with hops, rejecting malformed values and not: the extractor, and the reference.
struct Reader {
    name: HeaderName,
    trust: Trust,
    options: Options,
    client: ClientIp,
}

fn readers() -> Vec<Reader> {
    let networks = || Networks::new(["10.0.0.0/8", "fd00::/8", "64:ff9b::9.9.9.0/120"]);
    let mut readers = Vec::new();
    for (nearest, nat64) in [(false, false), (false, true), (true, false), (true, true)] {
        let on_malformed = match nearest {
            false => OnMalformed::Reject,
            true => OnMalformed::Nearest,
        };
        let client = ClientIp::new().on_malformed(on_malformed).nat64(nat64);
        let options = Options { nearest, nat64 };
        let mut add = |name, trust, client| {
            readers.push(Reader {
                name,
                trust,
                options,
                client,
            });
        };
        for trust in [
            Trust::Networks,
            Trust::Hops(0),
            Trust::Hops(1),
            Trust::Hops(2),
        ] {
            let proxies = || match trust {
                Trust::Networks => networks().into(),
                Trust::Hops(hops) => TrustedProxies::hops(hops),
            };
            add(
                X_FORWARDED_FOR,
                trust,
                client.clone().forwarded_for(proxies()),
            );
            add(FORWARDED, trust, client.clone().forwarded(proxies()));
        }
        add(
            X_REAL_IP,
            Trust::Networks,
            client.clone().header(X_REAL_IP, networks()),
        );
    }
    readers
}

impl Reader {
    fn expected(&self, lines: &[&[u8]], peer: Option<IpAddr>) -> Answer {
        if self.name == X_REAL_IP {
            reference::single(lines, peer, self.options)
        } else if self.name == FORWARDED {
            reference::forwarded(lines, peer, self.trust, self.options)
        } else {
            reference::forwarded_for(lines, peer, self.trust, self.options)
        }
    }

    fn actual(&self, request: &Request<()>) -> Answer {
        match self.client.ip(&Head::from(request)) {
            Ok(ip) => Answer::Ip(ip),
            Err(KeyError::TooFewHops { .. }) => Answer::TooFewHops,
            Err(KeyError::MalformedAddress(name)) if name == self.name => Answer::Malformed,
            Err(KeyError::MissingPeer) => Answer::MissingPeer,
            Err(other) => panic!("rejected for another reason: {other}"),
        }
    }
}

/// Counts the random headers by result: a generator of one kind would prove nothing.
fn compare(seed: u64, count: usize) -> BTreeMap<String, usize> {
    let random = Random(Cell::new(seed));
    let readers = readers();
    let mut peers: Vec<Option<IpAddr>> =
        ["10.0.0.1", "fd00::1", "64:ff9b::9.9.9.3", "198.51.100.1"]
            .map(|ip| Some(ip.parse().expect("an address")))
            .into();
    peers.push(None); // a Unix socket
    let mut seen = BTreeMap::new();
    let mut request = Request::new(());
    let mut values: [Vec<u8>; 2] = Default::default();
    let mut done = 0;
    while done < count {
        let reader = &readers[random.below(readers.len())];
        // Most requests come from our proxies.
        let peer = peers[random.below(13).saturating_sub(8)];
        let lines = 1 + random.below(5) / 4;
        for value in &mut values[..lines] {
            value.clear();
            if reader.name == FORWARDED {
                forwarded(&random, value);
            } else if reader.name == X_REAL_IP && random.below(4) > 0 {
                value.extend_from_slice(random.pick(NODES));
            } else {
                forwarded_for(&random, value);
            }
            damage(&random, value);
        }
        request.headers_mut().clear();
        for value in &values[..lines] {
            let value =
                HeaderValue::from_bytes(value).expect("no character that a field cannot have");
            request.headers_mut().append(&reader.name, value);
            done += 1;
        }
        let extensions = request.extensions_mut();
        extensions.clear();
        if let Some(peer) = peer {
            extensions.insert(PeerAddr(SocketAddr::new(peer, 4711)));
        }
        let [one, two] = &values;
        let both = [&one[..], &two[..]];
        let (actual, expected) = (
            reader.actual(&request),
            reader.expected(&both[..lines], peer),
        );
        if actual != expected {
            let lines: Vec<_> = both[..lines]
                .iter()
                .map(|line| line.escape_ascii().to_string())
                .collect();
            panic!(
                "{} of {peer:?} by {:?}, {:?}: {lines:?}\n    expected {expected:?}\n    actual   {actual:?}",
                reader.name, reader.trust, reader.options
            );
        }
        let kind = match actual {
            Answer::Ip(ip) if Some(ip) == peer => "peer",
            Answer::Ip(_) if peer.is_none() => "no peer",
            Answer::Ip(_) => "another",
            Answer::TooFewHops => "too few hops",
            Answer::Malformed if peer.is_none() => "no peer, malformed",
            Answer::Malformed => "malformed",
            Answer::MissingPeer => "missing peer",
        };
        *seen.entry(format!("{} {kind}", reader.name)).or_default() += 1;
    }
    seen
}

/// On two threads, some 10 s without optimisation.
#[test]
fn million_headers_are_parsed_like_the_reference() {
    let halves = [7, 8].map(|seed| thread::spawn(move || compare(seed, 500_000)));
    let mut seen = BTreeMap::new();
    for half in halves {
        for (kind, count) in half
            .join()
            .unwrap_or_else(|why| std::panic::resume_unwind(why))
        {
            *seen.entry(kind).or_insert(0) += count;
        }
    }
    for name in ["x-forwarded-for", "forwarded"] {
        for kind in ["peer", "another", "too few hops", "malformed"] {
            let count = seen.get(&format!("{name} {kind}")).copied().unwrap_or(0);
            assert!(count > 10_000, "{name} {kind}: {count} of {seen:?}");
        }
        for kind in ["no peer", "no peer, malformed", "missing peer"] {
            let count = seen.get(&format!("{name} {kind}")).copied().unwrap_or(0);
            assert!(count > 1_000, "{name} {kind}: {count} of {seen:?}");
        }
    }
    for kind in ["peer", "another", "malformed", "missing peer"] {
        let count = seen.get(&format!("x-real-ip {kind}")).copied().unwrap_or(0);
        assert!(count > 2_500, "{kind}: {count} of {seen:?}");
    }
}
