use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::acquired::Acquired;
use super::on_drop::{CancelOnDrop, RefundOnDrop};
use super::rejected::Rejected;
use super::{budgeted, cancel};
use crate::backend::{Answer, Backend, BackendContext, QueueHead, TierQueue, WaiterGuard};
use crate::budget::{BudgetedOp, TimeBudget};
use crate::clock::{Timestamp, micros_up};
use crate::decision::{Decision, NEVER, Op, Reply, RetryAfter, Snapshot};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::telemetry;
use crate::wait::MaxWait;

/// Waits until `cost` is allowed, or until it is known that the wait would exceed `max_wait`.
pub(crate) async fn acquire<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    max_wait: MaxWait,
    budget: Option<&TimeBudget>,
) -> Result<Acquired, Rejected<B::Error>> {
    let waiter = Waiter {
        backend,
        policy,
        key,
        cost,
        budget,
    };
    // A cost of 0 needs no wait, and for a cost above the limit no wait helps.
    let cannot_wait = cost.is_zero() || policy.is_exceeded_by(cost);
    if max_wait == MaxWait::NONE || cannot_wait {
        return waiter.check().await;
    }
    let guard = backend.context().join_queue(policy, key);
    if policy.is_of_buckets() {
        match guard {
            Some(_guard) => waiter.reserve(max_wait).await,
            None => waiter.check().await,
        }
    } else {
        waiter.check_until_allowed(guard, max_wait).await
    }
}

/// Spends as many tokens as are there, from 1 to `most`.
pub(crate) async fn acquire_up_to<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    most: u64,
) -> Result<Acquired, Rejected<B::Error>> {
    let waiter = Waiter {
        backend,
        policy,
        key,
        cost: &Cost::ZERO,
        budget: None,
    };
    let reply = waiter.ask(Op::CheckUpTo(most)).await?;
    Acquired::from_reply(reply, Duration::ZERO)
}

struct Waiter<'a, B> {
    backend: &'a B,
    policy: &'a Policy,
    key: &'a Key,
    cost: &'a Cost,
    budget: Option<&'a TimeBudget>,
}

impl<B: Backend> Waiter<'_, B> {
    fn context(&self) -> &BackendContext {
        self.backend.context()
    }

    async fn ask(&self, op: Op) -> Result<Reply, Rejected<B::Error>> {
        let budget = self.budget.cloned().map(BudgetedOp::begin);
        let answer = budgeted::ask(self.backend, op, self.policy, self.key, budget.as_ref());
        let answer = match answer {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => {
                RefundOnDrop::new(reply, self.backend, self.policy, self.key).await
            }
        };
        if let (Err(_), Some(budget)) = (&answer, &budget) {
            budget.failed();
        }
        answer.map_err(Rejected::Backend)
    }

    /// Checks once.
    async fn check(&self) -> Result<Acquired, Rejected<B::Error>> {
        let reply = self.ask(Op::Check(self.cost.clone())).await?;
        Acquired::from_reply(reply, Duration::ZERO)
    }

    /// Makes a reservation and sleeps until it is due.
    async fn reserve(&self, max_wait: MaxWait) -> Result<Acquired, Rejected<B::Error>> {
        let (cost, max_wait) = (self.cost.clone(), max_wait.longest());
        let mut reply = self.ask(Op::Reserve { cost, max_wait }).await?;
        if reply.decision.is_allowed() && !reply.wait.is_zero() {
            let context = self.context();
            let answered = context.now();
            cancel::set_due(&mut reply, context);
            let reservation = reply.reservation.take();
            let reservation = CancelOnDrop::new(self.backend, self.policy, self.key, reservation);
            context.sleep_until(answered.after(reply.wait)).await;
            reply.reservation = reservation.used();
            return Acquired::from_reply(
                reply,
                Duration::from_micros(context.now().micros_since(answered)),
            );
        }
        Acquired::from_reply(reply, Duration::ZERO)
    }

    /// Joins the queue of the key. At its head, checks again whenever the wait of the last denial is over.
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
        // Waiters in front may wait for a window, and nothing that they do helps this one.
        if self.policy.has_total()
            && !queue.is_free()
            && let Some(decision) = self.denial_by_totals().await?
        {
            return Err(Rejected::Denied(decision));
        }
        let Some(head) = self.wait_for_head(&queue, deadline, &mut at_once).await else {
            // The waiters in front are asking now, and must not be overtaken.
            let now = context.now();
            let is_asking = queue.next_attempt().is_some_and(|next| next <= now);
            let refusal = || queue.last_denial(|| context.now(), self.cost);
            if let Some(decision) = is_asking.then(refusal).flatten() {
                return Err(Rejected::Denied(decision));
            }
            // The last denial was for another cost, so this cost may be allowed.
            let reply = self.ask(Op::Check(self.cost.clone())).await?;
            let waited = if at_once { 0 } else { now.micros_since(began) };
            return Acquired::from_reply(reply, Duration::from_micros(waited));
        };
        loop {
            let reply = self.ask(Op::Check(self.cost.clone())).await?;
            let now = context.now();
            let denial = match &reply.decision {
                Decision::Deny(snapshot, RetryAfter::In(wait)) if snapshot.can_wait() => {
                    Some((snapshot, wait))
                }
                _ => None,
            };
            let Some((snapshot, wait)) = denial else {
                let waited = if at_once { 0 } else { now.micros_since(began) };
                return Acquired::from_reply(reply, Duration::from_micros(waited));
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

    /// Returns the denial by the totals of the policy, if they cannot allow the cost.
    async fn denial_by_totals(&self) -> Result<Option<Decision>, Rejected<B::Error>> {
        let reply = self.ask(Op::Check(Cost::ZERO)).await?;
        let mut answers = reply.decision.snapshot().quotas.clone();
        let mut is_denied = false;
        for (index, (named, answer)) in self.policy.quotas().iter().zip(&mut answers).enumerate() {
            if named.is_total() && self.cost.get(index) > answer.remaining {
                answer.retry_after = NEVER;
                is_denied = true;
            }
        }
        Ok(is_denied.then(|| Decision::from_snapshot(Snapshot::new(answers))))
    }

    /// Waits for the head of the queue. `None` if the deadline comes first.
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

/// Reports the outcome of a wait without a layer.
pub(crate) fn record_outcome<E>(
    policy: &Policy,
    outcome: Result<Acquired, Rejected<E>>,
) -> Result<Acquired, Rejected<E>> {
    match &outcome {
        Ok(acquired) => {
            telemetry::checked(policy.labels(), true);
            telemetry::waited(acquired.waited, policy.labels());
        }
        Err(Rejected::Denied(_)) => telemetry::checked(policy.labels(), false),
        Err(Rejected::Backend(_)) => {}
    }
    outcome
}
