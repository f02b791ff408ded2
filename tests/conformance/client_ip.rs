//! The client address: every case of `client_ip.json`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;

use http::header::HeaderName;
use http::{HeaderValue, Request};
use serde_json::{Value, json};
use tower_sluice::key::{KeyError, KeyExtractor, Networks, OnMalformed, PeerAddr, TrustedProxies};
use tower_sluice::{ClientIp, Head};

use crate::runner::{Object, number, object, only, read};

/// The number of cases in the file: an unread case does not pass.
const CASES: usize = 89;

fn text<'a>(value: &'a Value, what: &str) -> &'a str {
    let text = value.as_str();
    text.unwrap_or_else(|| panic!("{what} is no text: {value}"))
}

fn list<'a>(value: &'a Value, what: &str) -> &'a [Value] {
    let list = value.as_array();
    list.unwrap_or_else(|| panic!("{what} is no list: {value}"))
}

fn client(config: &Object) -> ClientIp {
    only(
        config,
        &[
            "source",
            "proxies",
            "hops",
            "on_malformed",
            "ipv4_prefix",
            "ipv6_prefix",
        ],
    );
    let networks = || -> Networks {
        let lines = list(&config["proxies"], "proxies").iter();
        let lines = lines.map(|line| text(line, "a network"));
        Networks::from_lines(lines).expect("networks")
    };
    let trusted = || match config.get("hops") {
        Some(_) => TrustedProxies::hops(usize::try_from(number(config, "hops")).expect("fits")),
        None => networks().into(),
    };
    let client = ClientIp::new();
    let mut client = match text(&config["source"], "source") {
        "peer" => client,
        "x-forwarded-for" => client.forwarded_for(trusted()),
        "forwarded" => client.forwarded(trusted()),
        name => client.header(name.parse().expect("a header name"), networks()),
    };
    match config
        .get("on_malformed")
        .map(|value| text(value, "choice"))
    {
        None | Some("reject") => {}
        Some("nearest") => client = client.on_malformed(OnMalformed::Nearest),
        Some(other) => panic!("on_malformed: {other}"),
    }
    let bits = |field| u8::try_from(number(config, field)).expect("fits");
    if config.contains_key("ipv4_prefix") {
        client = client.ipv4_prefix(bits("ipv4_prefix"));
    }
    if config.contains_key("ipv6_prefix") {
        client = client.ipv6_prefix(bits("ipv6_prefix"));
    }
    client
}

fn request(case: &Object) -> Request<()> {
    let mut request = Request::new(());
    if let Some(peer) = case["peer"].as_str() {
        let peer = SocketAddr::new(peer.parse().expect("an address"), 4711);
        request.extensions_mut().insert(PeerAddr(peer));
    }
    for line in list(&case["headers"], "headers") {
        let [name, value] = list(line, "a header") else {
            panic!("not a name and a value: {line}");
        };
        let name: HeaderName = text(name, "a name").parse().expect("a header name");
        let value = HeaderValue::from_str(text(value, "a value")).expect("a header value");
        request.headers_mut().append(name, value);
    }
    request
}

/// The result of the request, in the words of the file.
fn found(client: &ClientIp, request: &Request<()>) -> Value {
    let ip = client.ip(&Head::from(request));
    let key = client.key(request);
    match (ip, key) {
        (Ok(ip), Ok(key)) => {
            let key = String::from_utf8(key.as_bytes().to_vec()).expect("text");
            json!({"ip": ip.to_string(), "key": key})
        }
        (Err(error), Err(same)) if error == same => {
            let (kind, status) = match error {
                KeyError::MissingPeer => ("missing_peer", 500),
                KeyError::TooFewHops { .. } => ("too_few_hops", 400),
                KeyError::MalformedAddress(_) => ("malformed", 400),
                other => panic!("rejected for another reason: {other}"),
            };
            assert_eq!(same.status(), status, "{same}");
            json!({"reject": kind})
        }
        other => panic!("address and key disagree: {other:?}"),
    }
}

#[test]
fn client_addresses() {
    let file = read("client_ip.json");
    let file = object(&file);
    only(file, &["schema_version", "schema", "cases"]);
    let cases = list(&file["cases"], "cases");
    assert_eq!(cases.len(), CASES);
    let mut failures = String::new();
    for case in cases {
        let case = object(case);
        only(
            case,
            &["name", "why", "config", "peer", "headers", "expect"],
        );
        let actual = found(&client(object(&case["config"])), &request(case));
        if actual != case["expect"] {
            write!(
                failures,
                "\nclient_ip.json, {}: {}\n    expected {}\n    actual   {actual}",
                case["name"], case["why"], case["expect"]
            )
            .expect("writes");
        }
    }
    assert!(failures.is_empty(), "{failures}");
    writeln!(std::io::stderr(), "client_ip.json: {CASES} cases pass").expect("stderr");
}
