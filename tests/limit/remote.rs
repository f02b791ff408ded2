//! A backend like one across a network: it answers later or never, and records its operations.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::clock::ManualClock;
use tower_sluice::{Key, MemoryBackend, Policy};

use crate::support::{Memory, memory};

/// Memory behind a gate. An operation is answered when the gate opens, or fails.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) memory: Memory,
    /// One permit lets one reply through. A closed gate fails all operations. Without a gate the replies are immediate.
    gate: Option<Arc<Semaphore>>,
    /// Checks skip the gate.
    only_changes: bool,
    /// The number of operations that succeed first, and the number that then fail.
    failures: Arc<Mutex<(usize, usize)>>,
    operations: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Down;

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("10.0.0.7:6379 is down")
    }
}

impl std::error::Error for Down {}

impl Remote {
    /// Replies at once, like memory, but can fail.
    pub(crate) fn immediate() -> Self {
        Self {
            memory: memory(),
            gate: None,
            only_changes: false,
            failures: Arc::default(),
            operations: Arc::default(),
        }
    }

    /// Gives this many replies.
    pub(crate) fn with_replies(answers: usize) -> Self {
        Self {
            gate: Some(Arc::new(Semaphore::new(answers))),
            ..Self::immediate()
        }
    }

    /// Answers every check, and this many other operations.
    pub(crate) fn with_changes(changes: usize) -> Self {
        Self {
            only_changes: true,
            ..Self::with_replies(changes)
        }
    }

    /// Answers every operation, later.
    pub(crate) fn delayed() -> Self {
        Self::with_replies(Semaphore::MAX_PERMITS)
    }

    /// One backend of each kind.
    pub(crate) fn each_kind() -> [Self; 2] {
        [Self::immediate(), Self::delayed()]
    }

    pub(crate) fn failing() -> Self {
        let remote = Self::delayed();
        remote.fail(usize::MAX);
        remote
    }

    /// Whether replies are immediate.
    pub(crate) fn is_immediate(&self) -> bool {
        self.gate.is_none()
    }

    /// Uses the time of `clock`.
    pub(crate) fn with_clock(mut self, clock: &ManualClock) -> Self {
        self.memory = MemoryBackend::builder().clock(clock.clone()).build();
        self
    }

    /// Lets this many more replies through.
    pub(crate) fn release(&self, answers: usize) {
        let gate = self.gate.as_ref().expect("a gate");
        gate.add_permits(answers);
    }

    /// Fails all pending and all later operations.
    pub(crate) fn close(&self) {
        self.gate.as_ref().expect("a gate").close();
    }

    /// Fails this many of the next operations, and none after them.
    pub(crate) fn fail(&self, failures: usize) {
        self.fail_after(0, failures);
    }

    /// Like [`Self::fail`], after this many successful operations.
    pub(crate) fn fail_after(&self, answers: usize, failures: usize) {
        *self.failures.lock().expect("no panic") = (answers, failures);
    }

    /// The operations sent since the last call, with their tokens.
    pub(crate) fn operations(&self) -> Vec<String> {
        std::mem::take(&mut *self.operations.lock().expect("no panic"))
    }

    fn note(&self, op: &Op, policy: &Policy) {
        let tokens = |cost: &tower_sluice::Cost| {
            let quotas = 0..policy.quotas().len();
            let each: Vec<_> = quotas.map(|index| cost.get(index).to_string()).collect();
            each.join("+")
        };
        let op = match op {
            Op::Check(cost) => format!("check {}", tokens(cost)),
            Op::Reserve { cost, .. } => format!("reserve {}", tokens(cost)),
            Op::Cancel(_) => "cancel".to_owned(),
            Op::Penalize(cost) => format!("penalty {}", tokens(cost)),
            Op::Refund(receipt) => format!("refund {}", receipt.tokens()),
            Op::Reset => "reset".to_owned(),
            Op::Block(_) => "block".to_owned(),
            other => unreachable!("unknown operation {other:?}"),
        };
        self.operations.lock().expect("no panic").push(op);
    }

    fn next_failure(&self) -> Result<(), Down> {
        match &mut *self.failures.lock().expect("no panic") {
            (0, 0) => Ok(()),
            (0, failures) => {
                *failures -= 1;
                Err(Down)
            }
            (answers, _) => {
                *answers -= 1;
                Ok(())
            }
        }
    }

    fn apply(&self, op: Op, policy: &Policy, key: &Key) -> Result<Reply, Down> {
        match self.memory.ask(op, policy, key) {
            Answer::Now(Ok(reply)) => Ok(reply),
            _ => unreachable!("memory answers at once and cannot fail"),
        }
    }
}

impl Backend for Remote {
    type Error = Down;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Down>> + Send>>;

    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Answer<Result<Reply, Down>, Self::Future> {
        let Some(gate) = self.gate.clone() else {
            self.note(&op, policy);
            return Answer::Now(
                self.next_failure()
                    .and_then(|()| self.apply(op, policy, key)),
            );
        };
        let (remote, policy, key) = (self.clone(), policy.clone(), key.clone());
        Answer::Later(Box::pin(async move {
            remote.note(&op, &policy);
            remote.next_failure()?;
            if !(remote.only_changes && matches!(op, Op::Check(_))) {
                gate.acquire().await.map_err(|_| Down)?.forget();
            }
            remote.apply(op, &policy, &key)
        }))
    }

    fn context(&self) -> &BackendContext {
        self.memory.context()
    }
}
