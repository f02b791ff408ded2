use std::sync::Arc;
use std::time::Duration;

use super::charge::Charge;
use super::rejected::Rejected;
use super::{acquire, cancel};
use crate::backend::{Answer, Backend, MemoryBackend};
use crate::clock::Clock;
use crate::decision::{Decision, Op, Receipt, Reply, Reservation, Snapshot};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::telemetry;
use crate::wait::MaxWait;

/// Limits keys by one policy. Clones are cheap; limiters of one backend and policy name share their buckets, with each
/// other and with the layers.
///
/// # Cancel safety
///
/// A future that is dropped before it was polled has done nothing. In memory the first poll completes, unless it waits;
/// dropped while a remote backend is asked, the operation may still be done.
#[derive(Clone, Debug)]
pub struct Limiter<B> {
    policy: Policy,
    backend: B,
}

impl<B: Backend> Limiter<B> {
    /// A limiter of `policy` with its state in `backend`.
    #[must_use]
    pub const fn new(policy: Policy, backend: B) -> Self {
        Self { policy, backend }
    }

    /// The same state by another policy: a tier, made beforehand and of the same name.
    #[must_use]
    pub fn with_policy(&self, policy: &Policy) -> Self {
        Self {
            policy: policy.clone(),
            backend: self.backend.clone(),
        }
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The backend.
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// Spends `cost` tokens of `key` from every quota, or nothing at all.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer; one in memory always does.
    pub async fn check(&self, key: &Key, cost: impl Into<Cost>) -> Result<Reply, B::Error> {
        let reply = self.ask(Op::Check(cost.into()), key).await?;
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        Ok(reply)
    }

    /// Spends `cost` tokens of `key` now or, under a policy of buckets only, makes a reservation that comes within
    /// `max_wait`: first come, first served, and charged at once. Who is allowed goes on after [`wait`](Reply::wait),
    /// or gives the reservation up with [`cancel`](Self::cancel).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
    /// let limiter = Limiter::new(Policy::new("upstream", Quota::per_second(20).burst(1)), MemoryBackend::new());
    /// let (key, max_wait) = (Key::from("api.example.org"), Duration::from_secs(1));
    /// for _ in 0..3 {
    ///     let reply = limiter.reserve(&key, 1, max_wait).await?;
    ///     assert!(reply.decision.is_allowed());
    ///     tokio::time::sleep(reply.wait).await;
    ///     // the call
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    ///
    /// # Cancel safety
    ///
    /// A reservation stays charged when the [`Reply`] is dropped: then it passes unused.
    pub async fn reserve(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: Duration,
    ) -> Result<Reply, B::Error> {
        let cost = cost.into();
        let mut reply = self.ask(Op::Reserve { cost, max_wait }, key).await?;
        cancel::set_due(&mut reply, self.backend.context());
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        Ok(reply)
    }

    /// Spends `cost` tokens of `key`, waiting for them for up to `max_wait`: under a policy of buckets in a reservation
    /// that is reserved at once, first come, first served; under a window by looking again. See [`wait`](crate::wait). The charge
    /// tells [how long it has waited](Charge::waited), and can be settled; dropped, it stays.
    ///
    /// # Errors
    ///
    /// [`Rejected::Denied`] as soon as it is known that the wait would be longer, or if too many wait already
    /// ([`BackendContext::max_waiters`](crate::backend::BackendContext::max_waiters)); [`Rejected::Backend`] if there
    /// was no answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its time it cancels the reservation: what it has been charged goes back if nothing stays charged
    /// behind it; see [`wait`](crate::wait#cancel-safety).
    pub async fn acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Charge, Rejected<B::Error>> {
        let (cost, max_wait) = (cost.into(), max_wait.into());
        let wait = acquire::acquire(&self.backend, &self.policy, key, &cost, max_wait);
        let waited = wait.await;
        let acquired = acquire::record_outcome(&self.policy, waited)?;
        let settler = Arc::new(self.backend.clone());
        let (policy, key) = (self.policy.clone(), key.clone());
        Ok(Charge::new(settler, policy, key, cost, acquired))
    }

    /// Spends `cost` tokens of `key` now, or says that they are not there: [`check`](Self::check) with a [`Charge`]
    /// that can be settled later, and with denials as errors.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("llm", Quota::per_minute(10_000)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let charge = limiter.try_acquire(&ann, 4_000).await?; // an estimate
    /// // the work
    /// charge.settle(2_900).await?; // what it came to
    /// assert_eq!(limiter.peek(&ann).await?.remaining(), 7_100);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Rejected::Denied`] if it is not allowed now; [`Rejected::Backend`] if there was no answer.
    pub async fn try_acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
    ) -> Result<Charge, Rejected<B::Error>> {
        self.acquire(key, cost, MaxWait::NONE).await
    }

