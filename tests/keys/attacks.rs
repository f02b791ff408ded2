//! What a client may send on purpose: none of it frees it, harms another, or takes long.

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
use tower_sluice::policy::PolicyError;
use tower_sluice::{Head, Key, Limiter, MemoryBackend, Policy, Quota, RateLimitLayer};

use crate::support::{PATIENCE, hello, listen, memory, seen, two_a_minute};

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
        let line = HeaderValue::from_bytes(line).expect("letters that a field may have");
        request.headers_mut().append(name, line);
    }
    request
}

const PROXY: [u8; 4] = [10, 0, 0, 1];
const CLIENT: [u8; 4] = [203, 0, 113, 7];

/// The address that a request from our proxy is of, or the status that it is refused with.
fn who(client: &ClientIp, name: &HeaderName, lines: &[&[u8]]) -> Result<String, u16> {
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
    // The proxy adds the address to the line, or a line of its own.
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
    // And nobody else has to suffer from what it claimed.
    let other = request(PROXY, &X_FORWARDED_FOR, &[b"1.2.3.4"]);
    assert_eq!(seen(&mut service, other).status, 200);
}

#[test]
fn past_the_proxy_a_client_has_the_bucket_of_its_own_address() {
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
            who(&client, &name, &[b"1.2.3.4"]),
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
        who(&behind_proxies(), &X_FORWARDED_FOR, &lines),
        Ok("203.0.113.7".into())
    );
    let claims = [&b"for=1.2.3.4"[..]; 999];
    let lines = [&claims[..], &[b"for=203.0.113.7, for=10.0.0.2"]].concat();
    assert_eq!(
        who(&forwarded(), &FORWARDED, &lines),
        Ok("203.0.113.7".into())
    );
    let all_ours = [&b"10.0.0.3"[..]; 1_000];
    assert_eq!(
        who(&behind_proxies(), &X_FORWARDED_FOR, &all_ours),
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
        assert_eq!(who(&client, &name, &[left]), Ok("203.0.113.7".into()));
        assert_eq!(who(&client, &name, &[right]), Err(400));
    }
    // Out of quotes they break the grammar of the line.
    assert_eq!(
        who(&forwarded(), &FORWARDED, &[b"\xff, for=203.0.113.7"]),
        Err(400)
    );
}

/// 64 KiB of `part`, and what the proxy has added.
fn long(part: &str, added: &str) -> Vec<u8> {
    let mut line = part.repeat(65_536 / part.len()).into_bytes();
    line.extend_from_slice(added.as_bytes());
    line
}

#[test]
fn headers_of_64_kib_take_no_longer_than_they_are() {
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
            who(&behind_proxies(), &X_FORWARDED_FOR, &[&long(part, added)]),
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
            who(&forwarded(), &FORWARDED, &[&long(part, added)]),
            answer,
            "{part:?} {added:?}"
        );
    }
    let quoted = [b"for=\"", &long("\\x", "")[..], b"\""].concat();
    assert_eq!(who(&forwarded(), &FORWARDED, &[&quoted]), Err(400));
    let names: String = (0..10_000).map(|index| format!("{index:x}=0;")).collect();
    assert_eq!(
        who(
            &forwarded(),
            &FORWARDED,
            &[names.as_bytes(), b"for=203.0.113.7"]
        ),
        Ok("203.0.113.7".into())
    );
    assert_eq!(
        who(&forwarded(), &FORWARDED, &[names.as_bytes()]),
        Ok("10.0.0.1".into())
    );
    // Without optimisation, on a machine with other things to do; what is quadratic takes minutes.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

/// What a key is made of in the end, or nothing.
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
    // As above; 26 MB of cookies.
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

/// A server that takes this host for its proxy; what it answers to these bytes.
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
        // Who has refused the bytes may have closed before it has read all.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    timeout(PATIENCE, answer).await.expect("an answer in time")
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

// -- Keys

/// Different ones, each of which somebody might send.
fn awkward() -> Vec<Key> {
    let long = |last: &str| "x".repeat(1 << 20) + last;
    let mut keys: Vec<Key> = [
        "",
        " ",
        "{",
        "}",
        "{}",
        "{a}",
        "a}:b",
        "}b{",
        "{sluice:api:ralice}:b",
        "a:b",
        "a",
        "\n",
        "\r\n",
        "\r\nSET x y\r\n",
        "*",
        "?",
        "[a-z]",
        "\0",
        "\0\0",
        "a\0",
        "a\0b",
        "ä",
        "\u{202e}",
        "h82d8ec67c8d014fd414d60c45db8a07f",
        "user:{42}",
        "alice\n",
        "alice",
    ]
    .map(Key::from)
    .into();
    keys.extend([long("a"), long("b"), long("")].map(Key::from));
    keys.extend([&b"\xff"[..], b"\xff\xfe", b"\x80"].map(Key::from));
    let secrets: Vec<_> = keys.iter().map(|key| Key::secret(key.as_bytes())).collect();
    keys.extend(secrets);
    keys
}

fn twice() -> Policy {
    Policy::new("api", Quota::per_day(2))
}

