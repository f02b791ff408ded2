//! In Redis, asked from plain threads.

use std::error::Error;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::backend::{BackendError, BackendErrorKind};
use tower_sluice::blocking::{Limiter, RedisBackend};
use tower_sluice::{Key, Policy, Quota};

use crate::laws::{Awaited, HOUR, a_crowd_leaves_no_debt, every_operation, policies, runtime};
use crate::support::free_port;
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;
use crate::support::stalls;

/// How long a check may take unless a test says otherwise.
const LIMIT: Duration = Duration::from_millis(250);

/// What a busy machine may add to any time that is promised.
const SLACK: Duration = Duration::from_secs(2);

type Redis = Limiter<RedisBackend>;

/// Without a cache: each check is one that Redis answers, or nobody.
fn asking() -> RedisBuilder {
    RedisBackend::builder().deny_cache(Duration::ZERO)
}

/// A bucket of so many tokens; none comes back while a test runs.
fn tokens(limit: u64) -> Policy {
    Policy::new("api", Quota::per_day(1).burst(limit))
}

fn connect(server: &RedisServer, limit: u64) -> Redis {
    let backend = asking().connect_blocking(server.url()).expect("it runs");
    Limiter::new(tokens(limit), backend)
}

/// What a check that succeeds says is spent.
fn check(limiter: &Redis, key: &Key) -> Result<u64, BackendErrorKind> {
    let reply = limiter.check(key, 1);
    let reply = reply.map_err(|why| why.kind().clone())?;
    assert_eq!(reply.decision.is_allowed(), reply.receipt.is_some());
    let snapshot = reply.decision.snapshot();
    Ok(snapshot.limit() - snapshot.remaining())
}

/// Why a check got no answer, which it must learn in time.
fn fails(limiter: &Redis, key: &Key) -> BackendErrorKind {
    let asked = Instant::now();
    let why = check(limiter, key).expect_err("Redis cannot answer");
    let took = asked.elapsed();
    assert!(took < LIMIT + SLACK, "{why:?} after {took:?}");
    why
}

fn is_unasked(why: &BackendErrorKind) -> bool {
    matches!(
        why,
        BackendErrorKind::CircuitOpen | BackendErrorKind::Unreachable
    )
}

