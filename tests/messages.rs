//! Every error for an invalid value shows the value in quotes, the mistake, and an example of a valid value.

use std::error::Error;
use std::time::Duration;

use http::Method;
use tower_sluice::key::{Cookie, Networks, TrustedProxies};
use tower_sluice::policy::PolicyError;
use tower_sluice::{AnyBackend, ClientIp, Policy, Quota, RouteCosts, SemaphorePolicy};

fn why<T>(made: Result<T, impl Error>) -> String {
    match made {
        Ok(_) => panic!("the value is valid"),
        Err(error) => error.to_string(),
    }
}

/// Fails with all messages that differ.
fn compare(table: &[(String, &str)]) {
    let mut failures = Vec::new();
    for (message, expected) in table {
        if message != expected {
            failures.push(format!("\n    expected {expected}\n    actual   {message}"));
        }
        let first = message.chars().next().expect("a message");
        let is_formal = !first.is_uppercase() && !message.ends_with('.');
        assert!(is_formal, "{message}");
    }
    assert!(failures.is_empty(), "{}", failures.concat());
}

#[cfg(feature = "calendar")]
#[test]
fn calendar_windows() {
    let quota = |text: &str| why(text.parse::<Quota>());
    compare(&[
        (
            quota("calendar:5/month@15"),
            r#"invalid quota "calendar:5/month@15": expected a count, a day, week, month, quarter or year, and a time zone; use for example "calendar:5/month@15 UTC""#,
        ),
        (
            quota("calendar:5/hour UTC"),
            r#"invalid quota "calendar:5/hour UTC": expected a count, a day, week, month, quarter or year, and a time zone; use for example "calendar:10000/month@15 Europe/Zurich""#,
        ),
        (
            quota("calendar:5/month@32 UTC"),
            r#"invalid quota "calendar:5/month@32 UTC": day of the month is 32; use at most 31, such as "calendar:5/month@31 UTC""#,
        ),
        (
            quota("calendar:5/day Mars"),
            r#"invalid quota "calendar:5/day Mars": time zone "Mars" is unknown; use a name of the IANA database, such as Europe/Zurich, as in "calendar:5/day UTC""#,
        ),
    ]);
}

#[test]
fn quotas() {
    let quota = |text: &str| why(text.parse::<Quota>());
    let list = |text: &str| why(Quota::parse_list(text));
    compare(&[
        (
            quota("10/fortnight"),
            r#"invalid quota "10/fortnight": unknown unit; use ms, s, m, h, d or w, such as "10/s""#,
        ),
        (
            quota("5/s, burst 20"),
            r#"invalid quota "5/s, burst 20": expected one quota, not a list; use for example "5/s burst 20""#,
        ),
        (
            quota("10/second;burst=20"),
            r#"invalid quota "10/second;burst=20": expected one quota, not a list; use for example "10/second burst 20""#,
        ),
        (
            quota("10/s, 1000/h"),
            r#"invalid quota "10/s, 1000/h": expected one quota, not a list; use for example "10/s""#,
        ),
        (
            list("5/s, burst 20"),
            r#"invalid quota "5/s, burst 20": expected a count, "/" and a unit; use for example "5/s burst 20""#,
        ),
        (
            list("10/s, 5/fortnight"),
            r#"invalid quota "5/fortnight": unknown unit; use ms, s, m, h, d or w, such as "5/s""#,
        ),
        (
            quota("100"),
            r#"invalid quota "100": expected a count, "/" and a unit; use for example "100/minute""#,
        ),
        (
            quota("often\n"),
            r#"invalid quota "often\n": expected a count, "/" and a unit; use for example "100/minute", "10 per 1 hour" or "5/s burst 20""#,
        ),
        (
            quota(" "),
            r#"invalid quota " ": the text is empty; use for example "100/minute""#,
        ),
        (
            quota("5/month"),
            r#"invalid quota "5/month": a month has no fixed length; use days or weeks, such as "5/30 days""#,
        ),
        (
            quota("fixed:5/s"),
            r#"invalid quota "fixed:5/s": unknown algorithm "fixed"; use token-bucket, interval, fixed-window, sliding-window, sliding-log, total or calendar, such as "fixed-window:5/s""#,
        ),
        (
            quota("0/s"),
            r#"invalid quota "0/s": count is 0; use at least 1, such as "1/s""#,
        ),
        (
            quota("2TB/day"),
            r#"invalid quota "2TB/day": count is 2000000000000; use at most 1099511627776, such as "1TiB/day""#,
        ),
        (
            quota("1/4294967296s"),
            r#"invalid quota "1/4294967296s": period is 4294967296; use at most 4294967295, such as "1/4294967295 s""#,
        ),
        (
            quota("1/day burst 73050"),
            r#"invalid quota "1/day burst 73050": 73050 tokens at 1 per 86400000000 us take more than 142 years to come back; use a shorter period or a smaller capacity, such as "1/day burst 52124""#,
        ),
        (
            quota("fixed-window:5/s burst 9"),
            r#"invalid quota "fixed-window:5/s burst 9": burst is no setting of the fixed window; leave it out or use a token bucket or an interval bucket, such as "fixed-window:5/s""#,
        ),
        (
            quota("1MB/s burst 5"),
            r#"invalid quota "1MB/s burst 5": count and burst need the same unit; use for example "1MB/s burst 5MB""#,
        ),
        (
            why(Quota::try_fixed_window(0, Duration::from_secs(1))),
            "limit is 0; use at least 1",
        ),
    ]);
}

