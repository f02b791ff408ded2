//! A distant Redis without failures.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::harness::{LIMIT, Redis, check, distinct, guarded, tokens, uncached_builder};
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;
use crate::support::stalls;

/// Round trips within the default time limit.
const ROUND_TRIPS: [u64; 7] = [1, 20, 63, 70, 90, 150, 200];

struct DistantRedis {
    server: RedisServer,
    proxy: Proxy,
    round_trip: Duration,
}

impl DistantRedis {
    async fn away(millis: u64) -> Self {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.port()).await;
        let round_trip = Duration::from_millis(millis);
        proxy.set(Mode::Delay(round_trip / 2)).await;
        Self {
            server,
            proxy,
            round_trip,
        }
    }

    async fn connect(&self) -> RedisBackend {
        uncached_builder()
            .connect(self.proxy.url())
            .await
            .expect("the server runs")
    }

    fn reported<T: std::fmt::Debug>(&self, what: &str, outcome: T) -> String {
        format!("{what} at {:?}: {outcome:?}", self.round_trip)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_service_far_from_redis_gets_every_reply() {
    stalls::retry_after_stalls(|| async {
        let all = ROUND_TRIPS.map(|millis| async move {
            let redis = DistantRedis::away(millis).await;
            let backend = redis.connect().await;
            // Each policy uses another script, which the server lacks at its first check.
            let hour = Duration::from_secs(3600);
            let policies = [
                tokens("token", 100),
                Policy::new("fixed", Quota::fixed_window(100, hour)),
                tokens("both", 100).and("log", Quota::sliding_log(100, hour)),
            ];
            let limiters = policies.map(|policy| Limiter::new(policy, backend.clone()));
            let key = Key::from("ann");
            for round in 0..5 {
                for limiter in &limiters {
                    let spent = check(limiter, &key).await;
                    if spent != Ok(round + 1) {
                        return Err(redis.reported("one check", spent));
                    }
                }
                sleep(Duration::from_millis(1500)).await;
            }
            Ok(())
        });
        join_all(all).await.into_iter().collect()
    })
    .await;
}

async fn burst(limiters: &[Redis], key: &Key) -> Vec<Result<u64, BackendErrorKind>> {
    let one = |(position, limiter): (usize, _)| async move {
        // Some at once, some one by one.
        let later = u64::try_from(position / 8).expect("a small number");
        sleep(Duration::from_millis(later)).await;
        check(limiter, key).await
    };
    join_all(limiters.iter().enumerate().map(one)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn burst_far_from_redis_gets_every_reply() {
    stalls::retry_after_stalls(|| async {
        let all = [63, 150, 200].map(|millis| async move {
            let redis = DistantRedis::away(millis).await;
            let limiters = distinct(&redis.connect().await, 200);
            let key = Key::from("ann");
            for pause in [0, 1500, 3000] {
                sleep(Duration::from_millis(pause)).await;
                let answers = burst(&limiters, &key).await;
                if let Some(failed) = answers.into_iter().find_map(Result::err) {
                    return Err(redis.reported("a burst", failed));
                }
            }
            Ok(())
        });
        join_all(all).await.into_iter().collect()
    })
    .await;
}

/// More decisions are in flight than there are round trips on a near server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steady_stream_far_from_redis_gets_every_reply() {
    stalls::retry_after_stalls(|| async {
        let redis = DistantRedis::away(200).await;
        let limiter = Limiter::new(tokens("api", 1000), redis.connect().await);
        let checks = (0..200_u64).map(|number| {
            let limiter = &limiter;
            async move {
                sleep(Duration::from_millis(5 * number)).await;
                check(limiter, &Key::from("ann")).await
            }
        });
        let answers = join_all(checks).await;
        match answers.into_iter().find_map(Result::err) {
            Some(failed) => Err(redis.reported("a stream", failed)),
            None => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silently_dead_connection_is_replaced_in_the_background() {
    guarded(async {
        let redis = DistantRedis::away(150).await;
        let limiter = Limiter::new(tokens("api", 1000), redis.connect().await);
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        let before = redis.proxy.connections();
        redis.proxy.lose_connections();
        let start = Instant::now();
        while redis.proxy.connections() == before {
            assert!(start.elapsed() < 40 * LIMIT, "no request has detected it");
            sleep(Duration::from_millis(10)).await;
        }
        // No request is pending, and the new connection is established.
        sleep(6 * redis.round_trip).await;
        assert_eq!(check(&limiter, &key).await, Ok(2));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_server_is_found_in_the_background() {
    guarded(async {
        let mut redis = DistantRedis::away(150).await;
        let limiter = Limiter::new(tokens("api", 1000), redis.connect().await);
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        redis.server.kill9();
        sleep(Duration::from_millis(2500)).await;
        redis.server.restart();
        // Besides the connection that asks. The backend may connect before the server is seen to run.
        let clients = || redis.server.get::<String>(&["CLIENT", "LIST"]);
        let start = Instant::now();
        while clients().lines().count() < 2 {
            assert!(start.elapsed() < 40 * LIMIT, "no request is pending");
            sleep(Duration::from_millis(10)).await;
        }
        sleep(6 * redis.round_trip).await;
        assert_eq!(
            check(&limiter, &key).await,
            Ok(1),
            "the server lost its data"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_background_task_outlives_its_backend() {
    guarded(async {
        let server = RedisServer::start();
        let tasks = || {
            let runtime = tokio::runtime::Handle::current();
            runtime.metrics().num_alive_tasks()
        };
        let before = tasks();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiters = distinct(&backend, 64);
        let key = Key::from("ann");
        assert!(burst(&limiters, &key).await.iter().all(Result::is_ok));
        assert!(tasks() > before);
        // Dead connections are being replaced, without success.
        drop(server);
        sleep(Duration::from_millis(1500)).await;
        drop((backend, limiters));
        let start = Instant::now();
        while tasks() > before {
            let took = start.elapsed();
            assert!(took < Duration::from_secs(1), "{} after {before}", tasks());
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
