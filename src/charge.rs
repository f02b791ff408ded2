//! [`Charge`]: what a request was charged, to be settled when it is known what it really cost.
//!
//! | | charges in the end |
//! |---|---|
//! | nothing at all | the estimate |
//! | [`charge(extra)`](Charge::charge) | the estimate and `extra` |
//! | [`refund(n)`](Charge::refund) | the estimate less `n` |
//! | [`settle(actual)`](Charge::settle) | `actual` |
//! | [`cancel()`](Charge::cancel) | nothing |
//!
//! One of them takes effect, the first that is called on any clone; whatever comes later is told so. More than the
//! estimate is charged without asking, as a debt of up to twice the limit; less is given back, windows taking it back
//! from the window that was charged.
//!
//! ```
//! use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = Limiter::new(Policy::new("llm", Quota::per_hour(100)), MemoryBackend::new());
//! let ann = Key::from("ann");
//! let charge = limiter.try_acquire(&ann, 30).await?;
//! assert_eq!(limiter.peek(&ann).await?.remaining(), 70);
//! charge.settle(45).await?; // it was dearer than thought
//! assert_eq!(limiter.peek(&ann).await?.remaining(), 55);
//! assert!(charge.cancel().await.is_err(), "it has been settled");
//! # Ok(()) }
//! ```
//!
//! A handler in axum takes the charge as an argument; a layer can also be told to look at each response
//! ([`on_response`](crate::RateLimitLayer::on_response)):
//!
//! ```
//! use axum::Router;
//! use axum::routing::post;
//! use tower_sluice::{Charge, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
//!
//! async fn ask(charge: Charge, question: String) -> String {
//!     let (answer, tokens) = (question.to_uppercase(), 120);
//!     charge.settle(tokens);
//!     answer
//! }
//!
//! let policy = Policy::new("tokens", Quota::per_minute(10_000));
//! let limit = RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new())
//!     .cost(500) // an estimate
//!     .on_response(|parts, charge| {
//!         if parts.status.is_server_error() {
//!             charge.cancel();
//!         }
//!     });
//! let app: Router = Router::new().route("/ask", post(ask)).layer(limit);
//! ```
//!
//! In other services it is in the request's extensions: `request.extensions().get::<Charge>()`.
//!
//! A settlement begins with the call: in memory it is done then, and with a remote backend it goes on in the background
//! of the Tokio runtime that it is called in (on a thread without one it fails), so that the answer to a client need
//! not wait for it. Awaiting the [`Settlement`] tells how it ended. What failed is counted by the backend's
//! [`BackendContext`].

use std::error::Error;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::backend::{Answer, Backend, BackendContext, TaskError};
use crate::decision::{Decision, Op, Receipt, Reply, Snapshot};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

/// What a request was charged, worth one settlement. Clones are the same charge.
///
/// Requests that a [`RateLimitLayer`](crate::RateLimitLayer) has let through carry it in their extensions, and with the
/// feature `axum` it is an extractor. One that passed uncharged, because the backend failed, it has no key, or only a
/// [shadow](Policy::shadow) policy would have rejected it, carries one of which nothing can be taken and to which
/// nothing can be added: settling it does nothing, and is no error.
pub struct Charge(Mutex<Account>);

/// The entry is in place until there is a second handle to it: a request that nobody settles needs no allocation of its
/// own.
#[allow(clippy::large_enum_variant)] // the large one is the usual one
enum Account {
    Own(ChargeEntry),
    Shared(Arc<Mutex<ChargeEntry>>),
}

#[derive(Default)]
struct ChargeEntry {
    decision: Option<Decision>,
    waited: Duration,
    /// None: it has been settled, or there never was anything to settle.
    open: Option<OpenCharge>,
    policy: Option<Policy>,
    /// Whether there was something, and a settlement has taken it.
    settled: bool,
    /// Whether a layer further in has given it back, because it rejected the request.
    rejected: bool,
    /// That of a layer around this one, by another policy or key.
    outer: Option<Box<Charge>>,
}

/// Who may go on, by which charge, and after which wait.
pub(crate) struct Acquired {
    pub(crate) decision: Decision,
    pub(crate) receipt: Option<Receipt>,
    pub(crate) waited: Duration,
}

/// What can still be settled.
struct OpenCharge {
    settler: Arc<dyn Settle>,
    key: Key,
    /// What all receipts together have charged.
    cost: Cost,
    receipt: Option<Receipt>,
    /// Those of layers further in.
    more: Vec<Receipt>,
}

