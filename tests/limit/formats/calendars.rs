//! The header fields of windows by a calendar. Their length is that of the current window.

use std::time::Duration;

use http::Request;
use tower::Layer;
use tower_sluice::clock::Timestamp;
use tower_sluice::quota::Every;
use tower_sluice::response::HeaderFormat::{self, Draft06, Draft07, Draft11};
use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};

use super::{EPOCH, reported};
use crate::support::{clock, hello, seen};

const JANUARY: u64 = 31 * 86_400;
const FEBRUARY: u64 = 28 * 86_400;
/// From 15 January 2027, 08:00 UTC, to 15 February in Zurich.
const LEFT: u64 = 30 * 86_400 + 15 * 3_600;

fn billing() -> Policy {
    let quota = Quota::calendar_window(2, Every::Month { day: 15 }, "Europe/Zurich");
    Policy::new("billing", quota)
}

/// Returns the fields of four responses: two in the first month, a rejection, and one in the second month.
fn responses(format: HeaderFormat) -> Vec<String> {
    let clock = clock();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let mut service = RateLimitLayer::new(billing(), Global, backend)
        .headers(format)
        .layer(hello());
    let mut lines = Vec::new();
    for wait in [0, 3_600, 0, LEFT - 3_600] {
        clock.advance(Duration::from_secs(wait));
        let response = seen(&mut service, Request::new(()));
        let mut fields = reported(&response);
        let retry_after = response.lines("retry-after");
        fields.extend(retry_after.iter().map(|value| ("retry-after", *value)));
        let fields = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}"));
        lines.push(fields.collect::<Vec<_>>().join("; "));
    }
    lines
}

#[test]
fn window_of_each_answer_is_the_current_one() {
    let rest = LEFT - 3_600;
    assert_eq!(
        responses(Draft11),
        [
            format!(
                "ratelimit: \"billing\";r=1;t={LEFT}; ratelimit-policy: \"billing\";q=2;w={JANUARY}"
            ),
            format!(
                "ratelimit: \"billing\";r=0;t={rest}; ratelimit-policy: \"billing\";q=2;w={JANUARY}"
            ),
            format!(
                "ratelimit: \"billing\";r=0;t={rest}; ratelimit-policy: \"billing\";q=2;w={JANUARY}; \
                 retry-after: {rest}"
            ),
            format!(
                "ratelimit: \"billing\";r=1;t={FEBRUARY}; ratelimit-policy: \"billing\";q=2;w={FEBRUARY}"
            ),
        ]
    );
    assert_eq!(
        responses(Draft07)[2..],
        [
            format!(
                "ratelimit: limit=2, remaining=0, reset={rest}; ratelimit-policy: 2;w={JANUARY}; retry-after: {rest}"
            ),
            format!(
                "ratelimit: limit=2, remaining=1, reset={FEBRUARY}; ratelimit-policy: 2;w={FEBRUARY}"
            ),
        ]
    );
    assert_eq!(
        responses(Draft06)[3],
        format!(
            "ratelimit-limit: 2; ratelimit-policy: 2;w={FEBRUARY}; ratelimit-remaining: 1; \
             ratelimit-reset: {FEBRUARY}"
        )
    );
    let end = 1_800_000_000 + LEFT;
    assert_eq!(
        responses(EPOCH)[0],
        format!("x-ratelimit-limit: 2; x-ratelimit-remaining: 1; x-ratelimit-reset: {end}")
    );
}

#[test]
fn day_of_23_hours_says_so_beside_other_quotas() {
    // 28 March 2027, 12:00 in Zurich.
    let clock = clock();
    clock.set(Timestamp::from_micros(1_806_228_000_000_000));
    let backend = MemoryBackend::builder().clock(clock).build();
    let policy = Policy::new("api", Quota::per_minute(60)).and(
        "day",
        Quota::calendar_window(9, Every::Day, "Europe/Zurich"),
    );
    let mut service = RateLimitLayer::new(policy, Global, backend).layer(hello());
    let response = seen(&mut service, Request::new(()));
    assert_eq!(
        response.lines("ratelimit-policy"),
        ["\"api\";q=60;w=60, \"day\";q=9;w=82800"]
    );
    assert_eq!(
        response.lines("ratelimit"),
        ["\"api\";r=59, \"day\";r=8;t=43200"]
    );
}
