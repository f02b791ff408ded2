//! Two backends with one clock, and the comparison of their answers.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Ready;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use tokio::runtime::Runtime;
use tower_sluice::algorithm::{self, State};
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::clock::{Clock, ManualClock, Timestamp};
use tower_sluice::decision::QuotaSnapshot;
use tower_sluice::{
    Cost, Key, MemoryBackend, Policy, Receipt, RedisBackend, Reservation, RetryAfter,
};

use crate::shapes::{Kind, LONGER_THAN_ANY_TEST, Setting, TODAY};
use crate::support::frozen::Frozen;
use crate::support::property::Coverage;
use crate::support::redis::RedisServer;
use crate::traffic::{Act, Event};

/// The algorithms with the states of one key, which are never forgotten. With several quotas memory forgets those that
/// owe nothing. A clock that moves back, changed numbers, or a cancel would show it.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) states: Arc<Mutex<Vec<Option<State>>>>,
    pub(crate) clock: ManualClock,
    pub(crate) context: Arc<BackendContext>,
}

impl Backend for Core {
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        _: &Key,
    ) -> Answer<Result<Reply, Infallible>, Self::Future> {
        let (states, now) = (&mut *self.states.lock(), self.clock.now());
        states.resize(policy.quotas().len(), None);
        Answer::Now(Ok(match op {
            Op::Check(cost) => algorithm::check(policy, states, now, cost),
            Op::Reserve { cost, max_wait } => {
                algorithm::reserve(policy, states, now, cost, max_wait)
            }
            Op::Cancel(reservation) => {
                let mut reply = algorithm::cancel(policy, states, now, &reservation);
                reply.reservation = (!reply.returned).then_some(reservation);
                reply
            }
            Op::Penalize(cost) => algorithm::penalize(policy, states, now, cost),
            Op::Refund(receipt) => algorithm::refund(policy, states, now, &receipt),
            Op::Reset => algorithm::reset(policy, states, now),
            other => unreachable!("unknown operation {other:?}"),
        }))
    }

    fn context(&self) -> &BackendContext {
        &self.context
    }
}

/// A backend with its receipts and reservations.
pub(crate) struct Side<B> {
    pub(crate) backend: B,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) reservations: Vec<Reservation>,
}

impl<B: Backend> Side<B> {
    pub(crate) const fn of(backend: B) -> Self {
        Self {
            backend,
            receipts: Vec::new(),
            reservations: Vec::new(),
        }
    }

    /// `None` if the operation has no receipt or reservation to act on.
    pub(crate) fn op(&mut self, act: &Act, cost: Cost, horizon: u64) -> Option<Op> {
        Some(match act {
            Act::Check => Op::Check(cost),
            Act::Penalty => Op::Penalize(cost),
            Act::Reset => Op::Reset,
            Act::Refund(which, whole) => {
                let receipt =
                    (!self.receipts.is_empty()).then(|| which.get_mut(&mut self.receipts));
                let part = if *whole { Cost::new(u64::MAX) } else { cost };
                Op::Refund(receipt?.take(part))
            }
            Act::Reserve(part) => {
                let micros = u128::from(horizon) * u128::from(*part) / 1_000;
                let max_wait = Duration::from_micros(u64::try_from(micros).expect("fits"));
                Op::Reserve { cost, max_wait }
            }
            Act::Cancel(which) => Op::Cancel(self.reservation(which)?),
            Act::Use(which) => {
                let used = self.reservation(which)?;
                self.receipts.extend(used.into_receipt());
                return None;
            }
        })
    }

    pub(crate) fn reservation(&mut self, which: &Index) -> Option<Reservation> {
        (!self.reservations.is_empty()).then(|| {
            self.reservations
                .swap_remove(which.index(self.reservations.len()))
        })
    }

