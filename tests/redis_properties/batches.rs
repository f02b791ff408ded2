//! Requests in one batch get the replies of single requests.

use std::cell::Cell;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::clock::Timestamp;
use tower_sluice::{Cost, Key, Policy, Quota, RedisBackend};

use crate::backends::{Fixture, Side};
use crate::for_some;
use crate::traffic::{Act, act, start};

/// Each policy uses another script, or another place in a batch.
fn kinds_of_policies() -> Vec<Policy> {
    let minute = Duration::from_secs(60);
    let (bucket, interval) = (
        Quota::per_second(3).burst(5),
        Quota::interval_bucket(7, 2, minute),
    );
    let (fixed, sliding, log) = (
        Quota::fixed_window(4, minute),
        Quota::sliding_window(4, minute),
        Quota::sliding_log(4, minute),
    );
    let single = [bucket, interval, fixed, sliding, log];
    let mut policies: Vec<_> = single
        .iter()
        .enumerate()
        .map(|(index, quota)| Policy::new(&format!("single{index}"), *quota))
        .collect();
    #[cfg(feature = "calendar")]
    for every in [
        tower_sluice::quota::Every::Day,
        tower_sluice::quota::Every::Month { day: 31 },
    ] {
        let quota = Quota::calendar_window(4, every, "Europe/Zurich");
        policies.push(Policy::new(&format!("{every}").replace('@', "-"), quota));
    }
    policies.push(Policy::new("slow", Quota::per_minute(2).initial_tokens(1)));
    policies.push(Policy::new("buckets", bucket).and("interval", interval));
    policies.push(
        Policy::new("mixed", fixed)
            .and("log", log)
            .and("bucket", bucket),
    );
    policies
}

/// One operation on a key.
#[derive(Clone, Debug)]
struct Question {
    policy: Index,
    cost: u64,
    act: Act,
}

fn question() -> impl Strategy<Value = Question> {
    (any::<Index>(), 0..=6_u64, act()).prop_map(|(policy, cost, act)| Question {
        policy,
        cost,
        act,
    })
}

/// A key in two backends.
struct KeyPair {
    policy: Policy,
    key: Key,
    alone: Side<RedisBackend>,
    together: Side<RedisBackend>,
}

#[test]
fn batched_requests_get_the_same_replies_as_single_requests() {
    let fixture = Fixture::new();
    let with = |prefix: &str, batching: bool| {
        let builder = Fixture::builder().prefix(prefix).batching(batching);
        builder.from_transport(RedisConnection::new(fixture.frozen()))
    };
    let (alone, together) = (with("alone", false), with("together", true));
    let policies = kinds_of_policies();
    // Each round has one operation for every key. A key keeps its policy.
    let rounds = vec(vec(question(), 1..120), 1..6);
    let calls = Cell::new(0);
    let coverage = for_some((rounds, start()), |(rounds, mut now), coverage| {
        let mut keys: Vec<KeyPair> = Vec::new();
        for round in &rounds {
            now += 300_000;
            fixture.clock.set(Timestamp::from_micros(now));
            for question in round.iter().skip(keys.len()) {
                keys.push(KeyPair {
                    policy: question.policy.get(&policies).clone(),
                    key: fixture.fresh_key(),
                    alone: Side::of(alone.clone()),
                    together: Side::of(together.clone()),
                });
            }
            let (mut expected, mut step) = (Vec::new(), Vec::new());
            for (question, pair) in round.iter().zip(&mut keys) {
                let cost = || Cost::new(question.cost);
                let ops = (
                    pair.alone.op(&question.act, cost(), 4_000_000),
                    pair.together.op(&question.act, cost(), 4_000_000),
                );
                let (Some(one), Some(other)) = ops else {
                    continue;
                };
                let answer = pair.alone.ask(one, &pair.policy, &pair.key);
                let (reported, _) = fixture.runtime.block_on(answer);
                coverage.note(if reported.allowed {
                    "allowed"
                } else {
                    "denied"
                });
                expected.push(reported);
                step.push(pair.together.ask(other, &pair.policy, &pair.key));
            }
            calls.set(calls.get() + step.len());
            let actual: Vec<_> = fixture.runtime.block_on(join_all(step));
            let actual: Vec<_> = actual.into_iter().map(|(reported, _)| reported).collect();
            prop_assert_eq!(expected, actual);
        }
        Ok(())
    });
    coverage.at_least(1_000, &["allowed", "denied"]);
    let calls = u64::try_from(calls.get()).expect("fits");
    let trips = fixture.server.calls("evalsha") + fixture.server.calls("eval") - calls;
    assert!(
        2 * trips < calls,
        "{trips} round trips for {calls} operations are no batches"
    );
}
