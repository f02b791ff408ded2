//! Runs the vectors of one file on one backend.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};
use tower_sluice::clock::Timestamp;
use tower_sluice::decision::{QuotaSnapshot, Receipt};
use tower_sluice::quota::Anchor;
#[cfg(feature = "calendar")]
use tower_sluice::quota::Every;
use tower_sluice::{Cost, Policy, Quota, Reservation, RetryAfter};

use crate::subject::{Subject, Subjects};

pub(crate) type Object = Map<String, Value>;

pub(crate) fn read(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(file);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn object(value: &Value) -> &Object {
    value
        .as_object()
        .unwrap_or_else(|| panic!("not an object: {value}"))
}

/// Fails on an unknown field: a vector must not pass if part of it was not read.
pub(crate) fn only(object: &Object, known: &[&str]) {
    let unknown: Vec<_> = object
        .keys()
        .filter(|key| !known.contains(&key.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "fields unknown to the runner: {unknown:?} in {object:?}"
    );
}

pub(crate) fn number(object: &Object, field: &str) -> u64 {
    object
        .get(field)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no number `{field}` in {object:?}"))
}

pub(crate) fn micros(object: &Object, field: &str) -> Duration {
    Duration::from_micros(number(object, field))
}

pub(crate) fn quota(algorithm: &str, limit: &Object) -> Quota {
    let anchor = |field: &str, first: &str| {
        let offset = if limit.contains_key("offset_us") {
            micros(limit, "offset_us")
        } else {
            Duration::ZERO
        };
        match limit.get(field).map(|value| value.as_str().unwrap_or("?")) {
            None if offset.is_zero() => None,
            None | Some("epoch") => Some(Anchor::Epoch { offset }),
            Some(name) if name == first => Some(Anchor::FirstUse),
            Some(name) => panic!("unknown {field} `{name}`"),
        }
    };
    let (quota, anchor) = match algorithm {
        "token_bucket" | "gcra" => {
            only(
                limit,
                &[
                    "name",
                    "algorithm",
                    "capacity",
                    "refill",
                    "period_us",
                    "initial_tokens",
                ],
            );
            (
                Quota::try_token_bucket(
                    number(limit, "capacity"),
                    number(limit, "refill"),
                    micros(limit, "period_us"),
                ),
                None,
            )
        }
        "token_bucket_interval" => {
            only(
                limit,
                &[
                    "name",
                    "algorithm",
                    "capacity",
                    "refill",
                    "period_us",
                    "initial_tokens",
                    "align",
                    "offset_us",
                ],
            );
            let (capacity, refill) = (number(limit, "capacity"), number(limit, "refill"));
            (
                Quota::try_interval_bucket(capacity, refill, micros(limit, "period_us")),
                anchor("align", "first_use"),
            )
        }
        "fixed_window" => {
            only(
                limit,
                &[
                    "name",
                    "algorithm",
                    "limit",
                    "window_us",
                    "anchor",
                    "offset_us",
                ],
            );
            (
                Quota::try_fixed_window(number(limit, "limit"), micros(limit, "window_us")),
                anchor("anchor", "first"),
            )
        }
        "sliding_counter" => {
            only(limit, &["name", "algorithm", "limit", "window_us"]);
            (
                Quota::try_sliding_window(number(limit, "limit"), micros(limit, "window_us")),
                None,
            )
        }
        "sliding_log" => {
            only(limit, &["name", "algorithm", "limit", "window_us"]);
            (
                Quota::try_sliding_log(number(limit, "limit"), micros(limit, "window_us")),
                None,
            )
        }
        "total" => {
            only(limit, &["limit"]);
            (Quota::try_total(number(limit, "limit")), None)
        }
        #[cfg(feature = "calendar")]
        "calendar_window" => {
            only(limit, &["limit", "period"]);
            (calendar_window(limit), None)
        }
        other => panic!("unknown algorithm `{other}`"),
    };
    let mut quota = quota.expect("the vectors' quotas are valid");
    if limit.contains_key("initial_tokens") {
        quota = quota.initial_tokens(number(limit, "initial_tokens"));
    }
    anchor.map_or(quota, |anchor| quota.anchor(anchor))
}

#[cfg(feature = "calendar")]
fn calendar_window(limit: &Object) -> Result<Quota, tower_sluice::quota::QuotaError> {
    let period = object(&limit["period"]);
    only(period, &["zone", "every", "weekday", "month", "day"]);
    let small = |field: &str| match period.get(field) {
        Some(_) => u8::try_from(number(period, field)).expect("small"),
        None => 1,
    };
    let every = match period["every"].as_str().expect("a text") {
        "day" => Every::Day,
        "week" => Every::Week {
            weekday: small("weekday"),
        },
        "month" => Every::Month { day: small("day") },
        "quarter" => Every::Quarter { day: small("day") },
        "year" => Every::Year {
            month: small("month"),
            day: small("day"),
        },
        other => panic!("unknown period `{other}`"),
    };
    let zone = period["zone"].as_str().expect("a text");
    Quota::try_calendar_window(number(limit, "limit"), every, zone)
}

/// A reply in the words of the vectors, for a comparison field by field.
fn reported(quota: &QuotaSnapshot, checked: bool) -> Object {
    let mut answer = Object::new();
    let us = |duration: Duration| u64::try_from(duration.as_micros()).expect("fits");
    answer.insert("remaining".into(), quota.remaining().into());
    let reset = match quota.reset_after() {
        Duration::MAX => Value::Null,
        reset => us(reset).into(),
    };
    answer.insert("reset_after_us".into(), reset);
    if checked {
        answer.insert("allowed".into(), quota.is_allowed().into());
        let (wait, never) = match quota.retry_after() {
            None => (Value::Null, false),
            Some(RetryAfter::Never) => (Value::Null, true),
            Some(RetryAfter::In(wait)) => (us(wait).into(), false),
        };
        answer.insert("retry_after_us".into(), wait);
        if never {
            answer.insert("unsatisfiable".into(), true.into());
        }
    }
    answer
}

/// Runs one vector. An error names the step, the expected and the actual value.
fn run(
    vector: &Object,
    mut policy: Policy,
    algorithm: &str,
    mut subject: impl Subject,
) -> Result<(), String> {
    let steps = vector["steps"].as_array().expect("steps");
    let mut receipts: BTreeMap<usize, Receipt> = BTreeMap::new();
    let mut reservations: BTreeMap<usize, Reservation> = BTreeMap::new();
    for (index, step) in steps.iter().enumerate() {
        let step = object(step);
        let now = Timestamp::from_micros(number(step, "at_us"));
        let of = |step: &Object| usize::try_from(number(step, "of")).expect("fits");
        let actual = match step.get("op").map(|op| op.as_str().unwrap_or("?")) {
            None => {
                only(step, &["at_us", "cost", "costs", "expect"]);
                let reply = match step.get("costs").and_then(Value::as_array) {
                    None => subject.check(&policy, now, Cost::new(number(step, "cost"))),
                    Some(costs) => {
                        let mut each = [0; 8];
                        assert_eq!(costs.len(), policy.quotas().len());
                        for (cost, given) in each.iter_mut().zip(costs) {
                            *cost = given.as_u64().expect("a cost");
                        }
                        subject.check(&policy, now, Cost::each(each))
                    }
                };
                assert_eq!(
                    reply.receipt.is_some(),
                    reply.decision.is_allowed(),
                    "a receipt for each charge"
                );
                let decision = reply.decision;
                if let Some(receipt) = reply.receipt {
                    receipts.insert(index, receipt);
                }
                let snapshot = decision.snapshot();
                let governing = snapshot.governing();
                let mut actual = reported(&snapshot.quotas()[governing], true);
                assert_eq!(decision.is_allowed(), decision.retry_after().is_none());
                assert_eq!(
                    decision.retry_after(),
                    snapshot.quotas()[governing].retry_after()
                );
                if step.contains_key("costs") {
                    actual.retain(|field, _| {
                        !["remaining", "reset_after_us"].contains(&field.as_str())
                    });
                    actual.insert("governing".into(), governing.into());
                    let each = snapshot
                        .quotas()
                        .iter()
                        .map(|quota| Value::Object(reported(quota, true)))
                        .collect();
                    actual.insert("limits".into(), Value::Array(each));
                }
                actual
            }
            Some("reserve") => {
                only(step, &["op", "at_us", "cost", "max_wait_us", "expect"]);
                let (cost, max_wait) =
                    (Cost::new(number(step, "cost")), micros(step, "max_wait_us"));
                let reply = subject.reserve(&policy, now, cost, max_wait);
                let allowed = reply.decision.is_allowed();
                assert_eq!(
                    (reply.receipt.is_some(), reply.reservation.is_some()),
                    (false, allowed)
                );
                reservations.extend(reply.reservation.map(|reservation| (index, reservation)));
                let mut actual = reported(&reply.decision.snapshot().quotas()[0], true);
                let wait = u64::try_from(reply.wait.as_micros()).expect("fits");
                actual.insert(
                    "wait_us".into(),
                    if allowed { wait.into() } else { Value::Null },
                );
                actual
            }
            Some("cancel") => {
                only(step, &["op", "at_us", "of", "expect"]);
                // A charge is refunded once. Then there is nothing left to cancel.
                let reservation = reservations.remove(&of(step));
                let was_there = reservation.is_some();
                let kept =
                    reservation.and_then(|reservation| subject.cancel(&policy, now, reservation));
                let returned = was_there && kept.is_none();
                reservations.extend(kept.map(|reservation| (of(step), reservation)));
                let look = subject.check(&policy, now, Cost::ZERO);
                let mut actual = reported(&look.decision.snapshot().quotas()[0], false);
                actual.insert("returned".into(), returned.into());
                actual
            }
            Some("penalty") => {
                only(step, &["op", "at_us", "cost", "expect"]);
                reported(
                    &subject.penalize(&policy, now, Cost::new(number(step, "cost")))[0],
                    false,
                )
            }
            Some("refund") => {
                only(step, &["op", "at_us", "cost", "of", "expect"]);
                // A refunded reservation was used.
                let used = reservations
                    .remove(&of(step))
                    .and_then(Reservation::into_receipt);
                receipts.extend(used.map(|receipt| (of(step), receipt)));
                match receipts.get_mut(&of(step)) {
                    Some(receipt) => reported(
                        &subject.refund(&policy, now, receipt, Cost::new(number(step, "cost")))[0],
                        false,
                    ),
                    None => return Err(format!("step {index}: step {} charged nothing", of(step))),
                }
            }
            Some("reset") => {
                only(step, &["op", "at_us", "expect"]);
                reported(&subject.reset(&policy, now)[0], false)
            }
            Some("reconfigure") => {
                only(step, &["op", "at_us", "limit", "expect"]);
                policy = Policy::new("vectors", quota(algorithm, object(&step["limit"])));
                reported(
                    subject
                        .check(&policy, now, Cost::ZERO)
                        .decision
                        .snapshot()
                        .quotas()
                        .first()
                        .expect("one"),
                    false,
                )
            }
            Some(other) => {
                return Err(format!(
                    "step {index}: operation `{other}` is unknown to the runner"
                ));
            }
        };
        let expected = object(&step["expect"]);
        if *expected != actual {
            let actual = Value::Object(actual);
            return Err(format!(
                "step {index}: {}\n    expected {}\n    actual   {actual}",
                Value::Object(step.clone()),
                step["expect"]
            ));
        }
    }
    Ok(())
}

pub(crate) fn run_file<S: Subjects>(file: &str, mut subjects: S) {
    let vectors = read(file);
    let vectors = object(&vectors);
    only(
        vectors,
        &["schema_version", "schema", "algorithm", "vectors"],
    );
    assert_eq!(vectors["schema_version"], 1);
    let algorithm = vectors["algorithm"].as_str().expect("a name");
    let (mut ran, mut left_out, mut failures) = (0, 0, String::new());
    for vector in vectors["vectors"].as_array().expect("vectors") {
        let vector = object(vector);
        only(
            vector,
            &["name", "why", "tags", "limit", "limits", "steps", "seed"],
        );
        let name = vector["name"].as_str().expect("a name");
        let policy = match vector.get("limits").and_then(Value::as_array) {
            None => Policy::new("vectors", quota(algorithm, object(&vector["limit"]))),
            Some(limits) => {
                let named = limits.iter().map(|limit| {
                    let limit = object(limit);
                    let text = |field: &str| limit[field].as_str().expect("text");
                    (text("name"), quota(text("algorithm"), limit))
                });
                Policy::try_from_quotas("vectors", named).expect("a policy")
            }
        };
        if !S::keeps(&policy) {
            left_out += 1;
            continue;
        }
        let subject = subjects.next(&policy);
        match run(vector, policy, algorithm, subject) {
            Ok(()) => ran += 1,
            Err(why) => write!(failures, "\n{file}, {name}, {}: {why}", S::NAME).expect("writes"),
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(ran > 0, "{file} has no case for this runner");
    // Written past the capture of the test harness: a passing run also shows the number of cases.
    let unkept = match left_out {
        0 => String::new(),
        some => format!(", {some} it cannot keep"),
    };
    writeln!(
        std::io::stderr(),
        "{file} on {}: {ran} cases pass{unkept}",
        S::NAME
    )
    .expect("stderr");
}
