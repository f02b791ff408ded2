//! Authentication and access rights: passwords, and users with the least privileges.

use std::error::Error;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::Value;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::{BackendError, BackendErrorKind};
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::harness::{
    LIMIT, SLACK, assert_each_failure_policy, check, check_error, guarded, redis_decides, tokens,
    uncached_builder,
};
use crate::support::redis::{RedisServer, command};

const HOUR: Duration = Duration::from_secs(3600);

/// The commands of the backend, as documented.
const COMMANDS: [&str; 17] = [
    "evalsha", "eval", "time", "ping", "get", "mget", "set", "del", "llen", "lindex", "lrange",
    "lpush", "rpush", "lset", "ltrim", "lrem", "pexpire",
];

/// The text of an error and of its causes.
fn reported(why: &BackendError) -> String {
    let mut reported = format!("{why} {why:?}");
    let mut cause = why.source();
    while let Some(why) = cause {
        reported += &format!(" {why} {why:?}");
        cause = why.source();
    }
    reported
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_password_connects_and_is_never_shown() {
    guarded(async {
        let server = RedisServer::options().password("s3cret-w0rd").start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the password is right");
        let limiter = Limiter::new(tokens("api", 5), backend.clone());
        redis_decides(&limiter, &Key::from("ann")).await;
        let reported = format!("{backend:?} {limiter:?}");
        assert!(!reported.contains("s3cret-w0rd"), "{reported}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_password_fails_at_once_without_retries() {
    guarded(async {
        let server = RedisServer::options().password("s3cret-w0rd").start();
        for wrong in [
            server.url_of("", "wr0ng-w0rd"),
            server.url_of("nobody", "wr0ng-w0rd"),
        ] {
            let start = Instant::now();
            let why = RedisBackend::connect(&wrong)
                .await
                .expect_err("the password is wrong");
            assert!(start.elapsed() < LIMIT + SLACK, "{:?}", start.elapsed());
            assert_eq!(*why.kind(), BackendErrorKind::Unreachable);
            let reported = reported(&why);
            // The text comes from redis-rs.
            assert!(reported.contains("authentication failed"), "{reported}");
            assert!(!reported.contains("w0rd"), "{reported}");

            let lazy = uncached_builder().connect_lazy(&wrong).expect("a URL");
            let limiter = Limiter::new(tokens("api", 5), lazy);
            let why = check_error(&limiter, &Key::from("ann")).await;
            assert_eq!(why, BackendErrorKind::Unreachable);
            assert_each_failure_policy(&limiter, &Key::from("ann")).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_password_fails_at_once() {
    guarded(async {
        let server = RedisServer::options().password("s3cret-w0rd").start();
        let without = format!("redis://127.0.0.1:{}/", server.port());
        let denials = [
            BackendErrorKind::Unreachable,
            BackendErrorKind::Server("NOAUTH".into()),
        ];
        let why = RedisBackend::connect(&without)
            .await
            .expect_err("the password is missing");
        assert!(denials.contains(why.kind()), "{why:?}");
        assert!(reported(&why).contains("NOAUTH"), "{}", reported(&why));

        let lazy = uncached_builder().connect_lazy(&without).expect("a URL");
        let limiter = Limiter::new(tokens("api", 5), lazy);
        let why = check_error(&limiter, &Key::from("ann")).await;
        assert!(denials.contains(&why), "{why:?}");
        assert_each_failure_policy(&limiter, &Key::from("ann")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_set_later_fails_until_it_is_removed() {
    guarded(async {
        let server = RedisServer::start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiter = Limiter::new(tokens("api", 1000), backend);
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        // An authenticated connection stays authenticated. New connections are not.
        server.command(&["CONFIG", "SET", "requirepass", "s3cret-w0rd"]);
        let admin = server.url_of("", "s3cret-w0rd");
        let killed = command::<i64>(&admin, &["CLIENT", "KILL", "TYPE", "normal"]);
        assert!(killed.is_ok_and(|killed| killed >= 1));
        for _ in 0..3 {
            check_error(&limiter, &key).await;
        }
        let unset = command::<Value>(&admin, &["CONFIG", "SET", "requirepass", ""]);
        assert!(unset.is_ok());
        let start = Instant::now();
        while check(&limiter, &key).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(2) + SLACK);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Each version of Redis and Valkey reports a command that a script may not use by another code and text.
fn is_forbidden(why: &BackendError) -> bool {
    *why.kind() == BackendErrorKind::Server("NOPERM".to_owned())
}

/// All operations of a limiter, under each algorithm and under all of them together.
async fn run_every_operation(backend: &RedisBackend) -> Result<(), BackendError> {
    let mut several = tokens("several", 4)
        .and("fixed", Quota::fixed_window(4, HOUR))
        .and("log", Quota::sliding_log(4, HOUR));
    several = several.and("sliding", Quota::sliding_window(4, HOUR));
    let short = Duration::from_millis(20);
    let policies = [
        tokens("token", 4),
        Policy::new("initial", Quota::per_hour(4).initial_tokens(2)),
        Policy::new("interval", Quota::interval_bucket(4, 1, HOUR)),
        Policy::new("fixed", Quota::fixed_window(4, HOUR)),
        Policy::new("sliding", Quota::sliding_window(4, HOUR)),
        Policy::new("log", Quota::sliding_log(4, HOUR)),
        Policy::new("short", Quota::sliding_log(4, short)),
        several,
    ];
    for policy in policies {
        let limiter = Limiter::new(policy, backend.clone());
        let key = Key::from("ann");
        limiter.reset(&key).await?;
        let mut first = limiter
            .check(&key, 1)
            .await?
            .receipt
            .expect("the command is permitted");
        let last = limiter.check(&key, 1).await?.receipt;
        let _ = limiter.check(&key, 3).await?;
        limiter.peek(&key).await?;
        limiter.refund(&key, &mut first, 1).await?;
        if let Some(mut last) = last {
            limiter.refund(&key, &mut last, 1).await?;
        }
        limiter.penalize(&key, 2).await?;
        let reservation = limiter.reserve(&key, 3, 2 * HOUR).await?.reservation;
        if let Some(reservation) = reservation {
            limiter.cancel(&key, reservation).await?;
        }
        if limiter.policy().name() == "short" {
            // The next charge drops the expired entries.
            tokio::time::sleep(2 * short).await;
            let _ = limiter.check(&key, 1).await?;
        }
        limiter.reset(&key).await?;
    }
    // A long log packs its entries, and drops a pack without valid entries.
    let long = Limiter::new(
        Policy::new("long", Quota::sliding_log(1_000, HOUR)),
        backend.clone(),
    );
    let key = Key::from("ann");
    let mut receipts = Vec::new();
    for reply in join_all((0..300).map(|_| long.check(&key, 1))).await {
        receipts.extend(reply?.receipt);
    }
    let refunds = receipts
        .iter_mut()
        .map(|receipt| long.refund(&key, receipt, 1));
    for refund in join_all(refunds).await {
        refund?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_rights_are_sufficient_and_necessary() {
    guarded(async {
        let granted: String = COMMANDS.iter().map(|c| format!(" +{c}")).collect();
        let user = format!("user limiter on >pw resetkeys ~{{sluice:* -@all{granted}");
        let server = RedisServer::options().line(&user).start();
        let url = server.url_of("limiter", "pw");

        let outside = command::<Value>(&url, &["SET", "other", "1"]);
        assert_eq!(outside.expect_err("a foreign value").code(), Some("NOPERM"));
        let multi = command::<Value>(&url, &["MULTI"]);
        assert_eq!(multi.expect_err("not granted").code(), Some("NOPERM"));

        // The time limit is not what this test is about.
        let builder = || uncached_builder().time_limit(Duration::from_secs(20));
        let backend = builder().connect(&url).await.expect("a user");
        run_every_operation(&backend)
            .await
            .expect("nothing is missing");
        // Without any of these rights an operation fails. Scripts that the server forgets are sent again.
        let mut spare = Vec::new();
        for command in COMMANDS {
            server.command(&["ACL", "SETUSER", "limiter", &format!("-{command}")]);
            server.command(&["SCRIPT", "FLUSH"]);
            server.command(&["FLUSHALL"]);
            let fine = match builder().connect(&url).await {
                Ok(backend) => run_every_operation(&backend).await,
                Err(why) => Err(why),
            };
            match fine {
                Ok(()) => spare.push(command),
                Err(why) => assert!(is_forbidden(&why), "{command}: {why:?}"),
            }
            server.command(&["ACL", "SETUSER", "limiter", &format!("+{command}")]);
        }
        assert_eq!(spare, [""; 0], "granted for nothing");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_command_fails_until_it_is_permitted() {
    guarded(async {
        let user = "user limiter on >pw ~{sluice:* +@all";
        let server = RedisServer::options().line(user).start();
        let backend = uncached_builder()
            .connect(server.url_of("limiter", "pw"))
            .await;
        let limiter = Limiter::new(tokens("api", 1000), backend.expect("a user"));
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        for command in ["evalsha", "set"] {
            server.command(&["ACL", "SETUSER", "limiter", &format!("-{command}")]);
            let why = limiter
                .check(&key, 1)
                .await
                .expect_err("the command is forbidden");
            assert!(is_forbidden(&why), "{command}: {why:?}");
            assert_each_failure_policy(&limiter, &Key::from("cid")).await;
            server.command(&["ACL", "SETUSER", "limiter", &format!("+{command}")]);
            let start = Instant::now();
            while check(&limiter, &Key::from("bob")).await.is_err() {
                assert!(start.elapsed() < Duration::from_secs(2) + SLACK);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert_eq!(
            check(&limiter, &key).await,
            Ok(2),
            "the forbidden command took effect"
        );
    })
    .await;
}

/// Redis repeats an unknown command, with its arguments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_command_error_contains_no_key() {
    guarded(async {
        for (unknown, builder) in [
            ("EVALSHA", uncached_builder()),
            ("WATCH", uncached_builder().atomicity(Atomicity::Optimistic)),
        ] {
            let server = RedisServer::options()
                .line(&format!("rename-command {unknown} \"\""))
                .start();
            let backend = builder.connect_lazy(server.url()).expect("a URL");
            let limiter = Limiter::new(tokens("api", 5), backend);
            // The first script is sent as text.
            let _ = limiter.check(&Key::from("bob"), 1).await;
            let why = limiter.check(&Key::from("ann-of-cleves"), 1).await;
            let why = why.expect_err("the command does not exist");
            assert_eq!(*why.kind(), BackendErrorKind::Server("ERR".to_owned()));
            let reported = reported(&why);
            assert!(reported.contains("unknown command"), "{reported}");
            assert!(!reported.contains("cleves"), "{reported}");
        }
    })
    .await;
}
