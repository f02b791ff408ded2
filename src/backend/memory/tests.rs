use std::num::NonZeroUsize;
use std::time::Duration;

use super::*;
use crate::backend::PermitBackend;
use crate::clock::{ManualClock, Timestamp};
use crate::decision::{DenialReason, PermitId, PermitOp, RetryAfter};
use crate::limiter::Limiter;
use crate::policy::SemaphorePolicy;
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

#[test]
fn flood_of_totals_evicts_no_other_key_and_is_denied_at_its_own_bound() {
    let (clock, _) = backend(1);
    let bound = |number| NonZeroUsize::new(number).expect("not 0");
    let backend = MemoryBackend::builder()
        .max_keys(bound(100))
        .max_totals(bound(50))
        .clock(clock)
        .build();
    let hourly = Limiter::new(Policy::new("hourly", Quota::per_hour(5)), backend.clone());
    let trial = Limiter::new(Policy::new("trial", Quota::total(5)), backend.clone());
    for key in 0..100 {
        assert!(hourly.check_now(&number(key), 2).decision.is_allowed());
    }
    for key in 0..1_000 {
        let decision = trial.check_now(&number(key), 2).decision;
        let denied = (key >= 50).then_some(DenialReason::TooManyTotals);
        assert_eq!(decision.denial_reason(), denied, "{key}");
        let wait = denied.map(|_| RetryAfter::In(Duration::from_secs(1)));
        assert_eq!(decision.retry_after(), wait);
    }
    assert_eq!(
        (
            backend.len(),
            backend.evictions(),
            backend.totals(),
            backend.refused_totals()
        ),
        (100, 0, 50, 950)
    );
    // A flood of other keys does not evict a total, and a read creates none.
    for key in 100..5_000 {
        assert!(hourly.check_now(&number(key), 1).decision.is_allowed());
        assert!(trial.check_now(&number(key), 0).decision.is_allowed());
    }
    for key in 0..50 {
        let snapshot = trial.check_now(&number(key), 0).decision;
        assert_eq!(snapshot.snapshot().remaining(), 3, "{key}");
    }
    // A reset makes room.
    let _ = backend.decide(Op::Reset, trial.policy(), &number(7));
    assert_eq!(backend.totals(), 49);
    assert!(trial.check_now(&number(70), 1).decision.is_allowed());
    assert!(!trial.check_now(&number(71), 1).decision.is_allowed());
}

#[test]
fn total_of_several_quotas_is_never_admitted_uncounted() {
    let (clock, _) = backend(1);
    let one = NonZeroUsize::new(1).expect("not 0");
    let builder = MemoryBackend::builder().max_totals(one).clock(clock);
    let policy = Policy::new("trial", Quota::per_hour(9)).and("total", Quota::total(5));
    let limiter = Limiter::new(policy.clone(), builder.build());
    let (ann, bob) = (number(1), number(2));
    let mut receipt = limiter.check_now(&ann, 2).receipt.expect("allowed");
    let denied = limiter.check_now(&bob, 2).decision;
    assert_eq!(denied.denial_reason(), Some(DenialReason::TooManyTotals));
    assert_eq!(
        denied.snapshot().quotas()[0].remaining(),
        9,
        "nothing was charged"
    );
    let _ = limiter
        .backend()
        .decide(Op::Penalize(Cost::ONE), &policy, &bob);
    // A cost of 0 for the total needs no room.
    assert!(
        limiter
            .check_now(&bob, Cost::each([1, 0]))
            .decision
            .is_allowed()
    );
    assert_eq!(limiter.backend().totals(), 1);
    // A whole refund makes room.
    let whole = receipt.take(Cost::new(9));
    let _ = limiter.backend().decide(Op::Refund(whole), &policy, &ann);
    assert_eq!(limiter.backend().totals(), 0);
    assert!(limiter.check_now(&bob, 2).decision.is_allowed());
    assert!(!limiter.check_now(&ann, 2).decision.is_allowed());
}

