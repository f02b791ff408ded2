//! A server that has forgotten its scripts or its keys.

use std::time::{Duration, Instant};

use redis::Value;
use tokio::task::JoinSet;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::harness::{SLACK, check, distinct, guarded, tokens, uncached_builder};
use crate::support::redis::RedisServer;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A policy for each algorithm, with `limit` tokens each.
pub(crate) fn each_algorithm(limit: u64) -> [Policy; 5] {
    [
        tokens("token", limit),
        Policy::new("interval", Quota::interval_bucket(limit, 1, HOUR)),
        Policy::new("fixed", Quota::fixed_window(limit, 1000 * HOUR)),
        Policy::new("sliding", Quota::sliding_window(limit, 1000 * HOUR)),
        Policy::new("log", Quota::sliding_log(limit, 1000 * HOUR)),
    ]
}

pub(crate) async fn server_and_backend() -> (RedisServer, RedisBackend) {
    let server = RedisServer::start();
    let backend = uncached_builder()
        .connect(server.url())
        .await
        .expect("the server runs");
    (server, backend)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_scripts_are_sent_again() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let limiter = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        let texts = || server.calls("eval") + server.calls("script|load");
        // Connecting sends some scripts too.
        let before = texts();
        for round in 0..5 {
            for count in 1..=10 {
                assert_eq!(check(&limiter, &key).await, Ok(10 * round + count));
            }
            server.command(&["SCRIPT", "FLUSH"]);
        }
        // `EVAL` carries the whole text, once for each time that the server had forgotten it.
        let sent = texts() - before;
        assert!((1..=5).contains(&sent), "{sent}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn script_flush_in_a_loop_admits_exactly_the_limit() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let key = Key::from("ann");
        let hot = Limiter::new(tokens("hot", 1000), backend.clone());
        let client = redis::Client::open(server.url()).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await;
        let mut connection = connection.expect("the server runs");
        let flusher = tokio::spawn(async move {
            loop {
                let mut flush = redis::cmd("SCRIPT");
                let flushed = flush.arg("FLUSH").exec_async(&mut connection).await;
                flushed.expect("the server runs");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let mut tasks = JoinSet::new();
        for limiter in distinct(&backend, 64) {
            let (hot, key) = (hot.clone(), key.clone());
            tasks.spawn(async move {
                let mut allowed = 0;
                for count in 1..=30 {
                    let reply = hot.check(&key, 1).await.expect("an answer");
                    allowed += usize::from(reply.decision.is_allowed());
                    assert_eq!(check(&limiter, &key).await, Ok(count));
                }
                allowed
            });
        }
        let allowed = tasks.join_all().await;
        assert_eq!(allowed.iter().sum::<usize>(), 1000);
        assert!(!flusher.is_finished());
        flusher.abort();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_keys_start_full() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let caching = RedisBackend::connect(server.url())
            .await
            .expect("the server runs");
        for policy in each_algorithm(2) {
            let limiter = Limiter::new(policy.clone(), backend.clone());
            let key = Key::from("ann");
            for allowed in [true, true, false] {
                let reply = limiter.check(&key, 1).await.expect("an answer");
                assert_eq!(reply.decision.is_allowed(), allowed);
            }
            // This backend caches the denial.
            let remembering = Limiter::new(policy, caching.clone());
            let reply = remembering.check(&key, 1).await.expect("an answer");
            assert!(!reply.decision.is_allowed());
            server.command(&["FLUSHALL"]);
            assert_eq!(check(&limiter, &key).await, Ok(1));
            let reply = limiter.reset(&key).await;
            assert_eq!(reply.expect("an answer").remaining(), 2);
        }
        // At most one second late.
        let start = Instant::now();
        let remembering = Limiter::new(tokens("token", 2), caching);
        let key = Key::from("ann");
        while !(remembering
            .check(&key, 1)
            .await
            .expect("an answer")
            .decision)
            .is_allowed()
        {
            assert!(start.elapsed() < Duration::from_secs(1) + SLACK);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// The stored value of a key, and its time to live.
pub(crate) fn stored(server: &RedisServer, key: &str) -> (Value, Value) {
    let words = [&["DUMP", key], &["PTTL", key]];
    let [dump, ttl] = words.map(|words| server.command(words));
    (dump, ttl)
}
