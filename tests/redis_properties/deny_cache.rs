//! Cached denials agree with the backend.

use std::time::Duration;

use proptest::prelude::*;
use tower_sluice::RetryAfter;
use tower_sluice::backend::redis::adapter::RedisConnection;

use crate::backends::{Fixture, Reported, StepInfo};
use crate::for_all;
use crate::shapes::{Kind, LONGER_THAN_ANY_TEST, settings};
use crate::traffic::{forward, start};

/// One process, and a clock that never moves back: a cached denial agrees with the backend, as far as the cache knows.
/// A higher cost waits at least as long, and more tokens may remain by now.
#[test]
fn deny_cache_denies_only_denied_checks_with_their_wait() {
    let fixture = Fixture::new();
    let redis = Fixture::builder()
        .deny_cache(LONGER_THAN_ANY_TEST)
        .clock(fixture.clock.clone())
        .from_transport(RedisConnection::new(fixture.frozen()));
    let coverage = for_all(
        (settings(), start(), forward()),
        |(setting, start, events), coverage| {
            // The cost of the latest reply from Redis: the cache knows no other denial of this key.
            let mut asked_last = None;
            let compare_step = |step: &StepInfo, expected: &Reported, actual: Reported| {
                if !step.at_once {
                    asked_last = Some(step.cost.clone());
                    prop_assert_eq!(expected, &actual);
                    return Ok(());
                }
                let known = asked_last.as_ref().expect("a check was denied");
                let is_same = *known == step.cost;
                coverage.note(if is_same {
                    "known"
                } else {
                    "known for a lower cost"
                });
                prop_assert!(!actual.allowed && !expected.allowed);
                for (index, (from_memory, real)) in
                    actual.quotas.iter().zip(&expected.quotas).enumerate()
                {
                    prop_assert!(
                        from_memory.remaining() <= real.remaining(),
                        "quota {}",
                        index
                    );
                    // The clock of a bucket below its capacity may not have started. A peek does not start it, nor does
                    // a cost above the limit.
                    let resets = (from_memory.reset_after(), real.reset_after());
                    let runs = (1..=from_memory.limit()).contains(&step.cost.get(index));
                    prop_assert!(resets.0 <= resets.1, "quota {}: {:?}", index, resets);
                    prop_assert!(
                        !runs || resets.0 == resets.1,
                        "quota {}: {:?}",
                        index,
                        resets
                    );
                    let never = match setting.limits[index][0].kind {
                        Kind::Total => real.retry_after() == Some(RetryAfter::Never),
                        _ => step.cost.get(index) > from_memory.limit(),
                    };
                    prop_assert_eq!(from_memory.retry_after() == Some(RetryAfter::Never), never);
                    let waits = (wait(from_memory.retry_after()), wait(real.retry_after()));
                    // Both the cached wait of the lower cost and the time for the difference were rounded up.
                    let latest = waits.1.saturating_add(Duration::from_micros(1));
                    prop_assert!(waits.0 <= latest, "quota {}: {:?}", index, waits);
                    prop_assert!(
                        !is_same || waits.0 == waits.1,
                        "quota {}: {:?}",
                        index,
                        waits
                    );
                }
                prop_assert!(!is_same || actual.governing == expected.governing);
                Ok(())
            };
            let backends = (fixture.core(), redis.clone());
            fixture.compare(backends, &setting, start, &events, coverage, compare_step)
        },
    );
    coverage.at_least(15, &["known", "known for a lower cost"]);
}

fn wait(retry: Option<RetryAfter>) -> Duration {
    match retry {
        None => Duration::ZERO,
        Some(RetryAfter::In(wait)) => wait,
        Some(RetryAfter::Never) => Duration::MAX,
    }
}
