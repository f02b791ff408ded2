//! Quotas as text.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::runner::{object, only, read};
use serde_json::Value;
use tower_sluice::Quota;
use tower_sluice::quota::{ParseQuotaErrorKind, Unit};

#[test]
fn quota_strings() {
    let file = read("quota_parse.json");
    let file = object(&file);
    only(file, &["schema_version", "schema", "cases"]);
    let cases = file["cases"].as_array().expect("cases");
    let mut failures = String::new();
    for case in cases {
        let case = object(case);
        only(case, &["name", "why", "input", "expect"]);
        let (input, expect) = (
            case["input"].as_str().expect("text"),
            object(&case["expect"]),
        );
        only(expect, &["quotas", "error"]);
        let actual = match Quota::parse_list(input) {
            Ok(quotas) => {
                serde_json::json!({"quotas": quotas.iter().map(parts).collect::<Vec<_>>()})
            }
            Err(error) => {
                let kind = match error.kind() {
                    ParseQuotaErrorKind::Empty => "empty",
                    ParseQuotaErrorKind::Syntax => "syntax",
                    ParseQuotaErrorKind::Unit => "unit",
                    ParseQuotaErrorKind::CalendarUnit => "calendar_unit",
                    ParseQuotaErrorKind::Zero => "zero",
                    ParseQuotaErrorKind::TooLarge => "too_large",
                    ParseQuotaErrorKind::TooSlow => "too_slow",
                    _ => "another kind",
                };
                serde_json::json!({ "error": kind })
            }
        };
        if Value::Object(expect.clone()) != actual {
            write!(
                failures,
                "\nquota_parse.json, {}: {input:?}\n    expected {}\n    actual   {actual}",
                case["name"], case["expect"]
            )
            .expect("writes");
        }
    }
    assert!(failures.is_empty(), "{failures}");
    writeln!(
        std::io::stderr(),
        "quota_parse.json: {} cases pass",
        cases.len()
    )
    .expect("stderr");
}

/// A quota in the words of the vectors, including its rate in grains.
fn parts(quota: &Quota) -> Value {
    let (per_micro, per_token) = quota.grains().expect("a token bucket");
    let (refill, period) = quota.rate().expect("a token bucket");
    let mut parts = serde_json::json!({
        "refill": refill,
        "period_us": u64::try_from(period.as_micros()).expect("fits"),
        "capacity": quota.limit(),
        "units": [per_micro, per_token],
    });
    if quota.unit() == Unit::ContentBytes {
        parts["unit"] = "content-bytes".into();
    }
    parts
}
