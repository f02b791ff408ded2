//! Header fields that a client forges or makes large do not change its key.

use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, COOKIE, FORWARDED, HeaderName};
use http::{HeaderValue, Request};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::{Layer, ServiceExt};
use tower_sluice::key::{
    Bearer, ClientIp, Cookie, KeyExtractor, Networks, PeerAddr, Query, TrustedProxies,
};
use tower_sluice::{Head, RateLimitLayer};

use crate::support::{TIMEOUT, hello, listen, memory, seen, two_a_minute};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

fn behind_proxies() -> ClientIp {
    ClientIp::new().forwarded_for(TrustedProxies::new(["10.0.0.0/8"]))
}

fn forwarded() -> ClientIp {
    ClientIp::new().forwarded(TrustedProxies::new(["10.0.0.0/8"]))
}

fn request(peer: [u8; 4], name: &HeaderName, lines: &[&[u8]]) -> Request<()> {
    let mut request = Request::new(());
    request
        .extensions_mut()
        .insert(PeerAddr((peer, 4711).into()));
    for line in lines {
        let line = HeaderValue::from_bytes(line).expect("characters that a field may have");
        request.headers_mut().append(name, line);
    }
    request
}

const PROXY: [u8; 4] = [10, 0, 0, 1];

const CLIENT: [u8; 4] = [203, 0, 113, 7];

/// The client address of a request from our proxy, or the status of its rejection.
fn client_of(client: &ClientIp, name: &HeaderName, lines: &[&[u8]]) -> Result<String, u16> {
    let request = request(PROXY, name, lines);
    let ip = client.ip(&Head::from(&request));
    ip.map(|ip| ip.to_string())
        .map_err(|error| error.status().as_u16())
}

#[test]
fn client_has_one_bucket_whatever_it_claims() {
    let claims = [
        "1.2.3.4",
        "10.0.0.9",
        "203.0.113.8",
        "unknown",
        "_x",
        "<script>",
        "",
        "127.0.0.1",
        "::1",
        "[::1]:80",
        "1.2.3.4,1.2.3.5",
        ",,,",
        "\"",
    ];
    // The proxy appends the address to the line, or adds another line.
    let mut service =
        RateLimitLayer::new(two_a_minute(), behind_proxies(), memory()).layer(hello());
    let mut statuses = Vec::new();
    for claim in claims {
        let one = format!("{claim}, 203.0.113.7");
        let requests = [
            request(PROXY, &X_FORWARDED_FOR, &[one.as_bytes()]),
            request(PROXY, &X_FORWARDED_FOR, &[claim.as_bytes(), b"203.0.113.7"]),
        ];
        statuses.extend(requests.map(|request| seen(&mut service, request).status.as_u16()));
    }
    assert_eq!(statuses[..2], [200, 200]);
    assert!(
        statuses[2..].iter().all(|status| *status == 429),
        "{statuses:?}"
    );
    // The claimed address is not charged.
    let other = request(PROXY, &X_FORWARDED_FOR, &[b"1.2.3.4"]);
    assert_eq!(seen(&mut service, other).status, 200);
}

#[test]
fn client_beside_the_proxy_is_keyed_by_its_own_address() {
    for (client, name) in [
        (behind_proxies(), X_FORWARDED_FOR),
        (forwarded(), FORWARDED),
        (
            ClientIp::new().header(
                HeaderName::from_static("x-real-ip"),
                Networks::new(["10.0.0.0/8"]),
            ),
            HeaderName::from_static("x-real-ip"),
        ),
    ] {
        let mut service = RateLimitLayer::new(two_a_minute(), client, memory()).layer(hello());
        let statuses = ["1.2.3.4", "for=1.2.3.5", "10.0.0.1", "?"].map(|claim| {
            let request = request(CLIENT, &name, &[claim.as_bytes()]);
            seen(&mut service, request).status.as_u16()
        });
        assert_eq!(statuses, [200, 200, 429, 429], "{name}");
    }
}

#[test]
fn other_headers_and_other_spellings_are_not_read() {
    let client = behind_proxies();
    for name in [
        "forwarded",
        "x-real-ip",
        "x_forwarded_for",
        "x-forwarded-fo",
        "x-forwarded-for-",
        "true-client-ip",
    ] {
        let name = HeaderName::from_static(name);
        assert_eq!(
            client_of(&client, &name, &[b"1.2.3.4"]),
            Ok("10.0.0.1".into()),
            "{name}"
        );
    }
}

