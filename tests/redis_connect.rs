//! The ways to a Redis, and what is written there: URLs, pools, connections of the user's own, TLS, names of keys.

mod support;

use std::error::Error;
use std::fmt::Debug;
use std::process::Command;
use std::time::{Duration, Instant};

use bb8_redis::RedisConnectionManager;
use redis::aio::ConnectionManager;
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::backend::{Backend, BackendError, BackendErrorKind};
use tower_sluice::limiter::{CheckOutcome, WithFailurePolicy};
use tower_sluice::quota::Unit;
use tower_sluice::{
    AnyBackend, FailurePolicy, Key, Limiter, MemoryBackend, Policy, Quota, RedisBackend,
};

use crate::support::redis::RedisServer;

const HOUR: Duration = Duration::from_secs(3_600);

fn an_hour(limit: u64) -> Policy {
    Policy::new("api", Quota::per_hour(limit))
}

/// Without a cache, which would know for a second what nobody knows any more after a restart.
fn builder() -> RedisBuilder {
    RedisBackend::builder().deny_cache(Duration::ZERO)
}

/// Whether one of ten tokens of this key can be spent, and how many are left.
async fn spend<B: Backend>(backend: &B, key: &str) -> Result<u64, B::Error> {
    let limiter = Limiter::new(an_hour(10), backend.clone());
    let reply = limiter.check(&Key::from(key), 1).await?;
    assert!(reply.decision.is_allowed());
    Ok(reply.decision.snapshot().remaining())
}

/// How long it takes until there is an answer again.
async fn recovery<B: Backend>(backend: &B) -> Duration {
    let start = Instant::now();
    while spend(backend, "recovery").await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "no answer");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

// -- Settings

/// No time that can be set is too long to be added to another one.
#[tokio::test]
async fn settings_without_bounds_are_bounded() {
    let server = RedisServer::start();
    let longest = || {
        let builder = RedisBackend::builder().time_limit(Duration::MAX);
        let builder = builder.idle_ttl(Duration::MAX).deny_cache(Duration::MAX);
        builder.connections(std::num::NonZeroU32::MAX)
    };
    let policy = Policy::new("api", Quota::per_hour(2).initial_tokens(1));
    let transactions = longest().atomicity(tower_sluice::backend::redis::Atomicity::Optimistic);
    for (number, builder) in [longest(), longest().batching(false), transactions]
        .into_iter()
        .enumerate()
    {
        let backend = builder.connect(server.url()).await.expect("it runs");
        let (limiter, key) = (
            Limiter::new(policy.clone(), backend),
            Key::from(number as u64),
        );
        let _ = limiter.check(&key, 1).await.expect("it runs");
        // Those that wait for connections and trips of others, too.
        let checks = (0..20).map(|_| limiter.check(&key, 1));
        for reply in futures_util::future::join_all(checks).await {
            assert!(!reply.expect("it runs").decision.is_allowed());
        }
        let reply = limiter
            .reserve(&key, 1, Duration::MAX)
            .await
            .expect("it runs");
        let reservation = reply.reservation.expect("it waits");
        assert!(limiter.cancel(&key, reservation).await.expect("it runs"));
        let wait = limiter.acquire(&key, 1, Duration::MAX);
        let wait = tokio::time::timeout(Duration::from_millis(50), wait).await;
        assert!(wait.is_err(), "it waits for as long as it takes");
    }
    let none = RedisBackend::builder().time_limit(Duration::ZERO);
    let backend = none
        .idle_ttl(Duration::ZERO)
        .connect_lazy(server.url())
        .expect("a URL");
    // Whether a millisecond is enough is the machine's affair.
    let _ = Limiter::new(policy, backend)
        .check(&Key::from("ann"), 1)
        .await;
}

// -- Pools and connections of the user's own

