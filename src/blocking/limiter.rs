use std::sync::Arc;
use std::time::Duration;

use super::BlockingAdapter;
use crate::backend::BlockingBackend;
use crate::decision::{Decision, Op, Receipt, Reply, Reservation, Snapshot};
use crate::key::Key;
use crate::limiter::charge::Charge;
use crate::limiter::{Rejected, acquire, cancel};
use crate::park;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::telemetry;
use crate::wait::MaxWait;

/// Limits keys by one policy, from plain threads. Clones are cheap; limiters of one backend and policy name share their
/// buckets, with each other and with those of [`crate::Limiter`].
///
/// ```
/// use tower_sluice::blocking::Limiter;
/// use tower_sluice::{Cost, Key, MemoryBackend, Policy, Quota};
///
/// let limiter = Limiter::new(Policy::new("exports", Quota::per_hour(10)), MemoryBackend::new());
/// let ann = Key::from("ann");
///
/// let mut reply = limiter.check(&ann, 4)?;
/// assert!(reply.decision.is_allowed());
/// if let Some(receipt) = &mut reply.receipt {
///     limiter.refund(&ann, receipt, 3)?; // it was cheaper than thought
/// }
/// limiter.penalize(&ann, 2)?;
/// assert_eq!(limiter.peek(&ann)?.remaining(), 7);
/// limiter.reset(&ann)?;
/// assert_eq!(limiter.peek(&ann)?.remaining(), 10);
/// # Ok::<(), std::convert::Infallible>(())
/// ```
#[derive(Clone, Debug)]
pub struct Limiter<B> {
    policy: Policy,
    backend: B,
}

impl<B: BlockingBackend> Limiter<B> {
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
    pub fn check(&self, key: &Key, cost: impl Into<Cost>) -> Result<Reply, B::Error> {
        let reply = self.ask(Op::Check(cost.into()), key)?;
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        Ok(reply)
    }

    /// Makes `call` if `cost` tokens of `key` can be spent, and returns what it returns.
    ///
    /// ```
    /// use tower_sluice::blocking::Limiter;
    /// use tower_sluice::limiter::Rejected;
    /// use tower_sluice::{Key, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_day(1)), MemoryBackend::new());
    /// let send = || limiter.limit(&Key::from("ann"), 1, || "sent");
    /// assert_eq!(send(), Ok("sent"));
    /// assert!(matches!(send(), Err(Rejected::Denied(decision)) if decision.retry_after().is_some()));
    /// ```
    ///
    /// # Errors
    ///
    /// If it is over the limit, or the backend gave no answer: then `call` is not made.
    pub fn limit<T>(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        call: impl FnOnce() -> T,
    ) -> Result<T, Rejected<B::Error>> {
        let decision = self.check(key, cost).map_err(Rejected::Backend)?.decision;
        if decision.is_allowed() {
            Ok(call())
        } else {
            Err(Rejected::Denied(decision))
        }
    }

    /// Spends `cost` tokens of `key`, waiting for them for up to `max_wait`; see [`crate::Limiter::acquire`]. A
    /// settlement of the charge is done when the call returns; [`Settlement::join`](crate::charge::Settlement::join)
    /// tells how it went.
    ///
    /// # Errors
    ///
    /// [`Rejected::Denied`] as soon as it is known that the wait would be longer, or if too many wait already;
    /// [`Rejected::Backend`] if there was no answer.
    pub fn acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Charge, Rejected<B::Error>> {
        let (cost, max_wait) = (cost.into(), max_wait.into());
        let backend = BlockingAdapter(self.backend.clone());
        let wait = acquire::acquire(&backend, &self.policy, key, &cost, max_wait);
        let acquired = acquire::record_outcome(&self.policy, park::block_on(wait))?;
        let (policy, key) = (self.policy.clone(), key.clone());
        Ok(Charge::new(Arc::new(backend), policy, key, cost, acquired))
    }

    /// Spends `cost` tokens of `key` now, or says that they are not there: [`check`](Self::check) with a [`Charge`]
    /// that can be settled later, and with denials as errors.
    ///
    /// # Errors
    ///
    /// [`Rejected::Denied`] if it is not allowed now; [`Rejected::Backend`] if there was no answer.
    pub fn try_acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
    ) -> Result<Charge, Rejected<B::Error>> {
        self.acquire(key, cost, MaxWait::NONE)
    }

    /// Spends `cost` tokens of `key` now or, under a policy of buckets only, makes a reservation that comes within
    /// `max_wait`: first come, first served, and charged at once. It does not wait: who is allowed goes on after
    /// [`wait`](Reply::wait), or cancels the reservation with [`cancel`](Self::cancel). A reservation stays charged
    /// when the [`Reply`] is dropped: then it passes unused.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::blocking::Limiter;
    /// use tower_sluice::{Key, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("upstream", Quota::per_second(20).burst(1)), MemoryBackend::new());
    /// let (key, max_wait) = (Key::from("api.example.org"), Duration::from_secs(1));
    /// for _ in 0..3 {
    ///     let reply = limiter.reserve(&key, 1, max_wait)?;
    ///     assert!(reply.decision.is_allowed());
    ///     std::thread::sleep(reply.wait);
    ///     // the call
    /// }
    /// # Ok::<(), std::convert::Infallible>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub fn reserve(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: Duration,
    ) -> Result<Reply, B::Error> {
        let cost = cost.into();
        let mut reply = self.ask(Op::Reserve { cost, max_wait }, key)?;
        cancel::set_due(&mut reply, self.backend.context());
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        Ok(reply)
    }

    /// Cancels a reservation of `key` that will not be used. Returns whether its charge went back, which it does if
    /// nothing but time has changed the state of the key since. Otherwise the reservation is kept until it is due, and
    /// cancelled again when one behind it goes back by a cancel of the same backend: the call then returns after those,
    /// too.
    ///
    /// Cancel it at the key that took it: at another one it may free another reservation.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub fn cancel(&self, key: &Key, reservation: Reservation) -> Result<bool, B::Error> {
        let backend = BlockingAdapter(self.backend.clone());
        park::block_on(cancel::cancel(&backend, &self.policy, key, reservation))
    }

    /// Looks at `key`, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub fn peek(&self, key: &Key) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Check(Cost::ZERO), key)
    }

    /// Gives back up to `cost` of what `receipt` says was charged to `key`, and takes it off the receipt; see
    /// [`crate::Limiter::refund`].
    ///
    /// # Errors
    ///
    /// If the backend gave no answer. The receipt is then spent all the same: the refund may have been made.
    pub fn refund(
        &self,
        key: &Key,
        receipt: &mut Receipt,
        cost: impl Into<Cost>,
    ) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Refund(receipt.take(cost.into())), key)
    }

    /// Charges `cost` to `key` without asking, up to a debt of twice the limit; see [`crate::Limiter::penalize`].
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub fn penalize(&self, key: &Key, cost: impl Into<Cost>) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Penalize(cost.into()), key)
    }

    /// Forgets `key`: it is unseen again.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub fn reset(&self, key: &Key) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Reset, key)
    }

    fn ask(&self, op: Op, key: &Key) -> Result<Reply, B::Error> {
        self.backend.ask(op, &self.policy, key)
    }

    fn snapshot(&self, op: Op, key: &Key) -> Result<Snapshot, B::Error> {
        self.ask(op, key).map(|reply| match reply.decision {
            Decision::Allow(snapshot) | Decision::Deny(snapshot, _) => snapshot,
        })
    }
}
