//! `tests/vectors/ratelimit_headers.json`, every case.

use std::path::Path;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::draft11::FieldItem;
use super::field::write_no_store;
use super::format::{HeaderFormat, HeaderFormats, Reset};
use super::prepared::{FieldOptions, PreparedFields};
use super::retry_after::write_wait;
use super::{ExistingHeaders, Rejection, grpc, problem};
use crate::clock::Timestamp;
use crate::decision::{Decision, NEVER, QuotaSnapshot, Snapshot};
use crate::policy::Policy;
use crate::quota::{Quota, Unit};

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn micros(value: &Value) -> std::time::Duration {
    std::time::Duration::from_micros(value.as_u64().expect("a number"))
}

/// The quota of a policy as the case describes it; none for concurrency.
fn quota(policy: &Value) -> Option<Quota> {
    let quota = match policy["algorithm"].as_str().expect("a name") {
        "token_bucket" => Quota::token_bucket(
            number(&policy["capacity"]),
            number(&policy["refill"]),
            micros(&policy["period_us"]),
        ),
        "token_bucket_interval" => Quota::interval_bucket(
            number(&policy["capacity"]),
            number(&policy["refill"]),
            micros(&policy["period_us"]),
        ),
        "fixed_window" => {
            Quota::fixed_window(number(&policy["limit"]), micros(&policy["window_us"]))
        }
        "semaphore" => {
            assert_eq!(policy["unit"], "concurrent-requests");
            return None;
        }
        other => panic!("unknown algorithm {other}"),
    };
    Some(match policy["unit"].as_str() {
        None => quota,
        Some("content-bytes") => quota.with_unit(Unit::ContentBytes),
        Some(other) => panic!("unknown unit {other}"),
    })
}

fn name(policy: &Value) -> &str {
    policy["name"].as_str().expect("a name")
}

/// Its item, and its limit.
fn item(policy: &Value) -> (FieldItem, u64) {
    match quota(policy) {
        Some(quota) => {
            let named = Policy::try_from_quotas("p", [(name(policy), quota)]).expect("a policy");
            (FieldItem::from_quota(&named.quotas()[0]), quota.limit())
        }
        None => {
            let capacity = number(&policy["capacity"]);
            let narrow = u32::try_from(capacity).expect("permits");
            (FieldItem::raw(name(policy), narrow), capacity)
        }
    }
}

/// The bytes that `pk` has in base64.
fn partition_key(policies: &[Value]) -> Option<&'static [u8]> {
    let encoded = policies
        .iter()
        .find_map(|policy| policy.get("partition_key"))?;
    assert_eq!(encoded, "dHJpYWwxMjEzMjM=");
    Some(b"trial121323")
}

fn formats(name: &str) -> HeaderFormats {
    match name {
        "draft-11" => HeaderFormat::Draft11,
        "draft-07" => HeaderFormat::Draft07,
        "draft-06" => HeaderFormat::Draft06,
        "x-ratelimit-epoch" => HeaderFormat::XRateLimit {
            reset: Reset::Epoch,
        },
        "x-ratelimit-delta" => HeaderFormat::XRateLimit {
            reset: Reset::Delta,
        },
        "none" => HeaderFormat::None,
        other => panic!("unknown format {other}"),
    }
    .into()
}

fn decision(results: &[Value], limits: &[u64]) -> Decision {
    let answers = results
        .iter()
        .zip(limits)
        .map(|(result, limit)| QuotaSnapshot {
            limit: *limit,
            remaining: number(&result["remaining"]),
            retry_after: match (
                result["allowed"].as_bool().expect("a bool"),
                result["retry_after_us"].as_u64(),
            ) {
                (true, _) => 0,
                (false, Some(wait)) => wait,
                (false, None) => NEVER,
            },
            reset_after: result["reset_after_us"].as_u64().expect("a number"),
        });
    Decision::from_snapshot(Snapshot::new(answers.collect()))
}

#[test]
fn ratelimit_headers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ratelimit_headers.json");
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON");
    let mut ran = 0;
    for case in file["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let format = case["format"].as_str().expect("a format");
        let policies = case["policies"].as_array().expect("policies");
        let (items, limits): (Vec<_>, Vec<_>) = policies.iter().map(item).unzip();
        let decision = decision(case["results"].as_array().expect("results"), &limits);
        let prepared = PreparedFields::new(items, None);

        let mut headers = HeaderMap::new();
        let field = |pair: &Value| {
            let text = |index: usize| pair[index].as_str().expect("text").to_owned();
            (text(0).parse::<HeaderName>().expect("a name"), text(1))
        };
        for pair in case["existing"].as_array().into_iter().flatten() {
            let (name, value) = field(pair);
            headers.insert(name, HeaderValue::from_str(&value).expect("a value"));
        }
        let mut status = 200;
        let existing = ExistingHeaders::default();
        if format == "grpc" {
            let kind = HeaderValue::from_static("application/grpc");
            grpc::write(&limited(policies, decision.clone()), 0, kind, &mut headers);
        } else {
            if let Some(retry_after) = decision.retry_after() {
                write_wait(retry_after, 0, existing, Timestamp::default, &mut headers);
                write_no_store(&mut headers);
                status = 429;
            }
            let options = FieldOptions {
                formats: formats(format),
                existing,
                written: HeaderFormats::NONE,
                at: Timestamp::from_micros(case["now_us"].as_u64().expect("a time")),
                partition_key: partition_key(policies),
                shown: None,
            };
            prepared.write_limits(options, &decision, &mut headers);
        }

        let expect = &case["expect"];
        assert_eq!(expect["status"], status, "{name}");
        let mut expected: Vec<_> = expect["headers"]
            .as_array()
            .expect("headers")
            .iter()
            .map(field)
            .collect();
        // Every field that is there is expected, with all its lines as one list.
        let mut actual: Vec<_> = headers
            .keys()
            .map(|key| {
                let lines = headers
                    .get_all(key)
                    .iter()
                    .map(|value| value.to_str().expect("ASCII"));
                (key.clone(), lines.collect::<Vec<_>>().join(", "))
            })
            .collect();
        let by_name =
            |a: &(HeaderName, String), b: &(HeaderName, String)| a.0.as_str().cmp(b.0.as_str());
        expected.sort_by(by_name);
        actual.sort_by(by_name);
        assert_eq!(actual, expected, "{name}");
        for absent in expect["absent"].as_array().into_iter().flatten() {
            assert!(
                !headers.contains_key(absent.as_str().expect("text")),
                "{name}: {absent}"
            );
        }
        if let Some(problem) = expect.get("problem") {
            let names = policies
                .iter()
                .zip(decision.snapshot().quotas())
                .filter(|(_, answer)| !answer.is_allowed());
            let body = problem::quota_exceeded(
                names.map(|(policy, _)| policy["name"].as_str().expect("a name")),
            );
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body, *problem, "{name}");
        }
        ran += 1;
    }
    assert_eq!(ran, 37, "all there are");
}

/// A rejection by these policies.
fn limited(policies: &[Value], decision: Decision) -> Rejection {
    let quotas = policies
        .iter()
        .map(|policy| (name(policy), quota(policy).expect("a quota")));
    Rejection::Limited {
        policy: Policy::try_from_quotas("p", quotas).expect("a policy"),
        decision,
        joined: false,
    }
}

#[test]
fn names_are_escaped_in_a_problem_body() {
    let body = problem::quota_exceeded(["a\"b\\c", "d"].into_iter());
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        body["violated-policies"],
        serde_json::json!(["a\"b\\c", "d"])
    );
}
