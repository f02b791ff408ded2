use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::micros_up;
use crate::message::{Quoted, plain_name};

/// A name, the number of permits of each key, and their lease. Clones are cheap.
///
/// Permits belong to the name and a key. So all semaphores of one name share their permits, even with different
/// capacities, such as tiers. A lower capacity revokes no permit: new requests are denied until enough permits are
/// released.
///
/// A shorter lease should be longer than a third of the lease that other servers use, because they renew three times in
/// their own lease.
///
/// Guide: [limit what is in flight](crate::_guide::concurrency).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SemaphorePolicy {
    name: Arc<str>,
    capacity: u16,
    /// In µs.
    lease: u64,
    is_shadow: bool,
}

/// The error of an invalid semaphore policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SemaphorePolicyError {
    /// The name is not 1 to 64 characters of `A-Z a-z 0-9 _ . -`. It is part of the keys in a shared store.
    Name(String),
    /// The capacity is 0 or above 65,535.
    Capacity(u32),
    /// The lease is shorter than 100 ms or longer than a day.
    Lease(Duration),
}

/// 30 s.
const DEFAULT_LEASE: u64 = 30_000_000;
const SHORTEST_LEASE: Duration = Duration::from_millis(100);
const LONGEST_LEASE: Duration = Duration::from_secs(86_400);

impl SemaphorePolicy {
    /// The largest capacity: 65,535.
    pub const MAX_CAPACITY: u32 = u16::MAX as u32;

    /// Creates a policy of `capacity` permits for each key, with leases of 30 s.
    ///
    /// ```
    /// use tower_sluice::SemaphorePolicy;
    ///
    /// assert_eq!(SemaphorePolicy::new("exports", 5).capacity(), 5);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_new`](Self::try_new) would return an error.
    #[must_use]
    pub fn new(name: &str, capacity: u32) -> Self {
        must(Self::try_new(name, capacity))
    }

    /// Creates a policy of `capacity` permits for each key, with leases of 30 s.
    ///
    /// ```
    /// use tower_sluice::SemaphorePolicy;
    ///
    /// assert!(SemaphorePolicy::try_new("exports", 0).is_err());
    /// assert!(SemaphorePolicy::try_new("exports", SemaphorePolicy::MAX_CAPACITY).is_ok());
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the name is not 1 to 64 characters of `A-Z a-z 0-9 _ . -`, or if the capacity is not 1 to
    /// 65,535.
    pub fn try_new(name: &str, capacity: u32) -> Result<Self, SemaphorePolicyError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if !(1..=64).contains(&name.len()) || !name.bytes().all(safe) {
            return Err(SemaphorePolicyError::Name(name.to_owned()));
        }
        Ok(Self {
            name: name.into(),
            capacity: checked(capacity)?,
            lease: DEFAULT_LEASE,
            is_shadow: false,
        })
    }

    /// Returns the same policy with another capacity, for example for a tier.
    ///
    /// ```
    /// use tower_sluice::SemaphorePolicy;
    ///
    /// let free = SemaphorePolicy::new("exports", 2);
    /// let paid = free.clone().with_capacity(10); // of the same name, so both count the same permits
    /// assert_eq!(paid.name(), free.name());
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_capacity`](Self::try_capacity) would return an error.
    #[must_use]
    pub fn with_capacity(self, capacity: u32) -> Self {
        must(self.try_capacity(capacity))
    }

    /// Returns the same policy with another capacity, for example for a tier.
    ///
    /// ```
    /// use tower_sluice::SemaphorePolicy;
    ///
    /// assert!(SemaphorePolicy::new("exports", 2).try_capacity(65_536).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the capacity is not 1 to 65,535.
    pub fn try_capacity(self, capacity: u32) -> Result<Self, SemaphorePolicyError> {
        let capacity = checked(capacity)?;
        Ok(Self { capacity, ..self })
    }

    /// Sets how long a permit lasts without a renewal: 100 ms to a day, by default 30 s.
    ///
    /// Holders renew three times in a lease. In memory a permit has no lease and ends when it is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::SemaphorePolicy;
    ///
    /// let exports = SemaphorePolicy::new("exports", 5).with_lease(Duration::from_secs(10));
    /// assert_eq!(exports.lease(), Duration::from_secs(10));
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_lease`](Self::try_lease) would return an error.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        must(self.try_lease(lease))
    }

    /// Sets how long a permit lasts without a renewal: 100 ms to a day, by default 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sluice::SemaphorePolicy;
    ///
    /// assert!(SemaphorePolicy::new("exports", 2).try_lease(Duration::from_millis(99)).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the lease is shorter than 100 ms or longer than a day.
    pub fn try_lease(self, lease: Duration) -> Result<Self, SemaphorePolicyError> {
        if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&lease) {
            return Err(SemaphorePolicyError::Lease(lease));
        }
        let lease = micros_up(lease);
        Ok(Self { lease, ..self })
    }

    /// Returns the same policy, not enforced. It shows the effect of a limit before it is enforced.
    ///
    /// A layer acquires permits as usual, and allows every request:
    ///
    /// - A request that would be rejected or would wait is allowed at once, without a permit.
    /// - Its denial is reported to `tracing` and `metrics`. On request a header field
    ///   ([`shadow_header`](crate::SemaphoreLayer::shadow_header)) or the extensions of the response
    ///   ([`response_extensions`](crate::SemaphoreLayer::response_extensions)) report it, too.
    /// - Rate-limit fields are not sent.
    /// - A request without a key is allowed, unless the policy is chosen for each request.
    /// - A request is allowed if the backend fails.
    ///
    /// A shadow policy shares its permits with the enforced policy of the same name. A
    /// [`Semaphore`](crate::Semaphore) without a layer returns a denial as usual.
    ///
    /// ```
    /// use tower_sluice::{Header, MemorySemaphore, SemaphoreLayer, SemaphorePolicy};
    ///
    /// let policy = SemaphorePolicy::new("exports", 5).shadow();
    /// let limit = SemaphoreLayer::new(policy, Header::new("x-api-key"), MemorySemaphore::new()).shadow_header(true);
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    #[must_use]
    pub fn shadow(self) -> Self {
        Self {
            is_shadow: true,
            ..self
        }
    }

    /// Returns whether the policy is [not enforced](Self::shadow).
    ///
    /// ```
    /// use tower_sluice::SemaphorePolicy;
    ///
    /// assert!(SemaphorePolicy::new("exports", 5).shadow().is_shadow());
    /// ```
    #[must_use]
    pub const fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    /// Returns the name. Permits belong to the name and a key.
    ///
    /// See the example of [`with_capacity`](Self::with_capacity).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn label(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the number of permits of each key.
    ///
    /// See the example of [`new`](Self::new).
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity.into()
    }

    /// Returns how long a permit lasts without a renewal.
    ///
    /// See the example of [`with_lease`](Self::with_lease).
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_micros(self.lease)
    }

    /// The lease in µs.
    pub(crate) const fn lease_micros(&self) -> u64 {
        self.lease
    }
}

