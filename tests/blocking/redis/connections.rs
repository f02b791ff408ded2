//! Threads share the connections of a backend.

use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use tower_sluice::Key;
use tower_sluice::blocking::Limiter;

use super::{SLACK, check, connect, open, tokens, uncached_builder};
use crate::shared_checks::runtime;
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;

#[test]
fn waiting_for_a_free_connection_does_not_open_the_circuit() {
    let (server, runtime) = (RedisServer::start(), runtime());
    let proxy = runtime.block_on(Proxy::to(server.port()));
    let backend = uncached_builder()
        .time_limit(Duration::from_secs(2))
        .connections(NonZeroU32::MIN)
        .connect_blocking(proxy.url())
        .expect("the request is allowed");
    let limiter = Limiter::new(tokens(1_000), backend);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    // Redis works, but is far away: each check takes some hundred milliseconds.
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
    let backend = uncached_builder()
        .time_limit(Duration::from_secs(20))
        .connections(NonZeroU32::new(2).expect("not 0"))
        .connect_blocking(server.url())
        .expect("the server runs");
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
    // The connection of this command is the third.
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
