//! Waiting until a request is allowed: [`MaxWait`], and how a place in the line is kept, given up and bounded.
//!
//! Under a policy of buckets a waiter **makes a reservation** in one atomic step: first come, first served, across all
//! servers that share the backend. It knows at once how long it will wait, and is denied at once if that is longer than
//! it may; it asks once and then sleeps. Under a policy with a window, whose future is not one number, it **looks
//! again** when the wait that it was told is over; within one process those who wait for one key take turns at that,
//! first come, first served. A request whose time ends before the first waiter looks again does not wait: it is checked
//! once. So is a waiter whose time is up.
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::limiter::Rejected;
//! use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let limiter = Limiter::new(Policy::new("upstream", Quota::per_second(50).burst(1)), MemoryBackend::new());
//! let (host, max_wait) = (Key::from("api.example.org"), MaxWait::within(Duration::from_millis(30)));
//!
//! let first = limiter.acquire(&host, 1, max_wait).await.expect("allowed at once");
//! assert_eq!(first.waited(), Duration::ZERO);
//! let second = limiter.acquire(&host, 1, max_wait).await.expect("allowed after a wait");
//! assert!(second.waited() > Duration::from_millis(15));
//! let (third, fourth) = tokio::join!(limiter.acquire(&host, 1, max_wait), limiter.acquire(&host, 1, max_wait));
//! assert!(third.is_ok());
//! assert!(matches!(fourth, Err(Rejected::Denied(_))), "its turn would come after 40 ms: it is told so at once");
//! # }
//! ```
//!
//! # Cancel safety
//!
//! Dropping a waiter before it is due cancels its reservation. The charge goes back if nothing but time has changed the
//! state of the key since. While other reservations stand behind it the charge stays, because those were told their
//! times. It goes back later if those behind it are cancelled in this process, too, before it is due: a crowd that
//! leaves in any order leaves no debt. With a remote backend that is done in the background, and needs the Tokio
//! runtime in which the waiter is dropped.
//!
//! A waiter under a window that is kept but not polled, beside another one in a `select!` loop say, holds up those
//! behind it, as one that has been handed a lock would: do not wait for the same key while you keep it.
#![doc = include_str!("docs/waiting.md")]

use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};

/// The longest wait that is accepted. To wait without bound is a choice of its own, never a default and never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxWait {
    /// So long and no longer, the backend's time limit aside. Zero: who is not allowed at once is denied.
    Within(Duration),
    /// However long it takes; but a debt of reservations stays below 2^53 grains, and one beyond that is denied with
    /// [`Never`](crate::RetryAfter::Never). Who waits for a caller that may give up should say how long instead.
    Unbounded,
}

impl MaxWait {
    /// No wait at all.
    pub const NONE: Self = Self::Within(Duration::ZERO);

    /// At most `longest`.
    #[must_use]
    pub const fn within(longest: Duration) -> Self {
        Self::Within(longest)
    }

    /// The shorter one of both.
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

/// How long a request may wait: so long from when it came, and not past the time by which its client has gone.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) began: Timestamp,
    pub(crate) max_wait: MaxWait,
    pub(crate) end: Option<Deadline>,
}

impl Bound {
    /// What is left of it at `now`.
    pub(crate) fn left(&self, now: Timestamp) -> MaxWait {
        let left = self.max_wait.left(self.began, now);
        match self.end {
            Some(end) => left.at_most(Duration::from_micros(end.time().micros_since(now))),
            None => left,
        }
    }
}
