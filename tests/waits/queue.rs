//! The waiters of one key and one policy, in memory, with every operation counted.

use std::convert::Infallible;
use std::future::Ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::{Cost, Key, Limiter, MaxWait, Policy};

use crate::executor::{AlarmClock, Executor, Memory, Waited, memory};

pub(crate) type Outcome = Waited<Infallible>;

/// An operation that the backend was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) at: Duration,
    pub(crate) what: &'static str,
    pub(crate) is_allowed: bool,
}

/// Memory that records its operations.
#[derive(Clone)]
pub(crate) struct CountingBackend {
    memory: Memory,
    clock: AlarmClock,
    /// Replaces the context of the memory backend.
    context: Option<Arc<BackendContext>>,
    asked: Arc<Mutex<Vec<Operation>>>,
}

impl CountingBackend {
    pub(crate) fn of(memory: Memory, clock: &AlarmClock) -> Self {
        Self {
            memory,
            clock: clock.clone(),
            context: None,
            asked: Arc::default(),
        }
    }

    /// Acts like a backend that other processes share.
    pub(crate) fn shared(mut self) -> Self {
        self.context = Some(Arc::new(BackendContext::new(self.clock.clone()).shared()));
        self
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.asked.lock().clone()
    }

    /// Whether an uncounted check is allowed.
    pub(crate) fn check(&self, policy: &Policy, key: &Key, cost: impl Into<Cost>) -> bool {
        self.reply(policy, key, cost.into()).decision.is_allowed()
    }

    fn reply(&self, policy: &Policy, key: &Key, cost: Cost) -> Reply {
        match self.memory.ask(Op::Check(cost), policy, key) {
            Answer::Now(Ok(reply)) => reply,
            Answer::Later(_) => unreachable!("memory answers at once"),
        }
    }
}

impl Backend for CountingBackend {
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, Infallible>, Self::Future> {
        let what = name_of(&op);
        let Answer::Now(Ok(reply)) = self.memory.ask(op, policy, key) else {
            unreachable!("memory answers at once");
        };
        self.asked.lock().push(Operation {
            at: self.clock.passed(),
            what,
            is_allowed: reply.decision.is_allowed(),
        });
        Answer::Now(Ok(reply))
    }

    fn context(&self) -> &BackendContext {
        self.context.as_deref().unwrap_or(self.memory.context())
    }
}

pub(crate) const fn name_of(op: &Op) -> &'static str {
    match op {
        Op::Check(_) => "check",
        Op::Reserve { .. } => "reserve",
        Op::Cancel(_) => "cancel",
        Op::Penalize(_) => "penalty",
        Op::Refund(_) => "refund",
        Op::Reset => "reset",
        Op::Block(_) => "block",
        _ => unreachable!(),
    }
}

/// The waiters for the tokens of the key `ann`.
pub(crate) struct TestQueue {
    pub(crate) clock: AlarmClock,
    pub(crate) limiter: Limiter<CountingBackend>,
    pub(crate) executor: Executor<Outcome>,
}

impl TestQueue {
    pub(crate) fn of(policy: &Policy) -> Self {
        Self::with(policy, |backend| backend)
    }

    pub(crate) fn with(
        policy: &Policy,
        backend: impl FnOnce(CountingBackend) -> CountingBackend,
    ) -> Self {
        let clock = AlarmClock::new();
        Self::over(
            policy,
            backend(CountingBackend::of(memory(&clock), &clock)),
            &clock,
        )
    }

    pub(crate) fn over(policy: &Policy, backend: CountingBackend, clock: &AlarmClock) -> Self {
        Self {
            limiter: Limiter::new(policy.clone(), backend),
            executor: Executor::new(clock),
            clock: clock.clone(),
        }
    }

    pub(crate) fn in_disorder(mut self, seed: u64) -> Self {
        self.executor = self.executor.in_disorder(seed);
        self
    }

    pub(crate) fn context(&self) -> &BackendContext {
        self.limiter.backend().context()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.context().stats().waiting
    }

    /// The number of operations sent to the backend.
    pub(crate) fn operation_count(&self) -> usize {
        self.limiter.backend().operations().len()
    }

    pub(crate) fn wait_for(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> BoxFuture<'static, Outcome> {
        let (limiter, key) = (self.limiter.clone(), key.clone());
        let (cost, max_wait) = (cost.into(), max_wait.into());
        Box::pin(async move { limiter.acquire(&key, cost, max_wait).await })
    }

    pub(crate) fn wait(
        &self,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> BoxFuture<'static, Outcome> {
        self.wait_for(&Key::from("ann"), cost, max_wait)
    }

    pub(crate) fn join(&mut self, cost: impl Into<Cost>, max_wait: impl Into<MaxWait>) -> usize {
        let wait = self.wait(cost, max_wait);
        self.executor.join(wait)
    }

    /// Adds this many waiters of one token each, without a bound.
    pub(crate) fn join_all(&mut self, count: u64) {
        for _ in 0..count {
            self.join(1, MaxWait::Unbounded);
        }
    }

    pub(crate) fn at_once(
        &mut self,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> Outcome {
        let wait = self.wait(cost, max_wait);
        self.executor.at_once(wait)
    }

    /// A check outside the queue.
    pub(crate) fn check(&self, cost: impl Into<Cost>) -> Reply {
        let backend = self.limiter.backend();
        backend.reply(self.limiter.policy(), &Key::from("ann"), cost.into())
    }

    /// The remaining tokens, and the time until the limit is full.
    pub(crate) fn state(&self) -> (u64, Duration) {
        let decision = self.check(0).decision;
        let snapshot = decision.snapshot();
        (snapshot.remaining(), snapshot.reset_after())
    }

    /// The waiters that ended since the last call: number, time, and whether allowed.
    pub(crate) fn ended(&mut self) -> Vec<(usize, Duration, bool)> {
        let ended = self.executor.ended.drain(..);
        ended
            .map(|ended| (ended.waiter, ended.at, ended.outcome.is_ok()))
            .collect()
    }
}
