//! Names and limits: [`Policy`] for rates, and [`SemaphorePolicy`] for requests in flight.
//!
//! Guide: [quotas and tiers](crate::_guide::quotas_and_tiers).
//!
//! A [`Policy`] has one or more quotas. A request is allowed if all of them allow it, and is charged to all or to none.
//!
//! ```
//! use std::time::Duration;
//! use tower_sluice::{Policy, Quota};
//!
//! let day = Duration::from_secs(86_400);
//! let api = Policy::new("api", Quota::per_minute(600)).and("daily", Quota::fixed_window(10_000, day));
//! assert_eq!(api.quotas()[1].name(), "daily");
//!
//! let why = Policy::try_new("per ip", Quota::per_second(1)).unwrap_err();
//! assert_eq!(
//!     why.to_string(),
//!     r#"invalid policy name "per ip": use 1 to 64 of A-Z a-z 0-9 _ . -, such as "per-ip""#
//! );
//! ```

mod error;
mod named;
mod rate;
mod scope_error;
mod scopes;
mod semaphore;
#[cfg(feature = "serde")]
mod serde;
#[cfg(test)]
mod tests;

pub use self::error::PolicyError;
pub use self::named::NamedQuota;
pub use self::rate::Policy;
pub use self::scope_error::ScopeError;
pub use self::semaphore::{SemaphorePolicy, SemaphorePolicyError};
