//! Waiting until a request is allowed: [`MaxWait`], and how a place in the line is kept, given up and bounded.
//!
//! Under a policy of buckets a waiter **reserves its turn** in one atomic step: first come, first served, across all servers
//! that share the backend. It knows at once how long it will wait, and is refused at once if that is longer than it may; it
//! asks once and then sleeps. Under a policy with a window, whose future is not one number, it **looks again** when the wait
//! that it was told is over; within one process those who wait for one key take turns at that, first come, first served. A request
//! whose time ends before the first waiter looks again does not wait: it is checked once. So is a waiter whose time is up.
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::limiter::Rejected;
//! use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let limiter = Limiter::new(Policy::new("upstream", Quota::per_second(50).burst(1)), MemoryBackend::new());
//! let (host, max_wait) = (Key::from("api.example.org"), MaxWait::of(Duration::from_millis(30)));
//!
//! let first = limiter.wait(&host, 1, max_wait).await.expect("allowed at once");
//! assert_eq!(first.waited(), Duration::ZERO);
//! let second = limiter.wait(&host, 1, max_wait).await.expect("allowed after a wait");
//! assert!(second.waited() > Duration::from_millis(15));
//! let (third, fourth) = tokio::join!(limiter.wait(&host, 1, max_wait), limiter.wait(&host, 1, max_wait));
//! assert!(third.is_ok());
//! assert!(matches!(fourth, Err(Rejected::Denied(_))), "its turn would come after 40 ms: it is told so at once");
//! # }
//! ```
//!
//! # Cancel safety
//!
//! Dropping a waiter before it is due cancels its reservation. The charge goes back if nothing but time has changed the state of
//! the key since. While other reservations stand behind it the charge stays, because those were told their times. It goes back
//! later if those behind it are cancelled in this process, too, before it is due: a crowd that leaves in any order leaves no debt.
//! With a remote backend that is done in the background, and needs the Tokio runtime in which the waiter is dropped.
//!
//! A waiter under a window that is kept but not polled, beside another one in a `select!` loop say, holds up those behind it, as one
//! that has been handed a lock would: do not wait for the same key while you keep it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::backend::{Answer, Backend, Fault, Head, Lobby, MemoryBackend, Place, Queue};
use crate::cancel;
use crate::charge::Admitted;
use crate::clock::{Clock, SystemClock, Timestamp, micros_up};
use crate::decision::{Decision, Op, Reply, RetryAfter, Turn};
use crate::key::Key;
use crate::limiter::Rejected;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::report;

/// The longest wait that is accepted. To wait without bound is a choice of its own, never a default and never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxWait {
    /// So long and no longer, the backend's time limit aside. Zero: who is not allowed at once is refused.
    Within(Duration),
    /// However long it takes; but a debt of turns stays below 2^53 grains, and one beyond that is refused with
    /// [`Never`](crate::RetryAfter::Never). Who waits for a caller that may give up should say how long instead.
    Unbounded,
}

impl MaxWait {
    /// No wait at all.
    pub const NONE: Self = Self::Within(Duration::ZERO);

    /// At most `longest`.
    #[must_use]
    pub const fn of(longest: Duration) -> Self {
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
pub(crate) type Wait<E> = Pin<Box<dyn Future<Output = Result<Admitted, Rejected<E>>> + Send>>;

/// How long a request may wait: so long from when it came, and not past the time by which its client has gone.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) began: Timestamp,
    pub(crate) max_wait: MaxWait,
    pub(crate) end: Option<Deadline>,
}

impl Bound {
    /// What is left of it by the clock of `lobby`.
    pub(crate) fn left(&self, lobby: &Lobby) -> MaxWait {
        let now = lobby.now();
        let left = self.max_wait.left(self.began, now);
        match self.end {
            Some(end) => left.at_most(Duration::from_micros(end.time().micros_since(now))),
            None => left,
        }
    }
}

/// As [`until_allowed`], from the first poll on.
pub(crate) fn begin<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    bound: Bound,
) -> Wait<B::Error> {
    let (backend, policy) = (backend.clone(), policy.clone());
    let (key, cost) = (key.clone(), cost.clone());
    Box::pin(async move {
        let max_wait = bound.left(backend.lobby());
        until_allowed(&backend, &policy, &key, &cost, max_wait).await
    })
}

