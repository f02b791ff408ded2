//! Settings, given pools and given connections.

use std::time::Duration;

use bb8_redis::RedisConnectionManager;
use redis::aio::ConnectionManager;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::adapter::{Bb8Pool, RedisConnection};
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::support::redis::RedisServer;
use crate::{builder, recovery, spend};

/// No configured time overflows when it is added to another one.
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
        let backend = builder
            .connect(server.url())
            .await
            .expect("the server runs");
        let (limiter, key) = (
            Limiter::new(policy.clone(), backend),
            Key::from(number as u64),
        );
        let _ = limiter.check(&key, 1).await.expect("the server runs");
        // Waits for connections and round trips of other requests too.
        let checks = (0..20).map(|_| limiter.check(&key, 1));
        for reply in futures_util::future::join_all(checks).await {
            assert!(!reply.expect("the server runs").decision.is_allowed());
        }
        let reply = limiter
            .reserve(&key, 1, Duration::MAX)
            .await
            .expect("the server runs");
        let reservation = reply.reservation.expect("the request waits");
        assert!(
            limiter
                .cancel(&key, reservation)
                .await
                .expect("the server runs")
        );
        let wait = limiter.acquire(&key, 1, Duration::MAX);
        let wait = tokio::time::timeout(Duration::from_millis(50), wait).await;
        assert!(wait.is_err(), "the request waits until its reply");
    }
    let none = RedisBackend::builder().time_limit(Duration::ZERO);
    let backend = none
        .idle_ttl(Duration::ZERO)
        .connect_lazy(server.url())
        .expect("a URL");
    // Whether a millisecond is enough depends on the machine.
    let _ = Limiter::new(policy, backend)
        .check(&Key::from("ann"), 1)
        .await;
}

#[tokio::test]
async fn given_pool_provides_new_connections_only() {
    let mut server = RedisServer::options().password("sesame").start();
    let manager = RedisConnectionManager::new(server.url()).expect("a URL");
    let pool = bb8::Pool::builder().max_size(1).build(manager).await;
    let pool = pool.expect("a server");
    let backend = builder().from_connector(Bb8Pool::new(pool.clone()));
    // The only connection of the pool is always in use.
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
        spend(&RedisBackend::from_connector(Bb8Pool::new(pool)), "bob")
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
    let plain = RedisBackend::from_transport(RedisConnection::new(multiplexed));
    let managed = builder().from_transport(RedisConnection::new(managed));
    assert_eq!(spend(&plain, "ann").await.expect("Redis"), 9);
    assert_eq!(spend(&managed, "ann").await.expect("Redis"), 8);
    let clients: String = server.get(&["CLIENT", "LIST"]);
    assert_eq!(
        clients.lines().count(),
        3,
        "the backend opens no connection of its own: {clients}"
    );

    server.kill9();
    server.restart();
    recovery(&managed).await;
    let error = spend(&plain, "ann")
        .await
        .expect_err("a given connection does not reconnect");
    assert_eq!(*error.kind(), BackendErrorKind::Lost, "{error:?}");
}
