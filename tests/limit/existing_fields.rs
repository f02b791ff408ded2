//! Rate limit fields that the limited service has set itself, like the upstream of a gateway.
//!
//! The file is long because every format meets the fields of every other.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use sfv::{Dictionary, List, Parser};
use tower::{Layer, Service, ServiceBuilder};
use tower_sluice::response::ExistingHeaders::{self, Append, Keep, Replace};
use tower_sluice::response::HeaderFormat::{self, Draft06, Draft07, Draft11};
use tower_sluice::response::Reset;
use tower_sluice::{
    Global, MemorySemaphore, Policy, Quota, RateLimitLayer, SemaphoreLayer, SemaphorePolicy,
};

use crate::support::{ClientResponse, Memory, hello, memory, seen, two_a_minute};

const EPOCH: HeaderFormat = HeaderFormat::XRateLimit {
    reset: Reset::Epoch,
};
const DELTA: HeaderFormat = HeaderFormat::XRateLimit {
    reset: Reset::Delta,
};
/// Two requests a minute, of which one remains after this request. The clock is at 1 800 000 000 s.
const FORMATS: [HeaderFormat; 5] = [Draft11, Draft07, Draft06, EPOCH, DELTA];

type Fields = &'static [(&'static str, &'static str)];

/// An upstream that answers with `fields`.
fn upstream(
    fields: Fields,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone {
    tower::service_fn(move |_: Request<()>| async move {
        let mut response = Response::builder().status(503);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        Ok(response.body(Full::default()).expect("a valid head"))
    })
}

fn limit(format: HeaderFormat, existing: ExistingHeaders) -> RateLimitLayer<Global, Memory> {
    RateLimitLayer::new(two_a_minute(), Global, memory())
        .headers(format)
        .existing_headers(existing)
}

fn answer(format: HeaderFormat, existing: ExistingHeaders, fields: Fields) -> ClientResponse {
    seen(
        &mut limit(format, existing).layer(upstream(fields)),
        Request::new(()),
    )
}

/// The fields of the layer on a response without other fields.
fn fields_of_the_layer(format: HeaderFormat) -> Vec<(String, String)> {
    owned(&answer(format, Append, &[]))
}

fn owned(seen: &ClientResponse) -> Vec<(String, String)> {
    let head = seen.head().into_iter();
    head.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

const OF_11: Fields = &[
    ("ratelimit-policy", "\"up\";q=9;w=60"),
    ("ratelimit", "\"up\";r=8;t=3"),
];
const OF_07: Fields = &[
    ("ratelimit-policy", "9;w=60"),
    ("ratelimit", "limit=9, remaining=8, reset=3"),
];
const OF_06: Fields = &[
    ("ratelimit-policy", "9;w=60"),
    ("ratelimit-limit", "9"),
    ("ratelimit-remaining", "8"),
    ("ratelimit-reset", "3"),
];
const OF_X_EPOCH: Fields = &[
    ("x-ratelimit-limit", "9"),
    ("x-ratelimit-remaining", "8"),
    ("x-ratelimit-reset", "1800000003"),
];
const OF_X_DELTA: Fields = &[
    ("x-ratelimit-limit", "9"),
    ("x-ratelimit-remaining", "8"),
    ("x-ratelimit-reset", "3"),
];
/// Lines of no format.
const BROKEN: [Fields; 8] = [
    &[("ratelimit", "plenty"), ("x-ratelimit-remaining", "plenty")],
    &[
        ("ratelimit-remaining", "1, 2"),
        ("x-ratelimit-limit", "9, 9;w=1"),
    ],
    &[("ratelimit", "\"up\";r=-1"), ("x-ratelimit-reset", "-1")],
    &[("ratelimit", ""), ("x-ratelimit-limit", "")],
    &[("ratelimit", "\"up\""), ("x-ratelimit-limit", "9")],
    &[("ratelimit-policy", "\"up\";w=60")],
    &[
        ("ratelimit", "limit=9, remaining=8"),
        ("ratelimit", "reset=3"),
    ],
    &[
        ("ratelimit-limit", "9"),
        ("ratelimit-limit", "9"),
        ("x-ratelimit-limit", "9"),
        ("x-ratelimit-limit", "9"),
    ],
];

/// Parses all lines of a field with an independent parser.
fn assert_parses(seen: &ClientResponse, format: HeaderFormat) {
    let joined = |name: &str| seen.lines(name).join(", ");
    let (limit, policy) = (joined("ratelimit"), joined("ratelimit-policy"));
    if matches!(format, Draft11 | Draft07 | Draft06) {
        let list: List = Parser::new(&policy).parse().expect("a list");
        for entry in list {
            let sfv::ListEntry::Item(item) = entry else {
                panic!("an inner list in {policy}");
            };
            assert_eq!(
                item.bare_item.as_string().is_some(),
                format == Draft11,
                "{policy}"
            );
            assert_eq!(
                item.bare_item.as_integer().is_some(),
                format != Draft11,
                "{policy}"
            );
        }
    }
    match format {
        Draft11 => {
            let list: List = Parser::new(&limit).parse().expect("a list");
            for entry in list {
                let sfv::ListEntry::Item(item) = entry else {
                    panic!("an inner list in {limit}");
                };
                assert!(item.bare_item.as_string().is_some(), "{limit}");
                assert!(item.params.get("r").is_some(), "{limit}");
            }
        }
        Draft07 => {
            let dictionary: Dictionary = Parser::new(&limit).parse().expect("a dictionary");
            assert_eq!(dictionary.len(), 3, "{limit}");
        }
        _ => {
            let prefix = if format == Draft06 { "" } else { "x-" };
            for part in ["limit", "remaining", "reset"] {
                let lines = seen.lines(&format!("{prefix}ratelimit-{part}"));
                assert!(
                    matches!(&lines[..], [line] if line.parse::<u64>().is_ok()),
                    "{lines:?}"
                );
            }
        }
    }
}

#[test]
fn fields_of_another_format_are_replaced_and_all_lines_parse() {
    let all = [OF_11, OF_07, OF_06, OF_X_EPOCH, OF_X_DELTA]
        .into_iter()
        .chain(BROKEN);
    for fields in all {
        for format in FORMATS {
            assert_parses(&answer(format, Append, fields), format);
        }
    }
    let own = |fields: Fields, format: HeaderFormat| {
        let mut head = owned(&answer(format, Append, fields));
        let is_x = |name: &str| name.starts_with("x-");
        let of_x = matches!(format, HeaderFormat::XRateLimit { .. });
        head.retain(|(name, _)| is_x(name) == of_x);
        head
    };
    for (fields, formats) in [
        (OF_11, &[Draft07, Draft06][..]),
        (OF_07, &[Draft11, Draft06]),
        (OF_06, &[Draft11, Draft07]),
        (OF_X_EPOCH, &[DELTA]),
        (OF_X_DELTA, &[EPOCH]),
    ] {
        for format in formats {
            assert_eq!(
                own(fields, *format),
                fields_of_the_layer(*format),
                "{fields:?} {format:?}"
            );
        }
    }
    for fields in &BROKEN[..5] {
        for format in FORMATS {
            assert_eq!(
                own(fields, format),
                fields_of_the_layer(format),
                "{fields:?} {format:?}"
            );
        }
    }
}

#[test]
fn fields_of_the_same_format_are_appended_to() {
    let seen = answer(Draft11, Append, OF_11);
    assert_eq!(seen.lines("ratelimit"), ["\"up\";r=8;t=3", "\"api\";r=1"]);
    assert_eq!(
        seen.lines("ratelimit-policy"),
        ["\"up\";q=9;w=60", "\"api\";q=2;w=60"]
    );
    for (format, fields) in [(Draft07, OF_07), (Draft06, OF_06)] {
        let seen = answer(format, Append, fields);
        assert_eq!(
            seen.lines("ratelimit-policy"),
            ["9;w=60", "2;w=60"],
            "{format:?}"
        );
    }
}

#[test]
fn field_shows_the_limit_with_the_smaller_share_left() {
    let triplet = |prefix: &str, existing: Fields, format: HeaderFormat| {
        let seen = answer(format, Append, existing);
        ["limit", "remaining"]
            .map(|part| seen.lines(&format!("{prefix}ratelimit-{part}")).join("|"))
    };
    let own = ["2".to_owned(), "1".to_owned()];
    assert_eq!(triplet("", OF_06, Draft06), own);
    assert_eq!(triplet("x-", OF_X_DELTA, DELTA), own);
    assert_eq!(triplet("x-", OF_X_EPOCH, EPOCH), own);
    // Equal shares: the field shows the inner limit.
    let equal = ["4".to_owned(), "2".to_owned()];
    let fields: Fields = &[
        ("ratelimit-limit", "4"),
        ("ratelimit-remaining", "2"),
        ("ratelimit-reset", "3"),
    ];
    assert_eq!(triplet("", fields, Draft06), equal);
    let fields: Fields = &[
        ("x-ratelimit-limit", "4"),
        ("x-ratelimit-remaining", "2"),
        ("x-ratelimit-reset", "3"),
    ];
    assert_eq!(triplet("x-", fields, DELTA), equal);
    let fields: Fields = &[("ratelimit", "limit=9, remaining=4, reset=3")];
    let seen = answer(Draft07, Append, fields);
    assert_eq!(seen.lines("ratelimit"), ["limit=9, remaining=4, reset=3"]);
    let seen = answer(Draft07, Append, OF_07);
    assert_eq!(seen.lines("ratelimit"), ["limit=2, remaining=1, reset=30"]);
}

#[test]
fn replace_leaves_only_the_fields_of_the_layer() {
    for fields in [OF_11, OF_07, OF_06, OF_X_EPOCH, OF_X_DELTA]
        .into_iter()
        .chain(BROKEN)
    {
        for format in FORMATS {
            let seen = answer(format, Replace, fields);
            assert_eq!(
                owned(&seen),
                fields_of_the_layer(format),
                "{fields:?} {format:?}"
            );
        }
    }
}

#[test]
fn keep_adds_no_field_that_exists() {
    for fields in [OF_11, OF_07, OF_06, OF_X_EPOCH, OF_X_DELTA]
        .into_iter()
        .chain(BROKEN)
    {
        for format in FORMATS {
            let bare = seen(&mut upstream(fields), Request::new(()));
            let seen = answer(format, Keep, fields);
            assert_eq!(seen.head(), bare.head(), "{fields:?} {format:?}");
        }
    }
    for format in FORMATS {
        assert_eq!(
            owned(&answer(format, Keep, &[])),
            fields_of_the_layer(format)
        );
    }
}

/// The layer's wait is 30 s: its bucket is empty.
#[test]
fn longer_wait_replaces_the_retry_after_of_the_service() {
    let wait = |existing: ExistingHeaders, fields: Fields| {
        let limit = limit(Draft11, existing).cost(2);
        let seen = seen(&mut limit.layer(upstream(fields)), Request::new(()));
        seen.lines("retry-after").join("|")
    };
    // The clock is at Fri, 15 Jan 2027 08:00:00 GMT.
    let later: Fields = &[("retry-after", "Fri, 15 Jan 2027 08:00:30 GMT")];
    let sooner: Fields = &[("retry-after", "Fri, 15 Jan 2027 08:00:29 GMT")];
    for (fields, said) in [
        (&[("retry-after", "7")][..], "30"),
        (&[("retry-after", "31")], "31"),
        (&[("retry-after", "soon")], "30"),
        (&[("retry-after", "-1")], "30"),
        (&[("retry-after", "soon GMT")], "30"),
        (&[("retry-after", "99"), ("retry-after", "7")], "30"),
        (later, "Fri, 15 Jan 2027 08:00:30 GMT"),
        (sooner, "30"),
        (&[], ""),
    ] {
        assert_eq!(wait(Append, fields), said, "{fields:?}");
    }
    assert_eq!(wait(Replace, &[("retry-after", "99")]), "30");
    assert_eq!(wait(Replace, later), "30");
    assert_eq!(wait(Keep, &[("retry-after", "7")]), "7");
    assert_eq!(wait(Keep, &[("retry-after", "soon")]), "soon");
    // Tokens remain: the layer reports no wait.
    for existing in [Append, Replace, Keep] {
        let seen = answer(Draft11, existing, &[("retry-after", "7")]);
        assert_eq!(seen.lines("retry-after"), ["7"]);
    }
}

#[test]
fn fields_of_a_closure_response_are_treated_alike() {
    let rejected = |existing: ExistingHeaders| {
        let limit = limit(Draft11, existing).cost(2).reject_fn(|_, rejection| {
            let response = Response::builder().status(rejection.status());
            let response = response
                .header("ratelimit", "mine")
                .header("retry-after", "7");
            response.body("").expect("a valid head")
        });
        let mut service = limit.layer(hello());
        seen(&mut service, Request::new(()));
        seen(&mut service, Request::new(()))
    };
    let said = |seen: &ClientResponse| {
        (
            seen.lines("ratelimit").join("|"),
            seen.lines("retry-after").join("|"),
        )
    };
    let own = ("\"api\";r=0;t=60".to_owned(), "60".to_owned());
    assert_eq!(said(&rejected(Append)), own);
    assert_eq!(said(&rejected(Replace)), own);
    assert_eq!(said(&rejected(Keep)), ("mine".to_owned(), "7".to_owned()));
}

#[test]
fn semaphore_layer_treats_fields_of_the_service_alike() {
    let answer = |existing: ExistingHeaders, fields: Fields| {
        let permits = SemaphorePolicy::new("p", 3);
        let limit = SemaphoreLayer::new(permits, Global, MemorySemaphore::new());
        let limit = limit.existing_headers(existing);
        seen(&mut limit.layer(upstream(fields)), Request::new(()))
    };
    let own = "\"p\";r=2";
    assert_eq!(
        answer(Append, OF_11).lines("ratelimit"),
        ["\"up\";r=8;t=3", own]
    );
    for fields in [OF_07, OF_06] {
        let seen = answer(Append, fields);
        assert_eq!(seen.lines("ratelimit"), [own]);
        assert_eq!(seen.headers.len(), 2, "{seen:?}");
    }
    assert_eq!(answer(Append, OF_X_DELTA).headers.len(), 5, "other names");
    for fields in [OF_11, OF_07, OF_06, OF_X_DELTA] {
        assert_eq!(answer(Replace, fields).lines("ratelimit"), [own]);
        assert_eq!(answer(Replace, fields).headers.len(), 2);
        let bare = seen(&mut upstream(fields), Request::new(()));
        assert_eq!(answer(Keep, fields).head(), bare.head());
    }
}

/// The inner layer of the same policy writes for both layers. Its fields count as fields of the outer layer.
#[test]
fn fields_of_a_joined_layer_are_not_foreign() {
    for existing in [Append, Replace, Keep] {
        let limit = RateLimitLayer::new(Policy::new("api", Quota::per_hour(10)), Global, memory());
        let mut service = ServiceBuilder::new()
            .layer(
                limit
                    .clone()
                    .headers([Draft11, DELTA])
                    .existing_headers(existing),
            )
            .layer(limit.cost(2))
            .service(hello());
        let seen = seen(&mut service, Request::new(()));
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=8"], "{existing:?}");
        assert_eq!(seen.lines("x-ratelimit-remaining"), ["8"], "{existing:?}");
    }
}

/// The layer does not change such a response.
#[test]
fn response_without_fields_of_the_layer_stays_unchanged() {
    for existing in [Append, Replace, Keep] {
        let redirect = tower::service_fn(|_: Request<()>| async {
            let response = Response::builder()
                .status(302)
                .header("ratelimit", "theirs");
            let response = response.body(Full::<Bytes>::default());
            Ok::<_, Infallible>(response.expect("a valid head"))
        });
        let seen = seen(
            &mut limit(Draft11, existing).layer(redirect),
            Request::new(()),
        );
        assert_eq!(seen.lines("ratelimit"), ["theirs"], "{existing:?}");
    }
}
