//! Operations on the state of a key.

use super::Limiter;
use crate::backend::Backend;
use crate::decision::{Op, Receipt, Reply, Reservation, Snapshot};
use crate::key::Key;
use crate::limiter::cancel;
use crate::quota::Cost;

impl<B: Backend> Limiter<B> {
    /// Cancels a reservation of `key` that will not be used. Returns whether its charge was refunded.
    ///
    /// The charge is refunded if only time has changed the state of the key since. Otherwise the backend's context
    /// keeps the reservation until it is due. It is cancelled again when a later reservation is cancelled through the
    /// same backend. A remote backend does so in the background.
    ///
    /// Pass the key of the reservation. With another key, a reservation of that key may be cancelled.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let reply = limiter.reserve(&ann, 4, Duration::from_secs(60)).await?;
    /// if let Some(reservation) = reply.reservation {
    ///     assert!(limiter.cancel(&ann, reservation).await?);
    /// }
    /// assert_eq!(limiter.peek(&ann).await?.remaining(), 10);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn cancel(&self, key: &Key, reservation: Reservation) -> Result<bool, B::Error> {
        cancel::cancel(&self.backend, &self.policy, key, reservation).await
    }

    /// Returns the numbers of `key` and changes nothing. Nothing remains while the key is [blocked](Self::block).
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// limiter.check(&Key::from("ann"), 4).await?;
    /// assert_eq!(limiter.peek(&Key::from("ann")).await?.remaining(), 6);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn peek(&self, key: &Key) -> Result<Snapshot, B::Error> {
        if self.is_off() {
            return Ok(Reply::of_unused_key(&self.policy).decision.into_snapshot());
        }
        self.snapshot(Op::Check(Cost::ZERO), key).await
    }

    /// Refunds up to `cost` of the tokens on `receipt`, and takes them off the receipt, so that none is refunded twice.
    ///
    /// Pass the key that was charged. With another key, that key gets the refund. A window refunds to the window that
    /// was charged. A refund to a past window has no effect.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let reply = limiter.check(&ann, 4).await?;
    /// if let Some(mut receipt) = reply.receipt {
    ///     limiter.refund(&ann, &mut receipt, 3).await?;
    /// }
    /// assert_eq!(limiter.peek(&ann).await?.remaining(), 9);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails. The tokens are off the receipt even then, because the refund may have
    /// been executed.
    pub async fn refund(
        &self,
        key: &Key,
        receipt: &mut Receipt,
        cost: impl Into<Cost>,
    ) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Refund(receipt.take(cost.into())), key)
            .await
    }

    /// Charges `cost` tokens to `key`, even above the limit, for example for a failed login.
    ///
    /// **The debt of a key is at most twice the limit.** A penalty fills the debt up to that bound, and what exceeds it
    /// is not charged. A debt that is larger already stays. So a penalty of any size shuts a key out for at most twice
    /// the time in which the limit recovers. With `per_hour(10)`, a cost of 1 is allowed again after at most 66 minutes.
    /// In a sliding window the bound applies to the current window. All quotas of the policy are charged.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// let numbers = limiter.penalize(&Key::from("ann"), 15).await?;
    /// assert_eq!(numbers.remaining(), 0);
    /// assert!(!limiter.check(&Key::from("ann"), 1).await?.decision.is_allowed());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn penalize(&self, key: &Key, cost: impl Into<Cost>) -> Result<Snapshot, B::Error> {
        if self.is_off() {
            return Ok(Reply::of_unused_key(&self.policy).decision.into_snapshot());
        }
        self.snapshot(Op::Penalize(cost.into()), key).await
    }

    /// Deletes the state of `key`. A [block](Self::block) stays.
    ///
    /// ```
    /// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
    /// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(10)), MemoryBackend::new());
    /// limiter.check(&Key::from("ann"), 10).await?;
    /// limiter.reset(&Key::from("ann")).await?;
    /// assert_eq!(limiter.peek(&Key::from("ann")).await?.remaining(), 10);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    pub async fn reset(&self, key: &Key) -> Result<Snapshot, B::Error> {
        self.snapshot(Op::Reset, key).await
    }
}
