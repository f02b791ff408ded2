//! `on_rejected` sees each rejection once, with the key, and does not change the response.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use tower::Layer;
use tower_sluice::key::{Header, KeyError, Networks, PeerAddr};
use tower_sluice::response::Rejection;
use tower_sluice::{
    ClientIp, FailurePolicy, Global, Head, Key, MaxWait, MemoryBackend, Policy, RateLimitLayer,
};

use crate::remote::Remote;
use crate::support::{USER, ask, by_user, from, hello, memory, seen, two_a_minute};

/// A path, a key and a rejection.
type Observed = (String, Option<Key>, Rejection);

/// The observations of a hook.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Observed>>>);

impl Seen {
    fn hook(&self) -> impl Fn(&Head<'_>, Option<&Key>, &Rejection) + Send + Sync + 'static {
        let seen = self.clone();
        move |head, key, rejection| {
            let path = head.path().to_owned();
            let mut seen = seen.0.lock().expect("no panic");
            seen.push((path, key.cloned(), rejection.clone()));
        }
    }

    fn take(&self) -> Vec<Observed> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }

    /// The key and the kind of the only rejection.
    fn one(&self) -> (Option<Key>, &'static str) {
        let mut seen = self.take();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let (_, key, rejection) = seen.remove(0);
        let kind = match rejection {
            Rejection::Limited { .. } => "limited",
            Rejection::NoKey(_) => "no key",
            Rejection::Unavailable => "unavailable",
            other => panic!("unexpected {other:?}"),
        };
        (key, kind)
    }
}

fn ann() -> Option<Key> {
    Some(Key::secret("ann"))
}

#[test]
fn hook_sees_a_rejected_request_and_changes_no_response() {
    let observed = Seen::default();
    let mut with = by_user().on_rejected(observed.hook()).layer(hello());
    let mut without = by_user().layer(hello());
    for round in 0..4 {
        let (first, second) = (
            seen(&mut with, from("ann")),
            seen(&mut without, from("ann")),
        );
        assert_eq!((first.head(), &first.body), (second.head(), &second.body));
        let rejections = observed.take();
        if round < 2 {
            assert_eq!(rejections, [], "the request is allowed");
            continue;
        }
        assert_eq!(first.status, 429);
        let [
            (
                path,
                key,
                Rejection::Limited {
                    policy,
                    decision,
                    joined: false,
                },
            ),
        ] = &*rejections
        else {
            panic!("{rejections:?}");
        };
        assert_eq!((path.as_str(), key), ("/", &ann()));
        assert!(*policy == two_a_minute() && !decision.is_allowed());
    }
}

#[test]
fn hook_sees_grpc_requests() {
    let observed = Seen::default();
    let mut service = by_user()
        .cost(3)
        .on_rejected(observed.hook())
        .layer(hello());
    let call = Request::post("/mail.Mail/Send")
        .header("content-type", "application/grpc")
        .header(USER, "ann")
        .body(())
        .expect("a valid head");
    assert_eq!(seen(&mut service, call).headers["grpc-status"], "8");
    let rejections = observed.take();
    assert_eq!(
        (rejections[0].0.as_str(), &rejections[0].1),
        ("/mail.Mail/Send", &ann())
    );
}

#[test]
fn hook_sees_requests_without_a_key() {
    let observed = Seen::default();
    let mut service = by_user().on_rejected(observed.hook()).layer(hello());
    assert_eq!(seen(&mut service, Request::new(())).status, 400);
    assert_eq!(observed.one(), (None, "no key"));

    let shadow = by_user().with_policy(two_a_minute().shadow());
    let mut service = shadow.on_rejected(observed.hook()).layer(hello());
    assert_eq!(seen(&mut service, Request::new(())).status, 200);
    assert_eq!(observed.one(), (None, "no key"));

    let skips = by_user().skip_unkeyed().on_rejected(observed.hook());
    assert_eq!(
        seen(&mut skips.layer(hello()), Request::new(())).status,
        200
    );
    assert_eq!(observed.take(), [], "the request is not limited");

    let key = ClientIp::new().deny_list(Networks::new(["127.0.0.0/8"]));
    let layer = RateLimitLayer::new(two_a_minute(), key, memory()).on_rejected(observed.hook());
    let mut request = Request::new(());
    let peer = PeerAddr(([127, 0, 0, 1], 4711).into());
    request.extensions_mut().insert(peer);
    assert_eq!(seen(&mut layer.layer(hello()), request).status, 403);
    let rejections = observed.take();
    assert_eq!(rejections[0].2, Rejection::NoKey(KeyError::Denied));
}