#[test]
fn any_bytes_are_a_key_and_no_two_share_a_bucket() {
    let limiter = Limiter::new(twice(), MemoryBackend::new());
    let keys = awkward();
    for expected in [true, true, false] {
        for key in &keys {
            let reply = limiter.check_now(key, 1);
            assert_eq!(
                reply.decision.is_allowed(),
                expected,
                "{} bytes",
                key.as_bytes().len()
            );
        }
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn any_bytes_are_a_key_and_are_digested_for_redis() {
    use tower_sluice::RedisBackend;

    use crate::shared::redis::RedisServer;

    let server = RedisServer::start();
    let backend = RedisBackend::builder().time_limit(Duration::from_secs(10));
    let backend = backend.connect(server.url()).await.expect("a server");
    let keys = awkward();
    let limiter = Limiter::new(Policy::new("p", Quota::per_day(2)), backend.clone());
    for expected in [true, true, false] {
        for key in &keys {
            let reply = limiter.check(key, 1).await.expect("an answer");
            assert_eq!(
                reply.decision.is_allowed(),
                expected,
                "{} bytes",
                key.as_bytes().len()
            );
        }
    }
    let stored: Vec<String> = server.get(&["KEYS", "*"]);
    assert_eq!(stored.len(), keys.len());
    for name in stored {
        let identity = name.strip_prefix("{sluice:p:");
        let identity = identity.and_then(|name| name.strip_suffix("}:b"));
        let identity = identity.unwrap_or_else(|| panic!("{name:?}"));
        let is_plain = identity
            .bytes()
            .all(|letter| letter.is_ascii_alphanumeric());
        assert!(is_plain && identity.len() <= 34, "{name:?}");
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn secrets_are_digested_before_redis() {
    use http::Response;
    use tower_sluice::key::{Header, first_of};
    use tower_sluice::{FailurePolicy, RedisBackend};

    use crate::shared::redis::RedisServer;

    async fn ask<K: KeyExtractor<Request<()>> + Clone>(
        key: K,
        backend: &RedisBackend,
        request: http::request::Builder,
    ) {
        let limit = RateLimitLayer::new(twice(), key, backend.clone())
            .on_backend_error(FailurePolicy::FailClosed);
        let request = request.body(()).expect("a valid head");
        let Ok(answer): Result<Response<_>, _> = limit.layer(hello()).oneshot(request).await;
        assert_eq!(answer.status(), 200);
    }
    let server = RedisServer::start();
    let backend = RedisBackend::builder().time_limit(Duration::from_secs(10));
    let backend = backend.connect(server.url()).await.expect("a server");
    ask(
        Bearer,
        &backend,
        Request::get("/").header("authorization", "Bearer hunter1"),
    )
    .await;
    ask(
        Cookie::new("sid"),
        &backend,
        Request::get("/").header("cookie", "sid=hunter2"),
    )
    .await;
    ask(Query::new("key"), &backend, Request::get("/?key=hunter3")).await;
    ask(
        Header::new("x-api-key"),
        &backend,
        Request::get("/").header("x-api-key", "hunter4"),
    )
    .await;
    let either = first_of((Cookie::new("sid"), Bearer));
    ask(
        either,
        &backend,
        Request::get("/").header("authorization", "Bearer hunter5"),
    )
    .await;
    ask(
        (Bearer, Query::new("q")),
        &backend,
        Request::get("/?q=hunter6").header("authorization", "Bearer a"),
    )
    .await;
    let stored: Vec<String> = server.get(&["KEYS", "*"]);
    assert_eq!(stored.len(), 6, "{stored:?}");
    for name in stored {
        assert!(
            name.starts_with("{sluice:api:s") && !name.contains("hunter"),
            "{name}"
        );
    }
}

// -- Names

#[test]
fn names_cannot_end_a_line() {
    for name in [
        "a\r\nset-cookie: x=y",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\tb",
        "ä",
        "a\u{7f}",
        "a\u{85}b",
    ] {
        let policy = Policy::try_new(name, Quota::per_day(1));
        assert!(matches!(policy, Err(PolicyError::Name(_))), "{name:?}");
        let quotas = [
            ("one".to_owned(), Quota::per_day(1)),
            (name.to_owned(), Quota::per_day(2)),
        ];
        let policy = Policy::try_from_quotas("api", quotas);
        assert!(matches!(policy, Err(PolicyError::QuotaName(_))), "{name:?}");
    }
}

#[test]
fn quotes_in_names_are_escaped() {
    let name = r#"a";r=99, "b\"#;
    let quotas = [
        ("one".to_owned(), Quota::per_day(9)),
        (name.to_owned(), Quota::per_day(1)),
    ];
    let policy = Policy::try_from_quotas("api", quotas).expect("printable");
    let mut service =
        RateLimitLayer::new(policy, tower_sluice::Global, memory()).layer(hello::<()>());
    let allowed = seen(&mut service, Request::new(()));
    let limit = r#""one";r=8, "a\";r=99, \"b\\";r=0;t=86400"#;
    assert_eq!(allowed.lines("ratelimit"), [limit]);
    let policy = r#""one";q=9;w=86400, "a\";r=99, \"b\\";q=1;w=86400"#;
    assert_eq!(allowed.lines("ratelimit-policy"), [policy]);
    let rejected = seen(&mut service, Request::new(()));
    let body: serde_json::Value = serde_json::from_str(&rejected.body).expect("JSON");
    assert_eq!(body["violated-policies"], serde_json::json!([name]));
}
