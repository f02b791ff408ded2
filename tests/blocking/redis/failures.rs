//! Failures of Redis and of connections to it.

use std::net::TcpListener;
use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use tower_sluice::backend::BackendErrorKind;
use tower_sluice::blocking::Limiter;
use tower_sluice::{Key, Policy, Quota};

use super::{
    LIMIT, SLACK, check, check_error, connect, is_unsent, open, tokens, uncached_builder,
    wait_for_recovery,
};
use crate::shared_checks::runtime;
use crate::support::free_port;
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;

#[test]
fn stalled_server_costs_at_most_the_time_limit() {
    let server = RedisServer::start();
    let limiter = connect(&server, 100);
    open(&limiter, 8);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    server.pause();
    let start = Instant::now();
    assert_eq!(
        check_error(&limiter, &key),
        BackendErrorKind::Timeout(LIMIT)
    );
    assert!(start.elapsed() >= LIMIT, "{:?}", start.elapsed());
    // The other connections are tested for a reply first. New connections are accepted by the system, and get no reply.
    for _ in 0..4 {
        assert_eq!(check_error(&limiter, &key), BackendErrorKind::Unreachable);
    }
    assert_eq!(check_error(&limiter, &key), BackendErrorKind::CircuitOpen);
    server.resume();
    wait_for_recovery(&limiter, &key, start.elapsed());
    // The server received the first check before its time limit.
    let charged = check(&limiter, &key).expect("the check succeeds");
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
    let first = check_error(&limiter, &key);
    assert!(
        first == BackendErrorKind::Lost || is_unsent(&first),
        "{first:?}"
    );
    for _ in 0..10 {
        let why = check_error(&limiter, &key);
        assert!(is_unsent(&why), "{why:?}");
    }
    server.restart();
    wait_for_recovery(&limiter, &key, start.elapsed());
    // Three before, and one during the recovery. Failed checks charged nothing: no server was up.
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
    let closed = free_port().to_string();
    server.command(&["REPLICAOF", "127.0.0.1", &closed]);
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
        check_error(&limiter, &key),
        BackendErrorKind::Server("READONLY".into())
    );
    // It was repeated three times, each on a new connection. Reading the number takes one more.
    assert_eq!(connections() - before, 3 + 1);
    server.command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(check(&limiter, &key), Ok(2));
}

#[test]
fn lost_reply_is_not_requested_again() {
    let (server, runtime) = (RedisServer::start(), runtime());
    let proxy = runtime.block_on(Proxy::to(server.port()));
    let backend = uncached_builder()
        .connect_blocking(proxy.url())
        .expect("the request is allowed");
    let limiter = Limiter::new(tokens(1_000), backend);
    let direct = connect(&server, 1_000);
    let key = Key::from("ann");
    let mut charged = 1;
    assert_eq!(check(&limiter, &key), Ok(charged));
    let cuts = (0..12).map(|bytes| Mode::CutInReply(1, bytes));
    for cut in cuts.chain([Mode::CutAfterRequest(1); 4]) {
        let before = proxy.decisions();
        runtime.block_on(proxy.set(cut));
        assert_eq!(
            check_error(&limiter, &key),
            BackendErrorKind::Lost,
            "{cut:?}"
        );
        charged += 1;
        assert_eq!(proxy.decisions() - before, 1, "sent once");
        let spent = direct.peek(&key).expect("a working connection").remaining();
        assert_eq!(spent, 1_000 - charged);
        // Another connection serves the next check at once.
        charged += 1;
        assert_eq!(check(&limiter, &key), Ok(charged));
    }
}

#[test]
fn late_reply_reaches_no_other_request() {
    let (server, runtime) = (RedisServer::start(), runtime());
    let proxy = runtime.block_on(Proxy::to(server.port()));
    let backend = uncached_builder().time_limit(Duration::from_millis(100));
    let backend = backend.connections(NonZeroU32::MIN);
    let backend = backend
        .connect_blocking(proxy.url())
        .expect("the request is allowed");
    // Each limiter has another limit: replies are distinguishable.
    for limit in 100..110 {
        let limiter = Limiter::new(Policy::new("api", Quota::per_day(limit)), backend.clone());
        let key = Key::from(limit);
        let reported = limiter.peek(&key).expect("the request is allowed").limit();
        assert_eq!(reported, limit);
        let connections = proxy.connections();
        // The reply arrives after the time limit.
        runtime.block_on(proxy.set(Mode::Trickle(Duration::from_millis(110))));
        assert!(limiter.check(&key, 1).is_err());
        runtime.block_on(proxy.set(Mode::Pass));
        let start = Instant::now();
        let reply = loop {
            match limiter.check(&key, limit / 2) {
                Ok(reply) => break reply,
                // The next connection attempt started while everything was slow.
                Err(why) => assert!(start.elapsed() < SLACK, "{why:?}"),
            }
        };
        assert_eq!(reply.decision.snapshot().limit(), limit);
        assert!(proxy.connections() > connections, "by another backend");
    }
}

#[test]
fn open_circuit_answers_without_redis() {
    // Accepts connections, sends nothing, and closes them.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let url = format!("redis://{}/", listener.local_addr().expect("bound"));
    let calls = || std::iter::from_fn(|| listener.accept().ok()).count();
    let backend = uncached_builder().time_limit(Duration::from_millis(50));
    let backend = backend.connect_blocking_lazy(url).expect("a URL");
    let limiter = Limiter::new(tokens(10), backend);
    let key = Key::from("ann");
    for _ in 0..5 {
        assert_eq!(check_error(&limiter, &key), BackendErrorKind::Unreachable);
    }
    assert!(calls() > 0);
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(check_error(&limiter, &key), BackendErrorKind::CircuitOpen);
    }
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    // No attempt in the background either. Attempts that were in flight in three threads come first.
    thread::sleep(Duration::from_millis(300));
    let late = calls();
    assert!(late <= 3, "{late} were in flight");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(calls(), 0);
    // After a second one check may probe.
    while check(&limiter, &key) == Err(BackendErrorKind::CircuitOpen) {
        assert!(start.elapsed() < SLACK + Duration::from_secs(1));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(calls() > 0);
}
