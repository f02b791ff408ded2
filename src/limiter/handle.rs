mod state;

use std::sync::Arc;
use std::time::Duration;

use super::charge::Charge;
use super::rejected::Rejected;
use super::{acquire, cancel};
use crate::backend::{Answer, Backend, MemoryBackend};
use crate::clock::Clock;
use crate::decision::{Decision, Op, Reply, Snapshot};
use crate::key::{Key, KeyRef};
use crate::policy::Policy;
use crate::quota::Cost;
use crate::switch::Switch;
use crate::telemetry;
use crate::wait::MaxWait;

/// Limits keys by one policy.
///
/// Guide: [getting started](crate::_guide::getting_started).
///
/// Clones are cheap. Limiters of one backend and policy name share their buckets with each other and with the layers.
///
/// # Cancel safety
///
/// A future that was never polled has no effect. With a memory backend the first poll completes, unless it waits. With
/// a remote backend an operation may still be executed after its future is dropped.
#[derive(Clone, Debug)]
pub struct Limiter<B> {
    policy: Policy,
    backend: B,
    switch: Option<Switch>,
}

impl<B: Backend> Limiter<B> {
    /// Creates a limiter of `policy`, with its state in `backend`.
    #[must_use]
    pub const fn new(policy: Policy, backend: B) -> Self {
        Self {
            policy,
            backend,
            switch: None,
        }
    }

    /// Returns a limiter with the same state and another policy of the same name, for example a tier.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let free = Limiter::new(Policy::new("api", Quota::per_hour(10)), MemoryBackend::new());
    /// let paid = free.with_policy(&Policy::new("api", Quota::per_hour(1_000)));
    /// free.check_now("ann", 4);
    /// assert_eq!(paid.check_now("ann", 0).decision.snapshot().remaining(), 996); // the 4 tokens stay spent
    /// ```
    #[must_use]
    pub fn with_policy(&self, policy: &Policy) -> Self {
        Self {
            policy: policy.clone(),
            backend: self.backend.clone(),
            switch: self.switch.clone(),
        }
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
    pub(super) fn is_off(&self) -> bool {
        Switch::is_off(self.switch.as_ref()) || !self.backend.is_enabled()
    }

    /// Returns the policy.
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// limiter.check_now("ann", 1);
    /// assert_eq!((limiter.policy().name(), limiter.backend().len()), ("mails", 1));
    /// ```
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the backend.
    ///
    /// See the example of [`policy`](Self::policy).
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// Spends `cost` tokens of `key` from every quota, or from none.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let reply = limiter.check(&Key::from("ann"), 4).await?;
    /// assert!(reply.decision.is_allowed());
    /// assert_eq!(reply.decision.snapshot().remaining(), 6);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. A memory backend never fails.
    pub async fn check(&self, key: &Key, cost: impl Into<Cost>) -> Result<Reply, B::Error> {
        if self.is_off() {
            return Ok(Reply::of_unused_key(&self.policy));
        }
        let reply = self.ask(Op::Check(cost.into()), key).await?;
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        Ok(reply)
    }

    /// Spends `cost` tokens of `key` now, or reserves them within `max_wait`.
    ///
    /// A reservation needs a policy of buckets only. It is charged immediately, and reservations are served in order of
    /// arrival. An allowed request proceeds after [`wait`](Reply::wait), or cancels its reservation with
    /// [`cancel`](Self::cancel).
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
    /// Returns an error if the backend fails.
    ///
    /// # Cancel safety
    ///
    /// A reservation stays charged when the [`Reply`] is dropped.
    pub async fn reserve(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: Duration,
    ) -> Result<Reply, B::Error> {
        if self.is_off() {
            return Ok(Reply::of_unused_key(&self.policy));
        }
        let cost = cost.into();
        let mut reply = self.ask(Op::Reserve { cost, max_wait }, key).await?;
        cancel::set_due(&mut reply, self.backend.context());
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        Ok(reply)
    }

    /// Spends `cost` tokens of `key`, and waits for them for at most `max_wait`.
    ///
    /// Under a policy of buckets the request makes a reservation. Under a window it checks again; see
    /// [`wait`](crate::wait). The charge states the [wait](Charge::waited) and can be settled. It stays charged when it
    /// is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let max_wait = MaxWait::within(Duration::from_secs(1));
    /// let charge = limiter.acquire(&Key::from("ann"), 10, max_wait).await?;
    /// assert_eq!(charge.waited(), Duration::ZERO);
    /// assert!(limiter.acquire(&Key::from("ann"), 1, max_wait).await.is_err(), "its wait would be 6 minutes");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Rejected::Denied`] as soon as the wait is known to exceed `max_wait`, or if the queue is full
    ///   ([`BackendContext::max_waiters`](crate::backend::BackendContext::max_waiters)).
    /// - [`Rejected::Backend`] if the backend fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the reservation. Its charge is refunded unless a later charge exists; see
    /// [`wait`](crate::wait#cancel-safety).
    pub async fn acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Charge, Rejected<B::Error>> {
        if self.is_off() {
            return Ok(Charge::uncounted());
        }
        let (cost, max_wait) = (cost.into(), max_wait.into());
        let wait = acquire::acquire(&self.backend, &self.policy, key, &cost, max_wait, None);
        let waited = wait.await;
        let acquired = acquire::record_outcome(&self.policy, waited)?;
        let settler = Arc::new(self.backend.clone());
        let (policy, key) = (self.policy.clone(), key.clone());
        Ok(Charge::new(settler, policy, key, cost, acquired))
    }

    /// Spends `cost` tokens of `key` without waiting.
    ///
    /// Unlike [`check`](Self::check) it returns a [`Charge`], which can be settled later, and returns a denial as an
    /// error.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("llm", Quota::per_minute(10_000)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let charge = limiter.try_acquire(&ann, 4_000).await?; // an estimate
    /// // .. the work ..
    /// charge.settle(2_900).await?; // the actual cost
    /// assert_eq!(limiter.peek(&ann).await?.remaining(), 7_100);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Rejected::Denied`] if the limit denies the request, and [`Rejected::Backend`] if the backend fails.
    pub async fn try_acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
    ) -> Result<Charge, Rejected<B::Error>> {
        self.acquire(key, cost, MaxWait::NONE).await
    }

