//! A network that goes silent: connections stay open, and no reply arrives.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::{Key, Limiter, RedisBackend};

use crate::harness::{
    LIMIT, SLACK, check, check_error, guarded, spent, tokens, uncached_builder, wait_for_recovery,
};
use crate::network::ProxiedServer;
use crate::support::proxy::Mode;

/// A firewall has dropped the idle connections. Each one is detected after the time limit.
async fn assert_idle_connections_are_replaced(builder: RedisBuilder, from: &str) {
    let server = ProxiedServer::by(builder).await;
    let (through, direct) = server.both(1000);
    let key = Key::from("ann");
    sleep(Duration::from_millis(1200)).await;
    server.proxy.lose_connections();
    wait_for_recovery(&through, &key, Duration::ZERO, from).await;
    let charged = spent(&direct, &key).await;
    assert_eq!(check(&through, &key).await, Ok(charged + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silently_dead_idle_connections_are_replaced() {
    guarded(assert_idle_connections_are_replaced(
        uncached_builder(),
        "a firewall that forgets",
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_silently_dead_idle_connections_are_replaced() {
    // Each transaction uses a connection of its own: there are 16.
    let many = uncached_builder().atomicity(Atomicity::Optimistic);
    guarded(assert_idle_connections_are_replaced(
        many,
        "a firewall that forgets many",
    ))
    .await;
}

/// Like above, with constant traffic from other requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silently_dead_busy_connections_are_replaced() {
    guarded(async {
        let server = ProxiedServer::open().await;
        let (through, direct) = server.both(1000);
        let key = Key::from("ann");
        assert_eq!(check(&through, &key).await, Ok(1));
        server.proxy.lose_connections();
        wait_for_recovery(&through, &key, Duration::ZERO, "a firewall that drops").await;
        let charged = spent(&direct, &key).await;
        assert_eq!(check(&through, &key).await, Ok(charged + 1));
    })
    .await;
}

/// Requests with deadlines below the time limit never reach it. They must still retire a dead connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_deadlines_do_not_keep_a_dead_connection() {
    guarded(async {
        let server = ProxiedServer::open().await;
        let (through, _) = server.both(1000);
        let key = Key::from("ann");
        assert_eq!(check(&through, &key).await, Ok(1));
        server.proxy.lose_connections();
        let start = Instant::now();
        let short = || timeout(LIMIT / 4, check(&through, &key));
        while !matches!(short().await, Ok(Ok(_))) {
            assert!(start.elapsed() < Duration::from_secs(4), "for ever");
        }
        println!("recovery with short deadlines: {:.2?}", start.elapsed());
    })
    .await;
}

/// A stalled server must not cost each request its whole deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_deadlines_open_the_circuit() {
    guarded(async {
        for builder in [
            uncached_builder(),
            uncached_builder().atomicity(Atomicity::Optimistic),
        ] {
            let server = ProxiedServer::by(builder).await;
            let (through, _) = server.both(1000);
            let key = Key::from("ann");
            assert_eq!(check(&through, &key).await, Ok(1));
            server.proxy.set(Mode::Swallow).await;
            let start = Instant::now();
            let short = || timeout(LIMIT / 4, check(&through, &key));
            while short().await != Ok(Err(BackendErrorKind::CircuitOpen)) {
                assert!(start.elapsed() < Duration::from_secs(4), "never");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_to_a_silent_server_times_out() {
    guarded(async {
        let server = ProxiedServer::open().await;
        server.proxy.set(Mode::Swallow).await;
        let start = Instant::now();
        let why = RedisBackend::connect(server.proxy.url()).await;
        let why = why.expect_err("the server must not reply");
        assert!(start.elapsed() < 4 * LIMIT + SLACK, "{:?}", start.elapsed());
        let late = [
            BackendErrorKind::Timeout(LIMIT),
            BackendErrorKind::Unreachable,
        ];
        assert!(late.contains(why.kind()), "{why:?}");
        let lazy = uncached_builder()
            .connect_lazy(server.proxy.url())
            .expect("a URL");
        let lazy = Limiter::new(tokens("api", 5), lazy);
        let why = check_error(&lazy, &Key::from("ann")).await;
        assert!(late.contains(&why), "{why:?}");
    })
    .await;
}
