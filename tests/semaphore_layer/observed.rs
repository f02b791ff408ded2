//! `on_rejected` sees each request without a permit once, with the key.

use std::sync::{Arc, Mutex};

use http::Request;
use http::header::CONTENT_LENGTH;
use tower::Layer;
use tower_sluice::concurrency::SemaphoreLayer;
use tower_sluice::cost::{CostError, HeaderCost};
use tower_sluice::key::Header;
use tower_sluice::response::{Http, Rejection};
use tower_sluice::{Global, Head, Key, SemaphorePolicy};

use crate::services::memory;
use crate::support::{USER, from, hello, seen};

type Seen = Arc<Mutex<Vec<(Option<Key>, Rejection)>>>;

fn hook(seen: &Seen) -> impl Fn(&Head<'_>, Option<&Key>, &Rejection) + Send + Sync + 'static {
    let seen = seen.clone();
    move |_, key, rejection| {
        let mut seen = seen.lock().expect("no panic");
        seen.push((key.cloned(), rejection.clone()));
    }
}

#[test]
fn hook_sees_requests_without_a_permit() {
    let observed = Seen::default();
    let policy = SemaphorePolicy::new("exports", 1);
    for (policy, status) in [(policy.clone(), 429), (policy.shadow(), 200)] {
        let limit = SemaphoreLayer::new(policy.clone(), Header::new(USER), memory());
        let limit = limit.on_rejected(hook(&observed));
        assert_eq!(
            seen(&mut limit.clone().layer(hello()), from("ann")).status,
            200
        );
        assert!(observed.lock().expect("no panic").is_empty());

        let mut too_heavy = limit.clone().weight(2).layer(hello());
        assert_eq!(seen(&mut too_heavy, from("ann")).status, status);
        let rejections = std::mem::take(&mut *observed.lock().expect("no panic"));
        let [
            (
                Some(key),
                Rejection::Busy {
                    policy: seen_policy,
                    ..
                },
            ),
        ] = &*rejections
        else {
            panic!("{rejections:?}");
        };
        assert_eq!((key, seen_policy), (&Key::secret("ann"), &policy));

        let status = if status == 429 { 400 } else { 200 };
        assert_eq!(
            seen(&mut limit.layer(hello()), Request::new(())).status,
            status
        );
        let rejections = std::mem::take(&mut *observed.lock().expect("no panic"));
        assert!(
            matches!(&*rejections, [(None, Rejection::NoKey(_))]),
            "{rejections:?}"
        );
    }
}

#[test]
fn one_http_value_brings_its_hook_to_both_layers() {
    let observed = Seen::default();
    let http = Http::new().on_rejected(hook(&observed));
    let limit = SemaphoreLayer::new(SemaphorePolicy::new("whole", 1), Global, memory());
    let mut service = limit.weight(2).protocol(http).layer(hello());
    assert_eq!(seen(&mut service, Request::new(())).status, 429);
    assert_eq!(observed.lock().expect("no panic").len(), 1);
}

#[test]
fn request_without_a_required_weight_is_rejected() {
    let observed = Seen::default();
    let policy = SemaphorePolicy::new("uploads", 10);
    for (policy, status) in [(policy.clone(), 411), (policy.shadow(), 200)] {
        let limit = SemaphoreLayer::new(policy, Header::new(USER), memory());
        let limit = limit
            .weight(HeaderCost::required(CONTENT_LENGTH))
            .on_rejected(hook(&observed));
        let mut service = limit.layer(hello());
        assert_eq!(seen(&mut service, from("ann")).status, status);
        let rejections = std::mem::take(&mut *observed.lock().expect("no panic"));
        let expected = Rejection::NoCost(CostError::LengthRequired);
        assert_eq!(rejections, [(Some(Key::secret("ann")), expected)]);
        let mut sized = from("ann");
        sized.headers_mut().insert(CONTENT_LENGTH, 5.into());
        assert_eq!(seen(&mut service, sized).status, 200);
    }
}
