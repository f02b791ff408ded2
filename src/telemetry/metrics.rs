//! Metrics for the `metrics` facade. Labels are the names of policies and semaphores, never keys.

use std::sync::Arc;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, SharedString, Unit, describe_counter,
    describe_gauge, describe_histogram, with_recorder,
};

use super::keys::{DECISIONS, WAIT};
use super::labels::Labels;
use super::outcome::DecisionOutcome;

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

/// Gives the recorder the description of each metric. Call it once, after the recorder is installed.
pub fn describe() {
    for (name, text) in [
        (DECISIONS, "Decisions, by policy and outcome"),
        (UNKEYED, "Requests without a key"),
        (EVICTIONS, "Keys removed before their time to make room"),
        (
            LOST_SETTLEMENTS,
            "Background tasks that failed: settlements, cancels and permit releases",
        ),
        (PERMITS, "Decisions of semaphores, by name and outcome"),
        (PERMITS_LOST, "Permits whose lease could not be renewed"),
        (FAILURES, "Operations that Redis did not answer, by kind"),
    ] {
        describe_counter!(name, Unit::Count, text);
    }
    for (name, text) in [
        (PERMITS_IN_USE, "Permits held by this process, by weight"),
        (CIRCUITS, "Backends whose circuit is open"),
    ] {
        describe_gauge!(name, Unit::Count, text);
    }
    for (name, text) in [
        (WAIT, "Wait of requests that were allowed after a wait"),
        (
            PERMIT_WAIT,
            "Wait for permits that were acquired after a wait",
        ),
        (BACKEND, "Time to the answer of Redis, by batch"),
    ] {
        describe_histogram!(name, Unit::Seconds, text);
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

pub(super) fn decided(policy: &Labels, outcome: DecisionOutcome) {
    counter(&policy.keys().decisions[outcome as usize]).increment(1);
}

pub(super) fn waited(waited: Duration, policy: &Labels) {
    histogram(&policy.keys().wait).record(waited);
}

pub(super) fn rejected_without_key() {
    counter(&Key::from_static_name(UNKEYED)).increment(1);
}

fn permits_label(permits: &Arc<str>) -> Label {
    Label::new("permits", SharedString::from_shared(Arc::clone(permits)))
}

pub(super) fn permit_decided(permits: &Arc<str>, outcome: DecisionOutcome) {
    let outcome = DecisionOutcome::NAMES[outcome as usize];
    let outcome = Label::from_static_parts("outcome", outcome);
    let key = Key::from_parts(PERMITS, vec![permits_label(permits), outcome]);
    counter(&key).increment(1);
}

pub(super) fn permit_acquired(permits: &Arc<str>, weight: u32, waited: Duration) {
    let label = permits_label(permits);
    let key = Key::from_parts(PERMITS_IN_USE, vec![label.clone()]);
    gauge(&key).increment(f64::from(weight));
    if !waited.is_zero() {
        let key = Key::from_parts(PERMIT_WAIT, vec![label]);
        histogram(&key).record(waited);
    }
}

pub(super) fn permit_released(permits: &Arc<str>, weight: u32) {
    let key = Key::from_parts(PERMITS_IN_USE, vec![permits_label(permits)]);
    gauge(&key).decrement(f64::from(weight));
}

pub(super) fn permit_lost(permits: &Arc<str>) {
    counter(&Key::from_parts(PERMITS_LOST, vec![permits_label(permits)])).increment(1);
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
pub(super) fn backend_failure(kind: &'static str) {
    let kind = Label::from_static_parts("kind", kind);
    counter(&Key::from_parts(FAILURES, vec![REDIS[0].clone(), kind])).increment(1);
}