/// Checks until Redis decides again, after an outage as long as `outage`: the circuit probes after one second, then
/// after twice as long each time.
fn recovers(limiter: &Redis, key: &Key, outage: Duration) {
    let second = Duration::from_secs(1);
    let most = 2 * outage.max(second) + SLACK;
    let back = Instant::now();
    while let Err(why) = limiter.check(key, 1) {
        let took = back.elapsed();
        assert!(took <= most, "{why:?} {took:?} after {outage:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Opens so many connections: none is given back before all are there.
fn open(limiter: &Redis, count: u64) {
    let all = Barrier::new(usize::try_from(count).expect("few"));
    thread::scope(|scope| {
        for thread in 0..count {
            let all = &all;
            scope.spawn(move || {
                all.wait();
                for _ in 0..50 {
                    limiter.peek(&Key::from(thread)).expect("Redis");
                }
            });
        }
    });
}

// -- The same answers, the same buckets

#[test]
fn blocking_backend_shares_state_and_replies_with_the_async_backend() {
    assert!(Handle::try_current().is_err());
    let (server, runtime) = (RedisServer::start(), runtime());
    let threads = asking().connect_blocking(server.url()).expect("it runs");
    let tasks = runtime.block_on(asking().connect(server.url()));
    let tasks = tasks.expect("it runs");
    for policy in policies() {
        let blocking = Limiter::new(policy.clone(), threads.clone());
        let awaited = Awaited {
            runtime: &runtime,
            limiter: tower_sluice::Limiter::new(policy.clone(), tasks.clone()),
        };
        let [ann, bob, cid] = ["ann", "bob", "cid"].map(Key::from);
        let expected = every_operation(&[&awaited], &ann);
        assert_eq!(every_operation(&[&blocking], &bob), expected, "{policy:?}");
        // What one has charged the other gives back, and the other way round.
        let both = every_operation(&[&blocking, &awaited], &cid);
        assert_eq!(both, expected, "{policy:?}");
    }
}

#[test]
fn threads_and_tasks_together_admit_exactly_the_limit() {
    const LIMIT: u64 = 2_000;
    let (server, runtime) = (RedisServer::start(), runtime());
    let patient = || asking().time_limit(Duration::from_secs(20));
    let threads = patient().connect_blocking(server.url()).expect("it runs");
    let tasks = runtime.block_on(patient().connect(server.url()));
    let tasks = tasks.expect("it runs");
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
fn keys_have_the_same_names() {
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
        let threads = set(asking()).connect_blocking(server.url());
        let limiter = Limiter::new(policy.clone(), threads.expect("it runs"));
        let tasks = runtime.block_on(set(asking()).connect(server.url()));
        let tasks = tower_sluice::Limiter::new(policy.clone(), tasks.expect("it runs"));
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
    let backend = asking().idle_ttl(7 * day).connect_blocking(server.url());
    let limiter = Limiter::new(tokens(10), backend.expect("it runs"));
    assert_eq!(check(&limiter, &Key::from("ann")), Ok(1));
    let ttl: i64 = server.get(&["TTL", "{sluice:api:rann}:b"]);
    assert!(
        (7 * 86_400 - 60..=7 * 86_400).contains(&ttl),
        "{ttl} seconds"
    );
}

// -- Scripts and denials

#[test]
fn a_crowd_that_leaves_from_the_front_leaves_no_debt() {
    let server = RedisServer::start();
    let backend = asking().time_limit(HOUR).connect_blocking(server.url());
    a_crowd_leaves_no_debt(&backend.expect("it runs"));
}

#[test]
fn flushed_scripts_are_loaded_again() {
    let server = RedisServer::start();
    let limiter = connect(&server, 10);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    for count in 1..=3 {
        server.command(&["SCRIPT", "FLUSH"]);
        server.command(&["CONFIG", "RESETSTAT"]);
        assert_eq!(check(&limiter, &key), Ok(2 * count));
        assert_eq!(check(&limiter, &key), Ok(2 * count + 1));
        assert_eq!((server.calls("EVALSHA"), server.calls("EVAL")), (2, 1));
    }
}

#[test]
fn cached_denial_sends_no_command() {
    let mut server = RedisServer::start();
    let backend = RedisBackend::builder().deny_cache(HOUR);
    let backend = backend.connect_blocking(server.url()).expect("it runs");
    let limiter = Limiter::new(tokens(1), backend);
    let ann = Key::from("ann");
    assert_eq!(check(&limiter, &ann), Ok(1));
    let denied = limiter.check(&ann, 1).expect("Redis").decision;
    assert!(!denied.is_allowed());
    server.command(&["CONFIG", "RESETSTAT"]);
    for _ in 0..10 {
        let again = limiter.check(&ann, 1).expect("it is remembered").decision;
        assert!(!again.is_allowed());
        assert!(again.retry_after().is_some());
    }
    assert_eq!(server.calls("EVALSHA"), 0);
    // What is done through this backend ends what it knows.
    limiter.reset(&ann).expect("Redis");
    assert_eq!(check(&limiter, &ann), Ok(1));
    assert!(!limiter.check(&ann, 1).expect("Redis").decision.is_allowed());
    server.kill9();
    let known = limiter.check(&ann, 1).expect("it is remembered");
    assert!(!known.decision.is_allowed());
    assert!(limiter.check(&Key::from("bob"), 1).is_err());
}

// -- Where Redis is

#[test]
fn invalid_url_error_contains_no_password() {
    const PASSWORD: &str = "0pen-Sesame";
    let server = RedisServer::options().password("another").start();
    let reported = |error: &BackendError| {
        let mut text = format!("{error} {error:?}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!(" {error} {error:?}");
            cause = error.source();
        }
        assert!(!text.contains(PASSWORD), "{text}");
    };
    for url in [
        "".to_owned(),
        "localhost:6379".to_owned(),
        "etcd://localhost".to_owned(),
        format!("redis://ann:{PASSWORD}@host:port/"),
        format!("redis://ann:{PASSWORD}@host/name"),
    ] {
        let errors = [
            RedisBackend::connect(&url).unwrap_err(),
            RedisBackend::connect_lazy(&url).unwrap_err(),
        ];
        for error in errors {
            let BackendErrorKind::Config(why) = error.kind() else {
                panic!("{url}: {error:?}");
            };
            assert!(why.starts_with("invalid Redis URL: "));
            reported(&error);
        }
    }
    let wrong = server.url_of("", PASSWORD);
    let start = Instant::now();
    let error = RedisBackend::connect(&wrong).unwrap_err();
    assert!(start.elapsed() < LIMIT + SLACK, "{:?}", start.elapsed());
    assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    reported(&error);
    let lazy = RedisBackend::connect_lazy(&wrong).expect("a URL");
    assert!(!format!("{lazy:?} {:?}", asking().secret(PASSWORD)).contains(PASSWORD));
    let limiter = Limiter::new(tokens(10), lazy);
    reported(&limiter.check(&Key::from("ann"), 1).unwrap_err());
    let right = connect(&server, 10);
    assert_eq!(check(&right, &Key::from("ann")), Ok(1));
}

#[test]
fn a_server_that_cannot_decide_is_found_at_start() {
    let server = RedisServer::options()
        .line("user limiter on >sesame ~{sluice:* +@all -evalsha")
        .start();
    let why = RedisBackend::connect(server.url_of("limiter", "sesame"));
    let why = why.expect_err("a right is missing");
    assert_eq!(*why.kind(), BackendErrorKind::Server("NOPERM".to_owned()));
    assert!(why.to_string().contains("ACL SETUSER"), "{why}");
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let why = RedisBackend::connect(server.url()).expect_err("no memory is left");
    assert_eq!(*why.kind(), BackendErrorKind::Server("OOM".to_owned()));
}

#[test]
fn blocking_optimistic_mode_is_a_config_error_with_a_remedy() {
    let optimistic = || asking().atomicity(Atomicity::Optimistic);
    let client = redis::Client::open("redis://host").expect("a URL");
    let errors: [BackendError; 3] = [
        optimistic().from_blocking_client(client).unwrap_err(),
        optimistic().connect_blocking("redis://host").unwrap_err(),
        optimistic()
            .connect_blocking_lazy("redis://host")
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error.kind(), BackendErrorKind::Config(_)));
        let reported = error.to_string();
        assert!(
            reported.starts_with("`Atomicity::Optimistic` cannot be had from plain threads: use"),
            "{reported}"
        );
    }
}

#[test]
fn a_socket_file_is_as_good_as_a_port() {
    let server = RedisServer::start();
    let backend = asking().connect_blocking(server.unix_url());
    let unix = Limiter::new(tokens(10), backend.expect("it runs"));
    let key = Key::from("ann");
    assert_eq!(check(&unix, &key), Ok(1));
    assert_eq!(check(&connect(&server, 10), &key), Ok(2));
}

#[test]
fn settings_without_bounds_are_bounded() {
    let server = RedisServer::start();
    let backend = asking()
        .time_limit(Duration::MAX)
        .connections(NonZeroU32::MAX)
        .connect_blocking(server.url());
    let limiter = Limiter::new(tokens(10), backend.expect("it runs"));
    assert_eq!(check(&limiter, &Key::from("ann")), Ok(1));
    let backend = asking().time_limit(Duration::ZERO);
    let backend = backend.connect_blocking_lazy(server.url()).expect("a URL");
    // Whether a millisecond is enough is the machine's affair.
    let _ = Limiter::new(tokens(10), backend).check(&Key::from("ann"), 1);
}

#[test]
fn lazy_connection_works_when_the_server_starts_later() {
    let mut server = RedisServer::options().prepare();
    let start = Instant::now();
    let error = RedisBackend::connect(server.url()).unwrap_err();
    // It is told so at once, and not when time is up.
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    let why = error.source().expect("a reason").to_string();
    assert!(why.contains("refused"), "{why}");

    let backend = asking().connect_blocking_lazy(server.url());
    let limiter = Limiter::new(tokens(10), backend.expect("a URL"));
    let key = Key::from("ann");
    let asked = Instant::now();
    let why = fails(&limiter, &key);
    assert_eq!(why, BackendErrorKind::Unreachable);
    // Nothing was done: it was tried again after 10, 20 and 40 ms.
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(70), "{took:?}");
    server.restart();
    recovers(&limiter, &key, start.elapsed());
    assert_eq!(check(&limiter, &key), Ok(2));
}

#[test]
fn connections_are_made_by_the_given_client() {
    let server = RedisServer::options().password("sesame").start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let plain = Limiter::new(tokens(10), RedisBackend::from_client(client.clone()));
    assert_eq!(check(&plain, &Key::from("ann")), Ok(1));
    let backend = asking().prefix("theirs").from_blocking_client(client);
    let theirs = Limiter::new(tokens(10), backend.expect("scripts"));
    assert_eq!(check(&theirs, &Key::from("ann")), Ok(1));
}

#[cfg(feature = "tls")]
#[test]
fn tls_accepts_system_or_client_trust_roots() {
    let tls = crate::support::tls::TlsServer::start();
    // The system does not know who vouches for this server.
    let error = RedisBackend::connect(tls.url()).unwrap_err();
    assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    let why = error.source().expect("a reason").to_string();
    assert!(why.contains("certificate"), "{why}");

    let authority = std::fs::read(tls.authority()).expect("a file");
    let certificates = redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(authority),
    };
    let client = redis::Client::build_with_tls(tls.url(), certificates).expect("a certificate");
    let backend = asking().from_blocking_client(client).expect("scripts");
    let limiter = Limiter::new(tokens(10), backend);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    tls.server.pause();
    assert_eq!(fails(&limiter, &key), BackendErrorKind::Timeout(LIMIT));
    tls.server.resume();
    recovers(&limiter, &key, LIMIT);
}

