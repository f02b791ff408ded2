//! Random waiters that leave at random leave a correct state: no charge is lost and none is added.

mod buckets;
mod windows;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseResult};
use tower_sluice::algorithm::{self, State};
use tower_sluice::clock::Timestamp;
use tower_sluice::{Cost, Decision, Key, Policy, Snapshot};

use crate::property::{Coverage, try_all};
use crate::queue::TestQueue;

pub(crate) const SEEDS: &str = "tests/waits.proptest-regressions";

/// Clients with a queue each.
pub(crate) const KEYS: usize = 3;

/// The most steps of one case. 256 cases have more than 10 000 steps.
pub(crate) const STEPS: usize = 160;

pub(crate) fn for_all<S>(
    strategy: S,
    property: impl Fn(S::Value, &Coverage) -> TestCaseResult,
) -> Coverage
where
    S: Strategy,
    S::Value: std::fmt::Debug,
{
    try_all(SEEDS, Config::default().cases, strategy, property)
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A request waits for up to `max_wait` µs.
    Join {
        key: usize,
        cost: u64,
        max_wait: u64,
    },
    /// A waiter is dropped.
    Leave(Index),
    /// The last waiter is dropped.
    LeaveLast,
    /// A waiter is dropped this many µs after its time, without having been polled.
    LeaveLate(Index, u64),
    Pass(u64),
    /// A check that does not wait.
    Check {
        key: usize,
        cost: u64,
    },
}

pub(crate) fn step(span: u64) -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    let cost = || 0..=255_u64;
    prop_oneof![
        16 => (key(), cost(), prop_oneof![0..=2 * span, 0..=20 * span])
            .prop_map(|(key, cost, max_wait)| Step::Join { key, cost, max_wait }),
        3 => any::<Index>().prop_map(Step::Leave),
        2 => Just(Step::LeaveLast),
        1 => (any::<Index>(), 0..=span.div_ceil(3)).prop_map(|(which, late)| Step::LeaveLate(which, late)),
        4 => (0..=span.div_ceil(3)).prop_map(Step::Pass),
        1 => (key(), cost()).prop_map(|(key, cost)| Step::Check { key, cost }),
    ]
}

/// A cost within a limit. Few costs are zero or exceed the limit.
pub(crate) const fn tokens(cost: u64, limit: u64) -> u64 {
    match cost {
        0..4 => 0,
        4..8 => limit + 1,
        _ => 1 + cost % limit,
    }
}

pub(crate) fn least_limit(policy: &Policy) -> u64 {
    let limits = policy.quotas().iter().map(|named| named.quota().limit());
    limits.min().expect("one at least")
}

/// The states of one key, by the operations that are known to have happened.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) policy: Policy,
    pub(crate) states: Vec<Option<State>>,
}

impl Model {
    pub(crate) fn of(policy: &Policy) -> Self {
        Self {
            policy: policy.clone(),
            states: vec![None; policy.quotas().len()],
        }
    }

    pub(crate) fn check(&mut self, now: Timestamp, cost: u64) -> Decision {
        algorithm::check(&self.policy, &mut self.states, now, Cost::new(cost)).decision
    }

    pub(crate) fn look(&self, now: Timestamp) -> Decision {
        self.clone().check(now, 0)
    }
}

pub(crate) fn key(number: usize) -> Key {
    Key::from(u64::try_from(number).expect("a small number"))
}

pub(crate) fn peek(queue: &TestQueue, number: usize) -> Snapshot {
    use futures_util::FutureExt;
    let key = key(number);
    let peeked = queue.limiter.peek(&key).now_or_never();
    let Ok(snapshot) = peeked.expect("memory answers at once");
    snapshot
}
