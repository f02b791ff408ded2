//! Waiting until a request is allowed: [`MaxWait`], and how a place in the line is kept, given up and bounded.
//!
//! Under a policy of buckets a waiter **makes a reservation** in one atomic step: first come, first served, across all
//! servers that share the backend. It knows at once how long it will wait, and is denied at once if that is longer than
//! it may; it asks once and then sleeps. Under a policy with a window, whose future is not one number, it **looks
//! again** when the wait that it was told is over; within one process those who wait for one key take turns at that,
//! first come, first served. A request whose time ends before the first waiter looks again does not wait: it is checked
//! once. So is a waiter whose time is up.
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::limiter::Rejected;
//! use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let limiter = Limiter::new(Policy::new("upstream", Quota::per_second(50).burst(1)), MemoryBackend::new());
//! let (host, max_wait) = (Key::from("api.example.org"), MaxWait::within(Duration::from_millis(30)));
//!
//! let first = limiter.acquire(&host, 1, max_wait).await.expect("allowed at once");
//! assert_eq!(first.waited(), Duration::ZERO);
//! let second = limiter.acquire(&host, 1, max_wait).await.expect("allowed after a wait");
//! assert!(second.waited() > Duration::from_millis(15));
//! let (third, fourth) = tokio::join!(limiter.acquire(&host, 1, max_wait), limiter.acquire(&host, 1, max_wait));
//! assert!(third.is_ok());
//! assert!(matches!(fourth, Err(Rejected::Denied(_))), "its turn would come after 40 ms: it is told so at once");
//! # }
//! ```
//!
//! # Cancel safety
//!
//! Dropping a waiter before it is due cancels its reservation. The charge goes back if nothing but time has changed the
//! state of the key since. While other reservations stand behind it the charge stays, because those were told their
//! times. It goes back later if those behind it are cancelled in this process, too, before it is due: a crowd that
//! leaves in any order leaves no debt. With a remote backend that is done in the background, and needs the Tokio
//! runtime in which the waiter is dropped.
//!
//! A waiter under a window that is kept but not polled, beside another one in a `select!` loop say, holds up those
//! behind it, as one that has been handed a lock would: do not wait for the same key while you keep it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::backend::{
    Answer, Backend, BackendContext, MemoryBackend, QueueHead, TaskError, TierQueue, WaiterGuard,
};
use crate::cancel;
use crate::charge::Acquired;
use crate::clock::{Clock, SystemClock, Timestamp, micros_up};
use crate::decision::{Decision, Op, Reply, Reservation, RetryAfter};
use crate::key::Key;
use crate::limiter::Rejected;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::telemetry;

/// The longest wait that is accepted. To wait without bound is a choice of its own, never a default and never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxWait {
    /// So long and no longer, the backend's time limit aside. Zero: who is not allowed at once is denied.
    Within(Duration),
    /// However long it takes; but a debt of reservations stays below 2^53 grains, and one beyond that is denied with
    /// [`Never`](crate::RetryAfter::Never). Who waits for a caller that may give up should say how long instead.
    Unbounded,
}

impl MaxWait {
    /// No wait at all.
    pub const NONE: Self = Self::Within(Duration::ZERO);

    /// At most `longest`.
    #[must_use]
    pub const fn within(longest: Duration) -> Self {
        Self::Within(longest)
    }

    /// The shorter one of both.
    #[must_use]
    pub fn at_most(self, longest: Duration) -> Self {
        Self::Within(self.longest().min(longest))
    }

    fn longest(self) -> Duration {
        match self {
            Self::Within(longest) => longest,
            Self::Unbounded => Duration::MAX,
        }
    }

    /// What is left of it at `now`, after a beginning at `began`.
    pub(crate) fn left(self, began: Timestamp, now: Timestamp) -> Self {
        let passed = Duration::from_micros(now.micros_since(began));
        match self {
            Self::Within(longest) => Self::Within(longest.saturating_sub(passed)),
            Self::Unbounded => Self::Unbounded,
        }
    }
}