// -- Distance

/// A server at the end of a proxy, so far away.
fn far(runtime: &Runtime, millis: u64) -> (RedisServer, Proxy, RedisBackend) {
    let server = RedisServer::start();
    let proxy = runtime.block_on(Proxy::to(server.port()));
    let delay = Mode::Delay(Duration::from_millis(millis) / 2);
    runtime.block_on(proxy.set(delay));
    let backend = asking().connect_blocking(proxy.url()).expect("it runs");
    (server, proxy, backend)
}

#[test]
fn a_quiet_program_far_away_from_redis_gets_every_answer() {
    let runtime = runtime();
    let series = |millis| {
        let (_server, _proxy, backend) = far(&runtime, millis);
        let limiters = [
            Limiter::new(tokens(100), backend.clone()),
            Limiter::new(Policy::new("log", Quota::sliding_log(100, HOUR)), backend),
        ];
        for round in 1..=5 {
            for limiter in &limiters {
                let spent = check(limiter, &Key::from("ann"));
                if spent != Ok(round) {
                    return Err(format!("{spent:?} at {millis} ms"));
                }
            }
            thread::sleep(Duration::from_millis(1500));
        }
        Ok(())
    };
    stalls::excused_blocking(|| {
        thread::scope(|scope| {
            let all =
                [1, 20, 63, 70, 90, 150, 200].map(|millis| scope.spawn(move || series(millis)));
            all.into_iter()
                .try_for_each(|one| one.join().expect("no panic"))
        })
    });
}

