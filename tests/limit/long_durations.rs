//! Configured spans as long as their types allow: no sum of times overflows.

use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use tower::{Layer, Service};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::{Deadline, Global, MaxWait, MemoryBackend, Policy, Quota, RateLimitLayer};

use crate::support::hello;

#[tokio::test]
async fn longest_spans_do_not_overflow() {
    for start in [0, 1_800_000_000_000_000, u64::MAX] {
        let clock = ManualClock::at(Timestamp::from_micros(start));
        let backend = MemoryBackend::builder().clock(clock.clone());
        let backend = backend.idle_ttl(Duration::MAX).build();
        let quota = Quota::per_second(1).initial_tokens(0);
        for quota in [quota, Quota::fixed_window(1, Duration::from_secs(1))] {
            let policy = Policy::new("spans", quota);
            let limit = RateLimitLayer::new(policy, Global, backend.clone());
            let limit = limit.retry_after_jitter(Duration::MAX);
            let mut denies = limit.clone().layer(hello::<()>());
            let mut waits = limit
                .wait(MaxWait::within(Duration::MAX))
                .layer(hello::<()>());
            for deadline in [Deadline::at(Timestamp::MAX), Deadline::after(Duration::MAX)] {
                let mut request = Request::new(());
                request.extensions_mut().insert(deadline);
                let timeout = http::HeaderValue::from_static("99999999H");
                request.headers_mut().insert("grpc-timeout", timeout);
                let _ = waits.call(request).now_or_never();
                let rejected: Option<Result<Response<_>, _>> =
                    denies.call(Request::new(())).now_or_never();
                assert!(rejected.is_some(), "memory answers at once");
            }
        }
        clock.advance(Duration::MAX);
    }
}