impl From<Duration> for MaxWait {
    fn from(longest: Duration) -> Self {
        Self::Within(longest)
    }
}

/// When a request is of no more use to its client: in a request's extensions it shortens the wait of a layer that
/// [waits](crate::RateLimitLayer::wait).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Timestamp);

impl Deadline {
    /// At `time` of the clock that the limiter's waiters sleep by.
    #[must_use]
    pub const fn at(time: Timestamp) -> Self {
        Self(time)
    }

    /// After `span` from now on, by the system's clock.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self(SystemClock::new().now().after(span))
    }

    /// The time.
    #[must_use]
    pub const fn time(self) -> Timestamp {
        self.0
    }
}

/// A wait of its own, wherever it goes.
pub(crate) type WaitFuture<E> = Pin<Box<dyn Future<Output = Result<Acquired, Rejected<E>>> + Send>>;

/// How long a request may wait: so long from when it came, and not past the time by which its client has gone.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) began: Timestamp,
    pub(crate) max_wait: MaxWait,
    pub(crate) end: Option<Deadline>,
}

impl Bound {
    /// What is left of it by the clock of `context`.
    pub(crate) fn left(&self, context: &BackendContext) -> MaxWait {
        let now = context.now();
        let left = self.max_wait.left(self.began, now);
        match self.end {
            Some(end) => left.at_most(Duration::from_micros(end.time().micros_since(now))),
            None => left,
        }
    }
}

/// As [`until_allowed`], from the first poll on.
pub(crate) fn acquire_boxed<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    bound: Bound,
) -> WaitFuture<B::Error> {
    let (backend, policy) = (backend.clone(), policy.clone());
    let (key, cost) = (key.clone(), cost.clone());
    Box::pin(async move {
        let max_wait = bound.left(backend.context());
        acquire(&backend, &policy, &key, &cost, max_wait).await
    })
}

/// As [`until_allowed`], in place of a backend that can fail.
pub(crate) fn acquire_local<E: Send + 'static>(
    local: &MemoryBackend,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    max_wait: MaxWait,
) -> WaitFuture<E> {
    let (local, policy) = (local.clone(), policy.clone());
    let (key, cost) = (key.clone(), cost.clone());
    Box::pin(async move {
        let wait = acquire(&local, &policy, &key, &cost, max_wait);
        wait.await.map_err(Rejected::widen_error)
    })
}

/// The answer to a check that must not be lost: if nobody waits for it any more, what it has charged goes back.
pub(crate) fn refund_on_drop<B: Backend>(
    reply: B::Future,
    backend: &B,
    policy: &Policy,
    key: &Key,
) -> WaitFuture<B::Error> {
    let kept = RefundOnDrop::new(reply, backend, policy, key);
    Box::pin(async move { allowed(kept.await.map_err(Rejected::Backend)?, Duration::ZERO) })
}

/// Tells of the outcome of a wait without a layer.
pub(crate) fn record_outcome<E>(
    policy: &Policy,
    outcome: Result<Acquired, Rejected<E>>,
) -> Result<Acquired, Rejected<E>> {
    match &outcome {
        Ok(acquired) => {
            telemetry::checked(policy, true);
            telemetry::waited(acquired.waited, policy);
        }
        Err(Rejected::Denied(_)) => telemetry::checked(policy, false),
        Err(Rejected::Backend(_)) => {}
    }
    outcome
}

/// Waits until `cost` is allowed, or finds out that it will not be in time.
pub(crate) async fn acquire<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    max_wait: MaxWait,
) -> Result<Acquired, Rejected<B::Error>> {
    let waiter = Waiter {
        backend,
        policy,
        key,
        cost,
    };
    // Nobody has to wait for what is free, nor can for what will never pass.
    let cannot_wait = cost.is_zero() || policy.is_exceeded_by(cost);
    if max_wait == MaxWait::NONE || cannot_wait {
        return waiter.check().await;
    }
    let guard = backend.context().join_queue(policy, key);
    if policy.is_of_buckets() {
        match guard {
            Some(_place) => waiter.reserve(max_wait).await,
            None => waiter.check().await,
        }
    } else {
        waiter.check_until_allowed(guard, max_wait).await
    }
}

