//! Waiting until a request is allowed: [`MaxWait`] and [`Deadline`].
//!
//! Guide: [waiting](crate::_guide::waiting).
//!
//! The algorithm of the policy determines how a request waits:
//!
//! - **Buckets only**: the request makes a reservation in one atomic step, and sleeps until it is due. The backend is
//!   asked once. Reservations are served in order of arrival, across all servers that share the backend. A request
//!   whose wait would exceed its bound is denied immediately.
//! - **Windows**: the request checks again when the wait of its last denial is over. The waiters of a key form a queue
//!   in each process, and only the first one checks. A request whose bound ends before the next check is checked once
//!   and does not wait. A waiter is checked once more when its bound ends.
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::limiter::Rejected;
//! use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let limiter = Limiter::new(Policy::new("upstream", Quota::per_second(5).burst(1)), MemoryBackend::new());
//! let (host, max_wait) = (Key::from("api.example.org"), MaxWait::within(Duration::from_millis(300)));
//!
//! let first = limiter.acquire(&host, 1, max_wait).await.expect("allowed at once");
//! assert_eq!(first.waited(), Duration::ZERO);
//! let second = limiter.acquire(&host, 1, max_wait).await.expect("allowed after a wait");
//! assert!(second.waited() > Duration::from_millis(150));
//! let (third, fourth) = tokio::join!(limiter.acquire(&host, 1, max_wait), limiter.acquire(&host, 1, max_wait));
//! assert!(third.is_ok());
//! assert!(matches!(fourth, Err(Rejected::Denied(_))), "its wait of 400 ms exceeds the bound");
//! # }
//! ```
//!
//! # Cancel safety
//!
//! Dropping a waiter before it is due cancels its reservation. The charge is refunded if only time has changed the
//! state of the key since. The charge stays while later reservations exist, because their waits include it. It is
//! refunded later if these reservations are cancelled in this process before it is due. So waiters that leave in any
//! order leave no debt.
//!
//! A remote backend cancels in a background task, on the Tokio runtime where the waiter is dropped.
//!
//! Under a window, a waiter that is kept but not polled blocks the waiters behind it, like a lock that is held. This
//! can happen in a `select!` loop. Do not wait for the same key while you keep such a waiter.
#![doc = include_str!("docs/waiting.md")]

use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};

/// The longest wait that a request accepts. An unbounded wait is a variant of its own, and never a default.
///
/// Guide: [waiting](crate::_guide::waiting).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaxWait {
    /// Waits for at most this duration, plus the time that the backend takes to answer. Zero means no wait.
    Within(Duration),
    /// Waits as long as necessary. Prefer a bound if the caller may give up.
    ///
    /// The debt of reservations stays below 2^53 grains. A request beyond it is denied with
    /// [`Never`](crate::RetryAfter::Never).
    Unbounded,
}

impl MaxWait {
    /// No wait: a request that is not allowed immediately is denied.
    pub const NONE: Self = Self::Within(Duration::ZERO);

    /// Waits for at most `longest`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::MaxWait;
    ///
    /// assert_eq!(MaxWait::within(Duration::from_secs(1)), Duration::from_secs(1).into());
    /// ```
    #[must_use]
    pub const fn within(longest: Duration) -> Self {
        Self::Within(longest)
    }

    /// Returns the smaller of this bound and `longest`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::MaxWait;
    ///
    /// let second = Duration::from_secs(1);
    /// assert_eq!(MaxWait::Unbounded.at_most(second), MaxWait::within(second));
    /// assert_eq!(MaxWait::NONE.at_most(second), MaxWait::NONE);
    /// ```
    #[must_use]
    pub fn at_most(self, longest: Duration) -> Self {
        Self::Within(self.longest().min(longest))
    }

    pub(crate) fn longest(self) -> Duration {
        match self {
            Self::Within(longest) => longest,
            Self::Unbounded => Duration::MAX,
        }
    }

    /// The rest of the bound at `now`, for a wait that began at `began`.
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

/// The time after which a client no longer needs the response.
///
/// In a request's extensions it bounds the wait of a layer that [waits](crate::RateLimitLayer::wait).
///
/// Guide: [waiting](crate::_guide::waiting).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Timestamp);

impl Deadline {
    /// A deadline at `time`, by the clock of the limiter's backend.
    ///
    /// ```
    /// use tower_sluice::Deadline;
    /// use tower_sluice::clock::Timestamp;
    ///
    /// let end = Timestamp::from_micros(1_800_000_000_000_000);
    /// assert_eq!(Deadline::at(end).time(), end);
    /// ```
    #[must_use]
    pub const fn at(time: Timestamp) -> Self {
        Self(time)
    }

    /// A deadline after `span` from now, by the system's clock.
    ///
    /// ```
    /// use http::Request;
    /// use std::time::Duration;
    /// use tower_sluice::Deadline;
    ///
    /// // In a layer in front of the limit: the request waits for at most a second, whatever the layer allows.
    /// let mut request = Request::new(());
    /// request.extensions_mut().insert(Deadline::after(Duration::from_secs(1)));
    /// ```
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self(SystemClock::new().now().after(span))
    }

    /// Returns the time of the deadline.
    ///
    /// See the example of [`at`](Self::at).
    #[must_use]
    pub const fn time(self) -> Timestamp {
        self.0
    }
}

/// The bound of the wait of one request: a duration since it began, and the client's deadline.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) began: Timestamp,
    pub(crate) max_wait: MaxWait,
    pub(crate) end: Option<Deadline>,
}

impl Bound {
    /// The rest of the bound at `now`.
    pub(crate) fn left(&self, now: Timestamp) -> MaxWait {
        let left = self.max_wait.left(self.began, now);
        match self.end {
            Some(end) => left.at_most(Duration::from_micros(end.time().micros_since(now))),
            None => left,
        }
    }
}