    /// The reply in a comparable form, and whether it was immediate.
    pub(crate) async fn ask(&mut self, op: Op, policy: &Policy, key: &Key) -> (Reported, bool) {
        let (reply, at_once) = match self.backend.ask(op, policy, key) {
            Answer::Now(reply) => (reply, true),
            Answer::Later(reply) => (reply.await, false),
        };
        let reply = reply.unwrap_or_else(|error| panic!("{error}: {error:?}"));
        (self.keep(reply), at_once)
    }

    pub(crate) fn keep(&mut self, reply: Reply) -> Reported {
        let reported = Reported::of(&reply);
        self.receipts.extend(reply.receipt);
        self.reservations.extend(reply.reservation);
        reported
    }
}

/// A whole reply. Receipts are compared by their tokens. Spans beyond 2^53 µs, 285 years, are compared as equal,
/// because Lua has no odd numbers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) allowed: bool,
    pub(crate) retry_after: Option<RetryAfter>,
    pub(crate) governing: usize,
    pub(crate) quotas: Vec<QuotaSnapshot>,
    pub(crate) wait: Duration,
    pub(crate) returned: bool,
    pub(crate) receipt: Option<u64>,
    pub(crate) reservation: bool,
}

impl Reported {
    pub(crate) fn of(reply: &Reply) -> Self {
        let snapshot = reply.decision.snapshot();
        Self {
            allowed: reply.decision.is_allowed(),
            retry_after: reply.decision.retry_after().map(in_sight),
            governing: snapshot.governing(),
            quotas: snapshot.quotas().iter().map(quota_in_sight).collect(),
            wait: reply.wait,
            returned: reply.returned,
            receipt: reply.receipt.as_ref().map(Receipt::tokens),
            reservation: reply.reservation.is_some(),
        }
    }
}

pub(crate) fn in_sight(retry: RetryAfter) -> RetryAfter {
    match retry {
        RetryAfter::In(wait) => RetryAfter::In(wait.min(LONGER_THAN_ANY_TEST)),
        RetryAfter::Never => RetryAfter::Never,
    }
}

pub(crate) fn quota_in_sight(quota: &QuotaSnapshot) -> QuotaSnapshot {
    QuotaSnapshot::new(
        quota.limit(),
        quota.remaining(),
        quota.retry_after().map(in_sight),
        quota.reset_after().min(LONGER_THAN_ANY_TEST),
    )
}

