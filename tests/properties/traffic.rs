//! Random traffic: times, costs and penalties.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use tower_sluice::clock::Timestamp;

use crate::shapes::Shape;

/// A time in the year 2027, µs.
pub(crate) const TODAY: u64 = 1_800_000_000_000_000;

/// How far the clock moves, relative to the quota.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Micros(u64),
    /// This many thousandths of the horizon.
    Part(u64),
    /// The horizon, and a few µs.
    Horizon(i64),
    /// The next edge of a window or interval, and a few µs.
    Edge(i64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Spend {
    Tokens(u64),
    /// This many 255ths of the limit.
    Part(u64),
    /// More than the limit, if there is more.
    TooMuch(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) step: Step,
    pub(crate) spend: Spend,
    /// How far the clock of this event lags, in 255ths of the reach.
    pub(crate) back: u64,
    pub(crate) penalty: bool,
}

impl Step {
    pub(crate) fn from(self, now: u64, shape: &Shape) -> u64 {
        let plus = |time: u64, few: i64| time.saturating_add_signed(few).max(now);
        match self {
            Self::Micros(micros) => now + micros,
            Self::Part(part) => {
                now + u64::try_from(u128::from(shape.horizon()) * u128::from(part) / 1_000)
                    .expect("fits")
            }
            Self::Horizon(few) => plus(now + shape.horizon(), few),
            Self::Edge(few) => plus(shape.next_edge(now), few),
        }
    }
}

impl Spend {
    pub(crate) fn of(self, limit: u64) -> u64 {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Part(part) => limit * part / 255,
            Self::TooMuch(tokens) => limit.saturating_add(tokens),
        }
    }
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Micros(0)),
        3 => (1..=5_u64).prop_map(Step::Micros),
        6 => (0..=150_u64).prop_map(Step::Part),
        2 => (-1..=1_i64).prop_map(Step::Edge),
        1 => (-1..=1_i64).prop_map(Step::Horizon),
    ]
}

pub(crate) fn spend() -> impl Strategy<Value = Spend> {
    prop_oneof![
        8 => (0..=3_u64).prop_map(Spend::Tokens),
        8 => (0..=255_u64).prop_map(Spend::Part),
        1 => prop_oneof![1..=3_u64, Just(u64::MAX)].prop_map(Spend::TooMuch),
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let back = prop_oneof![4 => Just(0_u64), 2 => 0..=255_u64, 1 => Just(255)];
    (step(), spend(), back, proptest::bool::weighted(0.08)).prop_map(
        |(step, spend, back, penalty)| Event {
            step,
            spend,
            back,
            penalty,
        },
    )
}

pub(crate) fn traffic() -> impl Strategy<Value = Vec<Event>> {
    vec(event(), 1..60)
}

pub(crate) fn start() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_000_u64, TODAY..(TODAY + 86_400_000_000)]
}

/// A check or a penalty, at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) now: u64,
    pub(crate) cost: u64,
    pub(crate) penalty: bool,
}

/// The traffic as times and costs. The clock lags by up to `reach` horizons behind the latest time so far.
pub(crate) fn operations(
    shape: &Shape,
    start: u64,
    traffic: &[Event],
    reach: u64,
) -> Vec<Operation> {
    let mut latest = start;
    let operation = |event: &Event| {
        latest = event
            .step
            .from(latest, shape)
            .min(Timestamp::MAX.as_micros());
        let lag = u128::from(shape.horizon()) * u128::from(reach * event.back) / 255;
        Operation {
            now: latest.saturating_sub(u64::try_from(lag).expect("fits")),
            cost: event.spend.of(shape.limit),
            penalty: event.penalty,
        }
    };
    traffic.iter().map(operation).collect()
}
