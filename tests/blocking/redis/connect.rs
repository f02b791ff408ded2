//! Connecting to Redis: URLs, sockets, settings and TLS.

use std::error::Error;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use tower_sluice::Key;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::RedisClient;
use tower_sluice::backend::{BackendError, BackendErrorKind};
use tower_sluice::blocking::{Limiter, RedisBackend};

use super::{
    LIMIT, SLACK, check, check_error, connect, tokens, uncached_builder, wait_for_recovery,
};
use crate::support::redis::RedisServer;

#[test]
fn invalid_url_error_contains_no_password() {
    const PASSWORD: &str = "0pen-Sesame";
    let server = RedisServer::options().password("another").start();
    let reported = |error: &BackendError| {
        let mut text = format!("{error} {error:?}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!(" {error} {error:?}");
            cause = error.source();
        }
        assert!(!text.contains(PASSWORD), "{text}");
    };
    for url in [
        "".to_owned(),
        "localhost:6379".to_owned(),
        "etcd://localhost".to_owned(),
        format!("redis://ann:{PASSWORD}@host:port/"),
        format!("redis://ann:{PASSWORD}@host/name"),
    ] {
        let errors = [
            RedisBackend::connect(&url).unwrap_err(),
            RedisBackend::connect_lazy(&url).unwrap_err(),
        ];
        for error in errors {
            let BackendErrorKind::Config(why) = error.kind() else {
                panic!("{url}: {error:?}");
            };
            assert!(why.starts_with("invalid Redis URL: "));
            reported(&error);
        }
    }
    let wrong = server.url_of("", PASSWORD);
    let start = Instant::now();
    let error = RedisBackend::connect(&wrong).unwrap_err();
    assert!(start.elapsed() < LIMIT + SLACK, "{:?}", start.elapsed());
    assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    reported(&error);
    let lazy = RedisBackend::connect_lazy(&wrong).expect("a URL");
    assert!(!format!("{lazy:?} {:?}", uncached_builder().secret(PASSWORD)).contains(PASSWORD));
    let limiter = Limiter::new(tokens(10), lazy);
    reported(&limiter.check(&Key::from("ann"), 1).unwrap_err());
    let right = connect(&server, 10);
    assert_eq!(check(&right, &Key::from("ann")), Ok(1));
}

#[test]
fn unusable_server_is_detected_at_connect() {
    let server = RedisServer::options()
        .line("user limiter on >sesame ~{sluice:* +@all -evalsha")
        .start();
    let why = RedisBackend::connect(server.url_of("limiter", "sesame"));
    let why = why.expect_err("a right is missing");
    assert_eq!(*why.kind(), BackendErrorKind::Server("NOPERM".to_owned()));
    assert!(why.to_string().contains("ACL SETUSER"), "{why}");
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let why = RedisBackend::connect(server.url()).expect_err("no memory is left");
    assert_eq!(*why.kind(), BackendErrorKind::Server("OOM".to_owned()));
}

#[test]
fn blocking_optimistic_mode_is_a_config_error_with_a_remedy() {
    let optimistic = || uncached_builder().atomicity(Atomicity::Optimistic);
    let client = redis::Client::open("redis://host").expect("a URL");
    let errors: [BackendError; 3] = [
        optimistic()
            .from_blocking_connector(RedisClient::new(client))
            .unwrap_err(),
        optimistic().connect_blocking("redis://host").unwrap_err(),
        optimistic()
            .connect_blocking_lazy("redis://host")
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error.kind(), BackendErrorKind::Config(_)));
        let reported = error.to_string();
        assert!(
            reported.starts_with("`Atomicity::Optimistic` does not work on plain threads; use"),
            "{reported}"
        );
    }
}

#[test]
fn unix_socket_url_connects() {
    let server = RedisServer::start();
    let backend = uncached_builder().connect_blocking(server.unix_url());
    let unix = Limiter::new(tokens(10), backend.expect("the server runs"));
    let key = Key::from("ann");
    assert_eq!(check(&unix, &key), Ok(1));
    assert_eq!(check(&connect(&server, 10), &key), Ok(2));
}

#[test]
fn settings_without_bounds_are_bounded() {
    let server = RedisServer::start();
    let backend = uncached_builder()
        .time_limit(Duration::MAX)
        .connections(NonZeroU32::MAX)
        .connect_blocking(server.url());
    let limiter = Limiter::new(tokens(10), backend.expect("the server runs"));
    assert_eq!(check(&limiter, &Key::from("ann")), Ok(1));
    let backend = uncached_builder().time_limit(Duration::ZERO);
    let backend = backend.connect_blocking_lazy(server.url()).expect("a URL");
    // Whether a millisecond is enough depends on the machine.
    let _ = Limiter::new(tokens(10), backend).check(&Key::from("ann"), 1);
}

#[test]
fn lazy_connection_works_when_the_server_starts_later() {
    let mut server = RedisServer::options().prepare();
    let start = Instant::now();
    let error = RedisBackend::connect(server.url()).unwrap_err();
    // It fails at once, not at the time limit.
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    let why = error.source().expect("a reason").to_string();
    assert!(why.contains("refused"), "{why}");

    let backend = uncached_builder().connect_blocking_lazy(server.url());
    let limiter = Limiter::new(tokens(10), backend.expect("a URL"));
    let key = Key::from("ann");
    let asked = Instant::now();
    let why = check_error(&limiter, &key);
    assert_eq!(why, BackendErrorKind::Unreachable);
    // No command took effect. The check was repeated after 10, 20 and 40 ms.
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(70), "{took:?}");
    server.restart();
    wait_for_recovery(&limiter, &key, start.elapsed());
    assert_eq!(check(&limiter, &key), Ok(2));
}

#[test]
fn connections_are_made_by_the_given_client() {
    let server = RedisServer::options().password("sesame").start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let plain = Limiter::new(
        tokens(10),
        RedisBackend::from_connector(RedisClient::new(client.clone())),
    );
    assert_eq!(check(&plain, &Key::from("ann")), Ok(1));
    let backend = uncached_builder()
        .prefix("theirs")
        .from_blocking_connector(RedisClient::new(client));
    let theirs = Limiter::new(tokens(10), backend.expect("scripts"));
    assert_eq!(check(&theirs, &Key::from("ann")), Ok(1));
}

#[cfg(feature = "tls")]
#[test]
fn tls_accepts_system_or_client_trust_roots() {
    if !crate::support::tls::is_built_in() {
        return;
    }
    let tls = crate::support::tls::TlsServer::start();
    // The system does not trust the authority of this server.
    let error = RedisBackend::connect(tls.url()).unwrap_err();
    assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    let why = error.source().expect("a reason").to_string();
    assert!(why.contains("certificate"), "{why}");

    let authority = std::fs::read(tls.authority()).expect("a file");
    let certificates = redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(authority),
    };
    let client = redis::Client::build_with_tls(tls.url(), certificates).expect("a certificate");
    let backend = uncached_builder()
        .from_blocking_connector(RedisClient::new(client))
        .expect("scripts");
    let limiter = Limiter::new(tokens(10), backend);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    tls.server.pause();
    assert_eq!(
        check_error(&limiter, &key),
        BackendErrorKind::Timeout(LIMIT)
    );
    tls.server.resume();
    wait_for_recovery(&limiter, &key, LIMIT);
}
