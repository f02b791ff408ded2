//! The header fields of rate limits.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::Layer;
use tower_sluice::response::HeaderFormat::{self, Draft06, Draft07, Draft11};
use tower_sluice::response::HeaderFormats;
use tower_sluice::{Cost, Global, MemoryBackend, Policy, Quota, RateLimitLayer};

use super::{DELTA, EPOCH, global, reported};
use crate::support::{Memory, clock, from, hello, seen, two_a_minute};

#[test]
fn each_format_shows_the_tightest_quota() {
    let policy = Policy::new("api", Quota::per_minute(2).burst(9))
        .and("daily", Quota::fixed_window(5, Duration::from_secs(86_400)));
    // The clock is at 08:00 UTC. A cost of 2 takes the bucket a minute to refill, and more of the window is used.
    let reset = 16 * 3_600;
    let epoch = (1_800_000_000 + reset).to_string();
    let delta = reset.to_string();
    let x = |reset| {
        vec![
            ("x-ratelimit-limit", "5".to_owned()),
            ("x-ratelimit-remaining", "3".to_owned()),
            ("x-ratelimit-reset", reset),
        ]
    };
    let plain = ("ratelimit-policy", "9;w=270, 5;w=86400".to_owned());
    let expected = [
        (EPOCH, x(epoch)),
        (DELTA, x(delta.clone())),
        (
            Draft06,
            vec![
                ("ratelimit-limit", "5".to_owned()),
                plain.clone(),
                ("ratelimit-remaining", "3".to_owned()),
                ("ratelimit-reset", delta.clone()),
            ],
        ),
        (
            Draft07,
            vec![
                ("ratelimit", format!("limit=5, remaining=3, reset={delta}")),
                plain,
            ],
        ),
        (HeaderFormat::None, vec![]),
    ];
    for (format, fields) in expected {
        let mut service = global(policy.clone())
            .cost(2)
            .headers(format)
            .layer(hello());
        let allowed = seen(&mut service, Request::new(()));
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        assert_eq!(reported(&allowed), fields, "{format:?}");
    }
}

/// The triplet after a request of this cost under two quotas: a burst of 10, and 1,000 an hour, of which `used` are.
fn triplet(limit: RateLimitLayer<Global, Memory>, used: u64, cost: u64) -> [u64; 3] {
    let limit = limit.headers(DELTA);
    let by_cost = |burst, hour| Cost::each([burst, hour]);
    seen(
        &mut limit.clone().cost(by_cost(0, used)).layer(hello()),
        Request::new(()),
    );
    let seen = seen(
        &mut limit.cost(by_cost(cost, cost)).layer(hello()),
        Request::new(()),
    );
    ["limit", "remaining", "reset"].map(|part| {
        let lines = seen.lines(&format!("x-ratelimit-{part}"));
        lines[0].parse().expect("a number")
    })
}

fn burst_and_hour() -> RateLimitLayer<Global, Memory> {
    let hour = Quota::fixed_window(1_000, Duration::from_secs(3_600));
    global(Policy::new("burst", Quota::per_second(1).burst(10)).and("hour", hour))
}

#[test]
fn formats_for_one_limit_show_the_smallest_share_or_the_longest_wait() {
    // 5 of 10 is a larger share than 40 of 1,000, although it is fewer tokens.
    assert_eq!(triplet(burst_and_hour(), 955, 5), [1_000, 40, 3_600]);
    assert_eq!(triplet(burst_and_hour(), 0, 5), [10, 5, 5]);
    // 5 of 10 and 500 of 1,000: the later reset.
    assert_eq!(triplet(burst_and_hour(), 495, 5), [1_000, 500, 3_600]);
    // Denied by the hour alone, which has the larger share left.
    assert_eq!(triplet(burst_and_hour(), 992, 9), [1_000, 8, 3_600]);
}

#[test]
fn a_named_quota_is_shown_also_while_another_denies() {
    let named = |name| burst_and_hour().shown_quota(name);
    assert_eq!(triplet(named("burst"), 955, 5), [10, 5, 5]);
    assert_eq!(triplet(named("burst"), 992, 9), [10, 10, 0]);
    assert_eq!(triplet(named("hour"), 0, 5), [1_000, 995, 3_600]);
    assert_eq!(
        triplet(named("other"), 955, 5),
        [1_000, 40, 3_600],
        "no such quota"
    );
}