/// A server and its connections.
pub(crate) struct Fixture {
    pub(crate) runtime: Runtime,
    pub(crate) server: RedisServer,
    pub(crate) clock: ManualClock,
    pub(crate) keys: Cell<u64>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            server: RedisServer::start(),
            clock: ManualClock::at(Timestamp::from_micros(TODAY)),
            keys: Cell::new(0),
        }
    }

    /// A builder with long time limits and a long idle TTL.
    pub(crate) fn builder() -> RedisBuilder {
        RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .time_limit(Duration::from_secs(20))
            .idle_ttl(LONGER_THAN_ANY_TEST)
    }

    pub(crate) fn frozen(&self) -> Frozen {
        let url = self.server.url();
        self.runtime.block_on(Frozen::connect(&url, &self.clock))
    }

    pub(crate) fn memory(&self) -> MemoryBackend<ManualClock> {
        MemoryBackend::builder()
            .clock(self.clock.clone())
            .idle_ttl(LONGER_THAN_ANY_TEST)
            .build()
    }

    pub(crate) fn core(&self) -> Core {
        Core {
            states: Arc::default(),
            clock: self.clock.clone(),
            context: Arc::default(),
        }
    }

    pub(crate) fn fresh_key(&self) -> Key {
        self.keys.set(self.keys.get() + 1);
        Key::from(self.keys.get())
    }

    /// Runs the traffic against both backends, and compares their replies after each step.
    pub(crate) fn compare<A: Backend, B: Backend>(
        &self,
        (one, other): (A, B),
        setting: &Setting,
        start: u64,
        events: &[Event],
        coverage: &Coverage,
        mut compare_step: impl FnMut(&StepInfo, &Reported, Reported) -> TestCaseResult,
    ) -> TestCaseResult {
        let key = self.fresh_key();
        let (mut one, mut other) = (Side::of(one), Side::of(other));
        let mut now = start;
        for (index, event) in events.iter().enumerate() {
            let by = event.by.index(setting.limits.len());
            let which = usize::from(event.other_numbers);
            let (limit, policy) = (&setting.limits[by][which], &setting.policies[which]);
            now = event.step.from(now, limit);
            self.clock.set(Timestamp::from_micros(now));
            let cost = event.cost(policy);
            let ops = (
                one.op(&event.act, cost.clone(), limit.horizon),
                other.op(&event.act, cost.clone(), limit.horizon),
            );
            let (Some(first), Some(second)) = ops else {
                prop_assert!(ops.0.is_none() && ops.1.is_none(), "step {}", index);
                continue;
            };
            note(coverage, event, &first, limit.kind);
            let may_empty = matches!(first, Op::Reset | Op::Refund(_));
            let (expected, _) = self.runtime.block_on(one.ask(first, policy, &key));
            let (actual, at_once) = self.runtime.block_on(other.ask(second, policy, &key));
            let mut each = setting.limits.iter().zip(&expected.quotas);
            let is_empty = each.any(|([limit, _], quota)| {
                limit.kind == Kind::SlidingLog && quota.reset_after().is_zero()
            });
            if may_empty && is_empty {
                // Entries of different logs are distinguished by their µs, which may repeat here.
                one.receipts.clear();
                other.receipts.clear();
            }
            let step = StepInfo {
                cost: cost.clone(),
                at_once,
            };
            if !expected.allowed {
                coverage.note(format!(
                    "denied by {:?}",
                    setting.limits[expected.governing][which].kind
                ));
            }
            coverage.note_reported(&expected);
            compare_step(&step, &expected, actual).map_err(|why| {
                TestCaseError::fail(format!("step {index} at {now}, cost {cost:?}: {why}"))
            })?;
        }
        Ok(())
    }
}

pub(crate) fn note(coverage: &Coverage, event: &Event, op: &Op, kind: Kind) {
    if event.step.is_back() {
        coverage.note(format!("{kind:?} back"));
    }
    if event.other_numbers {
        coverage.note("reconfigured");
    }
    coverage.note(match op {
        Op::Check(_) => "check",
        Op::Reserve { .. } => "reserve",
        Op::Cancel(_) => "cancel",
        Op::Penalize(_) => "penalty",
        Op::Refund(_) => "refund",
        Op::Reset => "reset",
        other => unreachable!("unknown operation {other:?}"),
    });
}

impl Coverage {
    pub(crate) fn note_reported(&self, reported: &Reported) {
        if reported.wait > Duration::ZERO {
            self.note("a reservation in the future");
        }
        if reported.returned {
            self.note("a reservation refunded");
        }
        if reported.retry_after == Some(RetryAfter::Never) {
            self.note("never");
        }
        if reported.quotas.len() > 1 && reported.governing > 0 {
            self.note("governed by a later quota");
        }
    }
}

/// A step, for the function that compares its replies.
pub(crate) struct StepInfo {
    pub(crate) cost: Cost,
    /// Whether the second backend replied at once.
    pub(crate) at_once: bool,
}

pub(crate) fn same(_: &StepInfo, expected: &Reported, actual: Reported) -> TestCaseResult {
    prop_assert_eq!(expected, &actual);
    Ok(())
}

/// The cases that a comparison must have met.
pub(crate) const EVERY_CASE: &[&str] = &[
    "check",
    "reserve",
    "cancel",
    "penalty",
    "refund",
    "reset",
    "reconfigured",
    "a reservation in the future",
    "never",
    "governed by a later quota",
];

/// Only the latest of several reservations is refunded.
pub(crate) const RARE_CASES: &[&str] = &["a reservation refunded"];