/// As [`until_allowed`], in place of a backend that can fail.
pub(crate) fn begin_local<E: Send + 'static>(
    local: &MemoryBackend,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    max_wait: MaxWait,
) -> Wait<E> {
    let (local, policy) = (local.clone(), policy.clone());
    let (key, cost) = (key.clone(), cost.clone());
    Box::pin(async move {
        let wait = until_allowed(&local, &policy, &key, &cost, max_wait);
        wait.await.map_err(Rejected::of_infallible)
    })
}

/// The answer to a check that must not be lost: if nobody waits for it any more, what it has charged goes back.
pub(crate) fn kept<B: Backend>(
    reply: B::Future,
    backend: &B,
    policy: &Policy,
    key: &Key,
) -> Wait<B::Error> {
    let kept = Kept::new(reply, backend, policy, key);
    Box::pin(async move { allowed(kept.await.map_err(Rejected::Backend)?, Duration::ZERO) })
}

/// Tells of the outcome of a wait without a layer.
pub(crate) fn told<E>(
    policy: &Policy,
    outcome: Result<Admitted, Rejected<E>>,
) -> Result<Admitted, Rejected<E>> {
    match &outcome {
        Ok(admitted) => {
            report::answered(policy, true);
            report::waited(admitted.waited, policy);
        }
        Err(Rejected::Denied(_)) => report::answered(policy, false),
        Err(Rejected::Backend(_)) => {}
    }
    outcome
}

/// Waits until `cost` is allowed, or finds out that it will not be in time.
pub(crate) async fn until_allowed<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    max_wait: MaxWait,
) -> Result<Admitted, Rejected<B::Error>> {
    let waiter = Waiter {
        backend,
        policy,
        key,
        cost,
    };
    // Nobody has to wait for what is free, nor can for what will never pass.
    let in_vain = cost.is_zero() || policy.is_exceeded_by(cost);
    if max_wait == MaxWait::NONE || in_vain {
        return waiter.check().await;
    }
    let place = backend.lobby().enter(policy, key);
    if policy.is_of_buckets() {
        match place {
            Some(_place) => waiter.take_turn(max_wait).await,
            None => waiter.check().await,
        }
    } else {
        waiter.look_again(place, max_wait).await
    }
}

struct Waiter<'a, B> {
    backend: &'a B,
    policy: &'a Policy,
    key: &'a Key,
    cost: &'a Cost,
}

impl<B: Backend> Waiter<'_, B> {
    fn lobby(&self) -> &Lobby {
        self.backend.lobby()
    }

    async fn ask(&self, op: Op) -> Result<Reply, Rejected<B::Error>> {
        let answer = match self.backend.ask(op, self.policy, self.key) {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => Kept::new(reply, self.backend, self.policy, self.key).await,
        };
        answer.map_err(Rejected::Backend)
    }

    /// Asks once.
    async fn check(&self) -> Result<Admitted, Rejected<B::Error>> {
        let reply = self.ask(Op::Check(self.cost.clone())).await?;
        allowed(reply, Duration::ZERO)
    }

    /// Reserves a turn and sleeps until it comes.
    async fn take_turn(&self, max_wait: MaxWait) -> Result<Admitted, Rejected<B::Error>> {
        let (cost, max_wait) = (self.cost.clone(), max_wait.longest());
        let mut reply = self.ask(Op::Reserve { cost, max_wait }).await?;
        if reply.decision.is_allowed() && !reply.go_after.is_zero() {
            let lobby = self.lobby();
            let answered = lobby.now();
            cancel::set_due(&mut reply, lobby);
            let turn = GivenUp {
                waiter: self,
                turn: reply.turn.take(),
            };
            lobby.sleep_until(answered.after(reply.go_after)).await;
            reply.turn = turn.used();
            return allowed(
                reply,
                Duration::from_micros(lobby.now().micros_since(answered)),
            );
        }
        allowed(reply, Duration::ZERO)
    }

    /// Stands in line, and at its head checks whenever the wait that it was told is over.
    async fn look_again(
        &self,
        place: Option<Place<'_>>,
        max_wait: MaxWait,
    ) -> Result<Admitted, Rejected<B::Error>> {
        let Some(place) = place else {
            return self.check().await;
        };
        let lobby = self.lobby();
        let began = lobby.now();
        let deadline = began.after(max_wait.longest());
        let queue = place.queue(self.policy);
        let mut at_once = true;
        let Some(head) = self.reach_head(&queue, deadline, &mut at_once).await else {
            // At this moment those in front ask: they must not be overtaken.
            let now = lobby.now();
            let is_asking = queue.next_look().is_some_and(|next| next <= now);
            let refusal = || queue.refusal(|| lobby.now(), self.cost);
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
            let now = lobby.now();
            let Decision::Deny(snapshot, RetryAfter::In(wait)) = &reply.decision else {
                let waited = if at_once { 0 } else { now.micros_since(began) };
                return allowed(reply, Duration::from_micros(waited));
            };
            let soonest = now.after(*wait);
            if soonest > deadline {
                return Err(Rejected::Denied(reply.decision));
            }
            let next_look = lobby.next_look(now, micros_up(*wait)).min(deadline);
            head.tell(snapshot.clone(), now, next_look);
            lobby.sleep_until(next_look).await;
            at_once = false;
        }
    }

    /// The right to ask, once everybody in front has gone; none if that is too late.
    async fn reach_head<'q>(
        &self,
        queue: &'q Queue,
        deadline: Timestamp,
        at_once: &mut bool,
    ) -> Option<Head<'q>> {
        if let Some(head) = queue.try_head() {
            return Some(head);
        }
        if queue.next_look().is_some_and(|next| next > deadline) {
            return None;
        }
        *at_once = false;
        let mut head = pin!(queue.head());
        let mut end = self.lobby().sleep_until(deadline);
        poll_fn(|cx| match head.as_mut().poll(cx) {
            Poll::Ready(head) => Poll::Ready(Some(head)),
            Poll::Pending => end.as_mut().poll(cx).map(|()| None),
        })
        .await
    }
}

