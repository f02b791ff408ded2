//! The records of checks, and the tokens that they certainly admitted.

use super::exactness::{Demand, Fault, at_most};

/// One check and its reply. Times in µs since the Unix epoch, spans in µs.
#[derive(Clone, Copy)]
pub struct Check {
    pub key: u64,
    pub sent: u64,
    pub got: u64,
    pub cost: u64,
    pub allowed: bool,
    pub remaining: u64,
    pub reset_after: u64,
}

impl Check {
    /// A denial is due if at most `due` was available, and `admitted` of it was spent.
    pub(crate) fn was_due(&self, admitted: u64, due: u64, demand: Demand) -> Result<(), Fault> {
        let (cost, after) = (self.cost, self.sent.saturating_sub(demand.run.0));
        if admitted + cost > due {
            return Ok(());
        }
        Err(Fault::Wasted(format!(
            "denied a cost of {cost}, {after} µs after the start, when {admitted} of {due} had been admitted"
        )))
    }
}

pub(crate) fn sum(checks: &[Check]) -> u64 {
    let allowed = checks.iter().filter(|check| check.allowed);
    allowed.map(|check| check.cost).sum()
}

pub(crate) fn denials(checks: &[Check]) -> impl Iterator<Item = &Check> {
    checks.iter().filter(|check| !check.allowed)
}

/// Denials of a single token: no token was available.
pub(crate) fn single(checks: &[Check]) -> impl Iterator<Item = &Check> {
    denials(checks).filter(|check| check.cost == 1)
}

/// The allowed checks in the order of their replies, and running totals by either time.
pub(crate) struct Admitted {
    pub(crate) by_answer: Vec<Check>,
    pub(crate) sent: Vec<(u64, u64)>,
    pub(crate) got: Vec<(u64, u64)>,
}

impl Admitted {
    pub(crate) fn of(checks: &[Check]) -> Self {
        let mut by_answer: Vec<_> = checks
            .iter()
            .copied()
            .filter(|check| check.allowed)
            .collect();
        by_answer.sort_unstable_by_key(|check| check.got);
        let totals = |time: fn(&Check) -> u64| {
            let mut totals: Vec<_> = by_answer
                .iter()
                .map(|check| (time(check), check.cost))
                .collect();
            totals.sort_unstable();
            let mut total = 0;
            for (_, cost) in &mut totals {
                total += *cost;
                *cost = total;
            }
            totals
        };
        let (sent, got) = (totals(|check| check.sent), totals(|check| check.got));
        Self {
            by_answer,
            sent,
            got,
        }
    }

    pub(crate) fn total(&self) -> u64 {
        up_to(u64::MAX, &self.sent)
    }

    /// The most that can have been admitted by `time`.
    pub(crate) fn sent_by(&self, time: u64) -> u64 {
        up_to(time, &self.sent)
    }

    /// The tokens certainly admitted by `time`.
    pub(crate) fn got_by(&self, time: u64) -> u64 {
        up_to(time, &self.got)
    }

    /// In every span from the start of one check to the reply of another, at most `most(span)`.
    pub(crate) fn in_all_spans(&self, most: impl Fn(u64) -> u64) -> Result<(), Fault> {
        for first in &self.by_answer {
            let start = first.sent;
            let later = self.by_answer.partition_point(|check| check.got < start);
            let mut within = 0;
            for check in &self.by_answer[later..] {
                if check.sent >= start {
                    within += check.cost;
                    let span = check.got - start;
                    at_most(most(span), within, "in a span of its middle")?;
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn up_to(time: u64, totals: &[(u64, u64)]) -> u64 {
    match totals.partition_point(|(at, _)| *at <= time) {
        0 => 0,
        count => totals[count - 1].1,
    }
}

/// Checks of one window that were decided in the same µs, in any order.
pub(crate) fn moments(checks: &[Check]) -> impl Iterator<Item = &[Check]> {
    checks.chunk_by(|one, other| one.sent == other.sent)
}
