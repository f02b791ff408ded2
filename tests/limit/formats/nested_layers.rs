//! The header fields of two layers around one service.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceBuilder};
use tower_sluice::response::HeaderFormat::{self, Draft06, Draft07, Draft11};
use tower_sluice::{Policy, Quota};

use super::{DELTA, EPOCH, global};
use crate::support::{ClientResponse, hello, seen, two_a_minute};

/// After this request the inner layer has `inner` of 10 tokens left, and the outer layer has `outer`.
fn nested(format: HeaderFormat, outer: u64, inner: u64) -> ClientResponse {
    let limit = |name, left| {
        let policy = Policy::new(name, Quota::per_hour(10));
        global(policy).headers(format).cost(10 - left)
    };
    let mut service = ServiceBuilder::new()
        .layer(limit("outer", outer))
        .layer(limit("inner", inner).wait(Duration::ZERO))
        .service(hello());
    seen(&mut service, Request::new(()))
}

#[test]
fn single_valued_fields_show_the_layer_with_the_least_remaining() {
    for format in [Draft06, Draft07, DELTA, EPOCH] {
        let remaining = |seen: &ClientResponse| match format {
            Draft06 => seen.lines("ratelimit-remaining").join("|"),
            Draft07 => seen.lines("ratelimit").join("|"),
            _ => seen.lines("x-ratelimit-remaining").join("|"),
        };
        for (outer, inner) in [(9, 4), (4, 9), (5, 5)] {
            let seen = nested(format, outer, inner);
            let least = outer.min(inner);
            let reported = remaining(&seen);
            let reset = (10 - least) * 360;
            match format {
                Draft07 => assert_eq!(
                    reported,
                    format!("limit=10, remaining={least}, reset={reset}")
                ),
                _ => assert_eq!(reported, least.to_string()),
            }
            if matches!(format, Draft06 | Draft07) {
                assert_eq!(
                    seen.lines("ratelimit-policy"),
                    ["10;w=3600", "10;w=3600"],
                    "every policy"
                );
            }
        }
    }
    // Equal remaining tokens: the limit decides.
    for (format, field) in [(Draft06, "ratelimit-limit"), (DELTA, "x-ratelimit-limit")] {
        let limit = |name, tokens| {
            let policy = Policy::new(name, Quota::per_hour(tokens));
            global(policy).headers(format).cost(tokens - 3)
        };
        let mut service = ServiceBuilder::new()
            .layer(limit("outer", 10))
            .layer(limit("inner", 20))
            .service(hello());
        assert_eq!(seen(&mut service, Request::new(())).lines(field), ["20"]);
    }
}

/// A client that obeys `Retry-After` of the inner limit is not denied by the outer limit.
#[test]
fn retry_after_covers_the_window_of_an_exhausted_layer() {
    let answers = |status: u16, wait: &'static str| {
        tower::service_fn(move |_: Request<()>| async move {
            let response = Response::builder().status(status);
            let response = response.header("retry-after", wait);
            let response = response.body(Full::<Bytes>::default());
            Ok::<_, Infallible>(response.expect("a valid head"))
        })
    };
    for (cost, own, said) in [(2, "7", "30"), (2, "31", "31"), (1, "7", "7")] {
        let limit = global(two_a_minute()).cost(cost);
        let seen = seen(&mut limit.layer(answers(503, own)), Request::new(()));
        assert_eq!(seen.lines("retry-after"), [said], "{cost} {own}");
    }
}

#[test]
fn joined_layers_write_each_format_once() {
    let limit = global(Policy::new("api", Quota::per_hour(10)));
    for (outer, inner, lines) in [
        (Draft11, Draft11, (1, 0)),
        (DELTA, Draft11, (1, 1)),
        (HeaderFormat::None, DELTA, (0, 1)),
        (EPOCH, HeaderFormat::None, (0, 1)),
    ] {
        let mut service = ServiceBuilder::new()
            .layer(limit.clone().headers(outer))
            .layer(limit.clone().headers(inner).cost(2))
            .service(hello());
        let seen = seen(&mut service, Request::new(()));
        let count = |name: &str| seen.lines(name).len();
        assert_eq!(
            (count("ratelimit"), count("x-ratelimit-remaining")),
            lines,
            "{outer:?} {inner:?}"
        );
    }
    let both = ServiceBuilder::new()
        .layer(limit.clone().headers(EPOCH))
        .layer(limit.cost(2))
        .service(hello());
    let seen = seen(&mut both.clone(), Request::new(()));
    assert_eq!(seen.lines("ratelimit"), ["\"api\";r=0;t=360"]);
    assert_eq!(
        seen.lines("x-ratelimit-remaining"),
        ["0"],
        "of the same charge"
    );
    assert_eq!(seen.lines("x-ratelimit-reset"), ["1800003600"]);
}

#[test]
fn outer_layer_keeps_the_fields_of_a_total_with_fewer_tokens() {
    for (format, reset) in [(EPOCH, "x-ratelimit-reset"), (Draft06, "ratelimit-reset")] {
        let inner = global(Policy::new("total", Quota::total(3))).headers(format);
        let outer = |limit| global(Policy::new("rate", Quota::per_minute(limit))).headers(format);
        let shown = |limit| {
            let mut service = ServiceBuilder::new()
                .layer(outer(limit))
                .layer(inner.clone())
                .service(hello());
            let response = seen(&mut service, Request::new(()));
            let name = reset.replace("reset", "limit");
            (
                response.lines(&name)[0].to_owned(),
                response.lines(reset).len(),
            )
        };
        assert_eq!(shown(50), ("3".to_owned(), 0), "{format:?}");
        assert_eq!(shown(1), ("1".to_owned(), 1), "{format:?}");
    }
}
