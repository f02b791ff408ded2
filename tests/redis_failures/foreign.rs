//! Values of other programs under our keys.

use std::time::Duration;

use futures_util::future::join_all;
use rand::Rng;
use redis::Value;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::{Key, Limiter, Policy};

use crate::contents::{each_algorithm, server_and_backend, stored};
use crate::harness::{
    assert_each_failure_policy, check, check_error, guarded, redis_decides, uncached_builder,
};
use crate::support::redis::RedisServer;

/// Commands that store values of other programs under a key, which replaces `KEY`.
const FOREIGN: [&str; 11] = [
    "SET KEY hello",
    "SET KEY ''",
    "SET KEY 5",
    "SET KEY {\"tokens\":4,\"at\":1800000000000}",
    // As long as our own values.
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

/// Stores each foreign value under the key of each policy, runs all operations on it, and finds it unchanged.
async fn assert_foreign_values_unchanged(builder: RedisBuilder, policies: &[Policy]) {
    let server = RedisServer::start();
    let backend = builder
        .connect(server.url())
        .await
        .expect("the server runs");
    let name = Key::from("ann");
    for policy in policies {
        let limiter = Limiter::new(policy.clone(), backend.clone());
        assert_eq!(check(&limiter, &name).await, Ok(1));
        let [key] = &server.keys()[..] else {
            panic!("one key for one limit");
        };
        for foreign in FOREIGN {
            // An allowed check, to be refunded later.
            server.command(&["DEL", key]);
            let reply = limiter.check(&name, 2).await.expect("an answer");
            let mut receipt = reply.receipt.expect("the receipt of an allowed check");
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
        assert_each_failure_policy(&limiter, &name).await;
        server.command(&["DEL", key]);
        redis_decides(&limiter, &name).await;
        server.command(&["DEL", key]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_value_is_an_error_and_stays_unchanged() {
    guarded(assert_foreign_values_unchanged(
        uncached_builder(),
        &each_algorithm(1000),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimistic_mode_fails_on_foreign_values_and_keeps_them() {
    let optimistic = uncached_builder().atomicity(Atomicity::Optimistic);
    guarded(assert_foreign_values_unchanged(
        optimistic,
        &each_algorithm(1000)[..4],
    ))
    .await;
}

/// All or nothing: if one quota cannot be read, no other is charged.
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
                assert_eq!(
                    check_error(&limiter, &name).await,
                    BackendErrorKind::Corrupt
                );
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

/// A value that only looks like ours may cause any decision for its key, and must affect no other key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_state_affects_no_other_key() {
    guarded(async {
        let (server, backend) = server_and_backend().await;
        let name = Key::from("ann");
        let mut connection = redis::Client::open(server.url())
            .and_then(|client| client.get_connection())
            .expect("the server runs");
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
                put.expect("the server runs");
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
