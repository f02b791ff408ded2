//! Redis is down, stalls, was never up, or comes back.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::{Key, Limiter, RedisBackend};

use crate::harness::{
    LIMIT, SLACK, assert_each_failure_policy, check, check_error, distinct, guarded, redis_decides,
    spent, tokens, uncached_builder, wait_for_recovery,
};
use crate::support::free_port;
use crate::support::redis::RedisServer;

/// A request that redis-rs accepts at the moment of the disconnect fails only by its time limit.
pub(crate) fn is_lost(why: &BackendErrorKind) -> bool {
    matches!(
        why,
        BackendErrorKind::Lost | BackendErrorKind::Timeout(LIMIT)
    )
}

pub(crate) fn is_unsent(why: &BackendErrorKind) -> bool {
    matches!(
        why,
        BackendErrorKind::CircuitOpen | BackendErrorKind::Unreachable
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_denial_needs_no_redis() {
    guarded(async {
        let mut server = RedisServer::start();
        let backend = RedisBackend::builder().deny_cache(Duration::from_secs(3600));
        let backend = backend
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiter = Limiter::new(tokens("api", 1), backend);
        let [ann, bob] = ["ann", "bob"].map(Key::from);
        redis_decides(&limiter, &ann).await;
        server.kill9();
        for _ in 0..10 {
            assert_eq!(check(&limiter, &ann).await, Ok(1));
            check_error(&limiter, &bob).await;
        }
        let asked = limiter.check(&ann, 1).await.expect("the denial is cached");
        assert!(!asked.decision.is_allowed());
    })
    .await;
}

/// The backend cannot replace a given connection: each check fails for good, but fast and without side effects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_connection_fails_in_time_when_it_is_lost() {
    guarded(async {
        let mut server = RedisServer::start();
        let client = redis::Client::open(server.url()).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await;
        let backend = uncached_builder()
            .from_transport(RedisConnection::new(connection.expect("the server runs")));
        let limiter = Limiter::new(tokens("api", 5), backend);
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        server.kill9();
        for _ in 0..10 {
            check_error(&limiter, &key).await;
        }
        assert_each_failure_policy(&limiter, &key).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_administrator_kills_are_replaced() {
    guarded(async {
        let server = RedisServer::start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiter = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        for round in 0..10 {
            let killed: i64 = server.get(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            assert!(killed >= 1, "no check succeeded in round {round}");
            // The checks that detect the dead connection may fail, or meet one that is killed while it is opened. The
            // others get a new one.
            let mut failed = 0;
            while let Err(why) = check(&limiter, &key).await {
                assert!(
                    is_lost(&why) || why == BackendErrorKind::Unreachable,
                    "{why:?}"
                );
                failed += 1;
            }
            assert!(failed < 5, "{failed} in round {round}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_server_costs_at_most_the_time_limit() {
    guarded(async {
        let server = RedisServer::start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiters = distinct(&backend, 64);
        let key = Key::from("ann");
        let all = || join_all(limiters.iter().map(|limiter| check(limiter, &key)));
        assert!(all().await.iter().all(|spent| *spent == Ok(1)));

        server.pause();
        let start = Instant::now();
        let failed = all().await;
        let took = start.elapsed();
        assert!(took >= LIMIT && took < LIMIT + SLACK, "{took:?}");
        for why in failed {
            assert_eq!(why, Err(BackendErrorKind::Timeout(LIMIT)));
        }
        assert_each_failure_policy(&limiters[0], &key).await;
        while check_error(&limiters[0], &key).await != BackendErrorKind::CircuitOpen {}
        let outage = start.elapsed();

        server.resume();
        wait_for_recovery(&limiters[0], &Key::from("bob"), outage, "SIGSTOP").await;
        // Late replies are discarded: each check gets its own reply.
        for round in 2..=5 {
            let after = all().await;
            for (limiter, counted) in limiters.iter().zip(after).skip(1) {
                // The timed-out check was sent at most once, and may have taken effect.
                let counted = counted.expect("the check succeeds");
                assert!((round..=round + 1).contains(&counted), "{counted}");
                assert_eq!(spent(limiter, &key).await, counted);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_pause_within_the_time_limit_is_waited_for() {
    guarded(async {
        let server = RedisServer::start();
        let long = uncached_builder().time_limit(Duration::from_secs(10));
        let long = long.connect(server.url()).await.expect("the server runs");
        let long = distinct(&long, 16);
        let short = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let short = Limiter::new(tokens("api", 1000), short);
        let key = Key::from("ann");
        assert_eq!(check(&short, &key).await, Ok(1));

        server.command(&["CLIENT", "PAUSE", "2000", "ALL"]);
        let start = Instant::now();
        let (all, why) = tokio::join!(
            join_all(long.iter().map(|limiter| check(limiter, &key))),
            async {
                let why = check_error(&short, &key).await;
                assert_each_failure_policy(&short, &key).await;
                why
            },
        );
        assert_eq!(why, BackendErrorKind::Timeout(LIMIT));
        assert!(all.iter().all(|spent| *spent == Ok(1)), "{all:?}");
        let outage = start.elapsed();
        assert!(outage >= Duration::from_millis(500), "{outage:?}");
        wait_for_recovery(&short, &Key::from("bob"), outage, "CLIENT PAUSE").await;
        // The timed-out check was sent once and may take effect late. The costly requests of each policy no longer fit
        // then.
        let late = check(&short, &key).await.expect("the check succeeds");
        assert!((2..=3).contains(&late), "{late}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_to_a_closed_port_fails_in_time() {
    guarded(async {
        let url = format!("redis://127.0.0.1:{}/", free_port());
        let start = Instant::now();
        let why = RedisBackend::connect(&url)
            .await
            .expect_err("no server listens");
        assert_eq!(*why.kind(), BackendErrorKind::Unreachable);
        assert!(start.elapsed() < LIMIT + SLACK, "{:?}", start.elapsed());
        assert!(std::error::Error::source(&why).is_some(), "{why:?}");

        let backend = uncached_builder().connect_lazy(&url).expect("a URL");
        let limiter = Limiter::new(tokens("api", 5), backend);
        let key = Key::from("ann");
        assert_eq!(
            check_error(&limiter, &key).await,
            BackendErrorKind::Unreachable
        );
        assert_each_failure_policy(&limiter, &key).await;
        while check_error(&limiter, &key).await != BackendErrorKind::CircuitOpen {}
        // From here on a failure takes no time.
        let start = Instant::now();
        for _ in 0..100 {
            check_error(&limiter, &key).await;
        }
        assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    })
    .await;
}

/// A refused connection fails at once, also for a check that starts during another attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_do_not_wait_for_a_finished_connection_attempt() {
    guarded(async {
        let url = format!("redis://127.0.0.1:{}/", free_port());
        let one = |_| async {
            for _ in 0..3 {
                let long = uncached_builder().time_limit(2 * SLACK);
                let backend = long.connect_lazy(&url).expect("a URL");
                let limiter = Limiter::new(tokens("api", 5), backend);
                // One less than the failures that open the circuit.
                for _ in 0..4 {
                    let why = check_error(&limiter, &Key::from("ann")).await;
                    assert_eq!(why, BackendErrorKind::Unreachable);
                }
            }
        };
        // In this thread, while other threads connect.
        join_all((0..8).map(one)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_starts_while_redis_is_down() {
    guarded(async {
        let mut server = RedisServer::options().prepare();
        let backend = uncached_builder()
            .connect_lazy(server.url())
            .expect("a URL");
        let limiter = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        let start = Instant::now();
        assert_eq!(
            check_error(&limiter, &key).await,
            BackendErrorKind::Unreachable
        );
        assert_each_failure_policy(&limiter, &key).await;
        server.restart();
        wait_for_recovery(&limiter, &key, start.elapsed(), "a start without Redis").await;
        assert_eq!(check(&limiter, &key).await, Ok(2));
        redis_decides(&limiter, &Key::from("bob")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_leave_no_tasks_behind() {
    guarded(async {
        let mut server = RedisServer::start();
        let tasks = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        let before = tasks();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiters = distinct(&backend, 64);
        let key = Key::from("ann");
        let all = || join_all(limiters.iter().map(|limiter| check(limiter, &key)));
        assert!(all().await.iter().all(Result::is_ok));
        let usual = tasks();
        for _ in 0..2 {
            server.kill9();
            let start = Instant::now();
            for _ in 0..20 {
                assert!(all().await.iter().all(Result::is_err));
            }
            server.restart();
            wait_for_recovery(&limiters[0], &key, start.elapsed(), "kill -9").await;
            assert!(all().await.iter().all(Result::is_ok));
        }
        // Each connection has a task, and the pool may have one. A failed check leaves none.
        let most = usual.max(before) + 16;
        let start = Instant::now();
        while tasks() > most {
            assert!(start.elapsed() < SLACK, "{} after {usual}", tasks());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Tests and command-line tools create a runtime, end it and create another. Connections end with the first.
#[test]
fn backend_outlives_the_runtime_that_created_it() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let server = RedisServer::start();
    let key = Key::from("ann");
    let limiter = runtime().block_on(async {
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiters = distinct(&backend, 64);
        let all = join_all(limiters.iter().map(|limiter| check(limiter, &key))).await;
        assert!(all.iter().all(|spent| *spent == Ok(1)), "{all:?}");
        limiters.into_iter().next().expect("one")
    });
    for round in 2..4 {
        runtime().block_on(guarded(async {
            wait_for_recovery(&limiter, &key, Duration::ZERO, "the end of a runtime").await;
            let spent = check(&limiter, &key).await.expect("the check succeeds");
            assert!(spent >= round, "{spent}");
        }));
    }
}
