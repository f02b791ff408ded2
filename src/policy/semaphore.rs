use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::micros_up;
use crate::message::{Quoted, plain_name};

/// What a semaphore is made of: a name, how many permits each key has, and how long one lasts without a sign of life.
/// Clones are cheap.
///
/// The name and a key together are what permits belong to: semaphores of one name share them, also with other
/// capacities (tiers, or a capacity that was changed). A lowered capacity throws nobody out: nobody enters until there
/// is room. A lease that is made shorter should still be longer than a third of the one that others use: they renew
/// theirs as often as that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SemaphorePolicy {
    name: Arc<str>,
    capacity: u16,
    /// µs
    lease: u64,
}

/// Why permits cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SemaphorePolicyError {
    /// The name is part of keys in a shared store.
    Name(String),
    /// The capacity is 0, or above 65 535.
    Capacity(u32),
    /// The lease is shorter than 100 ms or longer than a day.
    Lease(Duration),
}

/// 30 s.
const DEFAULT_LEASE: u64 = 30_000_000;
const SHORTEST_LEASE: Duration = Duration::from_millis(100);
const LONGEST_LEASE: Duration = Duration::from_secs(86_400);

impl SemaphorePolicy {
    /// The largest capacity: 65 535.
    pub const MAX_CAPACITY: u32 = u16::MAX as u32;

    /// So many permits for each key, with leases of 30 s.
    ///
    /// # Panics
    ///
    /// Where [`try_new`](Self::try_new) errs, with the same sentence.
    #[must_use]
    pub fn new(name: &str, capacity: u32) -> Self {
        must(Self::try_new(name, capacity))
    }

    /// So many permits for each key, with leases of 30 s.
    ///
    /// # Errors
    ///
    /// If the name is not 1 to 64 of `A-Z a-z 0-9 _ . -`, or the capacity not 1 to 65 535.
    pub fn try_new(name: &str, capacity: u32) -> Result<Self, SemaphorePolicyError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if !(1..=64).contains(&name.len()) || !name.bytes().all(safe) {
            return Err(SemaphorePolicyError::Name(name.to_owned()));
        }
        Ok(Self {
            name: name.into(),
            capacity: checked(capacity)?,
            lease: DEFAULT_LEASE,
        })
    }

    /// The same permits, so many of them for each key: a tier, or a capacity that was changed.
    ///
    /// # Panics
    ///
    /// Where [`try_capacity`](Self::try_capacity) errs, with the same sentence.
    #[must_use]
    pub fn with_capacity(self, capacity: u32) -> Self {
        must(self.try_capacity(capacity))
    }

    /// The same permits, so many of them for each key.
    ///
    /// # Errors
    ///
    /// If the capacity is not 1 to 65 535.
    pub fn try_capacity(self, capacity: u32) -> Result<Self, SemaphorePolicyError> {
        let capacity = checked(capacity)?;
        Ok(Self { capacity, ..self })
    }

    /// How long a permit lasts if its holder gives no sign of life; 30 s by default, 100 ms to a day. Holders renew it
    /// three times as often. In memory it ends with its guard instead.
    ///
    /// # Panics
    ///
    /// Where [`try_lease`](Self::try_lease) errs, with the same sentence.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        must(self.try_lease(lease))
    }

    /// How long a permit lasts if its holder gives no sign of life.
    ///
    /// # Errors
    ///
    /// If it is shorter than 100 ms or longer than a day.
    pub fn try_lease(self, lease: Duration) -> Result<Self, SemaphorePolicyError> {
        if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&lease) {
            return Err(SemaphorePolicyError::Lease(lease));
        }
        let lease = micros_up(lease);
        Ok(Self { lease, ..self })
    }

    /// The name: with a key it is what permits belong to.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn label(&self) -> &Arc<str> {
        &self.name
    }

    /// How many permits each key has.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity.into()
    }

    /// How long a permit lasts without a sign of life.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_micros(self.lease)
    }

    /// The same in µs.
    pub(crate) const fn lease_micros(&self) -> u64 {
        self.lease
    }
}

impl fmt::Display for SemaphorePolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(
                f,
                "invalid name of permits {}: use 1 to 64 of A-Z a-z 0-9 _ . -, such as {:?}",
                Quoted(name),
                plain_name(name)
            ),
            Self::Capacity(capacity) => {
                write!(f, "invalid number of permits {capacity}: use 1 to 65535")
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
            r#"invalid name of permits "a\nb": use 1 to 64 of A-Z a-z 0-9 _ . -, such as "a-b""#
        );
    }

    #[test]
    fn no_capacity_is_unlimited_and_none_is_zero() {
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