#[test]
fn a_burst_of_threads_far_away_from_redis_gets_every_answer() {
    let runtime = runtime();
    stalls::excused_blocking(|| {
        let (_server, _proxy, backend) = far(&runtime, 200);
        let limiter = &Limiter::new(tokens(1_000), backend);
        for pause in [0, 1500] {
            thread::sleep(Duration::from_millis(pause));
            thread::scope(|scope| {
                let check = |number| check(limiter, &Key::from(number));
                let all: Vec<_> = (0..64_u64)
                    .map(|number| scope.spawn(move || check(number)))
                    .collect();
                let mut all = all.into_iter();
                all.try_for_each(|one| match one.join().expect("no panic") {
                    Ok(_) => Ok(()),
                    Err(why) => Err(format!("{why:?} in a burst")),
                })
            })?;
        }
        Ok(())
    });
}

// -- Failures

#[test]
fn stalled_server_costs_at_most_the_time_limit() {
    let server = RedisServer::start();
    let limiter = connect(&server, 100);
    open(&limiter, 8);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    server.pause();
    let start = Instant::now();
    assert_eq!(fails(&limiter, &key), BackendErrorKind::Timeout(LIMIT));
    assert!(start.elapsed() >= LIMIT, "{:?}", start.elapsed());
    // The other connections are asked first whether they answer. New ones can be made, for the system answers in the
    // server's place; but nothing more comes.
    for _ in 0..4 {
        assert_eq!(fails(&limiter, &key), BackendErrorKind::Unreachable);
    }
    assert_eq!(fails(&limiter, &key), BackendErrorKind::CircuitOpen);
    server.resume();
    recovers(&limiter, &key, start.elapsed());
    // The first was in the server's hands when its time was up.
    let charged = check(&limiter, &key).expect("it goes on");
    assert!((3..=4).contains(&charged), "{charged}");
}

