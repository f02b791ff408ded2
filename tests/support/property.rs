//! Runs a property, and checks that it met its interesting cases.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseResult, TestRunner};

/// How often a property met each case, and the number of runs.
pub(crate) struct Coverage {
    cases: u32,
    times: RefCell<BTreeMap<String, usize>>,
}

impl Coverage {
    pub(crate) fn note(&self, what: impl Into<String>) {
        *self.times.borrow_mut().entry(what.into()).or_default() += 1;
    }

    /// The least count in 256 cases. Fewer cases scale it down.
    pub(crate) fn at_least(&self, times: usize, what: &[&str]) {
        let times = times * self.cases as usize / 256;
        let coverage = self.times.borrow();
        for what in what {
            let count = coverage.get(*what).copied().unwrap_or(0);
            assert!(
                count >= times,
                "met `{what}` {count} times only: {coverage:?}"
            );
        }
    }
}

/// Runs this many cases. Failures are stored in `seeds`, beside the test: the default place needs a `lib.rs`.
pub(crate) fn try_all<S>(
    seeds: &'static str,
    cases: u32,
    strategy: S,
    property: impl Fn(S::Value, &Coverage) -> TestCaseResult,
) -> Coverage
where
    S: Strategy,
    S::Value: Debug,
{
    let config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        source_file: Some(file!()),
        cases,
        ..Config::default()
    };
    let coverage = Coverage {
        cases,
        times: RefCell::default(),
    };
    if let Err(failure) = TestRunner::new(config).run(&strategy, |value| property(value, &coverage))
    {
        panic!("{failure}");
    }
    coverage
}
