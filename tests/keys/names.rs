//! Names are safe in header fields.

use http::Request;
use tower::Layer;
use tower_sluice::policy::PolicyError;
use tower_sluice::{Policy, Quota, RateLimitLayer};

use crate::support::{hello, memory, seen};

#[test]
fn names_contain_no_line_breaks() {
    for name in [
        "a\r\nset-cookie: x=y",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\tb",
        "ä",
        "a\u{7f}",
        "a\u{85}b",
    ] {
        let policy = Policy::try_new(name, Quota::per_day(1));
        assert!(matches!(policy, Err(PolicyError::Name(_))), "{name:?}");
        let quotas = [
            ("one".to_owned(), Quota::per_day(1)),
            (name.to_owned(), Quota::per_day(2)),
        ];
        let policy = Policy::try_from_quotas("api", quotas);
        assert!(matches!(policy, Err(PolicyError::QuotaName(_))), "{name:?}");
    }
}

#[test]
fn quotes_in_names_are_escaped() {
    let name = r#"a";r=99, "b\"#;
    let quotas = [
        ("one".to_owned(), Quota::per_day(9)),
        (name.to_owned(), Quota::per_day(1)),
    ];
    let policy = Policy::try_from_quotas("api", quotas).expect("printable");
    let mut service =
        RateLimitLayer::new(policy, tower_sluice::Global, memory()).layer(hello::<()>());
    let allowed = seen(&mut service, Request::new(()));
    let limit = r#""one";r=8, "a\";r=99, \"b\\";r=0;t=86400"#;
    assert_eq!(allowed.lines("ratelimit"), [limit]);
    let policy = r#""one";q=9;w=86400, "a\";r=99, \"b\\";q=1;w=86400"#;
    assert_eq!(allowed.lines("ratelimit-policy"), [policy]);
    let rejected = seen(&mut service, Request::new(()));
    let body: serde_json::Value = serde_json::from_str(&rejected.body).expect("JSON");
    assert_eq!(body["violated-policies"], serde_json::json!([name]));
}
