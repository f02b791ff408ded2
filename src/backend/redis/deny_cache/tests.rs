mod blocks;

use std::time::Duration;

use super::*;
use crate::backend::MemoryBackend;
use crate::clock::ManualClock;
use crate::decision::{QuotaSnapshot, RetryAfter};
use crate::quota::Quota;

const SECOND: u64 = 1_000_000;

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn denied(wait: u64) -> Decision {
    let wait = Some(RetryAfter::In(Duration::from_micros(wait)));
    Reply::from_quotas(&[QuotaSnapshot::new(10, 3, wait, Duration::from_secs(9))]).decision
}

struct Known {
    denials: DenyCache,
    policy: Policy,
    key: Key,
}

impl Known {
    fn new(wait: u64) -> Self {
        let known = Self {
            denials: DenyCache::new(SECOND),
            policy: Policy::new("p", Quota::per_second(10)),
            key: Key::from("ann"),
        };
        known.learn(Cost::new(5), wait);
        known
    }

    fn learn(&self, cost: Cost, wait: u64) {
        let Err(miss) = self
            .denials
            .find(&self.policy, &self.key, &cost, at(100), None)
        else {
            panic!("cached already");
        };
        self.denials.keep(
            miss,
            &self.policy,
            &cost,
            at(100),
            || at(100),
            &denied(wait),
        );
    }

    fn knows(&self, cost: u64, now: u64) -> Option<Reply> {
        self.denials
            .find(&self.policy, &self.key, &Cost::new(cost), at(now), None)
            .ok()
    }
}

#[test]
fn denial_is_cached_until_retry_after_and_ages() {
    let known = Known::new(1_000);
    let reply = known.knows(5, 400).expect("known");
    assert_eq!(
        reply.decision.retry_after(),
        Some(RetryAfter::In(Duration::from_micros(700)))
    );
    assert_eq!(
        reply.decision.snapshot().reset_after(),
        Duration::from_micros(9 * SECOND - 300)
    );
    assert_eq!(reply.decision.snapshot().remaining(), 3);
    assert!(reply.receipt.is_none());
    assert!(known.knows(5, 1_099).is_some());
    assert!(known.knows(5, 1_100).is_none(), "it may be allowed by then");
    assert!(known.knows(5, 99).is_none(), "the clock went back");
}

#[test]
fn denial_is_cached_for_at_most_a_second_and_for_equal_or_higher_costs() {
    let known = Known::new(60 * SECOND);
    assert!(known.knows(9, 99 + SECOND).is_some());
    assert!(known.knows(5, 100 + SECOND).is_none());
    assert!(
        known.knows(4, 100).is_none(),
        "a smaller cost may be allowed"
    );
    let other = Policy::new("p", Quota::per_second(20));
    assert!(
        known
            .denials
            .find(&other, &known.key, &Cost::new(5), at(100), None)
            .is_err(),
        "another policy"
    );
}

#[test]
fn cost_above_the_limit_gets_no_retry_after() {
    let reply = Known::new(1_000).knows(11, 400).expect("known");
    assert_eq!(reply.decision.retry_after(), Some(RetryAfter::Never));
}

#[test]
fn denial_of_a_zero_cost_quota_is_not_cached_for_a_charge() {
    let known = Known::new(1_000);
    let policy = Policy::new("p", Quota::per_second(10)).and("bytes", Quota::per_second(10));
    let find = |costs: [u64; 2]| {
        let cost = Cost::each(costs);
        known
            .denials
            .find(&policy, &known.key, &cost, at(100), None)
    };
    let Err(miss) = find([5, 0]) else {
        panic!("cached already");
    };
    let (cost, asked_at) = (Cost::each([5, 0]), at(100));
    known
        .denials
        .keep(miss, &policy, &cost, asked_at, || asked_at, &denied(1_000));
    assert!(find([5, 0]).is_ok());
    assert!(find([5, 1]).is_err());
    assert!(find([6, 0]).is_err(), "one of several quotas may deny");
}

/// The replies of a memory backend, with one of them cached.
struct Learned {
    known: Known,
    memory: MemoryBackend<ManualClock>,
}