/// A backend, whichever its type.
pub(crate) trait Settle: Send + Sync {
    /// Does `ops` one after the other, in the background as soon as one takes time.
    fn begin(&self, ops: SmallVec<[Op; 2]>, policy: &Policy, key: &Key) -> Settlement;
    /// What tells it from others.
    fn context(&self) -> &BackendContext;
}

impl Charge {
    #[inline(always)] // what is moved here is large
    pub(crate) fn new(
        settler: Arc<dyn Settle>,
        policy: Policy,
        key: Key,
        cost: Cost,
        acquired: Acquired,
    ) -> Self {
        let Acquired {
            decision,
            receipt,
            waited,
        } = acquired;
        let open = OpenCharge {
            settler,
            key,
            cost,
            receipt,
            more: Vec::new(),
        };
        Self(Mutex::new(Account::Own(ChargeEntry {
            decision: Some(decision),
            waited,
            open: Some(open),
            policy: Some(policy),
            ..ChargeEntry::default()
        })))
    }

    /// Of a request that goes on by this decision, and was charged nothing that could be settled.
    pub(crate) fn from_decision(policy: Policy, decision: Decision) -> Self {
        Self(Mutex::new(Account::Own(ChargeEntry {
            decision: Some(decision),
            policy: Some(policy),
            ..ChargeEntry::default()
        })))
    }

    /// Of a request that passed uncounted.
    pub(crate) fn uncounted() -> Self {
        Self(Mutex::new(Account::Own(ChargeEntry::default())))
    }

    /// Charges `extra` beside the estimate, without asking.
    pub fn charge(&self, extra: impl Into<Cost>) -> Settlement {
        let extra = extra.into();
        self.settle_by(|estimate, quotas| estimate.with(&extra, quotas, u64::saturating_add))
    }

    /// Gives back `less` of the estimate, all of it at the most.
    pub fn refund(&self, less: impl Into<Cost>) -> Settlement {
        let less = less.into();
        self.settle_by(|estimate, quotas| estimate.with(&less, quotas, u64::saturating_sub))
    }

    /// Charges `actual` in place of the estimate: the rest is charged without asking, or given back.
    pub fn settle(&self, actual: impl Into<Cost>) -> Settlement {
        let actual = actual.into();
        self.settle_by(|_, _| actual)
    }

    /// Gives the whole estimate back.
    pub fn cancel(&self) -> Settlement {
        self.settle(Cost::ZERO)
    }

    /// What has been charged and can be settled: the estimate. `None` after a settlement, or if nothing was counted.
    #[must_use]
    pub fn estimate(&self) -> Option<Cost> {
        self.with_entry(|entry| entry.open.as_ref().map(|open| open.cost.clone()))
    }