/// The fields after a request of each cost, at a microsecond past a whole second.
#[test]
fn seconds_are_rounded_up_for_any_quota() {
    let ms = Duration::from_millis;
    let ages = Duration::from_micros(1 << 52);
    let told_of = |quota: Quota, costs: &[u64], format: HeaderFormat| {
        let clock = clock();
        clock.advance(Duration::from_micros(1));
        let backend = MemoryBackend::builder().clock(clock).build();
        let policy = Policy::new("q", quota);
        let limit = RateLimitLayer::new(policy, Global, backend).headers(format);
        let answer = |cost: &u64| {
            let mut service = limit.clone().cost(*cost).layer(hello());
            seen(&mut service, from("x"))
        };
        let answers: Vec<_> = costs.iter().map(answer).collect();
        answers.into_iter().next_back().expect("a cost")
    };
    let day = ms(86_400_000);
    for (quota, costs, policy, reported, wait, epoch) in [
        // One token in 333 334 µs.
        (
            Quota::token_bucket(1, 3, ms(1_000)),
            &[1][..],
            "1;w=1",
            "0;t=1",
            None,
            1,
        ),
        (
            Quota::token_bucket(1, 3, ms(1_000)),
            &[1, 1],
            "1;w=1",
            "0;t=1",
            Some("1"),
            1,
        ),
        // Three tokens at each tick: ten tokens take four ticks.
        (
            Quota::interval_bucket(10, 3, ms(1_500)),
            &[9],
            "10;w=5",
            "1",
            None,
            5,
        ),
        (
            Quota::interval_bucket(10, 3, ms(1_500)),
            &[10],
            "10;w=5",
            "0;t=2",
            None,
            7,
        ),
        (
            Quota::interval_bucket(10, 3, ms(1_500)),
            &[10, 10],
            "10;w=5",
            "0;t=6",
            Some("6"),
            7,
        ),
        // The bucket started below its capacity: the missing tokens are a debt.
        (
            Quota::token_bucket(5, 1, ms(2_000)).initial_tokens(0),
            &[1],
            "5;w=10",
            "0;t=2",
            Some("2"),
            3,
        ),
        (
            Quota::token_bucket(5, 1, ms(2_000)).initial_tokens(3),
            &[2],
            "5;w=10",
            "1",
            None,
            9,
        ),
        // A zero cost charges nothing and needs no wait.
        (
            Quota::fixed_window(5, ms(10_000)),
            &[0],
            "5;w=10",
            "5",
            None,
            1,
        ),
        (
            Quota::fixed_window(5, ms(10_000)),
            &[1],
            "5;w=10",
            "4;t=10",
            None,
            10,
        ),
        (
            Quota::fixed_window(5, ms(10_000)),
            &[3, 3],
            "5;w=10",
            "2;t=10",
            Some("10"),
            10,
        ),
        (
            Quota::sliding_log(2, ms(1_500)),
            &[1],
            "2;w=2",
            "1;t=2",
            None,
            2,
        ),
        (
            Quota::sliding_window(7, ms(1)),
            &[7],
            "7;w=1",
            "0;t=1",
            None,
            1,
        ),
        // The cost exceeds the limit: never.
        (Quota::per_day(5), &[6], "5;w=86400", "5", None, 1),
        (Quota::per_day(5), &[4, 6], "5;w=86400", "1", None, 69_121),
        (
            Quota::fixed_window(5, day),
            &[5, 6],
            "5;w=86400",
            "0",
            None,
            57_600,
        ),
        // The largest limit and the longest period.
        (
            Quota::per_second(1 << 40),
            &[1 << 40],
            "1099511627776;w=1",
            "0;t=1",
            None,
            2,
        ),
        (
            Quota::token_bucket(1, 1, ages),
            &[1, 1],
            "1;w=4503599628",
            "0;t=4503599628",
            Some("4503599628"),
            4_503_599_628,
        ),
    ] {
        let seen = told_of(quota, costs, Draft11);
        let case = format!("{quota:?} {costs:?}");
        assert_eq!(
            (seen.lines("ratelimit-policy"), seen.lines("ratelimit")),
            (
                vec![&*format!("\"q\";q={policy}")],
                vec![&*format!("\"q\";r={reported}")]
            ),
            "{case}"
        );
        assert_eq!(seen.lines("retry-after"), Vec::from_iter(wait), "{case}");
        let seen = told_of(quota, costs, EPOCH);
        let at = seen.lines("x-ratelimit-reset")[0].parse::<u64>();
        assert_eq!(at.expect("a number") - 1_800_000_000, epoch, "{case}");
    }
}