#[test]
fn thousand_lines_are_one_network_list() {
    let claims = [&b"1.2.3.4"[..]; 999];
    let lines = [&claims[..], &[b"203.0.113.7, 10.0.0.2"]].concat();
    assert_eq!(
        client_of(&behind_proxies(), &X_FORWARDED_FOR, &lines),
        Ok("203.0.113.7".into())
    );
    let claims = [&b"for=1.2.3.4"[..]; 999];
    let lines = [&claims[..], &[b"for=203.0.113.7, for=10.0.0.2"]].concat();
    assert_eq!(
        client_of(&forwarded(), &FORWARDED, &lines),
        Ok("203.0.113.7".into())
    );
    let all_ours = [&b"10.0.0.3"[..]; 1_000];
    assert_eq!(
        client_of(&behind_proxies(), &X_FORWARDED_FOR, &all_ours),
        Ok("10.0.0.3".into())
    );
}

#[test]
fn non_ascii_bytes_are_malformed_where_they_are_read() {
    for (client, name, left, right) in [
        (
            behind_proxies(),
            X_FORWARDED_FOR,
            &b"\xff\xfe, 203.0.113.7"[..],
            &b"203.0.113.7, \xc3\x28"[..],
        ),
        (
            behind_proxies(),
            X_FORWARDED_FOR,
            b"1.2.3.4\x80, 203.0.113.7",
            b"203.0.113.7\x80",
        ),
        (
            forwarded(),
            FORWARDED,
            b"for=\"\xff\xfe\", for=203.0.113.7",
            b"for=203.0.113.7, for=\"\xc3\x28\"",
        ),
    ] {
        assert_eq!(client_of(&client, &name, &[left]), Ok("203.0.113.7".into()));
        assert_eq!(client_of(&client, &name, &[right]), Err(400));
    }
    // Outside of quotes they break the grammar of the line.
    assert_eq!(
        client_of(&forwarded(), &FORWARDED, &[b"\xff, for=203.0.113.7"]),
        Err(400)
    );
}

/// 64 KiB of `part`, and the addition of the proxy.
fn long(part: &str, added: &str) -> Vec<u8> {
    let mut line = part.repeat(65_536 / part.len()).into_bytes();
    line.extend_from_slice(added.as_bytes());
    line
}