    /// The policy that decided; `None` if the request passed uncounted.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.with_entry(|entry| entry.policy.clone())
    }

    /// The answer by which the request was let through, with the numbers after its estimate was charged; a rejection,
    /// if its policy is a [shadow](Policy::shadow). `None` if it passed uncounted.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.with_entry(|entry| entry.decision.clone())
    }

    /// How long the request has waited to be allowed; zero if it was at once.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.with_entry(|entry| entry.waited)
    }

    /// The charge of the next layer around the one that made this one, if that was by another policy or key.
    #[must_use]
    pub fn outer(&self) -> Option<Self> {
        self.with_entry(|entry| entry.outer.as_deref().cloned())
    }

    pub(crate) fn set_outer(&self, outer: Self) {
        self.with_entry(|entry| entry.outer = Some(Box::new(outer)));
    }

    /// The open charge among this one and those around it that was made for `key` by `policy` in the backend of
    /// `context`.
    pub(crate) fn find(
        &self,
        context: &BackendContext,
        policy: &Policy,
        key: &Key,
    ) -> Option<Self> {
        let is_it = |entry: &ChargeEntry| {
            entry.policy.as_ref() == Some(policy)
                && entry.open.as_ref().is_some_and(|open| {
                    std::ptr::eq(open.settler.context(), context) && open.key == *key
                })
        };
        if self.with_entry(|entry| is_it(entry)) {
            return Some(self.clone());
        }
        self.with_entry(|entry| entry.outer.as_ref()?.find(context, policy, key))
    }

    /// How many there are around it.
    pub(crate) fn depth(&self) -> usize {
        self.with_entry(|entry| entry.outer.as_ref().map_or(0, |outer| outer.depth() + 1))
    }

    /// Adds what another check has charged for the same request. If it has been settled meanwhile, that stays charged.
    pub(crate) fn extend(&self, charged: &Cost, acquired: Acquired) {
        self.with_entry(|entry| {
            entry.decision = Some(acquired.decision);
            entry.waited += acquired.waited;
            if let (Some(open), Some(policy)) = (&mut entry.open, &entry.policy) {
                let quotas = policy.quotas().len();
                open.cost = open.cost.with(charged, quotas, u64::saturating_add);
                open.more.extend(acquired.receipt);
            }
        });
    }

    /// The numbers have changed.
    pub(crate) fn set_decision(&self, decision: Decision) {
        self.with_entry(|entry| entry.decision = Some(decision));
    }

    /// Gives back what the charge is above `cost`, and leaves it open; `None` if that is nothing.
    pub(crate) fn lower(&self, cost: &Cost) -> Option<Settlement> {
        self.with_entry(|entry| {
            let (open, policy) = (entry.open.as_mut()?, entry.policy.as_ref()?);
            let quotas = policy.quotas().len();
            let ops = open.give_back(cost, quotas);
            open.cost = open.cost.with(cost, quotas, u64::min);
            let some = !ops.is_empty();
            some.then(|| open.settler.begin(ops, policy, &open.key))
        })
    }

    /// Gives everything back, for a layer further in that rejects the request.
    pub(crate) fn reject(&self) -> Settlement {
        self.with_entry(|entry| entry.rejected = true);
        self.cancel()
    }

    /// The [depth](Self::depth) of the one among this and those around it that was [rejected](Self::reject).
    pub(crate) fn rejected_at(&self) -> Option<usize> {
        if self.with_entry(|entry| entry.rejected) {
            return Some(self.depth());
        }
        self.with_entry(|entry| entry.outer.as_ref()?.rejected_at())
    }

    fn settle_by(&self, actual: impl FnOnce(&Cost, usize) -> Cost) -> Settlement {
        // Taken out in one step: of any number of callers one finds it.
        let taken = self.with_entry(|entry| {
            let (open, settled) = (entry.open.take(), entry.settled);
            entry.settled |= open.is_some();
            (open.zip(entry.policy.clone()), settled)
        });
        let (mut open, policy) = match taken {
            (Some(taken), _) => taken,
            (None, true) => return Settlement::failed(SettleErrorKind::Settled),
            (None, false) => return Settlement::done(None),
        };
        let quotas = policy.quotas().len();
        let actual = actual(&open.cost, quotas);
        let mut ops = open.give_back(&actual, quotas);
        let more = actual.with(&open.cost, quotas, u64::saturating_sub);
        if !more.is_zero() {
            ops.push(Op::Penalize(more));
        }
        open.settler.begin(ops, &policy, &open.key)
    }

    fn with_entry<R>(&self, f: impl FnOnce(&mut ChargeEntry) -> R) -> R {
        match &mut *self.0.lock() {
            Account::Own(entry) => f(entry),
            Account::Shared(entry) => f(&mut entry.lock()),
        }
    }
}

impl OpenCharge {
    /// What gives back as much as the charge is above `cost`, the latest charge first.
    fn give_back(&mut self, cost: &Cost, quotas: usize) -> SmallVec<[Op; 2]> {
        let mut left = self.cost.with(cost, quotas, u64::saturating_sub);
        let mut ops = SmallVec::new();
        for receipt in self.more.iter_mut().rev().chain(&mut self.receipt) {
            if left.is_zero() {
                break;
            }
            let part = receipt.take(left.clone());
            let cost = part.cost();
            if !cost.is_zero() {
                left = left.with(&cost, quotas, u64::saturating_sub);
                ops.push(Op::Refund(part));
            }
        }
        ops
    }
}

impl Clone for Charge {
    fn clone(&self) -> Self {
        let mut account = self.0.lock();
        let entry = match &mut *account {
            Account::Shared(entry) => Arc::clone(entry),
            Account::Own(entry) => {
                let entry = Arc::new(Mutex::new(mem::take(entry)));
                *account = Account::Shared(Arc::clone(&entry));
                entry
            }
        };
        Self(Mutex::new(Account::Shared(entry)))
    }
}

/// Shows no key.
impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_entry(|entry| {
            f.debug_struct("Charge")
                .field("policy", &entry.policy.as_ref().map(Policy::name))
                .field("estimate", &entry.open.as_ref().map(|open| &open.cost))
                .field("waited", &entry.waited)
                .finish_non_exhaustive()
        })
    }
}

