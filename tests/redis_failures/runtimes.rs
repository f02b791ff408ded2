//! Runtimes that end, or that are no longer driven, while they hold tasks of a shared backend.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tower_sluice::Key;

use crate::harness::{LIMIT, Redis, SLACK, check, guarded, tokens, uncached_builder};
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// Checks until Redis replies, and returns the time that it took.
async fn until_answered(limiter: &Redis, most: Duration) -> Duration {
    let start = Instant::now();
    while check(limiter, &Key::from("ann")).await.is_err() {
        assert!(start.elapsed() < most, "no answer after {most:?}");
        sleep(Duration::from_millis(50)).await;
    }
    start.elapsed()
}

/// A connection attempt ends with its runtime, and the pool still counts it.
#[test]
fn backend_outlives_a_runtime_that_ends_while_connecting() {
    let (server, network) = (RedisServer::start(), tokio::runtime::Runtime::new());
    let network = network.expect("a runtime");
    let proxy = network.block_on(Proxy::to(server.port()));
    network.block_on(proxy.set(Mode::Swallow));
    let backend = uncached_builder().connect_lazy(proxy.url()).expect("a URL");
    let limiter = Redis::new(tokens("api", 1000), backend);
    let key = Key::from("ann");
    let lost = runtime().block_on(check(&limiter, &key));
    assert!(lost.is_err(), "{lost:?}");
    network.block_on(proxy.set(Mode::Pass));
    runtime().block_on(guarded(async {
        let took = until_answered(&limiter, 4 * SLACK).await;
        println!("recovery from a runtime that ended while it connected: {took:.2?}");
    }));
}

/// Round trips in idle runtimes never end, and stay counted as in flight.
#[test]
fn idle_runtimes_delay_no_request() {
    let server = RedisServer::start();
    let driven = runtime();
    let backend = driven.block_on(uncached_builder().connect(server.url()));
    let limiter = Redis::new(tokens("api", 1000), backend.expect("the server runs"));
    server.pause();
    let mut kept = Vec::new();
    for number in 0..6_u64 {
        let undriven = runtime();
        let hasty = async { timeout(LIMIT / 12, check(&limiter, &Key::from(number))).await };
        assert!(
            undriven.block_on(hasty).is_err(),
            "the server must not reply"
        );
        kept.push(undriven);
    }
    server.resume();
    driven.block_on(guarded(async {
        let took = until_answered(&limiter, 4 * SLACK).await;
        println!("recovery from runtimes that are not driven: {took:.2?}");
        for _ in 0..20 {
            let answered = check(&limiter, &Key::from("bob")).await;
            assert!(answered.is_ok(), "{answered:?}");
        }
    }));
    drop(kept);
}
