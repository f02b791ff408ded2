//! Blocks of keys, and charges of as many tokens as there are.

use std::sync::Arc;
use std::time::Duration;

use super::BlockingAdapter;
use super::limiter::Limiter;
use crate::backend::BlockingBackend;
use crate::decision::{DenialReason, Op, Receipt};
use crate::key::Key;
use crate::limiter::charge::Charge;
use crate::limiter::{Rejected, acquire};
use crate::park;
use crate::quota::Cost;

impl<B: BlockingBackend> Limiter<B> {
    /// Spends as many tokens of `key` as there are, from 1 to `most`, in one atomic step. Returns their number and the
    /// charge. For workers that take work in batches.
    ///
    /// Every quota is charged the same number: the smallest remainder, and at most `most`. If `most` is 0, nothing is
    /// charged. While the limit is switched off, it returns `most` and an empty charge.
    ///
    /// ```
    /// use tower_sluice::blocking::Limiter;
    /// use tower_sluice::{Key, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_day(100)), MemoryBackend::new());
    /// let key = Key::from("newsletter");
    /// assert_eq!(limiter.try_acquire_up_to(&key, 80)?.0, 80);
    /// assert_eq!(limiter.try_acquire_up_to(&key, 80)?.0, 20); // the next batch is smaller
    /// assert!(limiter.try_acquire_up_to(&key, 80).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Rejected::Denied`] with the wait for one token if there is none, and [`Rejected::Backend`] if the
    /// backend fails.
    pub fn try_acquire_up_to(
        &self,
        key: &Key,
        most: u64,
    ) -> Result<(u64, Charge), Rejected<B::Error>> {
        if self.is_off() {
            return Ok((most, Charge::uncounted()));
        }
        let backend = BlockingAdapter(self.backend().clone());
        let taken = acquire::acquire_up_to(&backend, self.policy(), key, most);
        let taken = park::block_on(taken);
        let acquired = acquire::record_outcome(self.policy(), taken)?;
        let tokens = acquired.receipt.as_ref().map_or(0, Receipt::tokens);
        let (policy, key, cost) = (self.policy().clone(), key.clone(), Cost::new(tokens));
        let charge = Charge::new(Arc::new(backend), policy, key, cost, acquired);
        Ok((tokens, charge))
    }

    /// Blocks `key` for `duration` from now: 1 µs to 142 years. It replaces an earlier block, and a duration of 0 ends
    /// one. For operators, and for limits on failed logins.
    ///
    /// - The block belongs to the policy's name and the key, so that all limiters and layers of that name deny the key.
    ///   Processes that share the backend share it.
    /// - It stays after a [`reset`](Self::reset) and an eviction.
    /// - A denial has the rest of the block as its wait, and the reason
    ///   [`DenialReason::Blocked`](crate::decision::DenialReason::Blocked). A cost of 0 is denied as well.
    /// - A wait for a blocked key ends at once. Requests that wait already keep their reservation.
    /// - Refunds and settlements are charged as usual.
    /// - A [shadow](crate::Policy::shadow) policy and a limit that is [off](Self::enabled) let a blocked key through.
    /// - A [fallback](crate::FailurePolicy::Fallback) has its own blocks, which a limiter over its backend sets.
    ///
    /// After a block was ended early, a deny cache may deny for up to a second.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::blocking::Limiter;
    /// use tower_sluice::{Key, MemoryBackend, Policy, Quota};
    ///
    /// let limiter = Limiter::new(Policy::new("api", Quota::per_second(5)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// limiter.block(&ann, Duration::from_secs(3_600))?;
    /// assert!(!limiter.check(&ann, 1)?.decision.is_allowed());
    /// limiter.unblock(&ann)?;
    /// assert!(!limiter.is_blocked(&ann)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. The key may be blocked then.
    pub fn block(&self, key: &Key, duration: Duration) -> Result<(), B::Error> {
        let op = if duration.is_zero() {
            Op::Unblock
        } else {
            Op::Block(duration)
        };
        self.ask(op, key).map(drop)
    }

    /// Ends the block of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn unblock(&self, key: &Key) -> Result<(), B::Error> {
        self.ask(Op::Unblock, key).map(drop)
    }

    /// Returns whether `key` is [blocked](Self::block) now. The backend is asked, and never a deny cache.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub fn is_blocked(&self, key: &Key) -> Result<bool, B::Error> {
        let decision = self.ask(Op::Check(Cost::ZERO), key)?.decision;
        let of_key = &decision.snapshot().quotas()[0];
        Ok(decision.denial_reason() == Some(DenialReason::Blocked) && !of_key.is_allowed())
    }
}
