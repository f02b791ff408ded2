//! Jitter delays `Retry-After`.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Request;
use tower::Layer;

use super::global;
use crate::support::{hello, seen, two_a_minute};

#[test]
fn jitter_is_only_ever_added_to_retry_after() {
    let limit = global(two_a_minute()).cost(2);
    let limit = limit.retry_after_jitter(Duration::from_secs(5));
    let mut service = limit.layer(hello());
    seen(&mut service, Request::new(()));
    let mut waits = BTreeSet::new();
    for _ in 0..200 {
        let rejected = seen(&mut service, Request::new(()));
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=0;t=60"], "exact");
        waits.insert(rejected.lines("retry-after")[0].parse::<u64>().expect("s"));
    }
    // 60 itself occurs only with a jitter of exactly zero.
    waits.remove(&60);
    assert_eq!(waits, (61..=65).collect());
}

#[test]
fn zero_jitter_gives_equal_rejections() {
    for jitter in [None, Some(Duration::ZERO)] {
        let mut limit = global(two_a_minute()).cost(2);
        if let Some(jitter) = jitter {
            limit = limit.retry_after_jitter(jitter);
        }
        let mut service = limit.layer(hello());
        seen(&mut service, Request::new(()));
        for _ in 0..50 {
            let rejected = seen(&mut service, Request::new(()));
            assert_eq!(rejected.lines("retry-after"), ["60"]);
        }
    }
}

#[test]
fn jitter_adds_no_retry_after_to_a_cost_above_the_limit() {
    let limit = global(two_a_minute())
        .cost(3)
        .retry_after_jitter(Duration::MAX);
    let rejected = seen(&mut limit.layer(hello()), Request::new(()));
    assert!(rejected.lines("retry-after").is_empty());
    let limit = global(two_a_minute())
        .cost(2)
        .retry_after_jitter(Duration::MAX);
    let mut service = limit.layer(hello());
    seen(&mut service, Request::new(()));
    let rejected = seen(&mut service, Request::new(()));
    let wait = rejected.lines("retry-after")[0].parse::<u64>();
    assert!(wait.expect("a number") >= 60);
}
