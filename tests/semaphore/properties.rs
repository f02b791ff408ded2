//! Random operations on permits of several policies, with a clock that moves both ways. Memory and Redis decide like a
//! model that is as simple as the rules.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tokio::runtime::Runtime;
use tower_sluice::backend::Answer;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::semaphore::{MemorySemaphore, PermitBackend, PermitId, PermitOp, PermitReply};
use tower_sluice::{Key, RetryAfter, SemaphorePolicy};

use crate::model::{Model, Reported, Rules};
#[cfg(not(feature = "redis"))]
use crate::property::{Coverage, try_all};
#[cfg(feature = "redis")]
use crate::support::property::{Coverage, try_all};

const SEEDS: &str = "tests/semaphore.proptest-regressions";
/// A time in the year 2027, µs.
const TODAY: i64 = 1_800_000_000_000_000;
/// How long the place of a waiter that does not ask is kept, µs.
pub(crate) const KEPT: i64 = 1_000_000;
/// Redis also forgets places by the time of this machine. After this time the comparison is impossible.
const MEASURABLE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Acquire { id: u8, weight: u32 },
    Wait { id: u8, weight: u32, waited: i64 },
    Renew(Vec<u8>),
    Release(u8),
    Peek,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// µs since the previous step, which may be later.
    pub(crate) passed: i64,
    pub(crate) does: Action,
    pub(crate) capacity: u32,
    /// µs
    pub(crate) lease: i64,
}

/// Policies of one name, each with its own leases.
fn lease() -> impl Strategy<Value = i64> + Clone {
    prop::sample::select(vec![
        100_000,
        1_000_000,
        1_000_001,
        30_000_000,
        86_400_000_000,
    ])
}

fn passed() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => Just(0),
        40 => 0_i64..60_000,
        2 => (lease(), -1_i64..=1).prop_map(|(lease, more)| lease + more),
        2 => lease().prop_map(|lease| lease / 3),
        2 => KEPT - 1..=KEPT + 1,
        2 => -2_000_000_i64..0,
        1 => -100_000_000_000_i64..0,
    ]
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![12 => Just(1_u32), 6 => 0_u32..7, 1 => Just(u32::MAX)]
}

fn does() -> impl Strategy<Value = Action> {
    let waited = prop_oneof![Just(0), 0_i64..5_000_000];
    prop_oneof![
        5 => (0_u8..8, weight()).prop_map(|(id, weight)| Action::Acquire { id, weight }),
        5 => (0_u8..8, weight(), waited)
            .prop_map(|(id, weight, waited)| Action::Wait { id, weight, waited }),
        3 => vec(0_u8..8, 1..5).prop_map(Action::Renew),
        4 => (0_u8..8).prop_map(Action::Release),
        1 => Just(Action::Peek),
    ]
}

/// Most steps use one policy.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tier = (prop_oneof![9 => 1_u32..5, 1 => Just(65_535)], lease());
    let other = prop::option::weighted(0.2, tier.clone());
    let step = (passed(), does(), other);
    (tier, vec(step, 1..60)).prop_map(|(usual, steps)| {
        let of_tier = |(passed, does, other): (i64, Action, Option<(u32, i64)>)| {
            let (capacity, lease) = other.unwrap_or(usual);
            Step {
                passed,
                does,
                capacity,
                lease,
            }
        };
        steps.into_iter().map(of_tier).collect()
    })
}

/// The reply in the form of the model.
fn reported(reply: &PermitReply) -> Reported {
    let us = |span: Duration| i64::try_from(span.as_micros()).expect("fits");
    let snapshot = reply.decision.snapshot();
    Reported {
        is_allowed: reply.decision.is_allowed(),
        retry_after: match reply.decision.retry_after() {
            None => Some(0),
            Some(RetryAfter::In(wait)) => Some(us(wait)),
            Some(RetryAfter::Never) => None,
        },
        remaining: snapshot.remaining(),
        reset_after: us(snapshot.reset_after()),
        lasting: reply.lasting().to_vec(),
        in_front: reply.in_front,
    }
}

fn op(does: &Action) -> PermitOp {
    // In the order of the numbers.
    let id = |id: u8| PermitId::from_bytes([id; 16]);
    match does {
        Action::Acquire { id: own, weight } => PermitOp::Acquire {
            id: id(*own),
            weight: *weight,
        },
        Action::Wait {
            id: own,
            weight,
            waited,
        } => PermitOp::Wait {
            id: id(*own),
            weight: *weight,
            waited: Duration::from_micros(waited.unsigned_abs()),
        },
        Action::Renew(ids) => PermitOp::Renew(ids.iter().copied().map(id).collect()),
        Action::Release(own) => PermitOp::Release(id(*own)),
        Action::Peek => PermitOp::Peek,
    }
}

