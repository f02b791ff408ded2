//! Counts for the `metrics` facade. Labels are names that the user gave to policies and permits, never keys.

use std::sync::Arc;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, SharedString, Unit, describe_counter,
    describe_gauge, describe_histogram, with_recorder,
};

use super::DecisionOutcome;
#[cfg(feature = "redis")]
use crate::backend::BackendErrorKind;
use crate::policy::{Policy, SemaphorePolicy};
use crate::response::Rejection;
use crate::semaphore::Permit;

const DECISIONS: &str = "sluice_decisions_total";
const WAIT: &str = "sluice_wait_seconds";
const UNKEYED: &str = "sluice_unkeyed_total";
const EVICTIONS: &str = "sluice_evictions_total";
const LOST_SETTLEMENTS: &str = "sluice_lost_settlements_total";
const PERMITS: &str = "sluice_permits_total";
const PERMITS_IN_USE: &str = "sluice_permits_in_use";
const PERMIT_WAIT: &str = "sluice_permit_wait_seconds";
const PERMITS_LOST: &str = "sluice_permits_lost_total";
const BACKEND: &str = "sluice_backend_seconds";
const FAILURES: &str = "sluice_backend_failures_total";
const CIRCUITS: &str = "sluice_open_circuits";

/// Tells the recorder what each of them is. Call it once, when the recorder has been installed.
pub fn describe() {
    for (name, what) in [
        (DECISIONS, "Decisions, by policy and outcome"),
        (UNKEYED, "Requests whose key could not be had"),
        (
            EVICTIONS,
            "Keys that were forgotten before their time to make room for others",
        ),
        (
            LOST_SETTLEMENTS,
            "Settlements, and turns or permits given back, that were not written down",
        ),
        (
            PERMITS,
            "Requests that asked for a permit, by its name and outcome",
        ),
        (PERMITS_LOST, "Permits whose lease could not be renewed"),
        (FAILURES, "Operations that Redis gave no answer to, by kind"),
    ] {
        describe_counter!(name, Unit::Count, what);
    }
    for (name, what) in [
        (PERMITS_IN_USE, "Permits that are held by this process"),
        (CIRCUITS, "Backends that are left alone after failures"),
    ] {
        describe_gauge!(name, Unit::Count, what);
    }
    for (name, what) in [
        (
            WAIT,
            "How long requests waited that were allowed after a wait",
        ),
        (
            PERMIT_WAIT,
            "How long requests waited that have a permit after a wait",
        ),
        (
            BACKEND,
            "How long Redis took to answer, a batch of operations at a time",
        ),
    ] {
        describe_histogram!(name, Unit::Seconds, what);
    }
}

static METADATA: Metadata<'static> =
    Metadata::new("tower_sluice", Level::INFO, Some("tower_sluice"));

fn counter(key: &Key) -> Counter {
    with_recorder(|recorder| recorder.register_counter(key, &METADATA))
}

fn gauge(key: &Key) -> Gauge {
    with_recorder(|recorder| recorder.register_gauge(key, &METADATA))
}

fn histogram(key: &Key) -> Histogram {
    with_recorder(|recorder| recorder.register_histogram(key, &METADATA))
}

const OUTCOMES: [&str; 5] = ["allowed", "denied", "shadow", "passed", "unavailable"];

/// What the decisions of a policy are counted under, made once.
struct MetricKeys {
    decisions: [Key; OUTCOMES.len()],
    wait: Key,
}

impl MetricKeys {
    fn from_policy(policy: &Policy) -> Self {
        let name: SharedString = Arc::<str>::from(policy.name()).into();
        let label = Label::new("policy", name);
        Self {
            decisions: OUTCOMES.map(|outcome| {
                let outcome = Label::from_static_parts("outcome", outcome);
                Key::from_parts(DECISIONS, vec![label.clone(), outcome])
            }),
            wait: Key::from_parts(WAIT, vec![label.clone()]),
        }
    }
}

pub(super) fn decided(policy: &Policy, outcome: DecisionOutcome) {
    let names = policy.derived(MetricKeys::from_policy);
    counter(&names.decisions[outcome as usize]).increment(1);
}

pub(super) fn waited(waited: Duration, policy: &Policy) {
    let names = policy.derived(MetricKeys::from_policy);
    histogram(&names.wait).record(waited);
}

pub(super) fn rejected(rejection: &Rejection) {
    match rejection {
        Rejection::Limited { policy, .. } => decided(policy, DecisionOutcome::Denied),
        Rejection::Busy { policy, .. } => permit_decided(policy, DecisionOutcome::Denied),
        Rejection::NoKey(_) => counter(&Key::from_static_name(UNKEYED)).increment(1),
        // Told where it is known of whom.
        Rejection::Unavailable => {}
    }
}

fn policy_label(policy: &SemaphorePolicy) -> Label {
    Label::new("permits", SharedString::from_shared(policy.shared_name()))
}

pub(super) fn permit_decided(policy: &SemaphorePolicy, outcome: DecisionOutcome) {
    let outcome = Label::from_static_parts("outcome", OUTCOMES[outcome as usize]);
    counter(&Key::from_parts(
        PERMITS,
        vec![policy_label(policy), outcome],
    ))
    .increment(1);
}

pub(super) fn permit_acquired(permit: &Permit) {
    let label = policy_label(permit.policy());
    let key = Key::from_parts(PERMITS_IN_USE, vec![label.clone()]);
    gauge(&key).increment(f64::from(permit.weight()));
    if !permit.waited().is_zero() {
        let key = Key::from_parts(PERMIT_WAIT, vec![label]);
        histogram(&key).record(permit.waited());
    }
}

pub(super) fn permit_released(policy: &SemaphorePolicy, weight: u32) {
    let key = Key::from_parts(PERMITS_IN_USE, vec![policy_label(policy)]);
    gauge(&key).decrement(f64::from(weight));
}

pub(super) fn permit_lost(policy: &SemaphorePolicy) {
    counter(&Key::from_parts(PERMITS_LOST, vec![policy_label(policy)])).increment(1);
}

pub(super) fn background_task_failed() {
    counter(&Key::from_static_name(LOST_SETTLEMENTS)).increment(1);
}

pub(super) fn evicted() {
    counter(&Key::from_static_name(EVICTIONS)).increment(1);
}

#[cfg(feature = "redis")]
pub(super) fn circuit(is_open: bool) {
    let gauge = gauge(&Key::from_static_name(CIRCUITS));
    if is_open {
        gauge.increment(1);
    } else {
        gauge.decrement(1);
    }
}

#[cfg(feature = "redis")]
static REDIS: [Label; 1] = [Label::from_static_parts("backend", "redis")];

#[cfg(feature = "redis")]
pub(super) fn round_trip(took: Duration) {
    histogram(&Key::from_static_parts(BACKEND, &REDIS)).record(took);
}

#[cfg(feature = "redis")]
pub(super) fn backend_failure(kind: &BackendErrorKind) {
    let kind = match kind {
        BackendErrorKind::Config(_) => "config",
        BackendErrorKind::Timeout(_) => "timeout",
        BackendErrorKind::Unreachable => "unreachable",
        BackendErrorKind::Lost => "lost",
        BackendErrorKind::CircuitOpen => "circuit_open",
        BackendErrorKind::Server(_) => "server",
        BackendErrorKind::Corrupt => "corrupt",
        BackendErrorKind::Contended(_) => "contended",
        BackendErrorKind::Unsupported(_) => "unsupported",
    };
    let kind = Label::from_static_parts("kind", kind);
    counter(&Key::from_parts(FAILURES, vec![REDIS[0].clone(), kind])).increment(1);
}
