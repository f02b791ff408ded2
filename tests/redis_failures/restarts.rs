//! A Redis that restarts, with and without its data.

use std::time::{Duration, Instant};

use bb8_redis::RedisConnectionManager;
use futures_util::future::join_all;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::Bb8Pool;
use tower_sluice::{Key, Limiter, RedisBackend};

use crate::harness::{
    LIMIT, assert_each_failure_policy, check, check_error, distinct, guarded, redis_decides,
    tokens, uncached_builder, wait_for_recovery,
};
use crate::outage::{is_lost, is_unsent};
use crate::support::redis::{RedisServer, version};

/// A server is killed and restarted. The backend uses connections from `connect`.
async fn assert_recovers_after_a_restart<F>(connect: impl FnOnce(String) -> F, from: &str)
where
    F: Future<Output = RedisBackend>,
{
    let options = RedisServer::options().line("appendonly yes");
    let mut server = options.line("appendfsync always").start();
    let backend = connect(server.url()).await;
    let limiter = Limiter::new(tokens("api", 1000), backend);
    let key = Key::from("ann");
    for count in 1..=3 {
        assert_eq!(check(&limiter, &key).await, Ok(count));
    }

    server.kill9();
    let start = Instant::now();
    let first = check_error(&limiter, &key).await;
    assert!(is_lost(&first) || is_unsent(&first), "{first:?}");
    for _ in 0..10 {
        let why = check_error(&limiter, &key).await;
        assert!(is_unsent(&why), "{why:?}");
    }
    assert_each_failure_policy(&limiter, &key).await;

    server.restart();
    wait_for_recovery(&limiter, &key, start.elapsed(), from).await;
    // Three before, and one during the recovery. Failed checks charged nothing: no server was up.
    assert_eq!(check(&limiter, &key).await, Ok(5));
    redis_decides(&limiter, &Key::from("bob")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_is_used_again_after_a_restart() {
    let connect = |url| async {
        uncached_builder()
            .connect(url)
            .await
            .expect("the server runs")
    };
    guarded(assert_recovers_after_a_restart(connect, "kill -9")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimistic_mode_uses_a_restarted_server_again() {
    let optimistic = uncached_builder().atomicity(Atomicity::Optimistic);
    let connect = |url| async { optimistic.connect(url).await.expect("the server runs") };
    guarded(assert_recovers_after_a_restart(
        connect,
        "kill -9 under transactions",
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_pool_uses_a_restarted_server_again() {
    let connect = |url| async {
        let manager = RedisConnectionManager::new::<String>(url).expect("a URL");
        uncached_builder().from_connector(Bb8Pool::new(
            bb8::Pool::builder()
                .build(manager)
                .await
                .expect("the server runs"),
        ))
    };
    guarded(assert_recovers_after_a_restart(
        connect,
        "kill -9 behind a user's pool",
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_while_idle_fails_no_check() {
    guarded(async {
        let mut server = RedisServer::start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiters = distinct(&backend, 64);
        let key = Key::from("ann");
        let all = || join_all(limiters.iter().map(|limiter| check(limiter, &key)));
        for _ in 0..2 {
            assert!(all().await.iter().all(|spent| *spent == Ok(1)));
            server.kill9();
            tokio::time::sleep(Duration::from_millis(1100)).await;
            server.restart();
        }
        assert!(all().await.iter().all(|spent| *spent == Ok(1)));
    })
    .await;
}

/// A restarted server reports that it is loading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_server_fails_until_it_is_loaded() {
    guarded(async {
        // A server that loads answers after every 2 MB.
        let options = RedisServer::options().line("rdbcompression no");
        // Redis 6.2 always allows `DEBUG`, and does not know the setting.
        let options = match version().1 < (7, 0) {
            true => options,
            false => options.line("enable-debug-command local"),
        };
        let mut server = options.line("key-load-delay 500").start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiter = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        server.command(&["DEBUG", "POPULATE", "3000", "key", "20000"]);
        server.command(&["SAVE"]);
        server.kill9();
        server.restart_loading();
        let start = Instant::now();
        let mut why = check_error(&limiter, &key).await;
        if is_lost(&why) {
            // The error of the earlier connection.
            why = check_error(&limiter, &key).await;
        }
        // Connecting takes time too.
        let loads = BackendErrorKind::Server("LOADING".into());
        let slow = BackendErrorKind::Timeout(LIMIT);
        assert!(why == loads || why == slow || is_unsent(&why), "{why:?}");
        assert_each_failure_policy(&limiter, &key).await;
        while server.is_loading() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        wait_for_recovery(&limiter, &key, start.elapsed(), "LOADING").await;
        // Checks during loading charged nothing. Only a timed-out check may take effect later.
        let charged = check(&limiter, &key).await.expect("the check succeeds");
        assert!(charged == 3 || why == slow && charged == 4, "{charged}");
    })
    .await;
}