    /// Runs `work` if `cost` tokens of `key` can be spent now.
    ///
    /// To wait for the tokens, call [`acquire`](Self::acquire) first:
    /// `limiter.acquire(&key, cost, max_wait).await?; work.await`.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let sent = limiter.limit(&Key::from("ann"), 1, async { "sent" }).await?;
    /// assert_eq!(sent, "sent");
    /// assert!(limiter.limit(&Key::from("ann"), 10, async { "sent" }).await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The same as of [`try_acquire`](Self::try_acquire). Then `work` is dropped without a poll.
    ///
    /// # Cancel safety
    ///
    /// The tokens stay charged when the future is dropped while `work` runs.
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

    pub(super) async fn ask(&self, op: Op, key: &Key) -> Result<Reply, B::Error> {
        match self.backend.ask(op, &self.policy, key) {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => reply.await,
        }
    }

    async fn snapshot(&self, op: Op, key: &Key) -> Result<Snapshot, B::Error> {
        let reply = self.ask(op, key).await?;
        Ok(reply.decision.into_snapshot())
    }
}

impl<C: Clock> Limiter<MemoryBackend<C>> {
    /// Checks without `async`. A memory backend answers at once and never fails.
    ///
    /// ```
    /// use tower_sluice::{Limiter, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(1)), MemoryBackend::new());
    /// assert!(limiter.check_now("ann", 1).decision.is_allowed());
    /// assert!(!limiter.check_now("ann", 1).decision.is_allowed());
    /// ```
    #[inline(always)] // a call would move the reply once more
    pub fn check_now<'k>(&self, key: impl Into<KeyRef<'k>>, cost: impl Into<Cost>) -> Reply {
        // One variable for both cases, because a second `return` would move the reply once more.
        let reply;
        if self.is_off() {
            reply = Reply::of_unused_key(&self.policy);
        } else {
            reply = self.backend.check(&self.policy, key, cost.into());
            telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        }
        reply
    }
}
