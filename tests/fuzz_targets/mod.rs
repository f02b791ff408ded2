//! The checks of the fuzz targets in `fuzz/`. `tests/properties/seeds.rs` runs the same functions on the files in
//! `tests/seeds`. A function panics if a promise is broken.

#[cfg(feature = "serde")]
mod policy_serde;
mod quota_string;
mod request;
#[cfg(feature = "redis")]
mod stored_state;

#[path = "../keys/reference.rs"]
#[allow(dead_code, reason = "no target reads a header with one address")]
mod reference;

#[cfg(feature = "serde")]
pub(crate) use self::policy_serde::policy_serde;
pub(crate) use self::quota_string::quota_string;
pub(crate) use self::request::{cookie, forwarded, networks};
#[cfg(feature = "redis")]
pub(crate) use self::stored_state::stored_state;
