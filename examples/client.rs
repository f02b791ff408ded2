//! A client that stays within the quota of a server. Any number of processes share the quota, and wait for their turn.
//!
//! Start a server: `cargo run --example playground -- --quota 5/second --key global`
//! Run, in two terminals: `cargo run --features redis --example client -- http://127.0.0.1:3000/ redis://127.0.0.1/ 12`
//!
//! ```text
//!    0 ms 200
//!  400 ms 200
//!  801 ms 200
//! ```

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::Backend as _;
use tower_sluice::response::HeaderFormat;
use tower_sluice::{FailurePolicy, Global, MaxWait, Policy, Quota, RateLimitLayer, RedisBackend};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let [Some(url), Some(redis), Some(count)] = [(); 3].map(|()| arguments.next()) else {
        return Err("usage: client URL REDIS COUNT".into());
    };

    // The upstream allows 5 requests a second. A burst of 1 spaces our requests evenly, so that requests which the
    // network delays and then delivers together still fit. Without Redis the traffic of the other processes is
    // unknown, so this client sends nothing.
    let quota = Quota::per_second(5).burst(1);
    let redis = RedisBackend::connect(redis).await?;
    let limit = RateLimitLayer::new(Policy::new("upstream", quota), Global, redis.clone())
        .wait(MaxWait::within(Duration::from_secs(30)))
        .on_backend_error(FailurePolicy::FailClosed)
        .headers(HeaderFormat::None); // only the upstream's own fields
    let mut client = limit.layer(Client::builder(TokioExecutor::new()).build_http::<Body>());

    let start = Instant::now();
    for _ in 0..count.parse()? {
        let request = Request::get(&url).body(Body::empty())?;
        let response = client.ready().await?.call(request).await?;
        println!(
            "{:>6} ms {}",
            start.elapsed().as_millis(),
            response.status().as_u16()
        );
        assert_ne!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    }
    // Wait for background tasks before the process ends: refunds and cancelled reservations.
    let report = redis.context().idle(Duration::from_secs(5)).await;
    if !report.is_complete() {
        eprintln!("{report}");
    }
    Ok(())
}
