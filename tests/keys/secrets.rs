//! Keys of any bytes are digested, and secrets stay secret.

use std::time::Duration;

use http::Request;
use tower::{Layer, ServiceExt};
use tower_sluice::key::{Bearer, Cookie, KeyExtractor, Query};
use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota, RateLimitLayer};

use crate::support::hello;

/// Different keys, each of which a client might send.
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