#[tokio::test]
async fn given_pool_provides_new_connections_only() {
    let mut server = RedisServer::options().password("sesame").start();
    let manager = RedisConnectionManager::new(server.url()).expect("a URL");
    let pool = bb8::Pool::builder().max_size(1).build(manager).await;
    let pool = pool.expect("a server");
    let backend = builder().from_pool(pool.clone());
    // The only connection of the pool is taken all the time.
    let mut own = pool.get().await.expect("a connection");
    assert_eq!(spend(&backend, "ann").await.expect("Redis"), 9);
    assert_eq!(spend(&backend, "ann").await.expect("Redis"), 8);
    redis::cmd("PING")
        .exec_async(&mut *own)
        .await
        .expect("Redis");
    drop(own);

    server.kill9();
    let error = spend(&backend, "ann").await.unwrap_err();
    let down = [BackendErrorKind::Lost, BackendErrorKind::Unreachable];
    assert!(down.contains(error.kind()), "{error:?}");
    server.restart();
    let took = recovery(&backend).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(
        spend(&RedisBackend::from_pool(pool), "bob")
            .await
            .expect("Redis"),
        9
    );
}

#[tokio::test]
async fn given_connection_is_shared() {
    let mut server = RedisServer::start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let multiplexed = client.get_multiplexed_async_connection().await;
    let multiplexed = multiplexed.expect("a server");
    let managed = ConnectionManager::new(client).await.expect("a server");
    let plain = RedisBackend::from_connection(multiplexed);
    let managed = builder().from_connection(managed);
    assert_eq!(spend(&plain, "ann").await.expect("Redis"), 9);
    assert_eq!(spend(&managed, "ann").await.expect("Redis"), 8);
    let clients: String = server.get(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().count(), 3, "ours make no others: {clients}");

    server.kill9();
    server.restart();
    recovery(&managed).await;
    let error = spend(&plain, "ann")
        .await
        .expect_err("it does not come back by itself");
    assert_eq!(*error.kind(), BackendErrorKind::Lost, "{error:?}");
}

// -- URLs

#[tokio::test]
async fn a_socket_file_is_as_good_as_a_port() {
    let server = RedisServer::start();
    let backend = RedisBackend::connect(server.unix_url())
        .await
        .expect("a server");
    assert_eq!(spend(&backend, "ann").await.expect("Redis"), 9);
    let any = AnyBackend::from_url(&server.unix_url()).expect("a URL");
    assert_eq!(spend(&any, "ann").await.expect("Redis"), 8);
    let tcp = AnyBackend::from_url(&server.url()).expect("a URL");
    assert_eq!(spend(&tcp, "ann").await.expect("Redis"), 7);
}

#[test]
fn a_url_is_read_without_a_runtime_and_without_a_server() {
    let nobody = format!("redis://127.0.0.1:{}/", support::free_port());
    let memory = AnyBackend::from_url("memory:").expect("always there");
    let any = AnyBackend::from_url(&nobody).expect("it does not connect");
    let lazy = RedisBackend::connect_lazy(&nobody).expect("nor does this");
    let unix = AnyBackend::from_url("redis+unix:///nowhere/at/all").expect("nor this");
    assert!(format!("{memory:?}").starts_with("MemoryBackend"));
    for redis in [format!("{any:?}"), format!("{lazy:?}"), format!("{unix:?}")] {
        assert!(redis.starts_with("RedisBackend"), "{redis}");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        assert_eq!(spend(&memory, "ann").await.expect("memory"), 9);
        for backend in [any, AnyBackend::from(lazy), unix] {
            let error = spend(&backend, "ann").await.unwrap_err();
            assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
        }
        let error = RedisBackend::connect(&nobody).await.unwrap_err();
        assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    });
}

#[tokio::test]
async fn service_connects_when_redis_starts_later() {
    let mut server = RedisServer::options().prepare();
    let backend = AnyBackend::from_url(&server.url()).expect("a URL");
    let error = spend(&backend, "ann").await.unwrap_err();
    assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    server.restart();
    assert!(recovery(&backend).await < Duration::from_secs(2));
}

