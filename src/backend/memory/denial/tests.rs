use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::backend::MemoryBackend;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::decision::{
    Capacity, Decision, FixedWindowState, IntervalBucketState, Reply, RetryAfter,
    SlidingWindowState, StoredState, TokenBucketState,
};
use crate::key::Key;
use crate::limiter::Limiter;
use crate::policy::Policy;
use crate::quota::Quota;

const HOUR: Duration = Duration::from_secs(3_600);

const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

type Memory = MemoryBackend<ManualClock>;

fn quotas() -> [Quota; 5] {
    [
        Quota::per_hour(4),
        Quota::interval_bucket(4, 4, HOUR),
        Quota::fixed_window(4, HOUR),
        Quota::sliding_window(4, HOUR),
        Quota::sliding_log(4, HOUR),
    ]
}

/// A limiter whose only key has one of four tokens left, and its clock. A cost of 2 was denied three times.
fn denied(quota: Quota) -> (ManualClock, Limiter<Memory>, Reply) {
    let clock = ManualClock::at(START);
    let one_shard = NonZeroUsize::new(100).expect("not 0");
    let backend = MemoryBackend::builder()
        .max_keys(one_shard)
        .clock(clock.clone())
        .build();
    let limiter = Limiter::new(Policy::new("api", quota), backend);
    let charged = limiter.check_now("ann", 3);
    assert!(charged.decision.is_allowed());
    for _ in 0..3 {
        assert_eq!(remaining(&limiter.check_now("ann", 2)), (false, 1));
    }
    (clock, limiter, charged)
}

fn remaining(reply: &Reply) -> (bool, u64) {
    let decision = &reply.decision;
    (decision.is_allowed(), decision.snapshot().remaining())
}

fn ask<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).expect("memory answers at once")
}

#[test]
fn third_denial_takes_no_lock_and_has_the_numbers_of_its_time() {
    for quota in &quotas()[..4] {
        let (clock, limiter, _) = denied(*quota);
        let wait = |decision| match decision {
            Decision::Deny(_, RetryAfter::In(wait)) => wait,
            decision => panic!("{decision:?}"),
        };
        let before = wait(limiter.check_now("ann", 2).decision);
        clock.advance(Duration::from_secs(1));
        let shards = &limiter.backend().0.shards;
        let locks: Vec<_> = shards.iter().map(|cell| cell.lock_for_check()).collect();
        let (send, answer) = mpsc::channel();
        let other = limiter.clone();
        thread::spawn(move || {
            let decision = other.check_now("ann", 2).decision;
            let _ = send.send(decision);
        });
        let decision = answer.recv_timeout(Duration::from_secs(20));
        let decision = decision.expect("an answer without the lock");
        drop(locks);
        assert_eq!(before - wait(decision), Duration::from_secs(1), "{quota}");
    }
}

/// Each change starts from a published denial with one token left. A stale one would show that token.
#[test]
fn changes_withdraw_a_published_denial() {
    let ann = Key::from("ann");
    for quota in quotas() {
        let check = |limiter: &Limiter<Memory>, cost| remaining(&limiter.check_now("ann", cost));

        let (_, limiter, _) = denied(quota);
        assert_eq!(check(&limiter, 1), (true, 0), "{quota}");
        assert_eq!(check(&limiter, 2), (false, 0), "{quota}");

        let (_, limiter, _) = denied(quota);
        let _ = ask(limiter.reset(&ann));
        assert_eq!(check(&limiter, 2), (true, 2), "{quota}");

        let (_, limiter, charged) = denied(quota);
        let mut receipt = charged.receipt.expect("an allowed check");
        let _ = ask(limiter.refund(&ann, &mut receipt, 3));
        assert_eq!(check(&limiter, 2), (true, 2), "{quota}");

        let (_, limiter, _) = denied(quota);
        let _ = ask(limiter.penalize(&ann, 1));
        assert_eq!(check(&limiter, 2), (false, 0), "{quota}");

        let (clock, limiter, _) = denied(quota);
        clock.advance(2 * HOUR);
        assert_eq!(check(&limiter, 2), (true, 2), "{quota}");

        // A policy of the same name with a second quota.
        let (_, limiter, _) = denied(quota);
        let policy = Policy::new("api", quota).and("day", Quota::per_day(9));
        assert!(check(&limiter.with_policy(&policy), 1).0, "{quota}");
        assert_eq!(check(&limiter, 2), (false, 0), "{quota}");
    }
}

#[test]
fn every_tier_of_a_published_denial_gets_its_own_answer() {
    let (_, limiter, _) = denied(Quota::per_hour(4));
    let paid = limiter.with_policy(&Policy::new("api", Quota::per_hour(10)));
    assert_eq!(remaining(&paid.check_now("ann", 8)), (false, 7));
    assert_eq!(remaining(&paid.check_now("ann", 2)), (true, 5));
}

/// A clock with one late reading: that of a thread that was descheduled after it.
#[derive(Clone)]
struct LateClock {
    clock: ManualClock,
    is_late: Arc<AtomicBool>,
}

impl Clock for LateClock {
    type Sleep = <ManualClock as Clock>::Sleep;

    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        if self.is_late.swap(false, SeqCst) {
            return Timestamp::from_micros(now.as_micros() - 1_000);
        }
        now
    }

    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep {
        self.clock.sleep_until(deadline)
    }
}

#[test]
fn late_reading_is_taken_again() {
    for quota in quotas() {
        let clock = LateClock {
            clock: ManualClock::at(START),
            is_late: Arc::default(),
        };
        let backend = MemoryBackend::builder().clock(clock.clone()).build();
        let limiter = Limiter::new(Policy::new("api", quota), backend);
        assert!(limiter.check_now("ann", 3).decision.is_allowed());
        let in_time: Vec<_> = (0..3)
            .map(|_| limiter.check_now("ann", 2).decision)
            .collect();
        clock.is_late.store(true, SeqCst);
        let late = limiter.check_now("ann", 2).decision;
        assert_eq!(late, in_time[2], "{quota}");
        assert!(!clock.is_late.load(SeqCst), "the late reading was used");
    }
}

#[test]
fn states_equal_themselves_as_words() {
    let most = (1 << 48) - 1;
    let states = [
        StoredState::TokenBucket(TokenBucketState {
            grains: u64::MAX,
            at: -1,
            per_token: 3,
            capacity: Capacity::new(most),
        }),
        StoredState::IntervalBucket(IntervalBucketState {
            tokens: 7,
            anchor: i64::MIN,
            capacity: u64::MAX,
        }),
        StoredState::FixedWindow(FixedWindowState {
            start: -9,
            used: u64::MAX,
        }),
        StoredState::CalendarWindow(FixedWindowState { start: 1, used: 2 }),
        StoredState::SlidingWindow(SlidingWindowState {
            start: 9,
            current: 1,
            previous: 2,
        }),
    ];
    for state in states {
        let words = state.to_words().expect("a state of fixed size");
        assert_eq!(StoredState::from_words(words), Some(state));
    }
    assert_eq!(StoredState::from_words([0; 4]), None);
}