impl<B: Backend> Settle for B {
    fn begin(&self, ops: SmallVec<[Op; 2]>, policy: &Policy, key: &Key) -> Settlement {
        let mut ops = ops.into_iter();
        let mut last = None;
        while let Some(op) = ops.next() {
            match self.ask(op, policy, key) {
                Answer::Now(Ok(reply)) => last = Some(snapshot(reply)),
                Answer::Now(Err(error)) => {
                    let error =
                        Backend::context(self).record_task_failure(TaskError::from_error(error));
                    return Settlement::failed(error.into());
                }
                Answer::Later(reply) => {
                    let (backend, policy, key) = (self.clone(), policy.clone(), key.clone());
                    let task = async move {
                        let mut last = snapshot(reply.await.map_err(TaskError::from_error)?);
                        for op in ops {
                            let reply = match backend.ask(op, &policy, &key) {
                                Answer::Now(reply) => reply,
                                Answer::Later(reply) => reply.await,
                            };
                            last = snapshot(reply.map_err(TaskError::from_error)?);
                        }
                        Ok(last)
                    };
                    return match Backend::context(self).spawn(task) {
                        Ok(outcome) => Settlement(SettlementState::Running(outcome)),
                        Err(error) => Settlement::failed(error.into()),
                    };
                }
            }
        }
        Settlement::done(last)
    }

    fn context(&self) -> &BackendContext {
        Backend::context(self)
    }
}

fn snapshot(reply: Reply) -> Snapshot {
    match reply.decision {
        Decision::Allow(snapshot) | Decision::Deny(snapshot, _) => snapshot,
    }
}

/// How a settlement goes on; it does so whether or not this is awaited. With a remote backend it needs the Tokio
/// runtime that it was begun in.
///
/// # Cancel safety
///
/// Dropping it changes nothing.
#[derive(Debug)]
pub struct Settlement(SettlementState);

#[derive(Debug)]
enum SettlementState {
    Done(Option<Result<Option<Snapshot>, SettleError>>),
    Running(oneshot::Receiver<Result<Snapshot, TaskError>>),
}

impl Settlement {
    fn done(snapshot: Option<Snapshot>) -> Self {
        Self(SettlementState::Done(Some(Ok(snapshot))))
    }

    fn failed(kind: SettleErrorKind) -> Self {
        Self(SettlementState::Done(Some(Err(SettleError(kind)))))
    }

    /// Blocks this thread until it is done. A charge of a [`blocking::Limiter`](crate::blocking::Limiter) is settled by
    /// then; one of a task goes on in its runtime, which must not be driven by this thread.
    ///
    /// # Errors
    ///
    /// As awaiting it.
    #[cfg(feature = "blocking")]
    pub fn join(self) -> Result<Option<Snapshot>, SettleError> {
        crate::park::block_on(self)
    }
}

impl Future for Settlement {
    /// The numbers after it, if anything had to be changed.
    type Output = Result<Option<Snapshot>, SettleError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            SettlementState::Done(outcome) => Poll::Ready(
                outcome
                    .take()
                    .expect("`Settlement` polled after completion"),
            ),
            SettlementState::Running(outcome) => Pin::new(outcome).poll(cx).map(|outcome| {
                match outcome.unwrap_or(Err(TaskError::RuntimeEnded)) {
                    Ok(snapshot) => Ok(Some(snapshot)),
                    Err(error) => Err(SettleError(error.into())),
                }
            }),
        }
    }
}

/// Why a settlement had no effect, or none that is known.
#[derive(Clone, Debug)]
pub struct SettleError(SettleErrorKind);

#[derive(Clone, Debug)]
enum SettleErrorKind {
    /// Another one came first.
    Settled,
    Task(TaskError),
}

impl From<TaskError> for SettleErrorKind {
    fn from(error: TaskError) -> Self {
        Self::Task(error)
    }
}

impl SettleError {
    /// Whether another settlement of the same charge came first; else the backend gave no answer, too many settlements
    /// were under way, or there is no runtime.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(self.0, SettleErrorKind::Settled)
    }
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            SettleErrorKind::Settled => "the charge has been settled already",
            SettleErrorKind::Task(TaskError::TooMany) => "too many settlements are under way",
            SettleErrorKind::Task(TaskError::NoRuntime) => {
                "settling with a remote backend needs a Tokio runtime, and there is none here"
            }
            SettleErrorKind::Task(TaskError::RuntimeEnded) => {
                "the runtime ended before the settlement was done"
            }
            SettleErrorKind::Task(TaskError::TimedOut) => "the settlement took too long",
            SettleErrorKind::Task(TaskError::Failed(_)) => {
                "the backend gave no answer to the settlement"
            }
        })
    }
}

impl Error for SettleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            SettleErrorKind::Task(TaskError::Failed(error)) => Some(&**error),
            _ => None,
        }
    }
}
