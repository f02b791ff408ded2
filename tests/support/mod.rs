//! Real servers for tests, and failures of the network.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod bus;
pub(crate) mod clock_proxy;
pub(crate) mod cluster;
#[cfg(feature = "redis")]
pub(crate) mod expiring;
pub(crate) mod frames;
pub(crate) mod frozen;
pub(crate) mod property;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod sentinels;
pub(crate) mod stalls;
#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// A free port whose cluster bus, 10,000 above it, has a free port too.
pub(crate) fn free_port_with_bus() -> u16 {
    loop {
        let port = free_port();
        // Above 32,768 are the ports of outgoing connections.
        if port < 22_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

/// A free port that no other test of this process gets.
///
/// It is below the range of outgoing connections. A restarted server finds its port free, and a client cannot connect
/// to itself.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 16_000..32_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| rand::random_range(PORTS).into());
    for _ in PORTS {
        let port = PORTS.start + NEXT.fetch_add(1, Relaxed) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {} to {}", PORTS.start, PORTS.end);
}
