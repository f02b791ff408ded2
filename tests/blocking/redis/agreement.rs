//! The blocking and the asynchronous backend share buckets and give the same replies.

use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::blocking::Limiter;
use tower_sluice::{Key, Policy, Quota};

use super::{check, tokens, uncached_builder};
use crate::shared_checks::{Awaited, HOUR, every_operation, policies, runtime};
use crate::support::redis::RedisServer;

#[test]
fn blocking_backend_shares_state_and_replies_with_the_async_backend() {
    assert!(Handle::try_current().is_err());
    let (server, runtime) = (RedisServer::start(), runtime());
    let threads = uncached_builder()
        .connect_blocking(server.url())
        .expect("the server runs");
    let tasks = runtime.block_on(uncached_builder().connect(server.url()));
    let tasks = tasks.expect("the server runs");
    for policy in policies() {
        let blocking = Limiter::new(policy.clone(), threads.clone());
        let awaited = Awaited {
            runtime: &runtime,
            limiter: tower_sluice::Limiter::new(policy.clone(), tasks.clone()),
        };
        let [ann, bob, cid] = ["ann", "bob", "cid"].map(Key::from);
        let expected = every_operation(&[&awaited], &ann);
        assert_eq!(every_operation(&[&blocking], &bob), expected, "{policy:?}");
        // Each limiter refunds charges of the other one.
        let both = every_operation(&[&blocking, &awaited], &cid);
        assert_eq!(both, expected, "{policy:?}");
    }
}

#[test]
fn threads_and_tasks_together_admit_exactly_the_limit() {
    const LIMIT: u64 = 2_000;
    let (server, runtime) = (RedisServer::start(), runtime());
    let patient = || uncached_builder().time_limit(Duration::from_secs(20));
    let threads = patient()
        .connect_blocking(server.url())
        .expect("the server runs");
    let tasks = runtime.block_on(patient().connect(server.url()));
    let tasks = tasks.expect("the server runs");
    for policy in [
        tokens(LIMIT),
        Policy::new("log", Quota::sliding_log(LIMIT, 24 * HOUR)),
        Policy::new("both", Quota::per_day(1).burst(LIMIT + 7))
            .and("daily", Quota::fixed_window(LIMIT, 1_000 * 24 * HOUR)),
    ] {
        let key = Key::from("ann");
        let of_tasks: Vec<_> = (0..8)
            .map(|_| {
                let limiter = tower_sluice::Limiter::new(policy.clone(), tasks.clone());
                let key = key.clone();
                runtime.spawn(async move {
                    let mut allowed = 0;
                    for _ in 0..LIMIT / 8 {
                        let reply = limiter.check(&key, 1).await.expect("Redis");
                        allowed += u64::from(reply.decision.is_allowed());
                    }
                    allowed
                })
            })
            .collect();
        let limiter = Limiter::new(policy, threads.clone());
        let admitted: u64 = thread::scope(|scope| {
            let check = || -> u64 {
                let allowed = |_| limiter.check(&key, 1).expect("Redis").decision.is_allowed();
                (0..LIMIT / 8).map(|check| u64::from(allowed(check))).sum()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(check)).collect();
            let threads = threads.into_iter().map(|thread| thread.join());
            threads.map(|allowed| allowed.expect("no panic")).sum()
        });
        let of_tasks = of_tasks.into_iter().map(|task| runtime.block_on(task));
        let of_tasks: u64 = of_tasks.map(|allowed| allowed.expect("no panic")).sum();
        assert_eq!(admitted + of_tasks, LIMIT);
        assert!(admitted > 0 && of_tasks > 0, "{admitted} and {of_tasks}");
    }
}

#[test]
fn blocking_keys_have_the_names_of_async_keys() {
    let runtime = runtime();
    let settings: [fn(RedisBuilder) -> RedisBuilder; 4] = [
        |builder| builder,
        |builder| builder.prefix("theirs"),
        |builder| builder.secret("sesame"),
        |builder| builder.secret("sesame").prefix("theirs"),
    ];
    let policy = tokens(10).and("daily", Quota::fixed_window(10, 1_000 * 24 * HOUR));
    for set in settings {
        let server = RedisServer::start();
        let threads = set(uncached_builder()).connect_blocking(server.url());
        let limiter = Limiter::new(policy.clone(), threads.expect("the server runs"));
        let tasks = runtime.block_on(set(uncached_builder()).connect(server.url()));
        let tasks = tower_sluice::Limiter::new(policy.clone(), tasks.expect("the server runs"));
        let keys = [
            Key::from("ann"),
            Key::from("user:{42}"),
            Key::secret("ann"),
            Key::from(""),
        ];
        for key in &keys {
            assert_eq!(limiter.peek(key).expect("Redis").remaining(), 10);
            assert_eq!(check(&limiter, key), Ok(1));
        }
        let names = server.keys();
        assert_eq!(names.len(), 8, "{names:?}");
        for key in &keys {
            let reply = runtime.block_on(tasks.check(key, 1)).expect("Redis");
            assert_eq!(reply.decision.snapshot().remaining(), 8);
        }
        assert_eq!(server.keys(), names);
    }
}

#[test]
fn idle_ttl_sets_how_long_keys_are_kept() {
    let server = RedisServer::start();
    let day = Duration::from_secs(86_400);
    let backend = uncached_builder()
        .idle_ttl(7 * day)
        .connect_blocking(server.url());
    let limiter = Limiter::new(tokens(10), backend.expect("the server runs"));
    assert_eq!(check(&limiter, &Key::from("ann")), Ok(1));
    let ttl: i64 = server.get(&["TTL", "{sluice:api:rann}:b"]);
    assert!(
        (7 * 86_400 - 60..=7 * 86_400).contains(&ttl),
        "{ttl} seconds"
    );
}
