//! [`Switch`]: turns limits off and on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Turns limits off and on, also while requests are served. Clones are one switch.
///
/// [`RateLimitLayer::enabled`](crate::RateLimitLayer::enabled),
/// [`SemaphoreLayer::enabled`](crate::SemaphoreLayer::enabled), [`Limiter::enabled`](crate::Limiter::enabled) and
/// [`Semaphore::enabled`](crate::Semaphore::enabled) take a switch or a `bool`. The type of a layer stays the same.
///
/// While a limit is off, the backend is not asked, and nothing is charged or held:
///
/// | | off |
/// |---|---|
/// | [`RateLimitLayer`](crate::RateLimitLayer) | passes the request on without reading its key, and writes no header field. The [`Charge`](crate::Charge) of the request is empty |
/// | [`SemaphoreLayer`](crate::SemaphoreLayer) | the same. The [`HeldPermit`](crate::concurrency::HeldPermit) of the request is empty |
/// | [`Limiter`](crate::Limiter) | allows every cost at once, with the numbers of an unused key. A reply has no receipt, and a [`Charge`](crate::Charge) is empty |
/// | [`Semaphore`](crate::Semaphore) | returns a [`Permit`](crate::Permit) that occupies nothing and is never lost, with the numbers of an unused key |
///
/// Logs and metrics report no decision. What was charged or acquired before can still be settled, refunded, cancelled,
/// reset and released. When the limit is turned on again, keys have the debt that time has not refilled since.
///
/// [`AnyBackend::from_url("off:")`](crate::AnyBackend::from_url) turns off all limits of a backend by configuration.
///
/// ```
/// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota, Switch};
///
/// let switch = Switch::new(true);
/// let policy = Policy::new("mails", Quota::per_hour(1));
/// let limiter = Limiter::new(policy, MemoryBackend::new()).enabled(switch.clone());
/// let mut allowed = (0..4).map(|_| limiter.check_now(&Key::from("ann"), 1).decision.is_allowed());
/// assert_eq!((allowed.next(), allowed.next()), (Some(true), Some(false)));
/// switch.set(false); // for example in a handler for operators
/// assert_eq!(allowed.next(), Some(true));
/// switch.set(true);
/// assert_eq!(allowed.next(), Some(false));
/// ```
///
/// Guide: [try a limit, and switch it off](crate::_guide::rollout).
#[derive(Clone)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// Creates a switch that is on or off.
    ///
    /// See the example of [`Switch`].
    #[must_use]
    pub fn new(is_on: bool) -> Self {
        Self(Arc::new(AtomicBool::new(is_on)))
    }

    /// Turns the limits on or off. Requests that begin afterwards see it; a request that waits is not interrupted.
    ///
    /// ```
    /// use tower_sluice::Switch;
    ///
    /// let switch = Switch::new(true);
    /// switch.clone().set(false); // clones are one switch
    /// assert!(!switch.is_on());
    /// ```
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on, Relaxed);
    }

    /// Returns whether the limits are on.
    ///
    /// See the example of [`set`](Self::set).
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Whether a limit with this switch, or with none, is off.
    #[inline(always)] // without a switch this is one comparison
    pub(crate) fn is_off(switch: Option<&Self>) -> bool {
        switch.is_some_and(|switch| !switch.is_on())
    }
}

impl From<bool> for Switch {
    fn from(is_on: bool) -> Self {
        Self::new(is_on)
    }
}

impl From<&Self> for Switch {
    fn from(switch: &Self) -> Self {
        switch.clone()
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Switch").field(&self.is_on()).finish()
    }
}