#[test]
fn names() {
    let quota = Quota::per_second(1);
    let error = |error: PolicyError| error.to_string();
    let nine = (0..9).map(|index: u32| (index.to_string(), quota));
    compare(&[
        (
            why(Policy::try_new("per ip", quota)),
            r#"invalid policy name "per ip": use 1 to 64 of A-Z a-z 0-9 _ . -, such as "per-ip""#,
        ),
        (
            why(Policy::new("p", quota).try_and("é\n", quota)),
            r#"invalid quota name "é\n": use 1 to 64 printable ASCII characters, such as "api""#,
        ),
        (
            why(Policy::new("p", quota).try_and("p", quota)),
            r#"duplicate quota name "p": give each quota of a policy its own name, such as "daily""#,
        ),
        (
            why(Policy::try_from_quotas("p", nine)),
            "invalid policy of 9 quotas: use 1 to 8",
        ),
        (
            error(PolicyError::Name("x".repeat(99))),
            &format!(
                r#"invalid policy name "{}"..: use 1 to 64 of A-Z a-z 0-9 _ . -, such as "{}""#,
                "x".repeat(60),
                "x".repeat(64)
            ),
        ),
        (
            why(SemaphorePolicy::try_new("a:b", 1)),
            r#"invalid semaphore name "a:b": use 1 to 64 of A-Z a-z 0-9 _ . -, such as "a-b""#,
        ),
        (
            why(SemaphorePolicy::try_new("p", 0)),
            "invalid capacity 0: use 1 to 65535",
        ),
        (
            why(SemaphorePolicy::new("p", 1).try_lease(Duration::from_millis(50))),
            "invalid lease of 50ms: use 100 ms to 1 day, such as 30 s",
        ),
        (
            why(Cookie::try_new("a b")),
            r#"invalid cookie name "a b": use letters, digits and !#$%&'*+-.^_`|~, such as "session""#,
        ),
    ]);
}

