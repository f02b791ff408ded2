//! Limits that are off: the backend is not asked, nothing is charged, and no header field is written.

use std::time::Duration;

use futures_util::FutureExt;
use http::Request;
use tower::Layer;
use tower_sluice::{
    AnyBackend, Charge, FailurePolicy, Key, Limiter, MaxWait, RateLimitLayer, Switch,
};

use crate::remote::Remote;
use crate::support::{USER, by_user, from, hello, memory, seen, spent, two_a_minute};

/// The output of a future that is ready at once.
fn ask<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("an answer at once")
}

#[test]
fn a_layer_that_is_off_asks_nothing_and_writes_nothing() {
    for remote in Remote::each_kind() {
        let key = tower_sluice::Header::new(USER);
        let layer = RateLimitLayer::new(two_a_minute(), key, remote.clone())
            .on_backend_error(FailurePolicy::FailClosed)
            .wait(MaxWait::Unbounded)
            .response_extensions(true)
            .enabled(false);
        let mut service = layer.layer(hello());
        for _ in 0..5 {
            let response = seen(&mut service, from("ann"));
            assert_eq!((response.status.as_u16(), response.headers.len()), (200, 0));
        }
        let unkeyed = seen(&mut service, Request::new(()));
        assert_eq!(unkeyed.status, 200, "its key is not read");
        assert_eq!(remote.operations(), [""; 0]);
    }
}

#[test]
fn a_switch_is_shared_by_clones_of_a_service_and_keeps_debts() {
    let (backend, switch) = (memory(), Switch::new(true));
    let layer = RateLimitLayer::new(
        two_a_minute(),
        tower_sluice::Header::new(USER),
        backend.clone(),
    );
    let mut service = layer.enabled(&switch).layer(hello());
    let mut clone = service.clone();
    let mut statuses = || {
        let both = [&mut service, &mut clone].map(|service| seen(service, from("ann")));
        both.map(|response| response.status.as_u16())
    };
    assert_eq!(statuses(), [200, 200]);
    assert_eq!(statuses(), [429, 429]);
    switch.set(false);
    assert_eq!(statuses(), [200, 200]);
    assert_eq!(spent(&backend, &two_a_minute(), &Key::secret("ann")), [2]);
    switch.set(true);
    assert_eq!(statuses(), [429, 429]);
}

#[test]
fn a_request_of_a_layer_that_is_off_has_an_empty_charge_inside_the_outer_one() {
    let outer = by_user();
    let inner = by_user().enabled(false);
    let inspect = tower::service_fn(|request: Request<()>| async move {
        let charge = request.extensions().get::<Charge>().expect("it must exist");
        let outer = charge.outer().expect("the outer layer charges");
        let seen = (charge.decision(), charge.estimate(), outer.estimate());
        let settled = charge.settle(5).await.map(|after| after.is_some());
        let body = format!("{seen:?} {settled:?}");
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    });
    let response = seen(&mut outer.layer(inner.layer(inspect)), from("ann"));
    assert_eq!(response.body, "(None, None, Some(Cost(1))) Ok(false)");
    assert_eq!(response.lines("ratelimit"), [r#""api";r=1"#]);
}

#[test]
fn a_limiter_that_is_off_allows_with_the_numbers_of_an_unused_key() {
    let (backend, switch, ann) = (memory(), Switch::new(true), Key::from("ann"));
    let limiter = Limiter::new(two_a_minute(), backend.clone()).enabled(&switch);
    let reserved = ask(limiter.reserve(&ann, 2, Duration::ZERO)).expect("memory");
    let reservation = reserved.reservation.expect("two are free");
    switch.set(false);
    for tier in [limiter.clone(), limiter.with_policy(&two_a_minute())] {
        let checked = ask(tier.check(&ann, 9)).expect("off");
        assert!(checked.decision.is_allowed() && checked.receipt.is_none());
        assert_eq!(checked.decision.snapshot().remaining(), 2);
        assert!(tier.check_now(&ann, 9).decision.is_allowed());
        let later = ask(tier.reserve(&ann, 9, Duration::ZERO)).expect("off");
        assert!(later.decision.is_allowed() && later.reservation.is_none());
        let charge = ask(tier.acquire(&ann, 9, MaxWait::Unbounded)).expect("off");
        assert_eq!((charge.decision(), charge.estimate()), (None, None));
        assert_eq!(ask(tier.limit(&ann, 9, async { 7 })), Ok(7));
        assert_eq!(ask(tier.peek(&ann)).map(|seen| seen.remaining()), Ok(2));
        assert!(ask(tier.penalize(&ann, 9)).is_ok());
    }
    assert_eq!(spent(&backend, &two_a_minute(), &ann), [2]);
    let cancelled = limiter.cancel(&ann, reservation).now_or_never();
    assert_eq!(
        cancelled,
        Some(Ok(true)),
        "what was reserved before is returned"
    );
    assert_eq!(spent(&backend, &two_a_minute(), &ann), [0]);
}

#[cfg(feature = "blocking")]
#[test]
fn a_blocking_limiter_that_is_off_allows_everything() {
    use tower_sluice::blocking;
    let (backend, ann) = (memory(), Key::from("ann"));
    let limiter = blocking::Limiter::new(two_a_minute(), backend.clone()).enabled(false);
    let tier = limiter.with_policy(&two_a_minute());
    assert!(
        tier.check(&ann, 9)
            .is_ok_and(|reply| reply.decision.is_allowed())
    );
    assert!(
        tier.reserve(&ann, 9, Duration::ZERO)
            .is_ok_and(|reply| reply.reservation.is_none())
    );
    assert!(
        tier.acquire(&ann, 9, MaxWait::NONE)
            .is_ok_and(|charge| charge.estimate().is_none())
    );
    assert_eq!(tier.peek(&ann).map(|seen| seen.remaining()), Ok(2));
    assert!(tier.penalize(&ann, 9).is_ok());
    assert_eq!(spent(&backend, &two_a_minute(), &ann), [0]);
}

#[test]
fn an_off_url_turns_off_every_limit_of_the_backend() {
    for url in ["off:", "OFF://"] {
        let backend = AnyBackend::from_url(url).expect("a known URL");
        let key = tower_sluice::Header::new(USER);
        let layer = RateLimitLayer::new(two_a_minute(), key, backend.clone())
            .on_backend_error(FailurePolicy::FailClosed);
        let mut service = layer.enabled(true).layer(hello());
        for _ in 0..5 {
            let response = seen(&mut service, from("ann"));
            assert_eq!((response.status.as_u16(), response.headers.len()), (200, 0));
        }
        let limiter = Limiter::new(two_a_minute(), backend);
        for _ in 0..5 {
            let charge = ask(limiter.try_acquire(&Key::from("ann"), 1)).expect("off");
            assert_eq!(charge.decision(), None);
        }
    }
    let why = AnyBackend::from_url("off:redis://secret@host").expect_err("not a URL");
    assert!(!why.to_string().contains("secret"), "{why}");
}