/// Runs a step on the backend.
fn ask<B: PermitBackend>(backend: &B, runtime: &Runtime, step: &Step, key: &Key) -> Reported {
    let lease = Duration::from_micros(step.lease.unsigned_abs());
    let permits = SemaphorePolicy::new("model", step.capacity).with_lease(lease);
    let reply = runtime.block_on(async {
        match backend.ask(op(&step.does), &permits, key) {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => reply.await,
        }
    });
    reported(&reply.unwrap_or_else(|error| panic!("{error}: {error:?}")))
}

fn assert_decides_like_the_model<B: PermitBackend>(
    (backend, clock): (&B, &ManualClock),
    rules: Rules,
    runtime: &Runtime,
    key: &Key,
    steps: &[Step],
    coverage: &Coverage,
) -> TestCaseResult {
    let mut model = Model::default();
    let (mut now, began) = (TODAY, Instant::now());
    for (index, step) in steps.iter().enumerate() {
        now += step.passed;
        clock.set(Timestamp::from_micros(now.unsigned_abs()));
        let (held, expected) = (model.held.len(), model.apply(rules, now, step, coverage));
        let mut actual = ask(backend, runtime, step, key);
        if model.held.len() + 1 < held {
            coverage.note("the lease is over");
        }
        if !rules.leases_end {
            // Without leases permits do not end: the reported wait is an estimate within bounds.
            prop_assert!(
                actual.reset_after <= step.lease,
                "step {}: {:?}",
                index,
                actual
            );
            let is_hint = |wait: i64| (wait > 0) != actual.is_allowed;
            prop_assert!(
                actual.retry_after.is_none_or(is_hint),
                "step {}: {:?}",
                index,
                actual
            );
            actual.reset_after = expected.reset_after;
            actual.retry_after = actual.retry_after.and(expected.retry_after);
        }
        if rules.has_line && began.elapsed() > MEASURABLE {
            coverage.note("too slow");
            return Ok(());
        }
        prop_assert_eq!(actual, expected, "step {}: {:?} at {}", index, step, now);
    }
    Ok(())
}

/// Uses another key for each case.
fn for_all<B: PermitBackend>(backend: &B, clock: &ManualClock, rules: Rules) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("a runtime");
    let keys = std::cell::Cell::new(0_u64);
    let cases = proptest::test_runner::Config::default().cases;
    let coverage = try_all(SEEDS, cases, steps(), |steps, coverage| {
        keys.set(keys.get() + 1);
        let key = Key::from(keys.get());
        assert_decides_like_the_model((backend, clock), rules, &runtime, &key, &steps, coverage)
    });
    coverage.at_least(256, &["given", "denied", "never", "again"]);
    if rules.leases_end {
        coverage.at_least(30, &["the lease is over"]);
    }
    if rules.has_line {
        coverage.at_least(30, &["behind others"]);
    }
}

fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_micros(TODAY.unsigned_abs()))
}

#[test]
fn memory_with_leases_decides_like_the_model() {
    let clock = clock();
    let memory = MemorySemaphore::builder().clock(clock.clone()).leases_end();
    let rules = Rules {
        leases_end: true,
        has_line: false,
    };
    for_all(&memory.build(), &clock, rules);
}

#[test]
fn memory_without_leases_decides_like_the_model() {
    let clock = clock();
    let memory = MemorySemaphore::builder().clock(clock.clone()).build();
    let rules = Rules {
        leases_end: false,
        has_line: false,
    };
    for_all(&memory, &clock, rules);
}

#[cfg(feature = "redis")]
#[test]
fn redis_decides_like_the_model() {
    use tower_sluice::backend::redis::adapter::RedisConnection;
    use tower_sluice::{RedisBackend, RedisSemaphore};

    use crate::support::frozen::Frozen;
    use crate::support::redis::RedisServer;

    let (server, clock) = (RedisServer::start(), clock());
    // The connection belongs to its runtime.
    let driven = Runtime::new().expect("a runtime");
    let connection = driven.block_on(Frozen::connect(&server.url(), &clock));
    let builder = RedisBackend::builder().time_limit(Duration::from_secs(20));
    // Longer than any clock here advances.
    let builder = builder.idle_ttl(Duration::from_secs(1_000_000));
    let redis = RedisSemaphore::new(&builder.from_transport(RedisConnection::new(connection)));
    let rules = Rules {
        leases_end: true,
        has_line: true,
    };
    for_all(&redis, &clock, rules);
}
