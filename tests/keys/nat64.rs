//! IPv4 clients behind a translator: with the option, `64:ff9b::a.b.c.d` counts as `a.b.c.d` everywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::HeaderName;
use http::{HeaderValue, Request};
use proptest::prelude::*;
use tower_sluice::key::{KeyError, KeyExtractor, Networks, PeerAddr, PeerIp, TrustedProxies};
use tower_sluice::{ClientIp, Head};

const XFF: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

fn written(ip: Ipv4Addr) -> IpAddr {
    let [a, b] = [0, 2].map(|at| u16::from_be_bytes([ip.octets()[at], ip.octets()[at + 1]]));
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b).into()
}

fn request(peer: IpAddr, fields: &[(HeaderName, String)]) -> Request<()> {
    let mut request = Request::new(());
    request
        .extensions_mut()
        .insert(PeerAddr((peer, 4711).into()));
    for (name, value) in fields {
        let value = HeaderValue::from_str(value).expect("a value");
        request.headers_mut().append(name, value);
    }
    request
}

/// The keys of both forms of an address.
fn of_both<K: KeyExtractor<Request<()>>>(
    key: &K,
    ip: Ipv4Addr,
    request: impl Fn(IpAddr) -> Request<()>,
) -> [Result<Vec<u8>, KeyError>; 2] {
    [ip.into(), written(ip)].map(|ip| Ok(key.key(&request(ip))?.as_bytes().to_vec()))
}

/// Addresses that a translator may write.
fn global() -> impl Strategy<Value = Ipv4Addr> {
    (1_u8..100, any::<[u8; 3]>()).prop_filter_map("a global address", |(first, [b, c, d])| {
        (first != 10).then(|| Ipv4Addr::new(first, b, c, d))
    })
}

proptest! {
    #[test]
    fn both_forms_of_an_address_have_one_key(ip in global(), v4 in 1_u8..=32, v6 in 1_u8..=128) {
        let proxy = IpAddr::from([10, 0, 0, 1]);
        let client = ClientIp::new().ipv4_prefix(v4).ipv6_prefix(v6).nat64(true);
        let header = |name: HeaderName| move |ip: IpAddr| request(proxy, &[(name.clone(), ip.to_string())]);
        let networks = || Networks::new(["10.0.0.0/8"]);

        let [plain, decoded] = of_both(&client, ip, |ip| request(ip, &[]));
        prop_assert_eq!(&plain, &decoded);
        for other in [
            of_both(&client.clone().forwarded_for(networks()), ip, header(XFF)),
            of_both(&client.clone().forwarded_for(TrustedProxies::hops(1)), ip, header(XFF)),
            of_both(&client.clone().header(X_REAL_IP, networks()), ip, header(X_REAL_IP)),
        ] {
            prop_assert_eq!(&other, &[plain.clone(), plain.clone()]);
        }
        let [plain, decoded] = of_both(&PeerIp::new().nat64(true), ip, |ip| request(ip, &[]));
        prop_assert_eq!(plain, decoded);
        // Off by default.
        let raw = request(written(ip), &[]);
        prop_assert_eq!(ClientIp::new().ip(&Head::from(&raw)), Ok(written(ip)));
        let key = PeerIp::new().key(&raw).expect("a key");
        prop_assert_eq!(key.as_bytes(), b"64:ff9b::/64");
    }

    #[test]
    fn lists_and_proxies_apply_to_both_forms(ip in global(), other in global(), prefix in 1_u8..=32) {
        let mask = u32::MAX << (32 - prefix);
        let base = Ipv4Addr::from_bits(other.to_bits() & mask);
        let is_within = ip.to_bits() & mask == base.to_bits();
        for network in [
            format!("{base}/{prefix}"),
            format!("::ffff:{base}/{}", 96 + prefix),
            format!("64:ff9b::{base}/{}", 96 + prefix),
        ] {
            let networks = || Networks::new([&network]);
            let client = ClientIp::new().nat64(true);
            let denied = of_both(&client.clone().deny_list(networks()), ip, |ip| request(ip, &[]));
            let exempt = of_both(&client.clone().allow_list(networks()), ip, |ip| request(ip, &[]));
            let claim = [(XFF, "192.0.2.9".to_owned())];
            let behind = client.clone().forwarded_for(networks());
            let behind = of_both(&behind, ip, |ip| request(ip, &claim));
            let itself = Ok(ip.to_string().into_bytes());
            let (denial, exemption, named) = if is_within {
                (Err(KeyError::Denied), Err(KeyError::Exempt), Ok(b"192.0.2.9".to_vec()))
            } else {
                (itself.clone(), itself.clone(), itself)
            };
            prop_assert_eq!(denied, [denial.clone(), denial], "{}", network);
            prop_assert_eq!(exempt, [exemption.clone(), exemption], "{}", network);
            prop_assert_eq!(behind, [named.clone(), named], "{}", network);
        }
    }
}

#[test]
fn a_private_address_in_the_prefix_is_no_proxy_and_not_exempt() {
    let private = Networks::loopback_and_private();
    let client = ClientIp::new().nat64(true).allow_list(private.clone());
    let client = client.forwarded_for(private);
    for last in ["10.0.0.1", "127.0.0.1", "192.168.0.1"] {
        let peer: IpAddr = format!("64:ff9b::{last}").parse().expect("an address");
        let claim = [(XFF, "192.0.2.9".to_owned())];
        let key = client.key(&request(peer, &claim)).expect("a key");
        assert_eq!(key.as_bytes(), b"64:ff9b::/64", "{last}");
    }
}

#[test]
fn wider_network_contains_no_decoded_address() {
    let client = ClientIp::new().nat64(true);
    let peer: IpAddr = "64:ff9b::203.0.113.7".parse().expect("an address");
    for (network, is_denied) in [
        ("::/0", false),
        ("64:ff9b::/64", false),
        ("64:ff9b::/96", true),
        ("0.0.0.0/0", true),
    ] {
        let client = client.clone().deny_list(Networks::new([network]));
        let key = client.key(&request(peer, &[]));
        assert_eq!(key == Err(KeyError::Denied), is_denied, "{network}");
    }
}
