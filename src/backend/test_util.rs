//! A backend for tests that fails, stalls or answers as told: [`TestBackend`] (feature `test-util`).
#![cfg_attr(feature = "axum", doc = "")]
#![cfg_attr(feature = "axum", doc = include_str!("../docs/testing.md"))]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;

use super::{
    Answer, Backend, BackendContext, BackendError, BackendErrorKind, LocalBackend, MemoryBackend,
    PermitBackend,
};
use crate::clock::Clock;
use crate::decision::{Op, PermitId, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::policy::{Policy, SemaphorePolicy};

/// The behavior of a [`TestBackend`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Behavior {
    /// Answers at once, as the memory backend does.
    #[default]
    Answer,
    /// Answers as the memory backend does, but later, as a remote backend.
    AnswerLater,
    /// Fails later with this error. Nothing is charged.
    Fail(BackendErrorKind),
    /// Answers nothing until the behavior changes. Then pending operations do what the new behavior says.
    Stall,
}

/// A backend for tests that answers, fails or stalls as the test chooses. Clones share the state and the behavior.
///
/// It keeps its state in a [`MemoryBackend`], whose clock a test can move. Its error is [`BackendError`], so it stands in
/// for a `RedisBackend`, also inside an [`AnyBackend`](crate::AnyBackend). It keeps buckets and permits.
///
/// ```
/// use tower_sluice::backend::BackendErrorKind;
/// use tower_sluice::test_util::{Behavior, TestBackend};
/// use tower_sluice::{Key, Limiter, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let backend = TestBackend::new();
/// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(1)), backend.clone());
/// let ann = Key::from("ann");
/// assert!(limiter.check(&ann, 1).await.is_ok_and(|reply| reply.decision.is_allowed()));
/// backend.set(Behavior::Fail(BackendErrorKind::Unreachable));
/// assert!(limiter.check(&ann, 1).await.is_err());
/// assert_eq!(backend.operations(), 2);
/// # }
/// ```
#[derive(Clone)]
pub struct TestBackend(Arc<TestInner>);

struct TestInner {
    local: LocalBackend,
    behavior: watch::Sender<Behavior>,
    operations: AtomicUsize,
}

/// The answer of a [`TestBackend`] that comes later.
pub type TestAnswer<T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send>>;

impl TestBackend {
    /// Creates a backend that answers at once, by the clock of the system.
    #[must_use]
    pub fn new() -> Self {
        Self::with_memory(MemoryBackend::new())
    }

    /// Creates a backend that answers at once, with its state in `memory`. The clock of `memory` is its clock.
    #[must_use]
    pub fn with_memory<C: Clock>(memory: MemoryBackend<C>) -> Self {
        Self(Arc::new(TestInner {
            local: memory.into(),
            behavior: watch::Sender::default(),
            operations: AtomicUsize::new(0),
        }))
    }

    /// Sets what the backend does from now on, also with operations that are stalled.
    pub fn set(&self, behavior: Behavior) {
        self.0.behavior.send_replace(behavior);
    }

    /// Returns the number of operations that were asked for, failed ones included.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.0.operations.load(Relaxed)
    }

    fn answer<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&LocalBackend) -> T + Send + 'static,
    ) -> Answer<Result<T, BackendError>, TestAnswer<T>> {
        self.0.operations.fetch_add(1, Relaxed);
        if *self.0.behavior.borrow() == Behavior::Answer {
            return Answer::Now(Ok(decide(&self.0.local)));
        }
        let inner = Arc::clone(&self.0);
        Answer::Later(Box::pin(async move {
            let mut behavior = inner.behavior.subscribe();
            // The sender is alive as long as `inner` is.
            let decided = behavior.wait_for(|behavior| *behavior != Behavior::Stall);
            let failure = match decided.await.as_deref() {
                Ok(Behavior::Fail(kind)) => Some(kind.clone()),
                _ => None,
            };
            match failure {
                Some(kind) => Err(BackendError::new(kind)),
                None => Ok(decide(&inner.local)),
            }
        }))
    }
}

impl Default for TestBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for TestBackend {
    type Error = BackendError;
    type Future = TestAnswer<Reply>;

    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, BackendError>, Self::Future> {
        let (policy, key) = (policy.clone(), key.clone());
        self.answer(move |local| local.decide(op, &policy, &key))
    }

    fn context(&self) -> &BackendContext {
        Backend::context(&self.0.local)
    }
}

impl PermitBackend for TestBackend {
    type Error = BackendError;
    type Future = TestAnswer<PermitReply>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        let (policy, key) = (policy.clone(), key.clone());
        self.answer(move |local| local.decide_permit(op, &policy, &key))
    }

    fn context(&self) -> &BackendContext {
        PermitBackend::context(&self.0.local)
    }

    fn has_leases(&self) -> bool {
        PermitBackend::has_leases(&self.0.local)
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        PermitBackend::next_attempt(&self.0.local, policy, reply, waiters)
    }

    fn new_id(&self) -> PermitId {
        PermitBackend::new_id(&self.0.local)
    }
}

impl fmt::Debug for TestBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBackend")
            .field("behavior", &*self.0.behavior.borrow())
            .field("operations", &self.operations())
            .finish_non_exhaustive()
    }
}