#[test]
fn headers_of_64_kib_are_parsed_in_linear_time() {
    let start = Instant::now();
    for (part, added, answer) in [
        (",", "203.0.113.7", Ok("203.0.113.7")),
        (" ", "203.0.113.7", Ok("203.0.113.7")),
        ("1.2.3.4,", "203.0.113.7", Ok("203.0.113.7")),
        ("x", ",203.0.113.7", Ok("203.0.113.7")),
        ("10.0.0.3,", "", Ok("10.0.0.3")),
        ("10.0.0.3,", ",10.0.0.2", Ok("10.0.0.3")),
        ("x", "", Err(400)),
        ("1", "", Err(400)),
        (":", "", Err(400)),
        ("[", "", Err(400)),
        ("_", "", Ok("10.0.0.1")),
        (",", "", Ok("10.0.0.1")),
        ("\t", "", Ok("10.0.0.1")),
    ] {
        let answer = answer.map(str::to_owned);
        assert_eq!(
            client_of(&behind_proxies(), &X_FORWARDED_FOR, &[&long(part, added)]),
            answer,
            "{part:?} {added:?}"
        );
    }
    for (part, added, answer) in [
        (",", "for=203.0.113.7", Ok("203.0.113.7")),
        ("for=1.2.3.4,", "for=203.0.113.7", Ok("203.0.113.7")),
        ("for=10.0.0.3,", "", Ok("10.0.0.3")),
        (";", ",for=203.0.113.7", Ok("203.0.113.7")),
        ("\\", "", Err(400)),
        ("\"", ",for=203.0.113.7", Err(400)),
        ("a=\"", "", Err(400)),
        ("for=", "", Err(400)),
        ("a=b;", "for=203.0.113.7", Err(400)),
        (" ", "for=203.0.113.7", Ok("203.0.113.7")),
    ] {
        let answer = answer.map(str::to_owned);
        assert_eq!(
            client_of(&forwarded(), &FORWARDED, &[&long(part, added)]),
            answer,
            "{part:?} {added:?}"
        );
    }
    let quoted = [b"for=\"", &long("\\x", "")[..], b"\""].concat();
    assert_eq!(client_of(&forwarded(), &FORWARDED, &[&quoted]), Err(400));
    let names: String = (0..10_000).map(|index| format!("{index:x}=0;")).collect();
    assert_eq!(
        client_of(
            &forwarded(),
            &FORWARDED,
            &[names.as_bytes(), b"for=203.0.113.7"]
        ),
        Ok("203.0.113.7".into())
    );
    assert_eq!(
        client_of(&forwarded(), &FORWARDED, &[names.as_bytes()]),
        Ok("10.0.0.1".into())
    );
    // Without optimisation, on a busy machine. Quadratic time would take minutes.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

/// The bytes of the key, if there is one.
fn secret(key: &impl KeyExtractor<Request<()>>, request: &Request<()>) -> Option<Vec<u8>> {
    let key = key.key(request).ok()?;
    assert!(key.is_secret());
    Some(key.as_bytes().to_vec())
}

#[test]
fn secrets_are_found_in_a_hundred_lines_of_64_kib() {
    let start = Instant::now();
    for part in ["a=b;", ";", "%73id;", "sid=\";"] {
        let line = long(part, ";x=y");
        let mut lines = vec![&line[..]; 100];
        lines[50] = b"; sid=mine;";
        let request = request(CLIENT, &COOKIE, &lines);
        let found = secret(&Cookie::new("sid"), &request);
        let is_many = part == "sid=\";";
        assert_eq!(found, (!is_many).then(|| b"mine".to_vec()), "{part:?}");
    }
    for part in ["a=b&", "&", "=", "k&", "%6", "%25", "+"] {
        let query = String::from_utf8(long(part, "")).expect("text");
        let uri = format!("/?{}&k=m%69ne", &query[..60_000]);
        let request = Request::get(uri).body(()).expect("a valid head");
        let found = secret(&Query::new("k"), &request);
        let is_many = part == "k&";
        assert_eq!(found, (!is_many).then(|| b"mine".to_vec()), "{part:?}");
    }
    for (part, length) in [("a", Some(65_536)), (" ", None), ("=", Some(65_536))] {
        let line = [b"Bearer ", &long(part, "")[..]].concat();
        let found = secret(&Bearer, &request(CLIENT, &AUTHORIZATION, &[&line]));
        assert_eq!(found.map(|found| found.len()), length, "{part:?}");
    }
    // Like above, with 26 MB of cookies.
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

/// The response of a server that trusts this host as its proxy.
async fn reported(client: ClientIp, bytes: &[u8]) -> String {
    let (listener, address) = listen().await;
    let service = RateLimitLayer::new(two_a_minute(), client, memory()).layer(hello());
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let service = service.clone().map_request(move |mut request: Request<_>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            });
            let service = TowerToHyperService::new(service);
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    let answer = async {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(bytes).await.expect("sent");
        let mut answer = Vec::new();
        // The server may close the connection before it has read all bytes.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    timeout(TIMEOUT, answer).await.expect("an answer in time")
}

#[tokio::test]
async fn folded_lines_never_reach_the_parser() {
    let client = || ClientIp::new().forwarded_for(TrustedProxies::loopback_and_private());
    for folded in [
        "x-forwarded-for: 1.2.3.4,\r\n 203.0.113.7",
        "x-forwarded-for: 1.2.3.4\r\n\t, 203.0.113.7",
        "x-forwarded-for:\r\n 1.2.3.4",
    ] {
        let bytes = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{folded}\r\n\r\n");
        let answer = reported(client(), bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{folded:?}: {answer}");
        assert!(!answer.contains("ratelimit"), "{answer}");
    }
    let whole = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nX-Forwarded-FOR: 1.2.3.4, \t203.0.113.7 \r\n\r\n";
    assert!(reported(client(), whole).await.starts_with("HTTP/1.1 200"));
    let raw =
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-forwarded-for: \xff\xfe\r\n\r\n";
    assert!(reported(client(), raw).await.starts_with("HTTP/1.1 400"));
}