#[test]
fn invalid_url_error_lists_valid_schemes() {
    let why = |url: &str| {
        let error = AnyBackend::from_url(url).unwrap_err();
        assert!(
            matches!(error.kind(), BackendErrorKind::Config(_)),
            "{error:?}"
        );
        error.to_string()
    };
    const KNOWN: &str = r#"use "memory:", "redis://127.0.0.1/", "rediss://127.0.0.1/" or "redis+unix:///run/redis.sock""#;
    for (url, shown) in [
        ("etcd://localhost", r#""etcd:""#),
        ("localhost:6379", r#""localhost:""#),
        ("Redis\n://x", r#""redis\n:""#),
    ] {
        assert_eq!(why(url), format!("unknown backend {shown}; {KNOWN}"));
    }
    for url in ["", "memory", "0pen-Sesame", ":", "memory:x"] {
        assert_eq!(
            why(url),
            format!("invalid backend URL: it has no scheme; {KNOWN}")
        );
    }
    for url in [
        "memory:",
        "memory://",
        "Memory:",
        "REDIS://localhost",
        "valkey://localhost",
    ] {
        assert!(AnyBackend::from_url(url).is_ok(), "{url}");
    }
    for url in ["redis://", "redis://host:port/", "redis://host/name"] {
        let reported = why(url);
        assert!(
            reported.starts_with("invalid Redis URL: ")
                && reported.ends_with(r#"; use for example "redis://127.0.0.1:6379/0""#),
            "{reported}"
        );
    }
    #[cfg(not(feature = "tls"))]
    assert!(why("rediss://host").starts_with(r#"backend "rediss:" needs the feature "tls""#));
    #[cfg(feature = "tls")]
    assert!(AnyBackend::from_url("rediss://host").is_ok());
}

#[tokio::test]
async fn errors_contain_no_password() {
    const PASSWORD: &str = "0pen-Sesame";
    let server = RedisServer::options().password("another").start();
    let reported = |what: &dyn Debug, text: String| {
        for text in [format!("{what:?}"), format!("{what:#?}"), text] {
            assert!(!text.contains(PASSWORD), "{text}");
        }
    };
    let of_error = |error: &BackendError| {
        reported(error, error.to_string());
        let mut cause = error.source();
        while let Some(error) = cause {
            reported(&error, error.to_string());
            cause = error.source();
        }
    };
    let nobody = format!("redis://:{PASSWORD}@127.0.0.1:{}/", support::free_port());
    for url in [
        server.url_of("", PASSWORD),
        server.url_of("ann", PASSWORD),
        nobody,
    ] {
        reported(&RedisBackend::connect_lazy(&url), String::new());
        reported(&AnyBackend::from_url(&url), String::new());
        let backend = AnyBackend::from_url(&url).expect("a URL");
        let error = spend(&backend, "ann").await.unwrap_err();
        assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
        of_error(&error);
        of_error(&RedisBackend::connect(&url).await.unwrap_err());
    }
    for url in [
        format!("redis://ann:{PASSWORD}@host:port/"),
        format!("redis://ann:{PASSWORD}@host/no-number"),
        format!("redis://ann:{PASSWORD}@/"),
        format!("rediss://ann:{PASSWORD}@host:port/"),
        format!("postgres://ann:{PASSWORD}@host/"),
        format!("ann:{PASSWORD}@host"),
    ] {
        of_error(&AnyBackend::from_url(&url).unwrap_err());
        of_error(&RedisBackend::connect_lazy(&url).unwrap_err());
    }
    let secret = RedisBackend::builder().secret(PASSWORD);
    reported(&secret, String::new());
    reported(
        &secret.connect_lazy(server.url()).expect("a URL"),
        String::new(),
    );
}

// -- Names

#[tokio::test]
async fn keys_follow_the_documented_layout() {
    let server = RedisServer::start();
    let backend = RedisBackend::connect(server.url()).await.expect("a server");
    let minute = Duration::from_secs(60);
    let policy = an_hour(10)
        .and("daily", Quota::fixed_window(100, 24 * HOUR))
        .and("steps", Quota::interval_bucket(5, 1, minute))
        .and("even", Quota::sliding_window(9, minute))
        .and("log", Quota::sliding_log(9, minute))
        .and(
            "bytes",
            Quota::per_hour(1 << 20).with_unit(Unit::ContentBytes),
        );
    let limiter = Limiter::new(policy, backend.clone());
    let _ = limiter.check(&Key::from("alice"), 1).await.expect("Redis");
    let suffixes = [
        "b",
        "bB:bytes",
        "f86400000000:daily",
        "i:steps",
        "l60000000:log",
        "s60000000:even",
    ];
    assert_eq!(
        server.keys(),
        suffixes.map(|suffix| format!("{{sluice:api:ralice}}:{suffix}"))
    );

    let limiter = Limiter::new(an_hour(10), backend);
    for key in [Key::from("user:{42}"), Key::secret("alice"), Key::from("")] {
        let _ = limiter.check(&key, 1).await.expect("Redis");
    }
    let keys = server.keys();
    assert!(keys.contains(&"{sluice:api:h82d8ec67c8d014fd414d60c45db8a07f}:b".to_owned()));
    let digested = keys.iter().filter(|key| {
        let digits = key
            .strip_prefix("{sluice:api:")
            .and_then(|rest| rest.strip_prefix(['h', 's']))
            .and_then(|rest| rest.strip_suffix("}:b"));
        digits.is_some_and(|digits| digits.len() == 32)
    });
    assert_eq!(digested.count(), 3, "{keys:?}");
}

#[tokio::test]
async fn other_prefixes_and_secrets_share_no_state() {
    let server = RedisServer::start();
    let connect =
        async |builder: RedisBuilder| builder.connect(server.url()).await.expect("a server");
    let ours = connect(builder()).await;
    assert_eq!(spend(&ours, "ann").await.expect("Redis"), 9);
    assert_eq!(
        spend(&connect(builder()).await, "ann")
            .await
            .expect("Redis"),
        8
    );
    let theirs = connect(builder().prefix("theirs")).await;
    assert_eq!(spend(&theirs, "ann").await.expect("Redis"), 9);
    assert_eq!(
        server.keys(),
        ["{sluice:api:rann}:b", "{theirs:api:rann}:b"]
    );

    // A secret is for those that are digested.
    let (one, two) = (
        connect(builder().secret("one")).await,
        connect(builder().secret("two")).await,
    );
    for backend in [&ours, &one, &two] {
        assert_eq!(spend(backend, "an address").await.expect("Redis"), 9);
    }
    assert_eq!(
        spend(&connect(builder().secret("one")).await, "an address")
            .await
            .expect("Redis"),
        8
    );
    assert_eq!(spend(&two, "ann").await.expect("Redis"), 7);
    assert_eq!(server.keys().len(), 5);
}

#[test]
fn invalid_prefix_is_an_error() {
    for prefix in ["", "a b", "a:b", "a{b", "ü", &"x".repeat(65)] {
        let error = builder().try_prefix(prefix).unwrap_err();
        assert!(
            matches!(error.kind(), BackendErrorKind::Config(_)),
            "{error:?}"
        );
        let reported = error.to_string();
        assert!(
            reported.starts_with("invalid prefix \"")
                && reported.contains(": use 1 to 64 of A-Z a-z 0-9 _ . -, such as \""),
            "{reported}"
        );
        let panics = std::panic::catch_unwind(|| builder().prefix(prefix));
        let words = panics
            .expect_err("the same")
            .downcast::<String>()
            .expect("a text");
        assert_eq!(*words, reported);
    }
    assert!(builder().try_prefix(&"x".repeat(64)).is_ok());
}

// -- Other processes

/// Runs one test of this file in a process of its own, and returns what it printed.
fn process(test: &str, env: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .envs(env.iter().copied())
        .output()
        .expect("this program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test}: {text}{errors}");
    text
}

/// The same choice as a layer's, without Tower.
#[tokio::test]
async fn without_tower_failures_are_treated_as_chosen() {
    let nobody = format!("redis://127.0.0.1:{}/", support::free_port());
    let key = Key::from("ann");
    for (choice, outcomes) in [
        (FailurePolicy::FailOpen, ["pass"; 3]),
        (FailurePolicy::FailClosed, ["unavailable"; 3]),
        (
            FailurePolicy::Fallback(MemoryBackend::new()),
            ["allowed", "allowed", "denied"],
        ),
    ] {
        let policy = Policy::new("api", Quota::per_day(2));
        let backend = AnyBackend::from_url(&nobody).expect("a URL");
        let limiter = WithFailurePolicy::new(Limiter::new(policy, backend), choice.clone());
        for expected in outcomes {
            let outcome = match limiter.check(&key, 1).await {
                CheckOutcome::Uncounted => "pass",
                CheckOutcome::Unavailable => "unavailable",
                CheckOutcome::Decided(reply) if reply.decision.is_allowed() => "allowed",
                CheckOutcome::Decided(_) => "denied",
            };
            assert_eq!(outcome, expected, "{choice:?}");
        }
        // Everything else returns the error as it is.
        let peeked = limiter.limiter().peek(&key).await.unwrap_err();
        assert_eq!(*peeked.kind(), BackendErrorKind::Unreachable);
    }
}

const URL: &str = "SLUICE_TEST_URL";

/// By itself at a server of its own; started by the tests below, as another process, at theirs.
#[tokio::test]
async fn spends_one() {
    let (url, own) = match std::env::var(URL) {
        Ok(url) => (url, None),
        Err(_) => {
            let server = RedisServer::start();
            (server.url(), Some(server))
        }
    };
    let backend = RedisBackend::connect(url).await.expect("a server");
    let left = spend(&backend, "ann").await.expect("Redis");
    assert!(own.is_none() || left == 9, "{left}");
    println!("left: {left}");
}

#[tokio::test]
async fn processes_share_their_limits() {
    let server = RedisServer::start();
    let backend = RedisBackend::connect(server.url()).await.expect("a server");
    assert_eq!(spend(&backend, "ann").await.expect("Redis"), 9);
    for left in [8, 7] {
        let text = process("spends_one", &[(URL, &server.url())]);
        assert!(text.contains(&format!("left: {left}")), "{text}");
    }
    assert_eq!(spend(&backend, "ann").await.expect("Redis"), 6);
    // Memory is each one's own.
    assert_eq!(
        spend(&MemoryBackend::new(), "ann").await.expect("memory"),
        9
    );
}

#[cfg(feature = "tls")]
mod tls {
    use super::*;
    use crate::support::tls::TlsServer;

    #[tokio::test]
    async fn tls_accepts_only_system_trust_roots() {
        let tls = TlsServer::start();
        let (server, url, ca) = (&tls.server, tls.url(), tls.authority());
        // Who is trusted is read from the environment: that of another process can be chosen.
        let text = process("spends_one", &[(URL, &url), ("SSL_CERT_FILE", &ca)]);
        assert!(text.contains("left: 9"), "{text}");
        assert_eq!(server.keys(), ["{sluice:api:rann}:b"]);

        // Here the system's own count, which do not know this server.
        let error = RedisBackend::connect(&url).await.unwrap_err();
        assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
        let why = error.source().expect("a reason").to_string();
        assert!(why.contains("certificate"), "{why}");
        let any = AnyBackend::from_url(&url).expect("a URL");
        assert!(spend(&any, "ann").await.is_err());
    }
}