fn allowed<E>(reply: Reply, waited: Duration) -> Result<Admitted, Rejected<E>> {
    if !reply.decision.is_allowed() {
        return Err(Rejected::Denied(reply.decision));
    }
    let of_turn = reply.turn.and_then(Turn::into_receipt);
    Ok(Admitted {
        decision: reply.decision,
        receipt: reply.receipt.or(of_turn),
        waited,
    })
}

/// A turn that is given up when this is dropped.
struct GivenUp<'a, B: Backend> {
    waiter: &'a Waiter<'a, B>,
    turn: Option<Turn>,
}

impl<B: Backend> GivenUp<'_, B> {
    fn used(mut self) -> Option<Turn> {
        self.turn.take()
    }
}

impl<B: Backend> Drop for GivenUp<'_, B> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            let Waiter {
                backend,
                policy,
                key,
                ..
            } = self.waiter;
            cancel::in_background(*backend, policy, key, turn);
        }
    }
}

/// An answer on its way. If nobody waits for it any more, what it has charged is given back when it comes.
struct Kept<B: Backend> {
    reply: Option<Pin<Box<B::Future>>>,
    asker: Option<(B, Policy, Key)>,
    is_polled: bool,
}

impl<B: Backend> Kept<B> {
    fn new(reply: B::Future, backend: &B, policy: &Policy, key: &Key) -> Self {
        Self {
            reply: Some(Box::pin(reply)),
            asker: Some((backend.clone(), policy.clone(), key.clone())),
            is_polled: false,
        }
    }
}

/// Nothing in it is pinned in place.
impl<B: Backend> Unpin for Kept<B> {}

impl<B: Backend> Future for Kept<B> {
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

impl<B: Backend> Drop for Kept<B> {
    fn drop(&mut self) {
        // What was never polled has not been sent.
        let (Some(reply), Some(asker), true) =
            (self.reply.take(), self.asker.take(), self.is_polled)
        else {
            return;
        };
        let (backend, policy, key) = asker;
        let errands = Arc::clone(backend.lobby().errand_runner());
        Arc::clone(&errands).give_back(async move {
            // Nothing is known to be charged if that fails, and it is not this errand that does.
            let Ok(mut reply) = reply.await else {
                return Ok(());
            };
            cancel::set_due(&mut reply, backend.lobby());
            if let Some(turn) = reply.turn {
                // Also one that would have come at once: a token that came back with others in line would let two go together.
                let cancelled = cancel::cancel_alone(&backend, &policy, &key, turn).await;
                return cancelled.map_err(Fault::of).map(drop);
            }
            let Some(receipt) = reply.receipt else {
                return Ok(());
            };
            let op = Op::Refund(receipt);
            let _turn = errands.in_turn().await;
            let done = match backend.ask(op, &policy, &key) {
                Answer::Now(done) => done,
                Answer::Later(done) => done.await,
            };
            done.map_err(Fault::of).map(drop)
        });
    }
}
