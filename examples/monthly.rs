//! A plan of 10,000 requests a month, counted from the customer's billing day in the customer's time zone.
//!
//! Run: `cargo run --features calendar --example monthly`

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::quota::Every;
use tower_sluice::{Header, MemoryBackend, Policy, Quota, RateLimitLayer};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 20 January 2027, 08:00 UTC. A service leaves the clock out.
    let clock = ManualClock::at(Timestamp::from_micros(1_800_432_000_000_000));
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let month = Quota::calendar_window(10_000, Every::Month { day: 15 }, "Europe/Zurich");
    assert_eq!(month, "calendar:10000/month@15 Europe/Zurich".parse()?);
    let policy = Policy::new("plan", month);

    // A batch of 4,000 rows costs 4,000.
    let limit = RateLimitLayer::new(policy, Header::new("x-customer"), backend).cost(4_000);
    let mut service = ServiceBuilder::new()
        .layer(limit)
        .service_fn(|_: Request<()>| async {
            Ok::<_, std::convert::Infallible>(Response::new(Full::<bytes::Bytes>::default()))
        });
    let mut batch = async || -> Result<Response<_>, Box<dyn std::error::Error>> {
        let request = Request::builder().header("x-customer", "acme").body(())?;
        Ok(service.ready().await?.call(request).await?)
    };

    assert_eq!(batch().await?.status(), StatusCode::OK);
    let second = batch().await?;
    // The window from 15 January to 15 February has 31 days. It ends at midnight in Zurich, 23:00 UTC.
    assert_eq!(
        second.headers()["ratelimit-policy"],
        "\"plan\";q=10000;w=2678400"
    );
    assert_eq!(second.headers()["ratelimit"], "\"plan\";r=2000;t=2214000");
    let third = batch().await?;
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(third.headers()["retry-after"], "2214000");

    clock.advance(26 * DAY);
    let next = batch().await?;
    assert_eq!(next.status(), StatusCode::OK);
    // The window from 15 February to 15 March has 28 days.
    assert_eq!(
        next.headers()["ratelimit-policy"],
        "\"plan\";q=10000;w=2419200"
    );
    println!("two batches were allowed in the first month, and the count began anew on the 15th");
    Ok(())
}