struct Waiter<'a, B> {
    backend: &'a B,
    policy: &'a Policy,
    key: &'a Key,
    cost: &'a Cost,
}

impl<B: Backend> Waiter<'_, B> {
    fn context(&self) -> &BackendContext {
        self.backend.context()
    }

    async fn ask(&self, op: Op) -> Result<Reply, Rejected<B::Error>> {
        let answer = match self.backend.ask(op, self.policy, self.key) {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => {
                RefundOnDrop::new(reply, self.backend, self.policy, self.key).await
            }
        };
        answer.map_err(Rejected::Backend)
    }

    /// Asks once.
    async fn check(&self) -> Result<Acquired, Rejected<B::Error>> {
        let reply = self.ask(Op::Check(self.cost.clone())).await?;
        allowed(reply, Duration::ZERO)
    }

    /// Makes a reservation and sleeps until it comes.
    async fn reserve(&self, max_wait: MaxWait) -> Result<Acquired, Rejected<B::Error>> {
        let (cost, max_wait) = (self.cost.clone(), max_wait.longest());
        let mut reply = self.ask(Op::Reserve { cost, max_wait }).await?;
        if reply.decision.is_allowed() && !reply.wait.is_zero() {
            let context = self.context();
            let answered = context.now();
            cancel::set_due(&mut reply, context);
            let reservation = CancelOnDrop {
                waiter: self,
                reservation: reply.reservation.take(),
            };
            context.sleep_until(answered.after(reply.wait)).await;
            reply.reservation = reservation.used();
            return allowed(
                reply,
                Duration::from_micros(context.now().micros_since(answered)),
            );
        }
        allowed(reply, Duration::ZERO)
    }

    /// Stands in line, and at its head checks whenever the wait that it was told is over.
    async fn check_until_allowed(
        &self,
        guard: Option<WaiterGuard<'_>>,
        max_wait: MaxWait,
    ) -> Result<Acquired, Rejected<B::Error>> {
        let Some(guard) = guard else {
            return self.check().await;
        };
        let context = self.context();
        let began = context.now();
        let deadline = began.after(max_wait.longest());
        let queue = guard.queue(self.policy);
        let mut at_once = true;
        let Some(head) = self.wait_for_head(&queue, deadline, &mut at_once).await else {
            // At this moment those in front ask: they must not be overtaken.
            let now = context.now();
            let is_asking = queue.next_attempt().is_some_and(|next| next <= now);
            let refusal = || queue.last_denial(|| context.now(), self.cost);
            if let Some(decision) = is_asking.then(refusal).flatten() {
                return Err(Rejected::Denied(decision));
            }
            // What the head was told is about another cost: this one may be allowed now.
            let reply = self.ask(Op::Check(self.cost.clone())).await?;
            let waited = if at_once { 0 } else { now.micros_since(began) };
            return allowed(reply, Duration::from_micros(waited));
        };
        loop {
            let reply = self.ask(Op::Check(self.cost.clone())).await?;
            let now = context.now();
            let Decision::Deny(snapshot, RetryAfter::In(wait)) = &reply.decision else {
                let waited = if at_once { 0 } else { now.micros_since(began) };
                return allowed(reply, Duration::from_micros(waited));
            };
            let soonest = now.after(*wait);
            if soonest > deadline {
                return Err(Rejected::Denied(reply.decision));
            }
            let next_look = context.next_attempt(now, micros_up(*wait)).min(deadline);
            head.record_denial(snapshot.clone(), now, next_look);
            context.sleep_until(next_look).await;
            at_once = false;
        }
    }

    /// The right to ask, once everybody in front has gone; none if that is too late.
    async fn wait_for_head<'q>(
        &self,
        queue: &'q TierQueue,
        deadline: Timestamp,
        at_once: &mut bool,
    ) -> Option<QueueHead<'q>> {
        if let Some(head) = queue.try_head() {
            return Some(head);
        }
        if queue.next_attempt().is_some_and(|next| next > deadline) {
            return None;
        }
        *at_once = false;
        let mut head = pin!(queue.head());
        let mut end = self.context().sleep_until(deadline);
        poll_fn(|cx| match head.as_mut().poll(cx) {
            Poll::Ready(head) => Poll::Ready(Some(head)),
            Poll::Pending => end.as_mut().poll(cx).map(|()| None),
        })
        .await
    }
}

