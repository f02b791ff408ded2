//! Connecting to Redis: URLs, pools, given connections, TLS, and the names of keys.

mod names;
mod processes;
mod settings;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "tls")]
mod tls;
mod urls;

use std::time::{Duration, Instant};

use tower_sluice::backend::Backend;
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) fn an_hour(limit: u64) -> Policy {
    Policy::new("api", Quota::per_hour(limit))
}

/// Without a deny cache, which would keep a denial for a second after a restart.
pub(crate) fn builder() -> RedisBuilder {
    RedisBackend::builder().deny_cache(Duration::ZERO)
}

/// Spends one of ten tokens of this key, and returns the remaining tokens.
pub(crate) async fn spend<B: Backend>(backend: &B, key: &str) -> Result<u64, B::Error> {
    let limiter = Limiter::new(an_hour(10), backend.clone());
    let reply = limiter.check(&Key::from(key), 1).await?;
    assert!(reply.decision.is_allowed());
    Ok(reply.decision.snapshot().remaining())
}

/// The time until Redis decides again.
pub(crate) async fn recovery<B: Backend>(backend: &B) -> Duration {
    let start = Instant::now();
    while spend(backend, "recovery").await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "no answer");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}
