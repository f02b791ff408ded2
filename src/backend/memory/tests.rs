use std::num::NonZeroUsize;
use std::time::Duration;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::limiter::Limiter;
use crate::quota::Quota;

const HOUR: Duration = Duration::from_secs(3_600);

fn backend(max_keys: usize) -> (ManualClock, MemoryBackend<ManualClock>) {
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let max_keys = NonZeroUsize::new(max_keys).expect("not 0");
    let backend = MemoryBackend::builder()
        .max_keys(max_keys)
        .clock(clock.clone())
        .build();
    (clock, backend)
}

fn number(key: u64) -> Key {
    Key::from(key)
}

#[test]
fn eviction_prefers_full_buckets_to_keys_in_debt() {
    let (clock, backend) = backend(100);
    // One token is left. The eviction would spare an empty bucket for that alone.
    let debtor = Limiter::new(Policy::new("slow", Quota::per_hour(2)), backend.clone());
    assert!(debtor.check_now(&number(0), 1).decision.is_allowed());
    let flood = Quota::per_second(10).initial_tokens(5);
    let flood = Limiter::new(Policy::new("flood", flood), backend);
    for key in 0..5_000 {
        clock.advance(Duration::from_millis(1));
        let _ = flood.check_now(&number(key), 1);
    }
    let left = debtor
        .check_now(&number(0), 0)
        .decision
        .snapshot()
        .remaining();
    assert_eq!(left, 1, "the debt is kept");
}

#[test]
fn peek_at_a_restarting_bucket_changes_no_later_decision() {
    for peek in [false, true] {
        let (clock, backend) = backend(100);
        let quota = Quota::per_hour(10).initial_tokens(0);
        let limiter = Limiter::new(Policy::new("late", quota), backend.clone());
        let check = |after: Duration, cost: u64| {
            clock.advance(after);
            limiter.check_now(&number(0), cost).decision.is_allowed()
        };
        assert!(!check(Duration::ZERO, 1));
        assert!(!peek || check(26 * HOUR, 0));
        let rest = if peek { 24 } else { 50 };
        assert!(
            !check(rest * HOUR, 1),
            "the bucket starts again with no tokens"
        );
        assert!(check(2 * HOUR, 1), "the bucket has filled since");
        assert_eq!(backend.len(), 1);
    }
}

#[test]
fn charge_by_a_faster_tier_keeps_the_debt_of_a_slower_tier() {
    let (clock, backend) = backend(1_000);
    let free = Limiter::new(Policy::new("api", Quota::per_hour(60)), backend.clone());
    let paid = free.with_policy(&Policy::new("api", Quota::per_second(60)));
    assert!(free.check_now(&number(0), 59).decision.is_allowed());
    assert!(paid.check_now(&number(0), 1).decision.is_allowed());
    clock.advance(Duration::from_secs(2));
    // New keys check old entries.
    (1..100).for_each(|key| drop(free.check_now(&number(key), 1)));
    assert_eq!(
        free.check_now(&number(0), 0)
            .decision
            .snapshot()
            .remaining(),
        0
    );
}

#[test]
fn eviction_for_one_quota_keeps_the_other_quotas_of_the_key() {
    let (_, backend) = backend(20);
    let day = Duration::from_secs(86_400);
    let policy = Policy::new("two", Quota::per_hour(2)).and("day", Quota::fixed_window(100, day));
    let limiter = Limiter::new(policy, backend.clone());
    for key in 0..200 {
        let mut allowed = (0..3).map(|_| limiter.check_now(&number(key), 1).decision.is_allowed());
        assert_eq!(
            [true, true, false].map(Some),
            [allowed.next(), allowed.next(), allowed.next()]
        );
        assert!(backend.len() <= 20);
    }
    assert!(backend.evictions() > 0);
}
