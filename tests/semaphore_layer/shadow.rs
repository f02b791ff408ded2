//! Shadow policies of semaphores acquire and report, and allow every request.

use futures_util::FutureExt;
use http::Request;
use tower::Layer;
use tower_sluice::concurrency::SemaphoreLayer;
use tower_sluice::key::Header;
use tower_sluice::{Decision, Key, MaxWait, MemorySemaphore, Semaphore, SemaphorePolicy};

use crate::support::{USER, from, hello, now, seen};

fn shadow() -> SemaphorePolicy {
    SemaphorePolicy::new("exports", 1).shadow()
}

#[test]
fn a_denied_request_continues_without_a_permit_and_is_reported() {
    let backend = MemorySemaphore::new();
    let layer = SemaphoreLayer::new(shadow(), Header::new(USER), backend.clone())
        .wait(MaxWait::Unbounded)
        .shadow_header(true)
        .response_extensions(true);
    let mut service = layer.layer(hello());
    let mut ask = || now(&mut service, from("ann")).expect("no error");
    let (first, second) = (ask(), ask());
    assert_eq!(
        (first.status(), first.headers().len()),
        (second.status(), 0)
    );
    assert_eq!(second.status(), 200);
    assert_eq!(second.headers()["x-ratelimit-shadow"], "exports");
    assert_eq!(second.headers().len(), 1, "no rate-limit fields");
    let allowed = [&first, &second].map(|response| {
        let decision = response.extensions().get::<Decision>();
        decision.expect("it must exist").is_allowed()
    });
    assert_eq!(allowed, [true, false]);
    assert_eq!(backend.held(), 1);
    drop(first);
    assert!(
        !ask().headers().contains_key("x-ratelimit-shadow"),
        "a permit is free"
    );
}

#[test]
fn permits_are_shared_with_the_enforced_policy_of_the_name() {
    let backend = MemorySemaphore::new();
    let layer = SemaphoreLayer::new(shadow(), Header::new(USER), backend.clone());
    let mut service = layer.layer(hello());
    let held = now(&mut service, from("ann")).expect("no error");
    let enforced = SemaphorePolicy::new("exports", 1);
    assert_ne!(enforced, shadow());
    let layer = SemaphoreLayer::new(enforced, Header::new(USER), backend.clone());
    assert_eq!(seen(&mut layer.layer(hello()), from("ann")).status, 429);
    // Without a layer a shadow policy denies as usual.
    let semaphore = Semaphore::new(shadow(), backend);
    let ann = Key::secret("ann");
    let denied = semaphore.try_acquire(&ann, 1).now_or_never();
    assert!(denied.is_some_and(|denied| denied.is_err()));
    drop(held);
}

#[test]
fn a_request_without_a_key_continues_unless_the_policy_is_chosen_for_it() {
    let layer = || SemaphoreLayer::new(shadow(), Header::new(USER), MemorySemaphore::new());
    assert_eq!(
        seen(&mut layer().layer(hello()), Request::new(())).status,
        200
    );
    let chosen = layer().policy_fn(|_, _| shadow());
    assert_eq!(
        seen(&mut chosen.layer(hello()), Request::new(())).status,
        400
    );
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_failure_of_the_backend_rejects_nothing() {
    use tower::{Service, ServiceExt};
    use tower_sluice::{AnyBackend, FailurePolicy};
    // Nothing listens there.
    let down = AnyBackend::from_url("redis://127.0.0.1:1/").expect("a valid URL");
    for (policy, status) in [(shadow(), 200), (SemaphorePolicy::new("exports", 1), 503)] {
        let layer = SemaphoreLayer::new(policy, Header::new(USER), down.clone())
            .on_backend_error(FailurePolicy::FailClosed);
        let mut service = layer.layer(hello());
        let service = service.ready().await.expect("ready");
        let response = service.call(from("ann")).await.expect("no error");
        assert_eq!(response.status(), status);
    }
}
