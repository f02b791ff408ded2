//! Random traffic: times, costs and operations.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tower_sluice::{Cost, Policy};

use crate::shapes::{LATEST, Limit, TODAY};

/// How the clock moves, relative to a quota.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Micros(u64),
    /// This many thousandths of the horizon.
    Part(u64),
    /// The horizon, and a few µs.
    Horizon(i64),
    /// The next edge of a span since the epoch, and a few µs.
    Edge(i64),
    /// Back, by this many thousandths of the horizon.
    Back(u64),
    /// Back by the horizon, and a few µs.
    BackByHorizon(i64),
}

impl Step {
    pub(crate) fn from(self, now: u64, limit: &Limit) -> u64 {
        let part = |part: u64| {
            u64::try_from(u128::from(limit.horizon) * u128::from(part) / 1_000).expect("fits")
        };
        let then = match self {
            Self::Micros(micros) => now + micros,
            Self::Part(thousandths) => now + part(thousandths),
            Self::Horizon(few) => (now + limit.horizon).saturating_add_signed(few),
            Self::Edge(few) => (now - now % limit.span + limit.span)
                .saturating_add_signed(few)
                .max(now),
            Self::Back(thousandths) => now.saturating_sub(part(thousandths)),
            Self::BackByHorizon(few) => now
                .saturating_sub(limit.horizon)
                .saturating_add_signed(-few),
        };
        then.min(LATEST)
    }

    pub(crate) const fn is_back(self) -> bool {
        matches!(self, Self::Back(_) | Self::BackByHorizon(_))
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Spend {
    Tokens(u64),
    /// This many 255ths of the limit.
    Part(u64),
    /// More than the limit, if there is more.
    TooMuch(u64),
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

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Check,
    Penalty,
    Reset,
    /// The refund of a check, or of a used reservation, in whole or in part.
    Refund(Index, bool),
    /// The maximum wait, in thousandths of the horizon.
    Reserve(u64),
    Cancel(Index),
    /// Uses a reservation, which can then be refunded.
    Use(Index),
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) step: Step,
    /// The quota that the step and the cost are relative to.
    pub(crate) by: Index,
    pub(crate) spends: [Spend; 4],
    /// Whether each quota has its own cost.
    pub(crate) apart: bool,
    pub(crate) other_numbers: bool,
    pub(crate) act: Act,
}

impl Event {
    pub(crate) fn cost(&self, policy: &Policy) -> Cost {
        let limit = |index: usize| policy.quotas()[index].quota().limit();
        if self.apart {
            let mut costs = [0; 4];
            for (index, cost) in costs.iter_mut().enumerate().take(policy.quotas().len()) {
                *cost = self.spends[index].of(limit(index));
            }
            return Cost::each(costs);
        }
        Cost::new(self.spends[0].of(limit(self.by.index(policy.quotas().len()))))
    }
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Micros(0)),
        3 => (1..=5_u64).prop_map(Step::Micros),
        6 => (0..=150_u64).prop_map(Step::Part),
        2 => (-1..=1_i64).prop_map(Step::Edge),
        1 => (-1..=1_i64).prop_map(Step::Horizon),
        2 => (0..=1_000_u64).prop_map(Step::Back),
        1 => (1_000..=4_000_u64).prop_map(Step::Back),
        1 => (-1..=1_i64).prop_map(Step::BackByHorizon),
    ]
}

pub(crate) fn spend() -> impl Strategy<Value = Spend> {
    prop_oneof![
        8 => (0..=3_u64).prop_map(Spend::Tokens),
        8 => (0..=255_u64).prop_map(Spend::Part),
        1 => prop_oneof![1..=3_u64, Just(u64::MAX)].prop_map(Spend::TooMuch),
    ]
}

pub(crate) fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        16 => Just(Act::Check),
        2 => Just(Act::Penalty),
        1 => Just(Act::Reset),
        3 => (any::<Index>(), any::<bool>()).prop_map(|(which, whole)| Act::Refund(which, whole)),
        6 => (0..=1_500_u64).prop_map(Act::Reserve),
        8 => any::<Index>().prop_map(Act::Cancel),
        1 => any::<Index>().prop_map(Act::Use),
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let rarely = |odds| proptest::bool::weighted(odds);
    let spends = [spend(), spend(), spend(), spend()];
    let parts = (
        step(),
        any::<Index>(),
        spends,
        rarely(0.3),
        rarely(0.15),
        act(),
    );
    parts.prop_map(|(step, by, spends, apart, other_numbers, act)| Event {
        step,
        by,
        spends,
        apart,
        other_numbers,
        act,
    })
}

pub(crate) fn start() -> impl Strategy<Value = u64> {
    prop_oneof![1 => 0..10_000_u64, 3 => TODAY..(TODAY + 86_400_000_000)]
}

pub(crate) fn traffic() -> impl Strategy<Value = Vec<Event>> {
    vec(event(), 1..60)
}

/// A clock that never moves back.
pub(crate) fn forward() -> impl Strategy<Value = Vec<Event>> {
    traffic().prop_map(|mut events| {
        for event in &mut events {
            if event.step.is_back() {
                event.step = Step::Micros(1);
            }
        }
        events
    })
}