fn allowed<E>(reply: Reply, waited: Duration) -> Result<Acquired, Rejected<E>> {
    if !reply.decision.is_allowed() {
        return Err(Rejected::Denied(reply.decision));
    }
    let of_reservation = reply.reservation.and_then(Reservation::into_receipt);
    Ok(Acquired {
        decision: reply.decision,
        receipt: reply.receipt.or(of_reservation),
        waited,
    })
}

/// A reservation that is given up when this is dropped.
struct CancelOnDrop<'a, B: Backend> {
    waiter: &'a Waiter<'a, B>,
    reservation: Option<Reservation>,
}

impl<B: Backend> CancelOnDrop<'_, B> {
    fn used(mut self) -> Option<Reservation> {
        self.reservation.take()
    }
}

impl<B: Backend> Drop for CancelOnDrop<'_, B> {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            let Waiter {
                backend,
                policy,
                key,
                ..
            } = self.waiter;
            cancel::in_background(*backend, policy, key, reservation);
        }
    }
}

/// An answer on its way. If nobody waits for it any more, what it has charged is given back when it comes.
struct RefundOnDrop<B: Backend> {
    reply: Option<Pin<Box<B::Future>>>,
    asker: Option<(B, Policy, Key)>,
    is_polled: bool,
}

impl<B: Backend> RefundOnDrop<B> {
    fn new(reply: B::Future, backend: &B, policy: &Policy, key: &Key) -> Self {
        Self {
            reply: Some(Box::pin(reply)),
            asker: Some((backend.clone(), policy.clone(), key.clone())),
            is_polled: false,
        }
    }
}

/// Nothing in it is pinned in place.
impl<B: Backend> Unpin for RefundOnDrop<B> {}

impl<B: Backend> Future for RefundOnDrop<B> {
    type Output = Result<Reply, B::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.is_polled = true;
        // Taken out: if this poll panics, the drop must not poll it again.
        let mut reply = self.reply.take().expect("polled after completion");
        let polled = reply.as_mut().poll(cx);
        if polled.is_pending() {
            self.reply = Some(reply);
        }
        polled
    }
}

impl<B: Backend> Drop for RefundOnDrop<B> {
    fn drop(&mut self) {
        // What was never polled has not been sent.
        let (Some(reply), Some(asker), true) =
            (self.reply.take(), self.asker.take(), self.is_polled)
        else {
            return;
        };
        let (backend, policy, key) = asker;
        let background = Arc::clone(backend.context().background());
        Arc::clone(&background).spawn_unbounded(async move {
            // Nothing is known to be charged if that fails, and it is not this background task that does.
            let Ok(mut reply) = reply.await else {
                return Ok(());
            };
            cancel::set_due(&mut reply, backend.context());
            if let Some(reservation) = reply.reservation {
                // Also one that would have come at once: a token that came back with others in line would let two go
                // together.
                let cancelled = cancel::cancel_alone(&backend, &policy, &key, reservation).await;
                return cancelled.map_err(TaskError::from_error).map(drop);
            }
            let Some(receipt) = reply.receipt else {
                return Ok(());
            };
            let op = Op::Refund(receipt);
            let _slot = background.acquire_slot().await;
            let done = match backend.ask(op, &policy, &key) {
                Answer::Now(done) => done,
                Answer::Later(done) => done.await,
            };
            done.map_err(TaskError::from_error).map(drop)
        });
    }
}
