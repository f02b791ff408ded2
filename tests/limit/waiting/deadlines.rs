//! Deadlines of requests shorten the wait.

use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, StatusCode};
use tower::{Layer, ServiceBuilder};
use tower_sluice::clock::Clock;
use tower_sluice::{Deadline, Limiter, MaxWait, Policy, Quota};

use super::{
    SECOND, assert_waits, call, each, key, limit, memory_with_clock, one_a_second, over, request,
    seconds, status,
};
use crate::support::{ask, clock, hello, seen, spent};

fn with_timeout(timeout: &str) -> Request<()> {
    let request = Request::builder().header("grpc-timeout", timeout);
    request.body(()).expect("a valid head")
}

#[tokio::test]
async fn a_deadline_and_a_grpc_timeout_shorten_the_wait() {
    for max_wait in [MaxWait::within(seconds(10)), MaxWait::Unbounded] {
        for (clock, remote) in each() {
            let mut service = limit(&remote).wait(max_wait).layer(hello());
            ask(&mut service, request()).await;
            let until = |wait: Duration| {
                let mut request = request();
                let deadline = Deadline::at(clock.now().after(wait));
                request.extensions_mut().insert(deadline);
                request
            };
            let soon = SECOND - Duration::from_micros(1);
            let both = |deadline: Duration, timeout: &'static str| {
                let mut request = until(deadline);
                let timeout = timeout.parse().expect("a value");
                request.headers_mut().insert("grpc-timeout", timeout);
                request
            };
            for request in [
                until(soon),
                until(Duration::ZERO),
                with_timeout("999999u"),
                with_timeout("999m"),
                with_timeout("0S"),
                both(soon, "9S"),
                both(seconds(9), "999m"),
            ] {
                let rejected = ask(&mut service, request).await;
                assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
                assert_eq!(rejected.lines("retry-after"), ["1"]);
            }
            assert_eq!(spent(&remote.memory, &one_a_second(), &key()), [1]);
            let in_time: [&dyn Fn() -> Request<()>; 3] =
                [&|| until(SECOND), &|| with_timeout("1S"), &|| {
                    both(SECOND, "1S")
                }];
            for request in in_time {
                let mut waits = call(&mut service, request());
                assert_waits!(waits);
                clock.advance(SECOND);
                assert_eq!(status!(waits), 200);
            }
        }
    }
}

#[tokio::test]
async fn passed_deadline_still_allows_available_tokens() {
    for (clock, remote) in each() {
        let mut service = limit(&remote).layer(hello());
        let mut late = request();
        late.extensions_mut().insert(Deadline::at(clock.now()));
        clock.advance(SECOND);
        assert_eq!(ask(&mut service, late).await.status, StatusCode::OK);
        assert_eq!(remote.operations(), ["check 1"]);
    }
}

#[tokio::test]
async fn a_longer_deadline_does_not_lengthen_the_wait() {
    for (clock, remote) in each() {
        let mut service = limit(&remote)
            .wait(Duration::from_millis(999))
            .layer(hello());
        ask(&mut service, request()).await;
        let mut patient = with_timeout("9H");
        let deadline = Deadline::at(clock.now().after(seconds(3_600)));
        patient.extensions_mut().insert(deadline);
        let rejected = ask(&mut service, patient).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test]
async fn invalid_grpc_timeout_is_ignored() {
    let clock = clock();
    let memory = memory_with_clock(&clock);
    let mut service = limit(&memory).layer(hello());
    seen(&mut service, request());
    for text in [
        "",
        "S",
        "0",
        "0s",
        "0 S",
        "-1S",
        "+0S",
        "000000000S",
        "0.5S",
        "0SS",
        "0x0S",
    ] {
        let mut waits = call(&mut service, with_timeout(text));
        assert_waits!(waits);
        clock.advance(SECOND);
        assert_eq!(status!(waits), 200, "{text:?}");
    }
    let mut odd = request();
    let value = http::HeaderValue::from_bytes(b"0\xffS").expect("a value");
    odd.headers_mut().insert("grpc-timeout", value);
    let mut waits = call(&mut service, odd);
    assert_waits!(waits);
}

#[tokio::test]
async fn nested_layers_count_a_wait_once() {
    let two = Policy::new("api", Quota::per_second(1).burst(2));
    let other = Policy::new("other", Quota::per_second(1));
    for (outer, inner, cost) in [(&two, &two, 2), (&one_a_second(), &other, 1)] {
        for (clock, remote) in each() {
            let mut service = ServiceBuilder::new()
                .layer(over(outer, &remote))
                .layer(over(inner, &remote).cost(cost))
                .service(hello());
            // The outer layer waits for one second. Without the shared bound the inner layer would wait for another
            // one.
            let limiter = |policy: &Policy| Limiter::new(policy.clone(), remote.memory.clone());
            let _ = limiter(outer).check_now(&key(), cost);
            if inner == &other {
                let spent = limiter(inner).penalize(&key(), 2).now_or_never();
                assert!(spent.is_some_and(|spent| spent.is_ok()));
            }
            let mut waits = call(&mut service, with_timeout("1500m"));
            assert_waits!(waits);
            clock.advance(SECOND);
            assert_eq!(status!(waits), 429, "{cost}");
            let mut waits = call(&mut service, with_timeout("9S"));
            assert_waits!(waits);
        }
    }
}

#[tokio::test]
async fn deadline_is_an_absolute_time() {
    let (clock, ms) = (clock(), Duration::from_millis);
    let (memory, policy) = (
        memory_with_clock(&clock),
        Policy::new("api", Quota::per_second(10).burst(1)),
    );
    let mut service = over(&policy, &memory).layer(hello());
    for (left, status) in [(199, 429), (200, 200)] {
        let mut request = request();
        let deadline = Deadline::at(clock.now().after(ms(500 + left)));
        request.extensions_mut().insert(deadline);
        let mut answer = call(&mut service, request);
        clock.advance(ms(500));
        // The next token arrives in 200 ms.
        let limiter = Limiter::new(policy.clone(), memory.clone());
        assert!(limiter.penalize(&key(), 2).now_or_never().is_some());
        if status == 200 {
            assert_waits!(answer);
            clock.advance(ms(200));
        }
        assert_eq!(status!(answer), status);
        clock.advance(SECOND);
    }
}
