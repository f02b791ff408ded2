use std::sync::Arc;
use std::time::Duration;

use super::BlockingAdapter;
use crate::backend::BlockingBackend;
use crate::decision::{Op, Receipt, Reply, Reservation, Snapshot};
use crate::key::Key;
use crate::limiter::charge::Charge;
use crate::limiter::{Rejected, acquire, cancel};
use crate::park;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::switch::Switch;
use crate::telemetry;
use crate::wait::MaxWait;

/// Limits keys by one policy, on plain threads.
///
/// Clones are cheap. Limiters of one backend and policy name share their buckets with each other and with those of
/// [`crate::Limiter`].
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
///     limiter.refund(&ann, receipt, 3)?; // the actual cost is 1
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
    switch: Option<Switch>,
}

impl<B: BlockingBackend> Limiter<B> {
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

    pub(super) fn is_off(&self) -> bool {
        Switch::is_off(self.switch.as_ref())
    }

    /// Returns the policy.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the backend.
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// Spends `cost` tokens of `key` from every quota, or from none.
    ///
    /// See the example of [`Limiter`].
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. A memory backend never fails.
    pub fn check(&self, key: &Key, cost: impl Into<Cost>) -> Result<Reply, B::Error> {
        if self.is_off() {
            return Ok(Reply::of_unused_key(&self.policy));
        }
        let reply = self.ask(Op::Check(cost.into()), key)?;
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        Ok(reply)
    }

    /// Spends `cost` tokens of `key`, runs `call` and returns its result.
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
    /// Returns [`Rejected::Denied`] if the limit denies the call, and [`Rejected::Backend`] if the backend fails. Then
    /// `call` does not run.
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

    /// Spends `cost` tokens of `key`, and waits for them for at most `max_wait`; see [`crate::Limiter::acquire`].
    ///
    /// A settlement of the charge is complete when its call returns.
    /// [`Settlement::join`](crate::charge::Settlement::join) returns the outcome.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::blocking::Limiter;
    /// use tower_sluice::{Key, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// assert!(limiter.acquire(&ann, 10, Duration::from_secs(1)).is_ok());
    /// assert!(limiter.acquire(&ann, 1, Duration::from_secs(1)).is_err()); // the wait would be 6 minutes
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Rejected::Denied`] as soon as the wait is known to exceed `max_wait`, or if the queue is full.
    /// - [`Rejected::Backend`] if the backend fails.
    pub fn acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Charge, Rejected<B::Error>> {
        if self.is_off() {
            return Ok(Charge::uncounted());
        }
        let (cost, max_wait) = (cost.into(), max_wait.into());
        let backend = BlockingAdapter(self.backend.clone());
        let wait = acquire::acquire(&backend, &self.policy, key, &cost, max_wait, None);
        let acquired = acquire::record_outcome(&self.policy, park::block_on(wait))?;
        let (policy, key) = (self.policy.clone(), key.clone());
        Ok(Charge::new(Arc::new(backend), policy, key, cost, acquired))
    }

    /// Spends `cost` tokens of `key` without waiting.
    ///
    /// Unlike [`check`](Self::check) it returns a [`Charge`], which can be settled later, and returns a denial as an
    /// error.
    ///
    /// See the example of [`crate::Limiter::try_acquire`].
    ///
    /// # Errors
    ///
    /// Returns [`Rejected::Denied`] if the limit denies the request, and [`Rejected::Backend`] if the backend fails.
    pub fn try_acquire(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
    ) -> Result<Charge, Rejected<B::Error>> {
        self.acquire(key, cost, MaxWait::NONE)
    }

    /// Spends `cost` tokens of `key` now, or reserves them within `max_wait`. It does not wait.
    ///
    /// A reservation needs a policy of buckets only. It is charged immediately, and reservations are served in order of
    /// arrival. An allowed request proceeds after [`wait`](Reply::wait), or cancels its reservation with
    /// [`cancel`](Self::cancel). A reservation stays charged when the [`Reply`] is dropped.
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
    /// Returns an error if the backend fails.
    pub fn reserve(
        &self,
        key: &Key,
        cost: impl Into<Cost>,
        max_wait: Duration,
    ) -> Result<Reply, B::Error> {
        if self.is_off() {
            return Ok(Reply::of_unused_key(&self.policy));
        }
        let cost = cost.into();
        let mut reply = self.ask(Op::Reserve { cost, max_wait }, key)?;
        cancel::set_due(&mut reply, self.backend.context());
        telemetry::checked(self.policy.labels(), reply.decision.is_allowed());
        Ok(reply)
    }

    /// Cancels a reservation of `key` that will not be used. Returns whether its charge was refunded.
    ///
    /// The charge is refunded if only time has changed the state of the key since. Otherwise the backend's context
    /// keeps the reservation until it is due. It is cancelled again when a later reservation is cancelled through the
    /// same backend. The call returns after these cancels.
    ///
    /// Pass the key of the reservation. With another key, a reservation of that key may be cancelled.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn cancel(&self, key: &Key, reservation: Reservation) -> Result<bool, B::Error> {
        let backend = BlockingAdapter(self.backend.clone());
        park::block_on(cancel::cancel(&backend, &self.policy, key, reservation))
    }

    /// Returns the numbers of `key` and changes nothing.
    ///
    /// See the example of [`Limiter`].
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn peek(&self, key: &Key) -> Result<Snapshot, B::Error> {
        if self.is_off() {
            return Ok(Reply::of_unused_key(&self.policy).decision.into_snapshot());
        }
        self.snapshot(Op::Check(Cost::ZERO), key)
    }

    /// Refunds up to `cost` of the tokens on `receipt`, and takes them off the receipt; see [`crate::Limiter::refund`].
    ///
    /// See the example of [`Limiter`].
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. The tokens are off the receipt even then, because the refund may have
    /// been executed.
    pub fn refund(
        &self,
        key: &Key,
        receipt: &mut Receipt,
        cost: impl Into<Cost>,
    ) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Refund(receipt.take(cost.into())), key)
    }

    /// Charges `cost` tokens to `key`, even above the limit, for example for a failed login.
    ///
    /// **The debt of a key is at most twice the limit.** A penalty fills the debt up to that bound, and what exceeds it
    /// is not charged. A debt that is larger already stays. So a penalty of any size shuts a key out for at most twice
    /// the time in which the limit recovers. With `per_hour(10)`, a cost of 1 is allowed again after at most 66 minutes.
    /// In a sliding window the bound applies to the current window. All quotas of the policy are charged.
    ///
    /// See the example of [`Limiter`].
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn penalize(&self, key: &Key, cost: impl Into<Cost>) -> Result<Snapshot, B::Error> {
        if self.is_off() {
            return Ok(Reply::of_unused_key(&self.policy).decision.into_snapshot());
        }
        self.snapshot(Op::Penalize(cost.into()), key)
    }

    /// Deletes the state of `key`. A [block](Self::block) stays.
    ///
    /// See the example of [`Limiter`].
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn reset(&self, key: &Key) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Reset, key)
    }

    pub(super) fn ask(&self, op: Op, key: &Key) -> Result<Reply, B::Error> {
        self.backend.ask(op, &self.policy, key)
    }

    fn snapshot(&self, op: Op, key: &Key) -> Result<Snapshot, B::Error> {
        let reply = self.ask(op, key)?;
        Ok(reply.decision.into_snapshot())
    }
}
