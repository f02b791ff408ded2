use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::Ready;
use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Backend, BackendContext, MemoryBackend, PermitBackend};
use crate::clock::Clock;
use crate::decision::{Op, PermitId, PermitOp, PermitReply, QuotaSnapshot, Reply};
use crate::key::Key;
use crate::policy::{Policy, SemaphorePolicy};
use crate::quota::Cost;

/// A [`MemoryBackend`] with a clock of any type. Clones share the state, also with the backend that it is made from.
///
/// [`AnyBackend`](crate::AnyBackend) and [`FailurePolicy`](crate::FailurePolicy) contain it, so their types do not
/// depend on the clock. A service that chooses its backend at run time can so be tested with a
/// [`ManualClock`](crate::clock::ManualClock).
///
/// ```
/// use std::time::Duration;
/// use tower_sluice::backend::LocalBackend;
/// use tower_sluice::clock::{ManualClock, Timestamp};
/// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
/// let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
/// let memory = MemoryBackend::builder().clock(clock.clone()).build();
/// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(1)), LocalBackend::from(memory));
/// let ann = Key::from("ann");
/// assert!(limiter.check(&ann, 1).await?.decision.is_allowed());
/// assert!(!limiter.check(&ann, 1).await?.decision.is_allowed());
/// clock.advance(Duration::from_secs(3_600));
/// assert!(limiter.check(&ann, 1).await?.decision.is_allowed());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct LocalBackend(LocalInner);

#[derive(Clone)]
enum LocalInner {
    /// The usual clock is called without dynamic dispatch.
    System(MemoryBackend),
    Other(Arc<dyn ErasedMemory>),
}

/// The object-safe form of [`MemoryBackend`].
trait ErasedMemory: fmt::Debug + Send + Sync {
    fn decide(&self, op: Op, policy: &Policy, key: &Key) -> Reply;
    fn context(&self) -> &BackendContext;
    fn decide_permit(&self, op: PermitOp, policy: &SemaphorePolicy, key: &Key) -> PermitReply;
    fn acquire_now(
        &self,
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Option<QuotaSnapshot>;
    fn release_now(&self, id: PermitId, policy: &SemaphorePolicy, key: &Key) -> Option<bool>;
    fn permit_context(&self) -> &BackendContext;
    fn new_id(&self) -> PermitId;
}

impl<C: Clock> ErasedMemory for MemoryBackend<C> {
    fn decide(&self, op: Op, policy: &Policy, key: &Key) -> Reply {
        Self::decide(self, op, policy, key)
    }

    fn context(&self) -> &BackendContext {
        Backend::context(self)
    }

    fn decide_permit(&self, op: PermitOp, policy: &SemaphorePolicy, key: &Key) -> PermitReply {
        answered(PermitBackend::ask(self, op, policy, key))
    }

    fn acquire_now(
        &self,
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Option<QuotaSnapshot> {
        PermitBackend::acquire_now(self, id, weight, policy, key)
    }

    fn release_now(&self, id: PermitId, policy: &SemaphorePolicy, key: &Key) -> Option<bool> {
        PermitBackend::release_now(self, id, policy, key)
    }

    fn permit_context(&self) -> &BackendContext {
        PermitBackend::context(self)
    }

    fn new_id(&self) -> PermitId {
        PermitBackend::new_id(self)
    }
}

impl LocalBackend {
    /// Decides a request.
    pub(crate) fn check(&self, policy: &Policy, key: &Key, cost: Cost) -> Reply {
        self.decide(Op::Check(cost), policy, key)
    }

    #[inline]
    pub(super) fn decide(&self, op: Op, policy: &Policy, key: &Key) -> Reply {
        match &self.0 {
            LocalInner::System(memory) => memory.decide(op, policy, key),
            LocalInner::Other(memory) => memory.decide(op, policy, key),
        }
    }

    pub(super) fn decide_permit(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> PermitReply {
        match &self.0 {
            LocalInner::System(memory) => answered(PermitBackend::ask(memory, op, policy, key)),
            LocalInner::Other(memory) => memory.decide_permit(op, policy, key),
        }
    }
}

/// The answer of a backend that cannot fail.
fn answered<T>(answer: Answer<Result<T, Infallible>, Ready<Result<T, Infallible>>>) -> T {
    let answer = match answer {
        Answer::Now(answer) => answer,
        Answer::Later(answer) => answer.into_inner(),
    };
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

impl<C: Clock> From<MemoryBackend<C>> for LocalBackend {
    fn from(backend: MemoryBackend<C>) -> Self {
        let any: &dyn Any = &backend;
        Self(match any.downcast_ref::<MemoryBackend>() {
            Some(memory) => LocalInner::System(memory.clone()),
            None => LocalInner::Other(Arc::new(backend)),
        })
    }
}

impl Backend for LocalBackend {
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    #[inline]
    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, Infallible>, Self::Future> {
        Answer::Now(Ok(self.decide(op, policy, key)))
    }

    fn context(&self) -> &BackendContext {
        match &self.0 {
            LocalInner::System(memory) => Backend::context(memory),
            LocalInner::Other(memory) => memory.context(),
        }
    }
}

impl PermitBackend for LocalBackend {
    type Error = Infallible;
    type Future = Ready<Result<PermitReply, Infallible>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, Infallible>, Self::Future> {
        Answer::Now(Ok(self.decide_permit(op, policy, key)))
    }

    fn acquire_now(
        &self,
        id: PermitId,
        weight: u32,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Option<QuotaSnapshot> {
        match &self.0 {
            LocalInner::System(memory) => {
                PermitBackend::acquire_now(memory, id, weight, policy, key)
            }
            LocalInner::Other(memory) => memory.acquire_now(id, weight, policy, key),
        }
    }

    fn release_now(&self, id: PermitId, policy: &SemaphorePolicy, key: &Key) -> Option<bool> {
        match &self.0 {
            LocalInner::System(memory) => PermitBackend::release_now(memory, id, policy, key),
            LocalInner::Other(memory) => memory.release_now(id, policy, key),
        }
    }

    fn context(&self) -> &BackendContext {
        match &self.0 {
            LocalInner::System(memory) => PermitBackend::context(memory),
            LocalInner::Other(memory) => memory.permit_context(),
        }
    }

    /// The permits of a [`MemoryBackend`] end with their guards.
    fn has_leases(&self) -> bool {
        false
    }

    fn next_attempt(&self, _: &SemaphorePolicy, _: &PermitReply, _: usize) -> Option<Duration> {
        None
    }

    fn new_id(&self) -> PermitId {
        match &self.0 {
            LocalInner::System(memory) => PermitBackend::new_id(memory),
            LocalInner::Other(memory) => memory.new_id(),
        }
    }
}

impl fmt::Debug for LocalBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            LocalInner::System(memory) => memory.fmt(f),
            LocalInner::Other(memory) => memory.fmt(f),
        }
    }
}
