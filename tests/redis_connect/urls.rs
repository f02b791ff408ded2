//! URLs of servers.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use tower_sluice::backend::{BackendError, BackendErrorKind};
use tower_sluice::{AnyBackend, RedisBackend};

use crate::support::redis::RedisServer;
use crate::{recovery, spend};

#[tokio::test]
async fn unix_socket_url_connects() {
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
fn url_is_parsed_without_a_runtime_or_a_server() {
    let closed = format!("redis://127.0.0.1:{}/", crate::support::free_port());
    let memory = AnyBackend::from_url("memory:").expect("always there");
    let any = AnyBackend::from_url(&closed).expect("connecting fails");
    let lazy = RedisBackend::connect_lazy(&closed).expect("neither does this one");
    let unix = AnyBackend::from_url("redis+unix:///nowhere/at/all").expect("neither this one");
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
        let error = RedisBackend::connect(&closed).await.unwrap_err();
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
    let closed = format!(
        "redis://:{PASSWORD}@127.0.0.1:{}/",
        crate::support::free_port()
    );
    for url in [
        server.url_of("", PASSWORD),
        server.url_of("ann", PASSWORD),
        closed,
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