#[tokio::test]
async fn hook_sees_denials_of_shadow_policies() {
    let observed = Seen::default();
    let shadow = by_user().with_policy(two_a_minute().shadow());
    let mut service = shadow.on_rejected(observed.hook()).layer(hello());
    for expected in [0, 0, 1, 1] {
        assert_eq!(seen(&mut service, from("ann")).status, 200);
        let rejections = observed.take();
        assert_eq!(rejections.len(), expected);
        assert!(rejections.iter().all(|(_, key, rejection)| *key == ann()
            && matches!(rejection, Rejection::Limited { policy, .. } if policy.is_shadow())));
    }

    for remote in Remote::each_kind() {
        let policy = two_a_minute().shadow();
        let layer = RateLimitLayer::new(policy, Header::new(USER), remote)
            .cost(3)
            .on_backend_error(FailurePolicy::FailClosed)
            .on_rejected(observed.hook());
        assert_eq!(
            ask(&mut layer.layer(hello()), from("ann")).await.status,
            200
        );
        assert_eq!(observed.one(), (ann(), "limited"));
    }
}

#[tokio::test]
async fn hook_sees_rejections_of_remote_and_failing_backends() {
    let observed = Seen::default();
    let limit = |remote: &Remote| {
        RateLimitLayer::new(two_a_minute(), Header::new(USER), remote.clone())
            .on_backend_error(FailurePolicy::FailClosed)
            .on_rejected(observed.hook())
    };
    for remote in Remote::each_kind() {
        for layer in [limit(&remote), limit(&remote).refund_on_disconnect()] {
            assert_eq!(
                ask(&mut layer.cost(3).layer(hello()), from("ann"))
                    .await
                    .status,
                429
            );
            assert_eq!(observed.one(), (ann(), "limited"));
        }
        remote.fail(1);
        assert_eq!(
            ask(&mut limit(&remote).layer(hello()), from("ann"))
                .await
                .status,
            503
        );
        assert_eq!(observed.one(), (ann(), "unavailable"));
    }
    let remote = Remote::failing();
    for (on_error, expected) in [
        (FailurePolicy::FailOpen, 0),
        (FailurePolicy::Fallback(MemoryBackend::new()), 1),
    ] {
        let mut service = limit(&remote)
            .cost(3)
            .on_backend_error(on_error)
            .layer(hello());
        ask(&mut service, from("ann")).await;
        assert_eq!(observed.take().len(), expected);
    }
}

#[tokio::test]
async fn hook_sees_a_request_whose_wait_is_too_long() {
    let observed = Seen::default();
    let waits = by_user().wait(MaxWait::within(Duration::from_secs(1)));
    let mut service = waits.on_rejected(observed.hook()).layer(hello());
    for expected in [200, 200, 429] {
        assert_eq!(ask(&mut service, from("ann")).await.status, expected);
    }
    assert_eq!(observed.one(), (ann(), "limited"));
}

#[tokio::test]
async fn rejection_of_nested_layers_is_seen_once() {
    for remote in Remote::each_kind() {
        let observed = Seen::default();
        let limit = RateLimitLayer::new(two_a_minute(), Global, remote)
            .on_backend_error(FailurePolicy::FailClosed)
            .on_rejected(observed.hook());
        let mut nested = limit.clone().layer(limit.cost(3).layer(hello()));
        assert_eq!(ask(&mut nested, Request::new(())).await.status, 429);
        assert_eq!(observed.one(), (Some(Key::from("global")), "limited"));
    }
}

/// A layer with a hook has the same type, so that it can be a field.
#[test]
fn hook_does_not_change_the_type_of_a_layer() {
    let layers: [RateLimitLayer<Header, _>; 2] = [by_user(), by_user().on_rejected(|_, _, _| ())];
    assert_eq!(format!("{:?}", layers[0]), format!("{:?}", layers[1]));
    let _: Policy = two_a_minute();
}
