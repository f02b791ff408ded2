//! A server that is full, demoted, busy, or part of a cluster.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::Value;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::{Key, Limiter, Policy, Quota};

use crate::contents::{HOUR, each_algorithm, server_and_backend};
use crate::harness::{
    Redis, assert_each_failure_policy, check, check_error, guarded, redis_decides, spent, tokens,
    uncached_builder, wait_for_recovery,
};
use crate::support::redis::RedisServer;

/// The replies of a server without memory to limiters of these policies, all of two tokens.
async fn assert_fails_only_on_writes(builder: RedisBuilder, policies: &[Policy]) {
    let server = RedisServer::start();
    let backend = builder
        .connect(server.url())
        .await
        .expect("the server runs");
    let oom = BackendErrorKind::Server("OOM".into());
    let [ann, bob] = &["ann", "bob"].map(Key::from);
    let limiter = |policy: &Policy| Limiter::new(policy.clone(), backend.clone());
    let limiters: Vec<Redis> = policies.iter().map(limiter).collect();
    for limiter in &limiters {
        assert_eq!(check(limiter, ann).await, Ok(1));
        assert_eq!(check(limiter, ann).await, Ok(2));
    }
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let keys = server.keys();
    for limiter in &limiters {
        let of = limiter.policy().name();
        for _ in 0..10 {
            assert_eq!(check_error(limiter, bob).await, oom, "{of}");
            assert_eq!(check(limiter, ann).await, Ok(2), "a denial of {of}");
            assert_eq!(spent(limiter, bob).await, 0, "a peek at {of}");
        }
        assert_each_failure_policy(limiter, bob).await;
        // Each request of one batch gets its own reply.
        let one = |i: usize| async move {
            match i % 2 {
                0 => assert_eq!(check(limiter, ann).await, Ok(2)),
                _ => assert_eq!(
                    check_error(limiter, bob).await,
                    BackendErrorKind::Server("OOM".into())
                ),
            }
        };
        join_all((0..32).map(one)).await;
    }
    assert_eq!(server.keys(), keys);
    // The server always replied: the circuit needs no recovery.
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    for limiter in &limiters {
        assert_eq!(check(limiter, bob).await, Ok(1));
        redis_decides(limiter, &Key::from("cid")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_server_denies_and_fails_on_writes() {
    let mut policies = each_algorithm(2).to_vec();
    let several = tokens("several", 2).and("fixed", Quota::fixed_window(2, 1000 * HOUR));
    policies.push(several.and("log", Quota::sliding_log(2, 1000 * HOUR)));
    guarded(assert_fails_only_on_writes(uncached_builder(), &policies)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimistic_mode_on_a_full_server_still_denies() {
    let optimistic = uncached_builder().atomicity(Atomicity::Optimistic);
    let policies = each_algorithm(2);
    guarded(assert_fails_only_on_writes(optimistic, &policies[..4])).await;
}

/// A demoted primary replies, and accepts no writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demoted_primary_fails_until_a_primary_exists() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let limiter: Redis = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        for (stale, code) in [("yes", "READONLY"), ("no", "MASTERDOWN")] {
            server.command(&["CONFIG", "SET", "replica-serve-stale-data", stale]);
            server.command(&["REPLICAOF", "127.0.0.1", "1"]);
            let start = Instant::now();
            let why = check_error(&limiter, &key).await;
            assert_eq!(why, BackendErrorKind::Server(code.into()));
            assert_each_failure_policy(&limiter, &Key::from("cid")).await;
            server.command(&["REPLICAOF", "NO", "ONE"]);
            wait_for_recovery(&limiter, &Key::from("bob"), start.elapsed(), code).await;
        }
        assert_eq!(check(&limiter, &key).await, Ok(2));
    })
    .await;
}

/// While another script runs for too long, Redis answers that it is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_server_fails_until_its_script_ends() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let limiter = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        // Its name since Redis 7.0 is `busy-reply-threshold`.
        server.command(&["CONFIG", "SET", "lua-time-limit", "20"]);
        let url = server.url();
        let endless = std::thread::spawn(move || {
            let words = ["EVAL", "while true do end", "0"];
            crate::support::redis::command::<Value>(&url, &words)
        });
        while server.try_get::<Value>(&["PING"]).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let start = Instant::now();
        check_error(&limiter, &key).await;
        assert_each_failure_policy(&limiter, &key).await;
        server.command(&["SCRIPT", "KILL"]);
        assert!(endless.join().expect("no panic").is_err());
        wait_for_recovery(&limiter, &Key::from("bob"), start.elapsed(), "BUSY").await;
        assert_eq!(check(&limiter, &key).await, Ok(2));
    })
    .await;
}

/// Keys of different clients are in different slots, which no script may combine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_batch_rejected_by_a_cluster_is_retried_one_by_one() {
    guarded(async {
        let server = RedisServer::options().line("cluster-enabled yes").start();
        server.add_slots(0..16_384);
        while !server
            .get::<String>(&["CLUSTER", "INFO"])
            .contains("cluster_state:ok")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let keys = (0..64_u64).map(Key::from).collect::<Vec<_>>();
        let day = Duration::from_secs(86_400);
        let two = tokens("api", 5).and("daily", Quota::fixed_window(5, day));
        let mut left = 5;
        for policy in [tokens("api", 5), two] {
            let limiter = Limiter::new(policy, backend.clone());
            for _ in 0..2 {
                left -= 1;
                let checks = keys.iter().map(|key| limiter.check(key, 1));
                for reply in join_all(checks).await {
                    let decision = reply.expect("an answer").decision;
                    assert_eq!(decision.snapshot().remaining(), left);
                }
            }
        }
    })
    .await;
}