impl Learned {
    /// Spends `spent`, and caches that `cost` is denied.
    fn new(quota: Quota, spent: u64, cost: u64) -> Option<Self> {
        let clock = ManualClock::at(at(1_800_000_000_000_000));
        let memory = MemoryBackend::builder().clock(clock).build();
        let known = Known {
            denials: DenyCache::new(SECOND),
            policy: Policy::new("p", quota),
            key: Key::from("ann"),
        };
        let learned = Self { known, memory };
        assert!(learned.decide(spent).is_allowed());
        let decision = learned.decide(cost);
        let Known {
            denials,
            policy,
            key,
        } = &learned.known;
        let (cost, asked_at) = (Cost::new(cost), at(100));
        let miss = denials.find(policy, key, &cost, asked_at, None).err()?;
        denials.keep(miss, policy, &cost, asked_at, || asked_at, &decision);
        (!decision.is_allowed()).then_some(learned)
    }

    fn decide(&self, cost: u64) -> Decision {
        let Known { policy, key, .. } = &self.known;
        self.memory.check(policy, key, Cost::new(cost)).decision
    }
}

#[test]
fn larger_cost_gets_the_wait_of_the_bucket() {
    let periods = [1, 3, 7_777, 60 * SECOND, 86_400 * SECOND];
    let mut known = 0;
    for capacity in [1, 2, 10, 77_777, 1 << 40] {
        for refill in [1, 3, 999, 1 << 40] {
            for period in periods {
                let quota =
                    Quota::try_token_bucket(capacity, refill, Duration::from_micros(period));
                let Ok(quota) = quota else { continue };
                let cost = capacity.div_ceil(3);
                let Some(learned) = Learned::new(quota, capacity, cost) else {
                    continue;
                };
                for more in [0, 1, 2, capacity / 5, capacity - cost, capacity - cost + 1] {
                    let cost = cost + more;
                    let reply = learned.known.knows(cost, 100).expect("known");
                    let cached = reply.decision.retry_after();
                    let right = learned.decide(cost).retry_after();
                    match (cached, right) {
                        (Some(RetryAfter::In(cached)), Some(RetryAfter::In(right))) => {
                            let late = cached.checked_sub(right).expect("not too short");
                            assert!(late <= Duration::from_micros(1), "{quota:?}: {cost}");
                            known += 1;
                        }
                        _ => assert_eq!(cached, right, "{quota:?}: {cost}"),
                    }
                }
            }
        }
    }
    assert!(known > 100, "{known}");
}

#[test]
fn larger_cost_under_any_other_quota_goes_to_redis() {
    let second = Duration::from_secs(1);
    for quota in [
        Quota::interval_bucket(10, 5, second),
        Quota::fixed_window(10, second),
        Quota::sliding_window(10, second),
        Quota::sliding_log(10, second),
    ] {
        let learned = Learned::new(quota, 8, 3).expect("denied");
        assert!(learned.known.knows(3, 100).is_some(), "{quota:?}");
        assert!(learned.known.knows(4, 100).is_none(), "{quota:?}");
    }
    let learned = Learned::new(Quota::per_second(10), 8, 3).expect("denied");
    assert!(learned.known.knows(4, 100).is_some());
}

#[test]
fn reservation_is_denied_only_if_it_would_wait_for_too_long() {
    // It is allowed at 1100 µs.
    let known = Known::new(1_000);
    let reserve = |cost: u64, now: u64, max_wait: u64| {
        let cost = Cost::new(cost);
        let Known {
            denials,
            policy,
            key,
        } = &known;
        denials
            .find(policy, key, &cost, at(now), Some(max_wait))
            .ok()
    };
    assert!(reserve(5, 400, 699).is_some());
    assert!(reserve(5, 400, 700).is_none(), "it may fit");
    assert!(reserve(5, 400, 10_000).is_none());
    // Two tokens more take 200 ms.
    assert!(reserve(7, 400, 200_699).is_some());
    assert!(reserve(7, 400, 200_700).is_none());
    assert!(
        reserve(4, 400, 0).is_none(),
        "a smaller cost may be allowed"
    );
    assert!(reserve(11, 400, u64::MAX).is_some(), "it never fits");
}

