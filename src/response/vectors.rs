//! `tests/vectors/ratelimit_headers.json`: the cases of draft 11 and of no format at all; the others are counted and named.

use std::io::Write as _;
use std::path::Path;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::draft11::Item;
use super::headers::{HeaderFormat, Prepared, write_refusal};
use super::problem;
use crate::decision::{Decision, NEVER, QuotaSnapshot, Snapshot};
use crate::policy::Policy;
use crate::quota::{Quota, Unit};

fn small(value: &Value) -> u32 {
    value
        .as_u64()
        .and_then(|value| u32::try_from(value).ok())
        .expect("a number")
}

fn micros(value: &Value) -> std::time::Duration {
    std::time::Duration::from_micros(value.as_u64().expect("a number"))
}

/// The item of a policy as the case describes it, and its limit.
fn item(policy: &Value) -> (Item, u32) {
    let unit = match policy["unit"].as_str() {
        None => Unit::Requests,
        Some("content-bytes") => Unit::ContentBytes,
        Some("concurrent-requests") => {
            let capacity = small(&policy["capacity"]);
            let name = policy["name"].as_str().expect("a name");
            return (
                Item::raw(name, capacity, Some("concurrent-requests"), None, None),
                capacity,
            );
        }
        Some(other) => panic!("unknown unit {other}"),
    };
    let name = policy["name"].as_str().expect("a name");
    let quota = match policy["algorithm"].as_str().expect("a name") {
        "token_bucket" => Quota::token_bucket(
            small(&policy["capacity"]),
            small(&policy["refill"]),
            micros(&policy["period_us"]),
        ),
        "token_bucket_interval" => Quota::interval_bucket(
            small(&policy["capacity"]),
            small(&policy["refill"]),
            micros(&policy["period_us"]),
        ),
        "fixed_window" => {
            Quota::fixed_window(small(&policy["limit"]), micros(&policy["window_us"]))
        }
        other => panic!("unknown algorithm {other}"),
    };
    let quota = quota.unit(unit);
    if let Some(partition_key) = policy["partition_key"].as_str() {
        let window = policy["window_us"]
            .as_u64()
            .expect("a window")
            .div_ceil(1_000_000);
        return (
            Item::raw(name, quota.limit(), None, Some(window), Some(partition_key)),
            quota.limit(),
        );
    }
    let named = Policy::try_of("p", [(name, quota)]).expect("a policy");
    (Item::of(&named.quotas()[0]), quota.limit())
}

fn decision(results: &[Value], limits: &[u32]) -> Decision {
    let answers = results
        .iter()
        .zip(limits)
        .map(|(result, limit)| QuotaSnapshot {
            limit: *limit,
            remaining: small(&result["remaining"]),
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
    Decision::of(Snapshot::new(answers.collect()))
}

#[test]
fn ratelimit_headers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ratelimit_headers.json");
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON");
    let (mut ran, mut left_out) = (0, Vec::new());
    for case in file["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let format = match case["format"].as_str().expect("a format") {
            "draft-11" => HeaderFormat::Draft11,
            "none" => HeaderFormat::None,
            _ => {
                left_out.push(name);
                continue;
            }
        };
        let policies = case["policies"].as_array().expect("policies");
        let (items, limits): (Vec<_>, Vec<_>) = policies.iter().map(item).unzip();
        let decision = decision(case["results"].as_array().expect("results"), &limits);
        let prepared = Prepared::new(items, None);

        let mut headers = HeaderMap::new();
        let field = |pair: &Value| {
            let text = |index: usize| pair[index].as_str().expect("text").to_owned();
            (text(0).parse::<HeaderName>().expect("a name"), text(1))
        };
        for pair in case["existing"].as_array().into_iter().flatten() {
            let (name, value) = field(pair);
            headers.insert(name, HeaderValue::from_str(&value).expect("a value"));
        }
        if let Some(retry_after) = decision.retry_after() {
            write_refusal(retry_after, &mut headers);
        }
        prepared.write_limits(format, &decision, &mut headers);

        let expect = &case["expect"];
        assert_eq!(
            expect["status"],
            if decision.is_allowed() { 200 } else { 429 },
            "{name}"
        );
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
    assert_eq!(ran, 23, "22 cases of draft 11 and one of no format");
    let line = format!(
        "{ran} cases pass; {} left out, of formats that are not built: {}",
        left_out.len(),
        left_out.join(", ")
    );
    writeln!(std::io::stderr(), "ratelimit_headers.json: {line}").expect("stderr");
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
