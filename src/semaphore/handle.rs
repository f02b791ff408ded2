use std::fmt;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::error::AcquireError;
use super::lease::Lease;
use super::pending::{Asked, PendingPermit};
use super::permit::Permit;
use super::release::{ReleasePermit, runtime};
use super::renewal;
use crate::backend::{Answer, PermitBackend, PermitQueue, PermitWaiter};
use crate::budget::TimeBudget;
use crate::clock::Timestamp;
use crate::decision::{Decision, PermitOp, PermitReply, Snapshot};
use crate::key::Key;
use crate::policy::SemaphorePolicy;
use crate::switch::Switch;
use crate::wait::MaxWait;

/// Limits the requests in flight for each key.
///
/// Guide: [limit what is in flight](crate::_guide::concurrency).
///
/// Clones are cheap. Semaphores of one backend and name share their permits.
///
/// # Cancel safety
///
/// A future that is dropped at any point releases the permit that it acquired or may have acquired.
#[derive(Clone)]
pub struct Semaphore<B> {
    policy: SemaphorePolicy,
    backend: B,
    /// The same backend, for permits, which do not know its type.
    releaser: Arc<dyn ReleasePermit>,
    switch: Option<Switch>,
    /// The time budget of a request, for a layer.
    budget: Option<TimeBudget>,
}

