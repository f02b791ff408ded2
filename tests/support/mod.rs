//! Real servers for tests, and what goes wrong between them and us.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod clock_proxy;
#[cfg(feature = "redis")]
pub(crate) mod expiring;
pub(crate) mod frozen;
pub(crate) mod property;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod stalls;
#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// A port that nobody listens on, and that nobody in this process is given again.
///
/// From below the range that outgoing connections take theirs from: a server that was killed finds its port free when it
/// comes back, and who connects meanwhile cannot meet himself.
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