#[test]
fn killed_server_is_used_again_after_a_restart() {
    let options = RedisServer::options().line("appendonly yes");
    let mut server = options.line("appendfsync always").start();
    let limiter = connect(&server, 1_000);
    let key = Key::from("ann");
    for count in 1..=3 {
        assert_eq!(check(&limiter, &key), Ok(count));
    }
    server.kill9();
    let start = Instant::now();
    let first = fails(&limiter, &key);
    assert!(
        first == BackendErrorKind::Lost || is_unasked(&first),
        "{first:?}"
    );
    for _ in 0..10 {
        let why = fails(&limiter, &key);
        assert!(is_unasked(&why), "{why:?}");
    }
    server.restart();
    recovers(&limiter, &key, start.elapsed());
    // Three before, one that recovered; what failed was not charged, for nobody was there to do it.
    assert_eq!(check(&limiter, &key), Ok(5));
}

#[test]
fn one_failure_retires_all_connections_to_a_server_that_was_restarted() {
    let mut server = RedisServer::start();
    let limiter = connect(&server, 1_000);
    for _ in 0..3 {
        open(&limiter, 8);
        let clients: String = server.get(&["CLIENT", "LIST"]);
        assert!(clients.lines().count() > 1, "{clients}");
        server.kill9();
        server.restart();
        let key = Key::from("ann");
        let failed: Vec<_> = (0..20)
            .filter_map(|_| check(&limiter, &key).err())
            .collect();
        assert!(
            failed.len() <= 1 && failed.iter().all(|why| *why == BackendErrorKind::Lost),
            "{failed:?}"
        );
    }
}

#[test]
fn restart_while_idle_fails_no_check() {
    let mut server = RedisServer::start();
    let limiter = connect(&server, 1_000);
    open(&limiter, 8);
    server.kill9();
    thread::sleep(Duration::from_millis(1_100));
    server.restart();
    let key = Key::from("ann");
    for count in 1..=20 {
        assert_eq!(check(&limiter, &key), Ok(count));
    }
}

#[test]
fn read_only_server_retires_its_connections() {
    let server = RedisServer::start();
    let limiter = connect(&server, 1_000);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    let nobody = free_port().to_string();
    server.command(&["REPLICAOF", "127.0.0.1", &nobody]);
    let connections = || -> u64 {
        let stats: String = server.get(&["INFO", "stats"]);
        let line = |line: &str| {
            line.strip_prefix("total_connections_received:")?
                .parse()
                .ok()
        };
        stats.lines().find_map(line).expect("a number")
    };
    let before = connections();
    assert_eq!(
        fails(&limiter, &key),
        BackendErrorKind::Server("READONLY".into())
    );
    // It was asked again three times, by a new connection each; the number itself is asked by one, too.
    assert_eq!(connections() - before, 3 + 1);
    server.command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(check(&limiter, &key), Ok(2));
}

#[test]
fn lost_reply_is_not_requested_again() {
    let (server, runtime) = (RedisServer::start(), runtime());
    let proxy = runtime.block_on(Proxy::to(server.port()));
    let backend = asking().connect_blocking(proxy.url()).expect("it passes");
    let limiter = Limiter::new(tokens(1_000), backend);
    let direct = connect(&server, 1_000);
    let key = Key::from("ann");
    let mut charged = 1;
    assert_eq!(check(&limiter, &key), Ok(charged));
    let cuts = (0..12).map(|bytes| Mode::CutInReply(1, bytes));
    for cut in cuts.chain([Mode::CutAfterRequest(1); 4]) {
        let before = proxy.decisions();
        runtime.block_on(proxy.set(cut));
        assert_eq!(fails(&limiter, &key), BackendErrorKind::Lost, "{cut:?}");
        charged += 1;
        assert_eq!(proxy.decisions() - before, 1, "sent once");
        let spent = direct.peek(&key).expect("a clear way").remaining();
        assert_eq!(spent, 1_000 - charged);
        // The next is served at once, by another connection.
        charged += 1;
        assert_eq!(check(&limiter, &key), Ok(charged));
    }
}