#[test]
fn networks_and_proxies() {
    let networks = |text: &str| why(text.parse::<Networks>());
    compare(&[
        (
            networks("::1\nproxy.internal # ours"),
            r#"line 2: invalid network "proxy.internal": use "10.0.0.0/8", "2001:db8::/32" or an address"#,
        ),
        (
            networks("10.1.2.3/16"),
            r#"line 1: invalid network "10.1.2.3/16": the address has bits beyond the prefix; use "10.1.0.0/16" or "10.1.2.3/32""#,
        ),
        (
            networks("10.0.0.0/33"),
            r#"line 1: invalid network "10.0.0.0/33": the prefix is too long; use at most 32, such as "10.0.0.0/32""#,
        ),
        (
            why("fe80::1%eth0".parse::<TrustedProxies>()),
            r#"line 1: invalid network "fe80::1%eth0": a network has no zone; use "fe80::1""#,
        ),
        (
            why(ClientIp::new().try_prefixes(33, 64)),
            "invalid prefix of 33 bits for IPv4: use 1 to 32, such as 32",
        ),
        (
            why(ClientIp::new().try_prefixes(32, 0)),
            "invalid prefix of 0 bits for IPv6: use 1 to 128, such as 64",
        ),
    ]);
}

#[test]
fn backend_urls() {
    const KNOWN: &str = r#"use "memory:", "redis://127.0.0.1/", "rediss://127.0.0.1/" or "redis+unix:///run/redis.sock""#;
    let url = |url: &str| why(AnyBackend::from_url(url));
    compare(&[
        (
            url("etcd://localhost"),
            &format!(r#"unknown backend "etcd:"; {KNOWN}"#),
        ),
        (
            url("memory"),
            &format!("invalid backend URL: it has no scheme; {KNOWN}"),
        ),
    ]);
    if cfg!(feature = "redis") {
        let message = url("redis://host:port/");
        assert!(message.starts_with("invalid Redis URL: "), "{message}");
        let example = r#"; use for example "redis://127.0.0.1:6379/0""#;
        assert!(message.ends_with(example), "{message}");
    }
}

#[test]
fn tables_of_costs() {
    let costs = RouteCosts::new;
    let twice = costs().method(Method::POST, "/a", 1);
    compare(&[
        (
            why(costs().try_route("POST /search?q=", 1)),
            r##"invalid path "POST /search?q=": begin with "/", and leave out the query and "#", such as "/search""##,
        ),
        (
            why(costs().try_prefix("/files/{*rest}", 1)),
            r#"invalid prefix "/files/{*rest}": leave out "{", "}" and "*"; a prefix holds for all paths below it, such as "/files""#,
        ),
        (
            why(twice.try_method(Method::POST, "/a", 2)),
            r#"duplicate entry "POST /a": keep one of them"#,
        ),
    ]);
}

#[cfg(feature = "redis")]
#[test]
fn prefixes_of_redis() {
    let builder = tower_sluice::RedisBackend::builder();
    compare(&[(
        why(builder.try_prefix("my app")),
        r#"invalid prefix "my app": use 1 to 64 of A-Z a-z 0-9 _ . -, such as "my-app""#,
    )]);
}

#[cfg(feature = "serde")]
#[test]
fn values_of_configuration_files() {
    let quota = |text: &str| why(serde_json::from_str::<Quota>(text));
    let policy = |text: &str| why(serde_json::from_str::<Policy>(text));
    for (message, part) in [
        (
            quota("7"),
            r#"expected a quota such as "100/minute", or a map such as {"algorithm": "fixed-window", "limit": 100, "window_us": 60000000}"#,
        ),
        (
            quota(r#""5/s, burst 20""#),
            r#"use for example "5/s burst 20""#,
        ),
        (
            quota(r#"{"algorithm": "fixed-window", "limit": 0, "window_us": 1}"#),
            "limit is 0; use at least 1",
        ),
        (
            policy("[]"),
            r#"expected a policy such as {"name": "api", "quota": "100/minute"}"#,
        ),
        (
            policy(r#"{"name": "a b", "quota": "1/s"}"#),
            r#"invalid policy name "a b": use 1 to 64 of A-Z a-z 0-9 _ . -, such as "a-b""#,
        ),
        (
            policy(r#"{"name": "api", "quotas": ["1/s"]}"#),
            r#"expected a map such as {"name": "burst", "quota": "10/second"}"#,
        ),
    ] {
        assert!(message.contains(part), "{message}");
    }
}
