use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn network_edges_match_and_their_neighbours_do_not() {
    let networks = Networks::new(["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/33"]);
    for within in [
        "10.0.0.0",
        "10.255.255.255",
        "::ffff:10.0.0.1",
        "192.0.2.7",
        "2001:db8::",
        "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff",
    ] {
        assert!(networks.contains(ip(within)), "{within}");
    }
    for beside in [
        "9.255.255.255",
        "11.0.0.0",
        "192.0.2.6",
        "192.0.2.8",
        "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db8:8000::",
        "::10.0.0.1",
        "::",
    ] {
        assert!(!networks.contains(ip(beside)), "{beside}");
    }
    assert!(!Networks::default().contains(ip("0.0.0.0")));
    assert!(Networks::default().is_empty() && !networks.is_empty());
}

#[test]
fn all_ipv4_addresses_match_no_ipv6_address() {
    let (four, six) = (Networks::new(["0.0.0.0/0"]), Networks::new(["::/0"]));
    for (address, is_four) in [
        ("0.0.0.0", true),
        ("255.255.255.255", true),
        ("::ffff:1.2.3.4", true),
        ("::1.2.3.4", false),
        ("::", false),
    ] {
        let within = (four.contains(ip(address)), six.contains(ip(address)));
        assert_eq!(within, (is_four, !is_four), "{address}");
    }
}

#[test]
fn mapped_networks_are_ipv4_networks() {
    let networks = Networks::new(["::ffff:10.0.0.0/104", "::ffff:192.0.2.1"]);
    assert_eq!(networks, Networks::new(["10.0.0.0/8", "192.0.2.1/32"]));
    assert!(networks.contains(ip("10.200.0.1")));
    // Wider than the mapped range, so it contains IPv6 addresses only.
    assert!(!Networks::new(["::/80"]).contains(ip("10.0.0.1")));
}

#[test]
fn overlapping_networks_are_joined_in_any_order() {
    let one = Networks::new(["10.1.0.0/16", "10.0.0.0/8", "10.255.0.0/16", "9.0.0.0/8"]);
    assert_eq!(one, Networks::new(["9.0.0.0/8", "10.0.0.0/8"]));
    assert_eq!(
        format!("{one:?}"),
        "{9.0.0.0..=9.255.255.255, 10.0.0.0..=10.255.255.255}"
    );
}

#[test]
fn loopback_and_private_contains_only_its_documented_networks() {
    let preset = Networks::loopback_and_private();
    for within in [
        "127.0.0.1",
        "::1",
        "10.9.8.7",
        "172.31.0.1",
        "192.168.1.1",
        "fd00::1",
    ] {
        assert!(preset.contains(ip(within)), "{within}");
    }
    for public in [
        "172.32.0.1",
        "192.169.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "fe80::1",
        "::2",
        "8.8.8.8",
    ] {
        assert!(!preset.contains(ip(public)), "{public}");
    }
}

#[test]
fn errors_name_the_line_and_the_value() {
    let why = |text: &str| text.parse::<Networks>().expect_err(text).to_string();
    let syntax = r#"use "10.0.0.0/8", "2001:db8::/32" or an address"#;
    for value in [
        "10.0.0/8",
        "010.0.0.0/8",
        "10.0.0.0/",
        "/8",
        "10.0.0.0/8/8",
        "10.0.0.0/+8",
        "10.0.0.0/ 8",
        "10.0.0.0/8, 11.0.0.0/8",
        "10.0.0.1%eth0",
        "example.org",
        "10.0.0.0-10.1.0.0",
    ] {
        assert_eq!(
            why(&format!("# all\n\n{value} # x")),
            format!("line 3: invalid network \"{value}\": {syntax}")
        );
    }
    assert_eq!(
        why("10.0.0.0/33"),
        r#"line 1: invalid network "10.0.0.0/33": the prefix is too long; use at most 32, such as "10.0.0.0/32""#
    );
    assert_eq!(
        why("::/1000"),
        r#"line 1: invalid network "::/1000": the prefix is too long; use at most 128, such as "::/128""#
    );
    for value in ["fe80::1%eth0", "fe80::1%eth0/64", "fe80::1%"] {
        assert_eq!(
            why(value),
            format!(r#"line 1: invalid network "{value}": a network has no zone; use "fe80::1""#)
        );
    }
    let error = "::1\r\n2001:db8::1/32"
        .parse::<Networks>()
        .expect_err("host bits");
    assert_eq!((error.line(), error.value()), (2, "2001:db8::1/32"));
    assert!(matches!(
        error.kind(),
        ParseNetworksErrorKind::HostBits { .. }
    ));
    assert!(why(&format!("{}\u{1b}", "x".repeat(1_000))).len() < 200);
}

#[test]
fn addresses_with_prefixes_are_networks() {
    let networks = [(ip("10.1.2.3"), 8), (ip("2001:db8::1"), 32)];
    let networks = Networks::from_prefixes(networks).expect("valid prefixes");
    assert_eq!(networks, Networks::new(["10.0.0.0/8", "2001:db8::/32"]));
    let error = Networks::from_prefixes([(ip("::1"), 128), (ip("10.0.0.0"), 33)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"line 2: invalid network "10.0.0.0/33": the prefix is too long; use at most 32, such as "10.0.0.0/32""#
    );
}