#[test]
fn forgotten_totals_make_room() {
    let (clock, _) = backend(1);
    let two = NonZeroUsize::new(2).expect("not 0");
    let builder = MemoryBackend::builder().max_totals(two);
    let backend = builder.clock(clock.clone()).build();
    let quota = Quota::total(5).forget_after(HOUR);
    let trial = Limiter::new(Policy::new("trial", quota), backend.clone());
    let remaining = |key: u64| {
        let look = trial.check_now(&number(key), 0).decision;
        look.snapshot().remaining()
    };
    assert!(trial.check_now(&number(0), 5).decision.is_allowed());
    clock.advance(HOUR / 2);
    assert!(trial.check_now(&number(1), 5).decision.is_allowed());
    clock.advance(HOUR / 2 - Duration::from_micros(1));
    assert_eq!(remaining(0), 0);
    clock.advance(Duration::from_micros(1));
    assert_eq!((remaining(0), remaining(1)), (5, 0));
    // The entry may be in another shard. A few shards are searched after each denial.
    let mut tries = 0..1_000;
    assert!(
        tries.any(|_| trial.check_now(&number(2), 1).decision.is_allowed()),
        "one was forgotten"
    );
    assert!(!tries.any(|_| trial.check_now(&number(3), 1).decision.is_allowed()));
}

#[test]
fn immediate_forms_decide_as_operations_do() {
    let clock = ManualClock::at(Timestamp::from_micros(1_000_000));
    let backend = || MemorySemaphore::builder().clock(clock.clone()).build();
    let (asked, immediate) = (backend(), backend());
    let policy = SemaphorePolicy::new("p", 3);
    let key = Key::from("ann");
    let id = |number: u8| PermitId::from_bytes([number; 16]);
    let ask = |op| match PermitBackend::ask(&asked, op, &policy, &key) {
        Answer::Now(Ok(reply)) => reply,
        _ => panic!("an answer in memory is immediate"),
    };
    for (number, weight) in [(1, 1), (2, 2), (3, 1), (4, 4), (5, 0), (1, 1)] {
        let id = id(number);
        let numbers = immediate.acquire_now(id, weight, &policy, &key);
        let reply = ask(PermitOp::Acquire { id, weight });
        assert_eq!(numbers.as_ref(), reply.decision.snapshot().quotas().first());
        clock.advance(Duration::from_secs(1));
    }
    for number in [3, 1, 1, 2, 2] {
        let reply = ask(PermitOp::Release(id(number)));
        let released = immediate.release_now(id(number), &policy, &key);
        assert_eq!(released.as_ref(), reply.lasting().first());
        assert_eq!(immediate.held(), asked.held());
    }
    assert_eq!((immediate.keys(), asked.keys()), (0, 0));
}

/// The first total has ended. It is removed while room for the second one is reserved.
#[test]
fn totals_of_one_policy_are_counted_once_each() {
    let (clock, backend) = backend(100);
    let first = Policy::new("two", Quota::total(5).forget_after(HOUR));
    let both = first.clone().and("other", Quota::total(5));
    for key in 0..20 {
        assert!(
            Limiter::new(first.clone(), backend.clone())
                .check_now(&number(key), 1)
                .decision
                .is_allowed()
        );
    }
    clock.advance(HOUR);
    let limiter = Limiter::new(both.clone(), backend.clone());
    for key in 0..20 {
        assert!(limiter.check_now(&number(key), 1).decision.is_allowed());
    }
    assert_eq!(backend.totals(), 40);
    for key in 0..20 {
        let _ = backend.decide(Op::Reset, &both, &number(key));
    }
    assert_eq!(backend.totals(), 0);
}

#[test]
fn cut_of_a_total_is_a_write_after_which_it_is_kept() {
    let second = Duration::from_secs(1);
    let total = |limit| {
        let quota = Quota::total(limit).forget_after(10 * second);
        Policy::new("credit", quota)
    };
    for several in [false, true] {
        let (clock, backend) = backend(100);
        let policy = |limit| match several {
            true => total(limit).and("day", Quota::per_day(100)),
            false => total(limit),
        };
        let old = Limiter::new(policy(10), backend);
        let lowered = old.with_policy(&policy(2));
        assert!(old.check_now("ann", 8).decision.is_allowed());
        clock.advance(6 * second);
        assert!(!lowered.check_now("ann", 1).decision.is_allowed()); // 8 become 4
        clock.advance(6 * second);
        // An operation that may add a total removes those that have ended.
        let penalize = Op::Penalize(Cost::ONE);
        let reply = lowered
            .backend()
            .decide(penalize, lowered.policy(), &Key::from("ann"));
        assert_eq!(reply.decision.snapshot().quotas()[0].remaining, 0);
        clock.advance(11 * second);
        assert!(lowered.check_now("ann", 2).decision.is_allowed());
    }
}
