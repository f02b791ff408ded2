//! WATCH, MULTI and EXEC on a real server, for servers that forbid scripts. The vectors (`conformance`) and random
//! tests (`redis_properties`) show that the decisions agree.

mod support;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::Value;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::backend::{BackendError, BackendErrorKind};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::support::clock_proxy::ClockProxy;
use crate::support::redis::{RedisServer, command};

const DAY: Duration = Duration::from_secs(86_400);

fn builder() -> RedisBuilder {
    RedisBackend::builder()
        .atomicity(Atomicity::Optimistic)
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
}

fn limiter(policy: Policy, url: impl AsRef<str>) -> Limiter<RedisBackend> {
    Limiter::new(policy, builder().connect_lazy(url).expect("a URL"))
}

fn a_day(limit: u64) -> Policy {
    Policy::new("api", Quota::fixed_window(limit, DAY))
}

const ANN_A_DAY: &str = "{sluice:api:rann}:f86400000000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_key_admits_exactly_its_limit() {
    let server = RedisServer::start();
    for quota in [
        Quota::per_day(100),
        Quota::fixed_window(100, DAY),
        Quota::sliding_window(100, DAY),
    ] {
        let limiter = limiter(Policy::new("api", quota), server.url());
        let (mut tasks, mut admitted, mut contended) = (tokio::task::JoinSet::new(), 0, 0);
        for _ in 0..64 {
            let limiter = limiter.clone();
            tasks.spawn(async move {
                let (mut allowed, mut contended) = (0, 0);
                loop {
                    match limiter.check(&Key::from("ann"), 1).await {
                        Ok(reply) if reply.decision.is_allowed() => allowed += 1,
                        Ok(_) => return (allowed, contended),
                        Err(error) => {
                            assert_eq!(*error.kind(), BackendErrorKind::Contended(12), "{error:?}");
                            contended += 1;
                        }
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (allowed, vain) = done.expect("no panic");
            (admitted, contended) = (admitted + allowed, contended + vain);
        }
        assert_eq!(admitted, 100, "{quota}: {contended} failed attempts");
    }
}

#[tokio::test]
async fn waiter_that_never_reaches_the_head_is_denied() {
    let server = RedisServer::start();
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let proxy = ClockProxy::to(server.port(), &clock).await;
    let limiter = limiter(a_day(10), proxy.url());
    let ann = Key::from("ann");
    // Another client spends its second token of the day before each write of this one.
    let start = 1_800_000_000_000_000_u64 / 86_400_000_000 * 86_400_000_000;
    let state = [b"f1".as_slice(), &start.to_le_bytes(), &2_u64.to_le_bytes()].concat();
    proxy.interfere(
        redis::cmd("SET")
            .arg(ANN_A_DAY)
            .arg(&state)
            .arg("PX")
            .arg(60_000),
    );
    let before = server.calls("exec");
    let error = limiter.check(&ann, 1).await.unwrap_err();
    assert_eq!(*error.kind(), BackendErrorKind::Contended(12), "{error:?}");
    assert_eq!(server.calls("exec") - before, 12);
    // A peek and a denial write nothing, and conflict with no write.
    assert_eq!(limiter.peek(&ann).await.expect("Redis").remaining(), 8);
    let denied = limiter.check(&ann, 9).await.expect("Redis");
    assert!(!denied.decision.is_allowed());

    proxy.stop_interfering();
    let reply = limiter.check(&ann, 1).await.expect("Redis");
    assert_eq!(reply.decision.snapshot().remaining(), 7);
}

#[tokio::test]
async fn a_user_without_scripting_commands_can_limit() {
    let least = "+get +set +del +watch +multi +exec +unwatch +time +ping";
    let most = "+@all -eval -evalsha -script";
    for (name, commands) in [("least", least), ("most", most)] {
        let server = RedisServer::options()
            .line(&format!("user {name} on >secret ~{{sluice:* {commands}"))
            .start();
        let url = server.url_of(name, "secret");
        let optimistic = builder().connect(&url).await.expect("may ping");
        let policy = Policy::new("api", Quota::per_day(10)).and("tick", Quota::per_day(20));
        let (limiter, ann) = (Limiter::new(policy.clone(), optimistic), Key::from("ann"));
        let mut reply = limiter.check(&ann, 4).await.expect(name);
        assert!(reply.decision.is_allowed());
        let receipt = reply.receipt.as_mut().expect("of a charge");
        limiter.refund(&ann, receipt, 1).await.expect(name);
        limiter.penalize(&ann, 2).await.expect(name);
        assert_eq!(limiter.peek(&ann).await.expect(name).remaining(), 5);
        let reservation = limiter.reserve(&ann, 6, DAY).await.expect(name);
        assert!(reservation.wait > Duration::ZERO);
        let reservation = reservation.reservation.expect("a reservation");
        assert!(limiter.cancel(&ann, reservation).await.expect(name));
        limiter.reset(&ann).await.expect(name);
        assert!(server.keys().is_empty());

        let denied = RedisBackend::connect(&url).await.expect_err("no scripts");
        assert_eq!(*denied.kind(), BackendErrorKind::Server("NOPERM".into()));
        let scripts = RedisBackend::connect_lazy(&url).expect("a URL");
        let error = Limiter::new(policy, scripts).check(&ann, 1).await;
        let error = error.expect_err("scripts are forbidden");
        assert_eq!(*error.kind(), BackendErrorKind::Server("NOPERM".into()));
    }
}

/// Exact to the µs: timers count ms.
async fn busy(span: Duration) {
    let start = Instant::now();
    while start.elapsed() < span {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn dropped_transaction_closes_its_connection() {
    let server = RedisServer::start();
    let four = NonZeroU32::new(4).expect("not 0");
    let backend = builder().connections(four).connect(server.url()).await;
    let limiter = Limiter::new(a_day(10), backend.expect("a server"));
    let known = Key::from("known");
    let _ = limiter.check(&known, 7).await.expect("Redis");
    let start = Instant::now();
    for _ in 0..20 {
        let _ = limiter
            .penalize(&Key::from("usual"), 1)
            .await
            .expect("Redis");
    }
    // Adapted during the test: the load of the machine may change.
    let mut usual = start.elapsed() / 20;
    let key = |round: u64| format!("{{sluice:api:rdropped-{round}}}:f86400000000");
    let mut charged = 0;
    for round in 0..1_000 {
        let dropped = Key::from(&*format!("dropped-{round}"));
        // From before the first byte to after the last one.
        let patience = usual * rand::random_range(0..200) / 100;
        tokio::select! {
            biased;
            _ = busy(patience) => usual += usual / 16 + Duration::from_micros(1),
            _ = limiter.check(&dropped, 1) => usual -= usual / 16,
        }
        if round % 50 == 49 {
            // Commands in flight arrive.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let keys: Vec<_> = (round - 49..=round).map(key).collect();
            for key in &keys {
                let state: Option<Vec<u8>> = server.get(&["GET", key]);
                let used = state.map_or(0, |state| u64::from(state[10]));
                assert!(used <= 1, "charged at most once");
                charged += used;
            }
            // A connection that watches a key is marked when another client writes it.
            let write: Vec<&str> = keys.iter().flat_map(|key| [key, "x"]).collect();
            let _: Value = server.get(&[&["MSET"], &*write].concat());
            let start = Instant::now();
            loop {
                let clients: String = server.get(&["CLIENT", "LIST"]);
                // Valkey shows 0 outside of a transaction.
                let is_idle = |client: &str| {
                    let outside = client.contains(" multi=-1 ") || client.contains(" multi=0 ");
                    client.contains(" flags=N ") && outside
                };
                if clients.lines().all(is_idle) && clients.lines().count() <= 5 {
                    break;
                }
                // Retired connections are about to close.
                let waited = start.elapsed();
                assert!(waited < Duration::from_secs(2), "{round} drops: {clients}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        if round % 8 == 0 {
            let look = limiter.peek(&known).await.expect("Redis");
            assert_eq!(look.remaining(), 3, "after {round} drops");
        }
    }
    assert!(
        (1..1_000).contains(&charged),
        "dropped at random points: {charged}"
    );
}

#[tokio::test]
async fn foreign_value_is_an_error_and_is_kept() {
    let server = RedisServer::start();
    let (limiter, ann) = (limiter(a_day(10), server.url()), Key::from("ann"));
    let corrupt = |outcome: Result<_, BackendError>| {
        let error = outcome.map(drop).expect_err("a foreign value");
        assert_eq!(*error.kind(), BackendErrorKind::Corrupt, "{error:?}");
    };
    let _: Value = server.get(&["SET", ANN_A_DAY, "the value of another program changed"]);
    corrupt(limiter.check(&ann, 1).await);
    let kept: String = server.get(&["GET", ANN_A_DAY]);
    assert_eq!(kept, "the value of another program changed");

    let _: Value = server.get(&["DEL", ANN_A_DAY]);
    let _: Value = server.get(&["RPUSH", ANN_A_DAY, "a list"]);
    corrupt(limiter.check(&ann, 1).await);
    assert_eq!(server.get::<u64>(&["LLEN", ANN_A_DAY]), 1);

    let _: Value = server.get(&["DEL", ANN_A_DAY]);
    assert!(
        limiter
            .check(&ann, 1)
            .await
            .expect("Redis")
            .decision
            .is_allowed()
    );
}

#[tokio::test]
async fn server_out_of_memory_returns_oom() {
    let server = RedisServer::start();
    let (limiter, ann) = (limiter(a_day(10), server.url()), Key::from("ann"));
    let _ = limiter.check(&ann, 9).await.expect("a connection is free");
    let _: Value = server.get(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = limiter.check(&ann, 1).await.unwrap_err();
    assert_eq!(
        *error.kind(),
        BackendErrorKind::Server("OOM".into()),
        "{error:?}"
    );
    let denied = limiter
        .check(&ann, 2)
        .await
        .expect("a denial writes nothing");
    assert!(!denied.decision.is_allowed());
    let _: Value = server.get(&["CONFIG", "SET", "maxmemory", "0"]);
    let reply = limiter
        .check(&ann, 1)
        .await
        .expect("the queue has room again");
    assert!(reply.decision.is_allowed());
}

#[tokio::test]
async fn optimistic_mode_names_unsupported_operations() {
    let server = RedisServer::start();
    let unsupported = |error: BackendError, words: &str| {
        assert!(
            matches!(error.kind(), BackendErrorKind::Unsupported(_)),
            "{error:?}"
        );
        assert!(error.to_string().contains(words), "{error}");
    };
    let log = Policy::new("log", Quota::sliding_log(1, DAY));
    let error = limiter(log, server.url()).check(&Key::from("ann"), 1).await;
    unsupported(error.unwrap_err(), "sliding log");

    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    let shared = builder().from_transport(RedisConnection::new(connection.expect("a server")));
    let error = Limiter::new(a_day(1), shared)
        .check(&Key::from("ann"), 1)
        .await;
    unsupported(error.unwrap_err(), "a URL or `from_connector`");
    assert!(
        command::<Vec<String>>(&server.url(), &["KEYS", "*"])
            .expect("Redis")
            .is_empty()
    );
}

/// A request that returns a connection and asks again joins the end of the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_checked_out_in_order_of_arrival() {
    const ROUNDS: usize = 3_000;
    let server = RedisServer::start();
    let four = NonZeroU32::new(4).expect("not 0");
    let backend = builder().connections(four).connect(server.url()).await;
    let limiter = Limiter::new(a_day(1_000_000), backend.expect("a server"));
    let done = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..32_u64)
        .map(|number| {
            let (limiter, done) = (limiter.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let (key, mut own) = (Key::from(number), 0_usize);
                while done.fetch_add(1, Ordering::Relaxed) < ROUNDS {
                    let _ = limiter.check(&key, 1).await.expect("Redis");
                    own += 1;
                }
                own
            })
        })
        .collect();
    let mut shares = Vec::new();
    for task in tasks {
        shares.push(task.await.expect("no panic"));
    }
    let least = shares.iter().min().expect("tasks");
    assert!(least * 2 > ROUNDS / shares.len(), "{shares:?}");
}