/// A permit, or the request for one that is not answered yet.
type Answered<'a, B> = ControlFlow<
    Result<Permit, AcquireError<<B as PermitBackend>::Error>>,
    (PendingPermit<'a, B>, Asked),
>;

impl<B: PermitBackend> Semaphore<B> {
    /// Creates a semaphore of `policy`, with its state in `backend`.
    #[must_use]
    pub fn new(policy: SemaphorePolicy, backend: B) -> Self {
        Self {
            policy,
            releaser: Arc::new(backend.clone()),
            backend,
            switch: None,
            budget: None,
        }
    }

    /// Returns a semaphore with the same state and another policy of the same name, for example a tier.
    #[must_use]
    pub fn with_policy(&self, policy: &SemaphorePolicy) -> Self {
        Self {
            policy: policy.clone(),
            ..self.clone()
        }
    }

    /// Spends from the budget of a request.
    pub(crate) fn within(mut self, budget: Option<TimeBudget>) -> Self {
        self.budget = budget;
        self
    }

    /// Sets whether the limit is on; true by default. A [`Switch`] turns it off and on at run time, and states what
    /// each operation returns while it is off.
    ///
    /// See the example of [`Switch`].
    #[must_use]
    pub fn enabled(mut self, switch: impl Into<Switch>) -> Self {
        self.switch = Some(switch.into());
        self
    }

    #[inline(always)] // without a switch, two comparisons remain, or one
    pub(crate) fn is_off(&self) -> bool {
        Switch::is_off(self.switch.as_ref()) || !self.backend.is_enabled()
    }

    /// Returns the policy.
    #[must_use]
    pub const fn policy(&self) -> &SemaphorePolicy {
        &self.policy
    }

    /// Returns the backend.
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// Acquires a permit of `key` that counts for `weight`, without waiting. It ignores the queue of waiters.
    ///
    /// Weight 0 is always available and occupies nothing.
    ///
    /// # Errors
    ///
    /// Returns [`AcquireError::Denied`] if not enough permits are free, and [`AcquireError::Backend`] if the backend
    /// fails.
    pub async fn try_acquire(
        &self,
        key: &Key,
        weight: u32,
    ) -> Result<Permit, AcquireError<B::Error>> {
        if self.is_off() {
            return Ok(Permit::of_nothing(&self.policy, key, weight));
        }
        self.acquire_once(key, weight, None).await
    }

    /// Acquires a permit without further waiting, for a request that has waited since `began`.
    async fn acquire_once(
        &self,
        key: &Key,
        weight: u32,
        began: Option<Timestamp>,
    ) -> Result<Permit, AcquireError<B::Error>> {
        let (mut pending, asked) = match self.ask_once(&self.policy, key, weight, began) {
            ControlFlow::Break(permit) => return permit,
            ControlFlow::Continue(unanswered) => unanswered,
        };
        let reply = pending.reply().await;
        self.permit(pending, reply, asked)
    }

    /// Acquires a permit of `policy` if the backend answers at once. `None` if it does not; then it was not asked.
    pub(crate) fn try_now(
        &self,
        policy: &SemaphorePolicy,
        key: &Key,
        weight: u32,
    ) -> Option<Result<Permit, AcquireError<B::Error>>> {
        self.ask_once(policy, key, weight, None).break_value()
    }

    /// Asks for a permit. Continues with the pending request if the backend does not answer at once.
    // The immediate answer has a function of its own, because an async one keeps its values in its future.
    fn ask_once<'a>(
        &'a self,
        policy: &'a SemaphorePolicy,
        key: &'a Key,
        weight: u32,
        began: Option<Timestamp>,
    ) -> Answered<'a, B> {
        // A permit without a lease that did not wait saves a reading of the clock.
        let at = if self.backend.has_leases() || began.is_some() {
            self.backend.context().now()
        } else {
            Timestamp::default()
        };
        let waited = began.map_or(0, |began| at.micros_since(began));
        let waited = Duration::from_micros(waited);
        let asked = Asked { weight, at, waited };
        let id = self.backend.new_id();
        if let Some(numbers) = self.backend.acquire_now(id, weight, policy, key) {
            let decision = Decision::from_snapshot(Snapshot::single(numbers));
            return ControlFlow::Break(if decision.is_allowed() {
                let mut lease = Lease::new(id, weight, policy, key, decision);
                lease.waited = waited;
                Ok(Permit::new(Arc::new(lease), Arc::clone(&self.releaser)))
            } else {
                Err(AcquireError::Denied(decision))
            });
        }
        let mut pending = PendingPermit::new(&self.backend, policy, key, id, self.budget.as_ref());
        match pending.ask_now(PermitOp::Acquire { id, weight }) {
            Some(reply) => ControlFlow::Break(self.permit(pending, reply, asked)),
            None => ControlFlow::Continue((pending, asked)),
        }
    }

    /// Acquires a permit of `key` that counts for `weight`, and waits for it for at most `max_wait`.
    ///
    /// Waiters are served in order of arrival. A small request does not overtake a large one that needs more than is
    /// free. At the end of its bound, a waiter may get free permits that the waiters in front of it cannot use.
    ///
    /// A first waiter that is just asking, for example after a release, is answered before a waiter behind it whose
    /// bound ends. This takes at most 250 ms. A waiter that needs more than was free at the last denial of the first
    /// waiter is denied with those numbers. The first waiter asks Redis at intervals, so another process may have
    /// released permits since. They belong to the first waiter.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::{Key, MemorySemaphore, Semaphore, SemaphorePolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let exports = Semaphore::new(SemaphorePolicy::new("exports", 2), MemorySemaphore::new());
    /// let permit = exports.acquire(&Key::from("ann"), 1, Duration::from_secs(30)).await?;
    /// assert_eq!(permit.waited(), Duration::ZERO);
    /// assert!(exports.try_acquire(&Key::from("ann"), 2).await.is_err()); // one is free
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`AcquireError::Denied`] if not enough permits became free in time, and immediately if `weight` exceeds the
    ///   capacity.
    /// - [`AcquireError::Denied`] if the queue is full
    ///   ([`BackendContext::max_waiters`](crate::backend::BackendContext::max_waiters)) and not enough permits are
    ///   free.
    /// - [`AcquireError::Backend`] if the backend fails.
    pub async fn acquire(
        &self,
        key: &Key,
        weight: u32,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Permit, AcquireError<B::Error>> {
        let max_wait = max_wait.into();
        if self.is_off() {
            return Ok(Permit::of_nothing(&self.policy, key, weight));
        }
        // Weight 0 needs no wait, and for a weight above the capacity no wait helps.
        let in_vain = weight == 0 || weight > self.policy.capacity();
        if max_wait == MaxWait::NONE || in_vain {
            return self.try_acquire(key, weight).await;
        }
        let context = self.backend.context();
        let Some(_counted) = context.join_named_queue(self.policy.name(), key) else {
            return self.try_acquire(key, weight).await;
        };
        let began = context.now();
        let deadline = match max_wait {
            MaxWait::Within(longest) => began.after(longest),
            MaxWait::Unbounded => Timestamp::MAX,
        };
        let waiter = context.permit_queues().join(&self.policy, key);
        self.acquire_queued(key, weight, &waiter, began, deadline)
            .await
    }

    /// Returns the numbers of `key` and changes nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn peek(&self, key: &Key) -> Result<Snapshot, B::Error> {
        if self.is_off() {
            return Ok(PermitReply::of_unused_key(&self.policy)
                .decision
                .into_snapshot());
        }
        let reply = match self.backend.ask(PermitOp::Peek, &self.policy, key) {
            Answer::Now(reply) => reply?,
            Answer::Later(reply) => reply.await?,
        };
        Ok(reply.decision.into_snapshot())
    }

    /// Joins the queue of the key, and asks the backend from its head.
    async fn acquire_queued(
        &self,
        key: &Key,
        weight: u32,
        waiter: &PermitWaiter<'_>,
        began: Timestamp,
        deadline: Timestamp,
    ) -> Result<Permit, AcquireError<B::Error>> {
        let (context, queue) = (self.backend.context(), &*waiter.queue);
        let mut at_once = true;
        let Some(_head) = self.wait_for_head(queue, deadline, &mut at_once).await else {
            let last_denial = queue.last_denial.lock().clone();
            return match last_denial {
                Some(decision) if decision.snapshot().remaining() < u64::from(weight) => {
                    Err(AcquireError::Denied(decision))
                }
                // Either the head needs more than is free and this waiter does not, or no waiter of this queue has been
                // denied yet.
                _ => self.acquire_once(key, weight, Some(began)).await,
            };
        };
        let id = self.backend.new_id();
        let mut pending =
            PendingPermit::new(&self.backend, &self.policy, key, id, self.budget.as_ref());
        loop {
            let asked_at = context.now();
            let waited = Duration::from_micros(asked_at.micros_since(began));
            let reply = pending.ask(PermitOp::Wait { id, weight, waited }).await;
            let reply = reply.map_err(AcquireError::Backend)?;
            let now = context.now();
            let asked = |at, waited| {
                let waited = Duration::from_micros(waited);
                Asked { weight, at, waited }
            };
            if reply.decision.is_allowed() {
                let waited = if at_once { 0 } else { now.micros_since(began) };
                return self.permit(pending, Ok(reply), asked(asked_at, waited));
            }
            if now >= deadline {
                if reply.in_front == 0 || reply.decision.snapshot().remaining() < u64::from(weight)
                {
                    return Err(AcquireError::Denied(reply.decision));
                }
                // A waiter of another process is in front and needs more than is free. This one does not.
                let reply = pending.ask(PermitOp::Acquire { id, weight }).await;
                return self.permit(pending, reply, asked(now, now.micros_since(began)));
            }
            at_once = false;
            *queue.last_denial.lock() = Some(reply.decision.clone());
            self.pause(queue, &reply, now, deadline).await;
        }
    }

    /// Waits until the next attempt.
    async fn pause(
        &self,
        queue: &PermitQueue,
        reply: &PermitReply,
        now: Timestamp,
        deadline: Timestamp,
    ) {
        let waiting = queue.waiting();
        let next_attempt = self.backend.next_attempt(&self.policy, reply, waiting);
        let next_attempt = next_attempt.map_or(deadline, |next_attempt| {
            now.after(next_attempt).min(deadline)
        });
        let mut sleep = self.backend.context().sleep_until(next_attempt);
        let mut released = pin!(queue.released.notified());
        // A waiter of another process that is in front gets what is released here.
        let listens = reply.in_front == 0;
        poll_fn(|cx| {
            if listens && released.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    /// Waits for the head of the queue. `None` if the deadline comes first.
    async fn wait_for_head<'l>(
        &self,
        queue: &'l PermitQueue,
        deadline: Timestamp,
        at_once: &mut bool,
    ) -> Option<tokio::sync::MutexGuard<'l, ()>> {
        if let Ok(head) = queue.head.try_lock() {
            return Some(head);
        }
        *at_once = false;
        let mut head = pin!(queue.head.lock());
        let mut end = self.backend.context().sleep_until(deadline);
        poll_fn(|cx| match head.as_mut().poll(cx) {
            Poll::Ready(head) => Poll::Ready(Some(head)),
            Poll::Pending => Pin::new(&mut end).poll(cx).map(|()| None),
        })
        .await
    }

    /// Converts the reply to a permit.
    fn permit(
        &self,
        pending: PendingPermit<'_, B>,
        reply: Result<PermitReply, B::Error>,
        asked: Asked,
    ) -> Result<Permit, AcquireError<B::Error>> {
        let reply = reply.map_err(AcquireError::Backend)?;
        if !reply.decision.is_allowed() {
            return Err(AcquireError::Denied(reply.decision));
        }
        let (id, policy, key) = (pending.id(), pending.policy(), pending.key());
        let mut lease = Lease::new(id, asked.weight, policy, key, reply.decision);
        lease.waited = asked.waited;
        lease.may_arrive_late = pending.may_arrive_late();
        let has_leases = self.backend.has_leases();
        if has_leases {
            lease.runtime = runtime(None);
        }
        let lease = Arc::new(lease);
        if has_leases && asked.weight > 0 {
            renewal::keep(&self.backend, &lease, asked.at);
        }
        pending.done();
        Ok(Permit::new(lease, Arc::clone(&self.releaser)))
    }
}

impl<B: fmt::Debug> fmt::Debug for Semaphore<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("policy", &self.policy)
            .field("backend", &self.backend)
            .finish()
    }
}
