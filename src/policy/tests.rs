use std::time::Duration;

use super::named::identity;
use super::{Policy, PolicyError};
use crate::quota::Quota;

const Q: Quota = Quota::per_second(1);

#[test]
fn invalid_names_are_errors() {
    let long = "x".repeat(65);
    for name in ["", "a b", "a{b", "é", "a\n", "a:b", &long] {
        assert!(
            matches!(Policy::try_new(name, Q), Err(PolicyError::Name(_))),
            "{name:?}"
        );
    }
    for name in ["", "é", "a\r\nx: y", "\u{7f}", &long] {
        let error = Policy::new("p", Q).try_and(name, Q).unwrap_err();
        assert!(matches!(error, PolicyError::QuotaName(_)), "{name:?}");
        assert!(
            error.to_string().bytes().all(|byte| byte >= b' '),
            "{error}"
        );
    }
    assert!(Policy::new("p", Q).try_and("per \"minute\"", Q).is_ok());
}

#[test]
fn a_policy_has_1_to_8_quotas_with_unique_names() {
    assert_eq!(
        Policy::new("p", Q).try_and("p", Q),
        Err(PolicyError::DuplicateName("p".into()))
    );
    assert_eq!(
        Policy::try_from_quotas::<&str>("p", []),
        Err(PolicyError::Count(0))
    );
    let names = |count| (0..count).map(|index: u32| (index.to_string(), Q));
    assert!(Policy::try_from_quotas("p", names(8)).is_ok());
    assert_eq!(
        Policy::try_from_quotas("p", names(9)),
        Err(PolicyError::Count(9))
    );
}

#[test]
fn the_identity_of_a_limit_is_its_shape_and_not_its_numbers() {
    let window = |seconds| Quota::fixed_window(5, Duration::from_secs(seconds));
    let same = |a: Quota, b: Quota| identity("p", "x", &a) == identity("p", "x", &b);
    assert!(same(
        Quota::per_second(5),
        Quota::per_minute(7).burst(9).initial_tokens(0)
    ));
    assert!(!same(window(1), window(2)));
    assert!(!same(
        window(1),
        Quota::sliding_window(5, Duration::from_secs(1))
    ));
    assert!(!same(
        window(1),
        window(1).anchor(crate::quota::Anchor::FirstUse)
    ));
    assert!(!same(
        window(1),
        window(1).with_unit(crate::quota::Unit::ContentBytes)
    ));
}

#[cfg(feature = "serde")]
#[test]
fn a_policy_reads_from_a_file() {
    let read = |text: &str| serde_json::from_str::<Policy>(text);
    let daily = Quota::fixed_window(9, Duration::from_secs(86_400));
    let policy = Policy::try_from_quotas("api", [("burst", Q), ("daily", daily)]).expect("valid");
    let text = serde_json::to_string(&policy).expect("serializes");
    assert_eq!(read(&text).expect(&text), policy);
    assert_eq!(
        read(r#"{"name":"api","quota":"1/s"}"#).expect("reads"),
        Policy::new("api", Q)
    );
    let why = read(r#"{"name":"a b","quota":"1/s"}"#)
        .unwrap_err()
        .to_string();
    assert!(
        why.starts_with(r#"invalid policy name "a b": use 1 to 64"#),
        "{why}"
    );
    let why = read(r#"{"name":"api","quotas":["5/s"]}"#)
        .unwrap_err()
        .to_string();
    assert!(
        why.contains(r#"expected a map such as {"name": "burst", "quota": "10/second"}"#),
        "{why}"
    );
    let why = read(r#"{"name":"api"}"#).unwrap_err().to_string();
    assert!(
        why.starts_with("invalid policy of 0 quotas: use 1 to 8"),
        "{why}"
    );
}
