//! An axum server with one route, for `run.sh`. The argument chooses what is in front of the route.
//!
//! The server runs on one thread, so that the load generator has a core of its own. Both limiters use the address of the
//! peer as the key, and are as they come. `sluice-silent` writes no header fields and no extensions, as tower_governor
//! does. The quota of `..-allowed` refills so slowly that every key owes something, and
//! is so large that no request is denied. The quota of `..-denied` allows one request an hour.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;
use tower_sluice::response::HeaderFormat;
use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};

type Error = Box<dyn std::error::Error>;

const PLENTY: u32 = 1_000_000_000;

type Layer = RateLimitLayer<PeerIp, MemoryBackend>;

fn sluice(quota: Quota) -> Layer {
    RateLimitLayer::new(
        Policy::new("bench", quota),
        PeerIp::new(),
        MemoryBackend::new(),
    )
}

/// A burst that refills by one request in `period`.
fn governor(period: Duration, burst: u32) -> Result<Router, Error> {
    let mut config = GovernorConfigBuilder::default();
    let config = config.period(period).burst_size(burst).finish();
    Ok(router().layer(GovernorLayer::new(config.ok_or("an invalid quota")?)))
}

fn router() -> Router {
    Router::new().route("/", get(async || "hello"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let app = match std::env::args().nth(1).as_deref() {
        Some("bare") => router(),
        Some("sluice-silent") => router().layer(
            sluice(Quota::per_hour(PLENTY.into()))
                .headers(HeaderFormat::None)
                .extensions(false),
        ),
        Some("sluice-allowed") => router().layer(sluice(Quota::per_hour(PLENTY.into()))),
        Some("sluice-denied") => router().layer(sluice(Quota::per_hour(1))),
        Some("governor-allowed") => governor(Duration::from_micros(4), PLENTY)?,
        Some("governor-denied") => governor(Duration::from_secs(3_600), 1)?,
        _ => {
            return Err(
                "the argument is bare, sluice-silent, sluice-allowed, sluice-denied, governor-allowed or governor-denied".into(),
            );
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await?;
    Ok(())
}
