//! Waiting for a permit, with a manual clock.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service, ServiceExt};
use tower_sluice::backend::{Answer, BackendContext};
use tower_sluice::clock::{Clock as _, ManualClock, Timestamp};
use tower_sluice::concurrency::HeldPermit;
use tower_sluice::semaphore::{PermitBackend, PermitOp, PermitReply};
use tower_sluice::{
    Deadline, FailurePolicy, Header, Key, MemoryBackend, MemorySemaphore, SemaphoreLayer,
    SemaphorePolicy,
};

use crate::services::{Memory, endless, fed, reported};
use crate::support::{ClientResponse, TIMEOUT, USER, clock, from, run_other_tasks};

const SECOND: Duration = Duration::from_secs(1);

fn one(
    clock: &ManualClock,
) -> (
    MemorySemaphore<ManualClock>,
    SemaphoreLayer<tower_sluice::Header, MemorySemaphore<ManualClock>>,
) {
    let memory = MemorySemaphore::builder().clock(clock.clone()).build();
    let layer = SemaphoreLayer::new(
        SemaphorePolicy::new("exports", 1),
        tower_sluice::Header::new("x-user"),
        memory.clone(),
    );
    (memory, layer)
}

#[tokio::test]
async fn waiters_are_served_in_order_when_a_body_ends() {
    let (memory, layer) = one(&clock());
    let (service, mut called) = reported();
    let mut service = layer.wait(10 * SECOND).layer(service);
    let mut calls = Vec::new();
    for number in 0..4_u32 {
        let mut request = from("ann");
        request.extensions_mut().insert(number);
        let mut call = Box::pin(service.ready().await.expect("ready").call(request));
        assert!((&mut call).now_or_never().is_none());
        calls.push(call);
    }
    for (number, call) in calls.into_iter().enumerate() {
        let call = tokio::spawn(call);
        let (request, answer) = called.recv().await.expect("a call");
        assert_eq!(request.extensions().get(), Some(&(number as u32)));
        run_other_tasks().await;
        assert!(called.try_recv().is_err(), "one at a time");
        let (_feed, body) = fed();
        assert!(answer.send(Ok(body)).is_ok());
        let response = call.await.expect("no panic").expect("no error");
        assert_eq!(memory.held(), 1);
        drop(response);
    }
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn the_wait_ends_at_its_bound_at_a_deadline_and_at_a_grpc_timeout() {
    let clock = clock();
    let (_, layer) = one(&clock);
    let mut service = layer.wait(10 * SECOND).layer(endless());
    let held = service
        .ready()
        .await
        .expect("ready")
        .call(from("ann"))
        .await;
    let began = clock.now().as_micros();
    let mut deadline = from("ann");
    let end = Deadline::at(Timestamp::from_micros(began + 3_000_000));
    deadline.extensions_mut().insert(end);
    let mut timeout = from("ann");
    timeout
        .headers_mut()
        .insert("grpc-timeout", "7S".parse().expect("a value"));
    for (request, seconds) in [(from("ann"), 10), (deadline, 3), (timeout, 7)] {
        clock.set(Timestamp::from_micros(began));
        let call = tokio::spawn(service.ready().await.expect("ready").call(request));
        run_other_tasks().await;
        clock.advance(seconds * SECOND - Duration::from_micros(1));
        run_other_tasks().await;
        assert!(!call.is_finished(), "{seconds}");
        clock.advance(Duration::from_micros(1));
        run_other_tasks().await;
        assert!(call.is_finished(), "{seconds}");
        let response = call.await.expect("no panic").expect("no error");
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        let seen = ClientResponse::of(response).await;
        assert_eq!(seen.lines("retry-after"), ["1"]);
    }
    drop(held);
}

#[tokio::test]
async fn client_disconnect_leaves_the_queue() {
    let (memory, layer) = one(&clock());
    let (service, mut called) = reported();
    let mut service = layer.wait(10 * SECOND).layer(service);
    let mut call = || {
        let ready = service.ready().now_or_never().expect("at once");
        let mut call = Box::pin(ready.expect("ready").call(from("ann")));
        assert!((&mut call).now_or_never().is_none());
        call
    };
    let (first, second, third) = (call(), call(), tokio::spawn(call()));
    drop(second);
    drop(first);
    let _gone = called.recv().await.expect("the first");
    let (request, _answer) = called.recv().await.expect("the third");
    assert!(request.extensions().get::<HeldPermit>().is_some());
    assert_eq!(memory.held(), 1);
    third.abort();
    run_other_tasks().await;
    assert_eq!((memory.held(), memory.keys()), (0, 0));
}

#[tokio::test]
async fn a_handler_sees_how_long_its_request_has_waited() {
    let clock = clock();
    let (_, layer) = one(&clock);
    let (service, mut called) = reported();
    let mut service = layer.wait(10 * SECOND).layer(service);
    let first = tokio::spawn(service.ready().await.expect("ready").call(from("ann")));
    let waited = |request: &Request<()>| {
        let kept = request
            .extensions()
            .get::<HeldPermit>()
            .expect("it must exist")
            .keep();
        kept.permits()
            .map(|permit| permit.waited())
            .sum::<Duration>()
    };
    let (request, answer) = called.recv().await.expect("a call");
    assert_eq!(waited(&request), Duration::ZERO);
    let second = tokio::spawn(service.ready().await.expect("ready").call(from("ann")));
    run_other_tasks().await;
    clock.advance(2 * SECOND);
    assert!(answer.send(Err("the lease is over")).is_ok());
    assert!(first.await.expect("no panic").is_err());
    let (request, _answer) = called.recv().await.expect("a call");
    assert_eq!(waited(&request), 2 * SECOND);
    second.abort();
}

/// Fails when the test releases it. Uses the time of `Memory`.
#[derive(Clone)]
struct Fails(Memory, Arc<tokio::sync::Semaphore>);

impl PermitBackend for Fails {
    type Error = std::fmt::Error;
    type Future = Pin<Box<dyn Future<Output = Result<PermitReply, std::fmt::Error>> + Send>>;

    fn ask(
        &self,
        op: PermitOp,
        _: &SemaphorePolicy,
        _: &Key,
    ) -> Answer<Result<PermitReply, std::fmt::Error>, Self::Future> {
        let gate = Arc::clone(&self.1);
        Answer::Later(Box::pin(async move {
            // Releases fail at once.
            if matches!(op, PermitOp::Acquire { .. } | PermitOp::Wait { .. }) {
                gate.acquire().await.expect("open").forget();
            }
            Err(std::fmt::Error)
        }))
    }

    fn context(&self) -> &BackendContext {
        self.0.context()
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_attempt(&self, _: &SemaphorePolicy, _: &PermitReply, _: usize) -> Option<Duration> {
        None
    }
}

#[tokio::test]
async fn request_waits_at_the_fallback_for_the_rest_of_max_wait() {
    let clock = clock();
    let memory = MemorySemaphore::builder().clock(clock.clone()).build();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let backend = Fails(memory, Arc::clone(&gate));
    let layer = SemaphoreLayer::new(
        SemaphorePolicy::new("exports", 1),
        Header::new(USER),
        backend,
    )
    .on_backend_error(FailurePolicy::Fallback(MemoryBackend::new()))
    .wait(3_600 * SECOND);
    let service = layer.layer(endless());
    let call = || tokio::spawn(service.clone().oneshot(from("ann")));
    let fail = async || {
        run_other_tasks().await;
        gate.add_permits(1);
        run_other_tasks().await;
    };
    let answer = async |call: tokio::task::JoinHandle<Result<_, Infallible>>| {
        let answer = tokio::time::timeout(TIMEOUT, call).await.expect("in time");
        answer.expect("no panic").expect("no error")
    };
    let first = call();
    fail().await;
    let first = answer(first).await;
    let second = call();
    fail().await;
    assert!(!second.is_finished(), "the request waits in this process");
    drop(first);
    let second: Response<_> = answer(second).await;
    assert_eq!(second.status(), 200);

    let third = call();
    run_other_tasks().await;
    clock.advance(3_600 * SECOND - Duration::from_millis(20));
    fail().await;
    assert_eq!(answer(third).await.status(), 429);
}
