//! Promises that hold for every quota and all traffic, tested with random quotas and random traffic.
//!
//! Each property counts the cases it met and fails if an interesting case did not occur. A property of denials proves
//! nothing without a denial. `PROPTEST_CASES` sets the number of cases of each property.

mod admission;
mod decisions;
#[path = "../fuzz_targets/mod.rs"]
mod fuzz_targets;
mod gcra;
mod memory;
mod model;
mod picture;
#[path = "../support/property.rs"]
mod property;
mod ranges;
mod scopes;
mod seeds;
mod settlement;
mod shapes;
mod traffic;

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult};

use crate::property::{Coverage, try_all};

pub(crate) fn for_all<S>(
    strategy: S,
    property: impl Fn(S::Value, &Coverage) -> TestCaseResult,
) -> Coverage
where
    S: Strategy,
    S::Value: Debug,
{
    let seeds = "tests/properties.proptest-regressions";
    try_all(seeds, Config::default().cases, strategy, property)
}
