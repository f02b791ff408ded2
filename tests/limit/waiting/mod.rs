//! Requests that wait for tokens, with a manual clock: how long, in which order, and what they hold meanwhile.

mod bounds;
mod deadlines;
mod disconnects;
mod failures;
mod nesting;
mod order;
mod protocols;
mod readiness;

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Service, ServiceExt};
use tower_sluice::backend::Backend;
use tower_sluice::clock::ManualClock;
use tower_sluice::{
    Charge, Cost, FailurePolicy, Global, Key, MemoryBackend, Policy, Quota, RateLimitLayer,
};

use crate::remote::Remote;
use crate::support::{Memory, clock, run_other_tasks};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// One token, and one more each second.
pub(crate) fn one_a_second() -> Policy {
    Policy::new("api", Quota::per_second(1))
}

pub(crate) fn key() -> Key {
    Key::from("global")
}

pub(crate) type Limit<B> = RateLimitLayer<Global, B, Cost, FailurePolicy>;

/// Requests wait for at most ten seconds.
pub(crate) fn over<B: Backend>(policy: &Policy, backend: &B) -> Limit<B> {
    RateLimitLayer::new(policy.clone(), Global, backend.clone())
        .on_backend_error(FailurePolicy::FailClosed)
        .wait(seconds(10))
        .response_extensions(true)
}

pub(crate) fn limit<B: Backend>(backend: &B) -> Limit<B> {
    over(&one_a_second(), backend)
}

/// A backend of each kind, with its clock.
pub(crate) fn each() -> impl Iterator<Item = (ManualClock, Remote)> {
    Remote::each_kind().into_iter().map(|remote| {
        let clock = clock();
        (clock.clone(), remote.with_clock(&clock))
    })
}

pub(crate) fn memory_with_clock(clock: &ManualClock) -> Memory {
    MemoryBackend::builder().clock(clock.clone()).build()
}

pub(crate) fn request() -> Request<()> {
    Request::new(())
}

/// Calls a ready service.
pub(crate) fn call<S: Service<Request<()>, Error = Infallible>>(
    service: &mut S,
    request: Request<()>,
) -> Pin<Box<S::Future>> {
    let ready = service.ready().now_or_never().expect("ready");
    let Ok(ready) = ready;
    Box::pin(ready.call(request))
}

/// The output of the future, if it completes without time passing.
pub(crate) async fn answer<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    for _ in 0..3 {
        if let Some(answer) = (&mut future).now_or_never() {
            return Some(answer);
        }
        run_other_tasks().await;
    }
    None
}

macro_rules! assert_waits {
    ($future:expr) => {
        assert!(
            crate::waiting::answer(&mut $future).await.is_none(),
            "it has not waited"
        )
    };
}

macro_rules! status {
    ($future:expr) => {
        match crate::waiting::answer(&mut $future).await {
            Some(Ok(response)) => response.status().as_u16(),
            _ => panic!("no answer"),
        }
    };
}

pub(crate) use {assert_waits, status};

pub(crate) async fn reports_its_wait(
    request: Request<()>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let charge = request.extensions().get::<Charge>().expect("a charge");
    Ok(Response::new(Full::from(format!("{:?}", charge.waited()))))
}
