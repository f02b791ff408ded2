//! Memory and Redis give the same answers to random traffic under random quotas, on a real server.
//!
//! Scripts read the time of the clock that memory reads ([`support::frozen::Frozen`]), and so does the optimistic mode
//! ([`support::clock_proxy::ClockProxy`]). Keys still expire by the clock of the server, so both backends keep idle
//! buckets for longer than any clock here advances.

mod agreement;
mod backends;
mod batches;
#[cfg(feature = "calendar")]
mod calendars;
mod deny_cache;
mod expiry;
mod logs;
mod scopes;
mod shapes;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult};

use crate::support::property::{Coverage, try_all};

const SEEDS: &str = "tests/redis_properties.proptest-regressions";

pub(crate) fn for_all<S>(
    strategy: S,
    property: impl Fn(S::Value, &Coverage) -> TestCaseResult,
) -> Coverage
where
    S: Strategy,
    S::Value: Debug,
{
    try_all(SEEDS, Config::default().cases, strategy, property)
}

/// A quarter of the cases, for slow properties.
pub(crate) fn for_some<S>(
    strategy: S,
    property: impl Fn(S::Value, &Coverage) -> TestCaseResult,
) -> Coverage
where
    S: Strategy,
    S::Value: Debug,
{
    try_all(
        SEEDS,
        Config::default().cases.div_ceil(4),
        strategy,
        property,
    )
}