#[test]
fn reservation_that_may_fit_to_the_microsecond_goes_to_redis() {
    // A token takes 1/3 µs: cost 2 waits ceil(1/3) µs and cost 4 waits ceil(3/3) µs, which is the same.
    let quota = Quota::try_token_bucket(9, 3, Duration::from_micros(1)).expect("a quota");
    let learned = Learned::new(quota, 8, 2).expect("denied");
    let Known {
        denials,
        policy,
        key,
    } = &learned.known;
    let reserve = |cost: u64, max_wait: u64| {
        let cost = Cost::new(cost);
        denials.find(policy, key, &cost, at(100), Some(max_wait))
    };
    assert!(reserve(4, 1).is_err(), "it fits");
    assert!(reserve(4, 0).is_ok());
    assert_eq!(
        learned.decide(4).retry_after(),
        Some(RetryAfter::In(Duration::from_micros(1)))
    );
}

#[test]
fn reservation_beyond_the_largest_debt_denies_no_check() {
    let known = Known::new(1_000);
    known.denials.forget(&known.policy, &known.key);
    let never = QuotaSnapshot::new(10, 0, Some(RetryAfter::Never), Duration::from_secs(9));
    let (policy, key, cost) = (&known.policy, &known.key, Cost::new(5));
    let miss = known.denials.find(policy, key, &cost, at(100), None);
    let Err(miss) = miss else {
        panic!("the denial was removed");
    };
    let decision = Reply::from_quotas(&[never]).decision;
    known
        .denials
        .keep(miss, policy, &cost, at(100), || at(100), &decision);
    assert!(known.knows(5, 100).is_none());
}

#[test]
fn allowed_check_clears_the_cached_denial() {
    let known = Known::new(1_000);
    let keep = |cost: u64| {
        let (key, cost) = (&known.key, Cost::new(cost));
        let Err(miss) = known.denials.find(&known.policy, key, &cost, at(100), None) else {
            panic!("the cost is below the denied cost");
        };
        let some = QuotaSnapshot::new(10, 2, None, Duration::from_secs(10));
        let decision = Reply::from_quotas(&[some]).decision;
        known
            .denials
            .keep(miss, &known.policy, &cost, at(100), || at(100), &decision);
    };
    keep(0);
    assert!(
        known.knows(5, 100).is_some(),
        "a cost of zero charges nothing"
    );
    keep(1);
    assert!(known.knows(5, 100).is_none());
}

#[test]
fn retry_after_is_neither_too_long_nor_too_short() {
    let known = Known::new(1_000);
    let (policy, cost) = (&known.policy, Cost::new(5));
    let other = Key::from("bob");
    let Err(miss) = known.denials.find(policy, &other, &cost, at(100), None) else {
        panic!("cached already");
    };
    let answered_at = || at(150);
    known
        .denials
        .keep(miss, policy, &cost, at(100), answered_at, &denied(1_000));
    let reply = known.denials.find(policy, &other, &cost, at(1_099), None);
    let wait = reply.ok().and_then(|reply| reply.decision.retry_after());
    assert_eq!(wait, Some(RetryAfter::In(Duration::from_micros(51))));
    assert!(
        known
            .denials
            .find(policy, &other, &cost, at(1_100), None)
            .is_err()
    );
}

#[test]
fn denial_from_before_a_reset_is_not_cached() {
    let known = Known::new(SECOND);
    known.denials.forget(&known.policy, &known.key);
    assert!(known.knows(5, 100).is_none());
    let Err(miss) = known
        .denials
        .find(&known.policy, &known.key, &Cost::new(5), at(100), None)
    else {
        panic!("the denial was removed");
    };
    known.denials.forget(&known.policy, &known.key);
    known.denials.keep(
        miss,
        &known.policy,
        &Cost::new(5),
        at(100),
        || at(100),
        &denied(SECOND),
    );
    assert!(known.knows(5, 100).is_none());
}