#[test]
fn late_reply_reaches_no_other_request() {
    let (server, runtime) = (RedisServer::start(), runtime());
    let proxy = runtime.block_on(Proxy::to(server.port()));
    let backend = asking().time_limit(Duration::from_millis(100));
    let backend = backend.connections(NonZeroU32::MIN);
    let backend = backend.connect_blocking(proxy.url()).expect("it passes");
    // Each has another limit: no answer can be taken for another's.
    for limit in 100..110 {
        let limiter = Limiter::new(Policy::new("api", Quota::per_day(limit)), backend.clone());
        let key = Key::from(limit);
        let reported = limiter.peek(&key).expect("it passes").limit();
        assert_eq!(reported, limit);
        let connections = proxy.connections();
        // The answer comes when nobody waits for it any more.
        runtime.block_on(proxy.set(Mode::Trickle(Duration::from_millis(110))));
        assert!(limiter.check(&key, 1).is_err());
        runtime.block_on(proxy.set(Mode::Pass));
        let start = Instant::now();
        let reply = loop {
            match limiter.check(&key, limit / 2) {
                Ok(reply) => break reply,
                // The next connection was begun while everything was slow.
                Err(why) => assert!(start.elapsed() < SLACK, "{why:?}"),
            }
        };
        assert_eq!(reply.decision.snapshot().limit(), limit);
        assert!(proxy.connections() > connections, "by another one");
    }
}

#[test]
fn open_circuit_answers_without_redis() {
    // It takes calls, says nothing, and then hangs up.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let url = format!("redis://{}/", listener.local_addr().expect("bound"));
    let calls = || std::iter::from_fn(|| listener.accept().ok()).count();
    let backend = asking().time_limit(Duration::from_millis(50));
    let backend = backend.connect_blocking_lazy(url).expect("a URL");
    let limiter = Limiter::new(tokens(10), backend);
    let key = Key::from("ann");
    for _ in 0..5 {
        assert_eq!(fails(&limiter, &key), BackendErrorKind::Unreachable);
    }
    assert!(calls() > 0);
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(fails(&limiter, &key), BackendErrorKind::CircuitOpen);
    }
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    // Not in the background, either. (What was on its way when the last one gave up, in three threads, comes first.)
    thread::sleep(Duration::from_millis(300));
    let late = calls();
    assert!(late <= 3, "{late} were under way");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(calls(), 0);
    // A second later one may try.
    while check(&limiter, &key) == Err(BackendErrorKind::CircuitOpen) {
        assert!(start.elapsed() < SLACK + Duration::from_secs(1));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(calls() > 0);
}

#[test]
fn waiting_for_a_free_connection_does_not_open_the_circuit() {
    let (server, runtime) = (RedisServer::start(), runtime());
    let proxy = runtime.block_on(Proxy::to(server.port()));
    let backend = asking()
        .time_limit(Duration::from_secs(1))
        .connections(NonZeroU32::MIN)
        .connect_blocking(proxy.url())
        .expect("it passes");
    let limiter = Limiter::new(tokens(1_000), backend);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    // Redis is well, but far away: each takes some hundred milliseconds.
    runtime.block_on(proxy.set(Mode::Trickle(Duration::from_millis(1))));
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| check(&limiter, &key)))
            .collect();
        let threads = threads.into_iter().map(|thread| thread.join());
        threads.map(|checked| checked.expect("no panic")).collect()
    });
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert!((5..16).contains(&failed), "{outcomes:?}");
    runtime.block_on(proxy.set(Mode::Pass));
    assert!(check(&limiter, &key).is_ok(), "the circuit is closed");
}

#[test]
fn threads_share_connections_in_order_of_arrival() {
    let server = RedisServer::start();
    let backend = asking()
        .time_limit(Duration::from_secs(20))
        .connections(NonZeroU32::new(2).expect("not 0"))
        .connect_blocking(server.url())
        .expect("it runs");
    let limiter = Limiter::new(tokens(10_000), backend);
    thread::scope(|scope| {
        for thread in 0..32_u64 {
            let limiter = &limiter;
            scope.spawn(move || {
                for count in 1..=50 {
                    assert_eq!(check(limiter, &Key::from(thread)), Ok(count));
                }
            });
        }
    });
    let clients: String = server.get(&["CLIENT", "LIST"]);
    // This question is asked by a third.
    assert!(clients.lines().count() <= 3, "{clients}");
}

#[test]
fn dropped_backend_closes_its_connections() {
    let server = RedisServer::start();
    let limiter = connect(&server, 100);
    open(&limiter, 8);
    let clients = || {
        let clients: String = server.get(&["CLIENT", "LIST"]);
        clients.lines().count()
    };
    assert!(clients() > 1);
    let other = limiter.clone();
    drop(limiter);
    assert_eq!(check(&other, &Key::from("ann")), Ok(1));
    drop(other);
    let start = Instant::now();
    while clients() > 1 {
        assert!(start.elapsed() < SLACK, "{}", clients());
        thread::sleep(Duration::from_millis(5));
    }
}
