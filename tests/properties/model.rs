//! The algorithms by themselves, with the state of one key.

use std::time::Duration;

use tower_sluice::algorithm::{self, State};
use tower_sluice::backend::Reply;
use tower_sluice::clock::Timestamp;
use tower_sluice::decision::{QuotaSnapshot, Receipt};
use tower_sluice::{Cost, Policy};

use crate::shapes::Shape;
use crate::traffic::Operation;

#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) policy: Policy,
    pub(crate) states: Vec<Option<State>>,
}

impl Core {
    pub(crate) fn of(shapes: &[Shape]) -> Self {
        let named = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| (format!("quota {index}"), shape.quota()));
        Self {
            policy: Policy::try_from_quotas("properties", named).expect("1 to 8 quotas"),
            states: vec![None; shapes.len()],
        }
    }

    pub(crate) fn check(&mut self, now: u64, cost: impl Into<Cost>) -> Reply {
        algorithm::check(
            &self.policy,
            &mut self.states,
            Timestamp::from_micros(now),
            cost.into(),
        )
    }

    pub(crate) fn penalize(&mut self, now: u64, cost: u64) -> Reply {
        let now = Timestamp::from_micros(now);
        algorithm::penalize(&self.policy, &mut self.states, now, Cost::new(cost))
    }

    pub(crate) fn refund(&mut self, now: u64, receipt: &Receipt) -> QuotaSnapshot {
        let now = Timestamp::from_micros(now);
        one(&algorithm::refund(
            &self.policy,
            &mut self.states,
            now,
            receipt,
        ))
    }

    pub(crate) fn reset(&mut self, now: u64) -> QuotaSnapshot {
        let now = Timestamp::from_micros(now);
        one(&algorithm::reset(&self.policy, &mut self.states, now))
    }

    pub(crate) fn act(&mut self, operation: Operation) -> Reply {
        if operation.penalty {
            self.penalize(operation.now, operation.cost)
        } else {
            self.check(operation.now, operation.cost)
        }
    }

    /// The reply to a check, without a change of the state.
    pub(crate) fn check_result(&self, now: u64, cost: impl Into<Cost>) -> Reply {
        self.clone().check(now, cost)
    }

    pub(crate) fn peek(&self, now: u64) -> QuotaSnapshot {
        one(&self.check_result(now, 0))
    }
}

pub(crate) fn one(reply: &Reply) -> QuotaSnapshot {
    reply.decision.snapshot().quotas()[0]
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("fits")
}
