//! Semaphores that are off hold nothing.

use futures_util::FutureExt;
use http::{Request, Response};
use tower::Layer;
use tower_sluice::concurrency::{HeldPermit, SemaphoreLayer};
use tower_sluice::key::Header;
use tower_sluice::{
    AnyBackend, FailurePolicy, Key, MaxWait, MemorySemaphore, Semaphore, SemaphorePolicy, Switch,
};

use crate::support::{USER, from, hello, now, seen};

fn one() -> SemaphorePolicy {
    SemaphorePolicy::new("exports", 1)
}

#[test]
fn a_layer_that_is_off_holds_nothing_and_writes_nothing() {
    let (backend, switch) = (MemorySemaphore::new(), Switch::new(false));
    let layer = SemaphoreLayer::new(one(), Header::new(USER), backend.clone())
        .wait(MaxWait::Unbounded)
        .response_extensions(true)
        .enabled(&switch);
    let mut service = layer.layer(hello());
    let held: Vec<_> = (0..3)
        .map(|_| now(&mut service, from("ann")).expect("no error"))
        .collect();
    for response in &held {
        assert_eq!(
            (response.status().as_u16(), response.headers().len()),
            (200, 0)
        );
        assert!(response.extensions().is_empty());
    }
    assert_eq!(backend.held(), 0);
    let unkeyed = seen(&mut service, Request::new(()));
    assert_eq!(unkeyed.status, 200, "its key is not read");
    switch.set(true);
    let held = now(&mut service, from("ann")).expect("no error");
    assert_eq!((held.headers().len(), backend.held()), (2, 1));
    switch.set(false);
    drop(held);
    assert_eq!(
        backend.held(),
        0,
        "what is held is released while the limit is off"
    );
}

#[test]
fn a_handler_finds_an_empty_permit_while_the_layer_is_off() {
    let layer = SemaphoreLayer::new(one(), Header::new(USER), MemorySemaphore::new());
    let inspect = tower::service_fn(|request: Request<()>| async move {
        let held = request
            .extensions()
            .get::<HeldPermit>()
            .expect("it must exist");
        let body = format!("{} {}", held.keep().permits().count(), held.is_lost());
        Ok::<_, std::convert::Infallible>(Response::new(body))
    });
    let mut service = layer.enabled(false).layer(inspect);
    assert_eq!(seen(&mut service, from("ann")).body, "0 false");
}

#[test]
fn a_semaphore_that_is_off_gives_permits_that_occupy_nothing() {
    let (backend, ann) = (MemorySemaphore::new(), Key::from("ann"));
    let semaphore = Semaphore::new(one(), backend.clone()).enabled(false);
    let tier = semaphore.with_policy(&one());
    let held: Vec<_> = (0..3)
        .map(|_| tier.acquire(&ann, 7, MaxWait::Unbounded).now_or_never())
        .map(|permit| permit.expect("at once").expect("off"))
        .collect();
    for permit in &held {
        assert_eq!((permit.weight(), permit.is_lost()), (7, false));
        assert_eq!(permit.decision().snapshot().remaining(), 1);
        assert!(permit.lost().now_or_never().is_none());
    }
    let peeked = tier.peek(&ann).now_or_never().expect("at once");
    assert_eq!(peeked.map(|seen| seen.remaining()), Ok(1));
    assert_eq!(backend.held(), 0);
    for permit in held {
        let released = permit.release().now_or_never().expect("at once");
        assert!(released.expect("nothing fails"), "it lasted until now");
    }
}

#[cfg(feature = "blocking")]
#[test]
fn a_blocking_semaphore_that_is_off_gives_permits_that_occupy_nothing() {
    let (backend, ann) = (MemorySemaphore::new(), Key::from("ann"));
    let semaphore = tower_sluice::blocking::Semaphore::new(one(), backend.clone()).enabled(false);
    let held = [
        semaphore.try_acquire(&ann, 1),
        semaphore.acquire(&ann, 9, MaxWait::Unbounded),
    ];
    assert!(held.iter().all(Result::is_ok));
    assert_eq!(backend.held(), 0);
}

#[test]
fn an_off_url_turns_off_semaphores() {
    let backend = AnyBackend::from_url("off:").expect("a known URL");
    let layer = SemaphoreLayer::new(one(), Header::new(USER), backend.clone())
        .on_backend_error(FailurePolicy::FailClosed);
    let mut service = layer.layer(hello());
    let held: Vec<_> = (0..3)
        .map(|_| now(&mut service, from("ann")).expect("no error"))
        .collect();
    assert!(
        held.iter()
            .all(|response| response.status() == 200 && response.headers().is_empty())
    );
    let semaphore = Semaphore::new(one(), backend);
    let held = [1, 1].map(|weight| {
        semaphore
            .try_acquire(&Key::from("ann"), weight)
            .now_or_never()
    });
    assert!(held.iter().all(|permit| matches!(permit, Some(Ok(_)))));
}