    /// Does `work` if `cost` tokens of `key` can be spent now.
    ///
    /// With [`acquire`](Self::acquire) in front, `limiter.acquire(&key, cost, max_wait).await?; work.await`, it waits
    /// for them.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire); `work` is then dropped as it is, never polled.
    ///
    /// # Cancel safety
    ///
    /// Dropped while `work` is under way, the charge stays.
    pub async fn limit<W: Future>(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        work: W,
    ) -> Result<W::Output, Rejected<B::Error>> {
        let reply = self.check(key, cost).await.map_err(Rejected::Backend)?;
        match reply.decision {
            Decision::Allow(_) => Ok(work.await),
            denied => Err(Rejected::Denied(denied)),
        }
    }

    /// Cancels a reservation of `key` that will not be used. Returns whether its charge went back, which it does if
    /// nothing but time has changed the state of the key since. Otherwise the reservation is kept until it is due, and
    /// cancelled again when one behind it goes back by a cancel of the same backend, with a remote backend in the
    /// background.
    ///
    /// Cancel it at the key that took it: at another one it may free another reservation.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub async fn cancel(&self, key: &Key, reservation: Reservation) -> Result<bool, B::Error> {
        cancel::cancel(&self.backend, &self.policy, key, reservation).await
    }

    /// Looks at `key`, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub async fn peek(&self, key: &Key) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Check(Cost::ZERO), key).await
    }

    /// Gives back up to `cost` of what `receipt` says was charged to `key`, and takes it off the receipt, so that
    /// nothing is given back twice. Give it back to the key that was charged: another one would be paid instead.
    /// Windows take it back from the window that was charged; if that has passed, nothing happens.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer. The receipt is then spent all the same: the refund may have been made.
    pub async fn refund(
        &self,
        key: &Key,
        receipt: &mut Receipt,
        cost: impl Into<Cost>,
    ) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Refund(receipt.take(cost.into())), key)
            .await
    }

    /// Charges `cost` to `key` without asking. A debt never passes twice the limit, so that nobody is shut out for
    /// longer than two times the time to recover.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub async fn penalize(&self, key: &Key, cost: impl Into<Cost>) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Penalize(cost.into()), key).await
    }

    /// Forgets `key`: it is unseen again.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub async fn reset(&self, key: &Key) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Reset, key).await
    }

    async fn ask(&self, op: Op, key: &Key) -> Result<Reply, B::Error> {
        match self.backend.ask(op, &self.policy, key) {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => reply.await,
        }
    }

    async fn snapshot(&self, op: Op, key: &Key) -> Result<Snapshot, B::Error> {
        self.ask(op, key).await.map(|reply| match reply.decision {
            Decision::Allow(snapshot) | Decision::Deny(snapshot, _) => snapshot,
        })
    }
}

impl<C: Clock> Limiter<MemoryBackend<C>> {
    /// [`check`](Self::check) without `async`: memory decides at once and cannot fail.
    #[inline]
    pub fn check_now(&self, key: &Key, cost: impl Into<Cost>) -> Reply {
        let reply = self.backend.check(&self.policy, key, cost.into());
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        reply
    }
}
