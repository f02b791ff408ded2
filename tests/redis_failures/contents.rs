//! Redis answers, but not with what was asked for: it has forgotten, it is full, or somebody else's things are in it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::Rng;
use redis::Value;
use tokio::task::JoinSet;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::harness::{
    Redis, SLACK, asking, check, distinct, each_choice_applies, fails, guarded, recovers,
    redis_decides, spent, tokens,
};
use crate::support::redis::RedisServer;

const HOUR: Duration = Duration::from_secs(3600);

/// A policy for each algorithm, of so many tokens each.
pub(crate) fn each_algorithm(limit: u64) -> [Policy; 5] {
    [
        tokens("token", limit),
        Policy::new("interval", Quota::interval_bucket(limit, 1, HOUR)),
        Policy::new("fixed", Quota::fixed_window(limit, 1000 * HOUR)),
        Policy::new("sliding", Quota::sliding_window(limit, 1000 * HOUR)),
        Policy::new("log", Quota::sliding_log(limit, 1000 * HOUR)),
    ]
}

async fn server_and_backend() -> (RedisServer, RedisBackend) {
    let server = RedisServer::start();
    let backend = asking().connect(server.url()).await.expect("it runs");
    (server, backend)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_scripts_are_sent_again() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let limiter = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        let texts = || server.calls("eval") + server.calls("script|load");
        // Connecting sends some as well.
        let before = texts();
        for round in 0..5 {
            for count in 1..=10 {
                assert_eq!(check(&limiter, &key).await, Ok(10 * round + count));
            }
            server.command(&["SCRIPT", "FLUSH"]);
        }
        // `EVAL` carries the whole text: once for each time that the server had forgotten it.
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
        let mut connection = connection.expect("it runs");
        let flusher = tokio::spawn(async move {
            loop {
                let mut flush = redis::cmd("SCRIPT");
                let flushed = flush.arg("FLUSH").exec_async(&mut connection).await;
                flushed.expect("it runs");
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
        let caching = RedisBackend::connect(server.url()).await.expect("it runs");
        for policy in each_algorithm(2) {
            let limiter = Limiter::new(policy.clone(), backend.clone());
            let key = Key::from("ann");
            for allowed in [true, true, false] {
                let reply = limiter.check(&key, 1).await.expect("an answer");
                assert_eq!(reply.decision.is_allowed(), allowed);
            }
            // This one remembers the denial.
            let remembering = Limiter::new(policy, caching.clone());
            let reply = remembering.check(&key, 1).await.expect("an answer");
            assert!(!reply.decision.is_allowed());
            server.command(&["FLUSHALL"]);
            assert_eq!(check(&limiter, &key).await, Ok(1));
            let reply = limiter.reset(&key).await;
            assert_eq!(reply.expect("an answer").remaining(), 2);
        }
        // Late by a second at most.
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

/// What a server without memory answers to limiters of these policies, all of two tokens.
async fn errs_only_where_it_had_to_write(builder: RedisBuilder, policies: &[Policy]) {
    let server = RedisServer::start();
    let backend = builder.connect(server.url()).await.expect("it runs");
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
            assert_eq!(fails(limiter, bob).await, oom, "{of}");
            assert_eq!(check(limiter, ann).await, Ok(2), "a denial of {of}");
            assert_eq!(spent(limiter, bob).await, 0, "a look at {of}");
        }
        each_choice_applies(limiter, bob).await;
        // In one batch, each gets its own.
        let one = |i: usize| async move {
            match i % 2 {
                0 => assert_eq!(check(limiter, ann).await, Ok(2)),
                _ => assert_eq!(
                    fails(limiter, bob).await,
                    BackendErrorKind::Server("OOM".into())
                ),
            }
        };
        join_all((0..32).map(one)).await;
    }
    assert_eq!(server.keys(), keys);
    // It never failed to answer: there is nothing to recover from.
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
    guarded(errs_only_where_it_had_to_write(asking(), &policies)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_transactions_a_server_without_memory_still_denies() {
    let optimistic = asking().atomicity(Atomicity::Optimistic);
    let policies = each_algorithm(2);
    guarded(errs_only_where_it_had_to_write(optimistic, &policies[..4])).await;
}

/// Commands that put somebody else's things under a key, which stands in place of `KEY`.
const FOREIGN: [&str; 11] = [
    "SET KEY hello",
    "SET KEY ''",
    "SET KEY 5",
    "SET KEY {\"tokens\":4,\"at\":1800000000000}",
    // As long as ours.
    "SET KEY aaaaaaaaaaaaaaaaaa",
    "SET KEY aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "RPUSH KEY aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa b",
    "HSET KEY tokens 4 ts 1800000000",
    "SADD KEY a b",
    "ZADD KEY 1800000000000 a",
    "XADD KEY * tokens 4",
];

fn put(server: &RedisServer, key: &str, foreign: &str) {
    server.command(&["DEL", key]);
    let words: Vec<_> = foreign
        .split(' ')
        .map(|word| match word {
            "KEY" => key,
            "''" => "",
            word => word,
        })
        .collect();
    server.command(&words);
}

/// What is stored under a key, and for how long.
pub(crate) fn stored(server: &RedisServer, key: &str) -> (Value, Value) {
    let words = [&["DUMP", key], &["PTTL", key]];
    let [dump, ttl] = words.map(|words| server.command(words));
    (dump, ttl)
}

/// Puts everything foreign under the key of each policy, does everything to it, and finds it as it was.
async fn leaves_what_is_not_ours(builder: RedisBuilder, policies: &[Policy]) {
    let server = RedisServer::start();
    let backend = builder.connect(server.url()).await.expect("it runs");
    let name = Key::from("ann");
    for policy in policies {
        let limiter = Limiter::new(policy.clone(), backend.clone());
        assert_eq!(check(&limiter, &name).await, Ok(1));
        let [key] = &server.keys()[..] else {
            panic!("one key for one limit");
        };
        for foreign in FOREIGN {
            // What a check that was allowed may be given back later.
            server.command(&["DEL", key]);
            let reply = limiter.check(&name, 2).await.expect("an answer");
            let mut receipt = reply.receipt.expect("an allowed check's");
            put(&server, key, foreign);
            let before = stored(&server, key);

            let wait = Duration::from_secs(1);
            let refund = limiter.refund(&name, &mut receipt, 1).await;
            let all = [
                ("check", limiter.check(&name, 1).await.map(drop)),
                ("never", limiter.check(&name, 1001).await.map(drop)),
                ("peek", limiter.peek(&name).await.map(drop)),
                ("penalty", limiter.penalize(&name, 1).await.map(drop)),
                ("refund", refund.map(drop)),
                ("reserve", limiter.reserve(&name, 1, wait).await.map(drop)),
            ];
            for (what, done) in all {
                let why = done.map_err(|why| why.kind().clone());
                let of = policy.name();
                assert_eq!(
                    why,
                    Err(BackendErrorKind::Corrupt),
                    "{what} of {of}: {foreign}"
                );
            }
            assert_eq!(stored(&server, key), before, "{foreign}");
        }
        each_choice_applies(&limiter, &name).await;
        server.command(&["DEL", key]);
        redis_decides(&limiter, &name).await;
        server.command(&["DEL", key]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_value_is_an_error_and_stays_unchanged() {
    guarded(leaves_what_is_not_ours(asking(), &each_algorithm(1000))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimistic_mode_fails_on_foreign_values_and_keeps_them() {
    let optimistic = asking().atomicity(Atomicity::Optimistic);
    guarded(leaves_what_is_not_ours(
        optimistic,
        &each_algorithm(1000)[..4],
    ))
    .await;
}

/// All or nothing: where one quota cannot be read, no other is charged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_value_of_one_quota_charges_no_quota() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let quotas = each_algorithm(1000).map(|policy| policy.quotas()[0].clone());
        let quotas = quotas
            .each_ref()
            .map(|named| (named.name(), *named.quota()));
        let limiter = Limiter::new(
            Policy::try_from_quotas("all", quotas).expect("names"),
            backend,
        );
        let name = Key::from("ann");
        assert_eq!(check(&limiter, &name).await, Ok(1));
        let keys = server.keys();
        assert_eq!(keys.len(), 5);
        for bad in &keys {
            server.command(&["FLUSHALL"]);
            assert_eq!(check(&limiter, &name).await, Ok(1));
            put(&server, bad, "HSET KEY a b");
            let values = || keys.iter().map(|key| server.command(&["DUMP", key]));
            let before: Vec<Value> = values().collect();
            for _ in 0..3 {
                assert_eq!(fails(&limiter, &name).await, BackendErrorKind::Corrupt);
                let penalty = limiter.penalize(&name, 1).await.map(drop);
                assert!(penalty.is_err_and(|why| *why.kind() == BackendErrorKind::Corrupt));
            }
            assert_eq!(values().collect::<Vec<_>>(), before, "{bad}");
        }
    })
    .await;
}

fn is_about_one_key(outcome: &Result<(), BackendErrorKind>) -> bool {
    matches!(outcome, Ok(()) | Err(BackendErrorKind::Corrupt))
}

/// A key whose contents only look like ours may decide anything, but nobody may suffer from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_state_affects_no_other_key() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let name = Key::from("ann");
        let mut connection = redis::Client::open(server.url())
            .and_then(|client| client.get_connection())
            .expect("it runs");
        for policy in each_algorithm(1000) {
            let limiter = Limiter::new(policy, backend.clone());
            assert_eq!(check(&limiter, &name).await, Ok(1));
            let [key] = &server.keys()[..] else {
                panic!("one key for one limit");
            };
            let is_list = server.get::<String>(&["TYPE", key]) == "list";
            let ours: Vec<u8> = match is_list {
                true => server.get(&["LINDEX", key, "0"]),
                false => server.get(&["GET", key]),
            };
            for round in 0..100 {
                let mut garbage = ours.clone();
                for byte in &mut garbage[2..] {
                    match round % 4 {
                        0 => *byte = 0xff,
                        1 => *byte = 0x7f,
                        2 => *byte = rand::random(),
                        _ if rand::rng().random_ratio(1, 8) => *byte = rand::random(),
                        _ => {}
                    }
                }
                let put = redis::pipe()
                    .del(key)
                    .cmd(if is_list { "RPUSH" } else { "SET" })
                    .arg(key)
                    .arg(&garbage)
                    .exec(&mut connection);
                put.expect("it runs");
                let wait = Duration::from_secs(1);
                let all = [
                    limiter.peek(&name).await.map(drop),
                    limiter.check(&name, 1000).await.map(drop),
                    limiter.reserve(&name, 1, wait).await.map(drop),
                    limiter.penalize(&name, 1).await.map(drop),
                ];
                for done in all {
                    let why = done.map_err(|why| why.kind().clone());
                    assert!(is_about_one_key(&why), "{garbage:?}: {why:?}");
                }
                let neighbours = [0, 1, 2, 3].map(|i| Key::from(format!("{round}-{i}").as_str()));
                let (own, others) = tokio::join!(
                    limiter.check(&name, 1),
                    join_all(neighbours.iter().map(|key| check(&limiter, key))),
                );
                assert!(is_about_one_key(
                    &own.map(drop).map_err(|why| why.kind().clone())
                ));
                assert_eq!(others, [const { Ok(1) }; 4]);
            }
            server.command(&["FLUSHALL"]);
            assert_eq!(check(&limiter, &name).await, Ok(1));
            server.command(&["FLUSHALL"]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_value_fails_only_its_own_request() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        for policy in each_algorithm(1000) {
            let limiter = Limiter::new(policy, backend.clone());
            let bad = Key::from("bad");
            assert_eq!(check(&limiter, &bad).await, Ok(1));
            let key = server.keys().pop().expect("a key");
            put(&server, &key, "HSET KEY a b");
            let before = stored(&server, &key);
            for round in 1..=20 {
                let one = |i: usize| {
                    let (limiter, bad) = (limiter.clone(), bad.clone());
                    async move {
                        if i % 7 == 3 {
                            return assert_eq!(
                                check(&limiter, &bad).await,
                                Err(BackendErrorKind::Corrupt)
                            );
                        }
                        let own = Key::from(format!("good{i}").as_str());
                        assert_eq!(check(&limiter, &own).await, Ok(round));
                    }
                };
                join_all((0..64).map(one)).await;
            }
            assert_eq!(stored(&server, &key), before);
            server.command(&["FLUSHALL"]);
        }
    })
    .await;
}

/// A primary that was demoted answers, and takes no writes.
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
            let why = fails(&limiter, &key).await;
            assert_eq!(why, BackendErrorKind::Server(code.into()));
            each_choice_applies(&limiter, &Key::from("cid")).await;
            server.command(&["REPLICAOF", "NO", "ONE"]);
            recovers(&limiter, &Key::from("bob"), start.elapsed(), code).await;
        }
        assert_eq!(check(&limiter, &key).await, Ok(2));
    })
    .await;
}

/// While somebody's script runs for too long, Redis answers everybody else that it is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_server_fails_until_its_script_ends() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let limiter = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        server.command(&["CONFIG", "SET", "busy-reply-threshold", "20"]);
        let url = server.url();
        let endless = std::thread::spawn(move || {
            let words = ["EVAL", "while true do end", "0"];
            crate::support::redis::command::<Value>(&url, &words)
        });
        while server.try_get::<Value>(&["PING"]).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let start = Instant::now();
        fails(&limiter, &key).await;
        each_choice_applies(&limiter, &key).await;
        server.command(&["SCRIPT", "KILL"]);
        assert!(endless.join().expect("no panic").is_err());
        recovers(&limiter, &Key::from("bob"), start.elapsed(), "BUSY").await;
        assert_eq!(check(&limiter, &key).await, Ok(2));
    })
    .await;
}

/// Keys of different clients are in different slots, which no script may have together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_batch_rejected_by_a_cluster_is_retried_one_by_one() {
    guarded(async {
        let server = RedisServer::options().line("cluster-enabled yes").start();
        server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        while !server
            .get::<String>(&["CLUSTER", "INFO"])
            .contains("cluster_state:ok")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let backend = asking().connect(server.url()).await.expect("it runs");
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
