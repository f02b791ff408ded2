//! The names of keys.

use std::time::Duration;

use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::quota::Unit;
use tower_sluice::{Key, Limiter, Quota, RedisBackend};

use crate::support::redis::RedisServer;
use crate::{HOUR, an_hour, builder, spend};

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

    // Only digested keys use the secret.
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
