use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_sluice::backend::{Answer, Backend, Op, Reply};
use tower_sluice::{Cost, Key, MemoryBackend, Policy, Quota};

use crate::clock::ModelClock;

pub(crate) const LIMIT: u64 = 2;
pub(crate) const HORIZON: u64 = 4;

/// The five algorithms.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Algorithm {
    TokenBucket,
    IntervalBucket,
    FixedWindow,
    SlidingWindow,
    SlidingLog,
}

impl Algorithm {
    fn quota(self) -> Quota {
        let horizon = Duration::from_micros(HORIZON);
        match self {
            Self::TokenBucket => Quota::token_bucket(LIMIT, LIMIT, horizon),
            Self::IntervalBucket => Quota::interval_bucket(LIMIT, LIMIT, horizon),
            Self::FixedWindow => Quota::fixed_window(LIMIT, horizon),
            Self::SlidingWindow => Quota::sliding_window(LIMIT, horizon),
            Self::SlidingLog => Quota::sliding_log(LIMIT, horizon),
        }
    }

    /// The bound of a span of `micros`, both ends included, times the horizon.
    fn most(self, micros: u64) -> u64 {
        let (limit, windows) = (LIMIT, micros / HORIZON);
        match self {
            Self::TokenBucket => limit * HORIZON + limit * micros,
            // At most one partial interval or window in addition to whole ones.
            Self::IntervalBucket | Self::FixedWindow | Self::SlidingWindow => {
                limit * (windows + 1 + u64::from(micros > 0)) * HORIZON
            }
            Self::SlidingLog => limit * (windows + 1) * HORIZON,
        }
    }
}

/// A key, and its allowed checks: start and end of each, and its cost.
#[derive(Clone)]
pub(crate) struct History {
    algorithm: Algorithm,
    policy: Policy,
    pub(crate) clock: ModelClock,
    pub(crate) backend: MemoryBackend<ModelClock>,
    allowed: Arc<Mutex<Vec<(u64, u64, u64)>>>,
}

impl History {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let clock = ModelClock::new();
        // All keys are in one shard, which has room for all of them.
        let max_keys = std::num::NonZeroUsize::new(100).expect("not 0");
        let backend = MemoryBackend::builder()
            .max_keys(max_keys)
            .clock(clock.clone());
        Self {
            algorithm,
            policy: Policy::new("p", algorithm.quota()),
            backend: backend.build(),
            clock,
            allowed: Arc::default(),
        }
    }

    pub(crate) fn ask(&self, key: &str, op: Op) -> Reply {
        match self.backend.ask(op, &self.policy, &Key::from(key)) {
            Answer::Now(Ok(reply)) => reply,
            _ => unreachable!("memory answers at once and cannot fail"),
        }
    }

    pub(crate) fn check(&self, cost: u64) {
        let asked = self.clock.micros();
        let reply = self.ask("ann", Op::Check(Cost::new(cost)));
        let answered = self.clock.micros();
        if reply.decision.is_allowed() {
            let mut allowed = self.allowed.lock().expect("no panic");
            allowed.push((asked, answered, cost));
        }
    }

    /// Whether some order of decisions, each between its start and its end, keeps the bound in all spans.
    pub(crate) fn is_within_bounds(&self) {
        let allowed = self.allowed.lock().expect("no panic");
        for (from, _, _) in allowed.iter() {
            for (_, to, _) in allowed.iter().filter(|(_, to, _)| to >= from) {
                let within = allowed
                    .iter()
                    .filter(|(asked, answered, _)| asked >= from && answered <= to);
                let spent: u64 = within.map(|(_, _, cost)| *cost).sum();
                assert!(
                    spent * HORIZON <= self.algorithm.most(to - from),
                    "{spent} in {} µs of {:?}: {allowed:?}",
                    to - from,
                    self.algorithm,
                );
            }
        }
    }
}