impl fmt::Display for SemaphorePolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(
                f,
                "invalid semaphore name {}: use 1 to 64 of A-Z a-z 0-9 _ . -, such as {:?}",
                Quoted(name),
                plain_name(name)
            ),
            Self::Capacity(capacity) => {
                write!(f, "invalid capacity {capacity}: use 1 to 65535")
            }
            Self::Lease(lease) => write!(
                f,
                "invalid lease of {lease:?}: use 100 ms to 1 day, such as 30 s"
            ),
        }
    }
}

impl std::error::Error for SemaphorePolicyError {}

fn checked(capacity: u32) -> Result<u16, SemaphorePolicyError> {
    match u16::try_from(capacity) {
        Ok(capacity @ 1..) => Ok(capacity),
        _ => Err(SemaphorePolicyError::Capacity(capacity)),
    }
}

fn must(made: Result<SemaphorePolicy, SemaphorePolicyError>) -> SemaphorePolicy {
    match made {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_name_is_an_error() {
        for name in ["", "a b", "a{b", "é", "a:b", &"x".repeat(65)] {
            let error = SemaphorePolicy::try_new(name, 1).unwrap_err();
            assert!(matches!(error, SemaphorePolicyError::Name(_)), "{error}");
        }
        let why = SemaphorePolicy::try_new("a\nb", 1).unwrap_err().to_string();
        assert_eq!(
            why,
            r#"invalid semaphore name "a\nb": use 1 to 64 of A-Z a-z 0-9 _ . -, such as "a-b""#
        );
    }

    #[test]
    fn capacity_is_1_to_65535() {
        for capacity in [0, 65_536, u32::MAX] {
            let error = SemaphorePolicy::try_new("p", capacity).unwrap_err();
            assert_eq!(error, SemaphorePolicyError::Capacity(capacity));
        }
        assert_eq!(
            SemaphorePolicy::new("p", 65_535).capacity(),
            SemaphorePolicy::MAX_CAPACITY
        );
        assert!(SemaphorePolicy::new("p", 1).try_capacity(0).is_err());
    }

    #[test]
    fn lease_is_100_ms_to_a_day() {
        let policy = SemaphorePolicy::new("p", 1);
        assert_eq!(policy.lease(), Duration::from_secs(30));
        for lease in [Duration::ZERO, Duration::from_millis(99), Duration::MAX] {
            let error = policy.clone().try_lease(lease).unwrap_err();
            assert_eq!(error, SemaphorePolicyError::Lease(lease));
        }
        let short = policy.with_lease(Duration::from_millis(100));
        assert_eq!(short.lease_micros(), 100_000);
    }
}