#[test]
fn layer_writes_several_formats() {
    let mut service = global(two_a_minute())
        .headers([Draft11, EPOCH])
        .layer(hello());
    seen(&mut service, Request::new(()));
    seen(&mut service, Request::new(()));
    let rejected = seen(&mut service, Request::new(()));
    let fields = [
        ("ratelimit", "\"api\";r=0;t=30"),
        ("ratelimit-policy", "\"api\";q=2;w=60"),
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "1800000030"),
    ];
    assert_eq!(reported(&rejected), fields);
    assert_eq!(rejected.lines("retry-after"), ["30"]);
}

#[test]
fn formats_that_share_a_field_exclude_each_other() {
    let last = |formats: [HeaderFormat; 2]| HeaderFormats::from(formats);
    assert_eq!(last([Draft11, Draft06]), Draft06.into());
    assert_eq!(last([Draft06, Draft07]), Draft07.into());
    assert_eq!(last([EPOCH, DELTA]), DELTA.into());
    assert_eq!(last([HeaderFormat::None, DELTA]), DELTA.into());
    assert_ne!(last([Draft11, DELTA]), Draft11.into());
}

/// The reset time counts from the decision, however long the request takes.
#[test]
fn epoch_reset_field_uses_the_time_of_the_decision() {
    let clock = clock();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let slow = tower::service_fn(move |_: Request<()>| {
        clock.advance(Duration::from_secs(7));
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    });
    let limit = RateLimitLayer::new(two_a_minute(), Global, backend).headers(EPOCH);
    let allowed = seen(&mut limit.layer(slow), Request::new(()));
    assert_eq!(allowed.lines("x-ratelimit-reset"), ["1800000030"]);
}

#[test]
fn redirects_and_informational_responses_have_no_fields() {
    for format in [Draft11, Draft07, Draft06, EPOCH, DELTA] {
        for status in [101, 103, 302, 308] {
            let service = tower::service_fn(move |_: Request<()>| async move {
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                Ok::<_, Infallible>(response)
            });
            let limit = global(two_a_minute()).headers(format);
            let plain = seen(&mut limit.clone().layer(service), Request::new(()));
            assert_eq!(reported(&plain), [], "{format:?} {status}");
            let limit = limit.headers_on_redirects(true);
            let asked = seen(&mut limit.layer(service), Request::new(()));
            assert_eq!(
                reported(&asked).is_empty(),
                status < 200,
                "{format:?} {status}"
            );
        }
    }
}

#[test]
fn total_has_neither_a_window_nor_a_reset() {
    let policy = || Policy::new("api", Quota::total(2));
    let shown = |format: HeaderFormat, requests: usize| {
        let mut service = global(policy()).headers(format).layer(hello());
        let mut last = None;
        for _ in 0..requests {
            last = Some(seen(&mut service, Request::new(())));
        }
        let last = last.expect("a response");
        assert_eq!(last.lines("retry-after"), Vec::<&str>::new(), "{format:?}");
        reported(&last)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect::<Vec<_>>()
    };
    for requests in [1, 2, 3] {
        let left = 2_usize.saturating_sub(requests);
        let draft11 = [
            format!("ratelimit: \"api\";r={left}"),
            "ratelimit-policy: \"api\";q=2".into(),
        ];
        assert_eq!(shown(Draft11, requests), draft11);
        assert_eq!(
            shown(Draft07, requests),
            [format!("ratelimit: limit=2, remaining={left}")]
        );
        let draft06 = [
            "ratelimit-limit: 2".into(),
            format!("ratelimit-remaining: {left}"),
        ];
        assert_eq!(shown(Draft06, requests), draft06);
        for format in [EPOCH, DELTA] {
            let x = [
                "x-ratelimit-limit: 2".into(),
                format!("x-ratelimit-remaining: {left}"),
            ];
            assert_eq!(shown(format, requests), x);
        }
    }
}
