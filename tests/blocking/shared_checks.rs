//! Checks that hold for every backend, blocking or not.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::Runtime;
use tower_sluice::backend::{self, Reply};
use tower_sluice::blocking;
use tower_sluice::decision::DenialReason;
use tower_sluice::{Cost, Key, Policy, Quota, Receipt, Reservation, Snapshot};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A policy of each kind of quota, and two of several quotas. No token refills during a test.
pub(crate) fn policies() -> Vec<Policy> {
    let bucket = Quota::per_day(1).burst(10);
    vec![
        Policy::new("bucket", bucket),
        Policy::new("late", bucket.initial_tokens(5)),
        Policy::new("steps", Quota::interval_bucket(10, 1, DAY)),
        Policy::new("fixed", Quota::fixed_window(10, 1_000 * DAY)),
        Policy::new("sliding", Quota::sliding_window(10, 1_000 * DAY)),
        Policy::new("log", Quota::sliding_log(10, DAY)),
        Policy::new("buckets", bucket).and("slow", Quota::interval_bucket(12, 1, DAY)),
        Policy::new("mixed", bucket).and("daily", Quota::sliding_log(12, DAY)),
    ]
}

/// A limiter, blocking or asynchronous, whose backend must not fail.
pub(crate) trait AnyLimiter {
    fn check(&self, key: &Key, cost: u64) -> Reply;
    fn reserve(&self, key: &Key, cost: u64, max_wait: Duration) -> Reply;
    fn cancel(&self, key: &Key, reservation: Reservation) -> bool;
    fn peek(&self, key: &Key) -> Snapshot;
    fn refund(&self, key: &Key, receipt: &mut Receipt, cost: u64) -> Snapshot;
    fn penalize(&self, key: &Key, cost: u64) -> Snapshot;
    fn reset(&self, key: &Key) -> Snapshot;
    fn acquire_up_to(&self, key: &Key, most: u64) -> Option<u64>;
    fn block(&self, key: &Key, duration: Duration);
    fn unblock(&self, key: &Key);
    fn is_blocked(&self, key: &Key) -> bool;
}

fn answer<T, E: Debug>(answer: Result<T, E>) -> T {
    answer.expect("an answer")
}

impl<B: blocking::BlockingBackend> AnyLimiter for blocking::Limiter<B> {
    fn check(&self, key: &Key, cost: u64) -> Reply {
        answer(self.check(key, cost))
    }

    fn reserve(&self, key: &Key, cost: u64, max_wait: Duration) -> Reply {
        answer(self.reserve(key, cost, max_wait))
    }

    fn cancel(&self, key: &Key, reservation: Reservation) -> bool {
        answer(self.cancel(key, reservation))
    }

    fn peek(&self, key: &Key) -> Snapshot {
        answer(self.peek(key))
    }

    fn refund(&self, key: &Key, receipt: &mut Receipt, cost: u64) -> Snapshot {
        answer(self.refund(key, receipt, cost))
    }

    fn penalize(&self, key: &Key, cost: u64) -> Snapshot {
        answer(self.penalize(key, cost))
    }

    fn reset(&self, key: &Key) -> Snapshot {
        answer(self.reset(key))
    }

    fn acquire_up_to(&self, key: &Key, most: u64) -> Option<u64> {
        let (tokens, charge) = self.try_acquire_up_to(key, most).ok()?;
        assert_eq!(charge.estimate(), Some(Cost::new(tokens)));
        Some(tokens)
    }

    fn block(&self, key: &Key, duration: Duration) {
        answer(self.block(key, duration));
    }

    fn unblock(&self, key: &Key) {
        answer(self.unblock(key));
    }

    fn is_blocked(&self, key: &Key) -> bool {
        answer(self.is_blocked(key))
    }
}

/// The asynchronous limiter, awaited.
pub(crate) struct Awaited<'a, B> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) limiter: tower_sluice::Limiter<B>,
}

impl<B> Awaited<'_, B> {
    fn wait<T, E: Debug>(&self, future: impl Future<Output = Result<T, E>>) -> T {
        answer(self.runtime.block_on(future))
    }
}

impl<B: backend::Backend> AnyLimiter for Awaited<'_, B> {
    fn check(&self, key: &Key, cost: u64) -> Reply {
        self.wait(self.limiter.check(key, cost))
    }

    fn reserve(&self, key: &Key, cost: u64, max_wait: Duration) -> Reply {
        self.wait(self.limiter.reserve(key, cost, max_wait))
    }

    fn cancel(&self, key: &Key, reservation: Reservation) -> bool {
        self.wait(self.limiter.cancel(key, reservation))
    }

    fn peek(&self, key: &Key) -> Snapshot {
        self.wait(self.limiter.peek(key))
    }

    fn refund(&self, key: &Key, receipt: &mut Receipt, cost: u64) -> Snapshot {
        self.wait(self.limiter.refund(key, receipt, cost))
    }

    fn penalize(&self, key: &Key, cost: u64) -> Snapshot {
        self.wait(self.limiter.penalize(key, cost))
    }

    fn reset(&self, key: &Key) -> Snapshot {
        self.wait(self.limiter.reset(key))
    }

    fn acquire_up_to(&self, key: &Key, most: u64) -> Option<u64> {
        let acquired = self.limiter.try_acquire_up_to(key, most);
        let (tokens, charge) = self.runtime.block_on(acquired).ok()?;
        assert_eq!(charge.estimate(), Some(Cost::new(tokens)));
        Some(tokens)
    }

    fn block(&self, key: &Key, duration: Duration) {
        self.wait(self.limiter.block(key, duration));
    }

    fn unblock(&self, key: &Key) {
        self.wait(self.limiter.unblock(key));
    }

    fn is_blocked(&self, key: &Key) -> bool {
        self.wait(self.limiter.is_blocked(key))
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// The outcome of an operation apart from times: whether it was allowed or refunded, the remaining tokens, and whether
/// there is a receipt, a reservation or a wait.
type Reported = (bool, Vec<u64>, [bool; 3]);

fn of_reply(reply: &Reply) -> Reported {
    let holds = [
        reply.receipt.is_some(),
        reply.reservation.is_some(),
        !reply.wait.is_zero(),
    ];
    let (_, remaining, _) = of_snapshot(reply.decision.snapshot());
    (reply.decision.is_allowed(), remaining, holds)
}

fn of_snapshot(snapshot: &Snapshot) -> Reported {
    let quotas = snapshot.quotas().iter();
    (
        true,
        quotas.map(|quota| quota.remaining()).collect(),
        [false; 3],
    )
}

/// Runs every operation on a new key. The limiters, which share the state, take turns.
pub(crate) fn every_operation(limiters: &[&dyn AnyLimiter], key: &Key) -> Vec<Reported> {
    let mut reservations = limiters.iter().cycle();
    let mut next = || *reservations.next().expect("at least one");
    let mut reported = Vec::new();
    let mut first = next().check(key, 4);
    reported.push(of_reply(&first));
    let receipt = first.receipt.as_mut().expect("allowed");
    // No refund exceeds the charge.
    for _ in 0..3 {
        reported.push(of_snapshot(&next().refund(key, receipt, 3)));
    }
    reported.push(of_snapshot(&next().penalize(key, 2)));
    for cost in [20, 9, 0, 1] {
        reported.push(of_reply(&next().check(key, cost)));
        reported.push(of_snapshot(&next().peek(key)));
    }
    let mut reserved = next().reserve(key, 8, 30 * DAY);
    reported.push(of_reply(&reserved));
    if let Some(reservation) = reserved.reservation.take() {
        reported.push((next().cancel(key, reservation), Vec::new(), [false; 3]));
    }
    // Waiters that leave from the front: the last cancel returns all charges.
    let mut crowd: Vec<_> = (0..5).map(|_| next().reserve(key, 1, 30 * DAY)).collect();
    for reserved in &mut crowd {
        if let Some(reservation) = reserved.reservation.take() {
            reported.push((next().cancel(key, reservation), Vec::new(), [false; 3]));
        }
    }
    reported.push(of_snapshot(&next().peek(key)));
    reported.push(of_reply(&next().reserve(key, 8, HOUR)));
    reported.push(of_snapshot(&next().penalize(key, 15)));
    reported.push(of_reply(&next().check(key, 1)));
    reported.push(of_snapshot(&next().reset(key)));
    reported.push(of_reply(&next().check(key, 5)));
    // The smallest quota has five tokens left.
    for expected in [Some(2), Some(3), None] {
        let most = if expected == Some(2) { 2 } else { 9 };
        let taken = next().acquire_up_to(key, most);
        // A bucket that starts below its capacity has less.
        assert!(taken == expected || taken.is_none(), "{taken:?}");
        let tokens = taken.into_iter().collect();
        reported.push((taken.is_some(), tokens, [false; 3]));
    }
    for limiter in [next(), next()] {
        limiter.block(key, HOUR);
        assert!(next().is_blocked(key) && next().is_blocked(key));
        reported.push(of_snapshot(&next().reset(key)));
        let denied = next().check(key, 1).decision;
        assert_eq!(denied.denial_reason(), Some(DenialReason::Blocked));
        assert_eq!(next().acquire_up_to(key, 9), None);
        next().unblock(key);
        assert!(!next().is_blocked(key));
        reported.push(of_reply(&next().check(key, 1)));
    }
    reported
}

/// Waiters that leave from the front: only the last cancel refunds at once, and then nothing is left of the other
/// charges.
pub(crate) fn assert_waiters_leave_no_debt<B: backend::BlockingBackend>(backend: &B) {
    let policy = Policy::new("crowd", Quota::per_hour(2));
    let (limiter, key) = (
        blocking::Limiter::new(policy, backend.clone()),
        Key::from("crowd"),
    );
    let answer = |reply: Result<Reply, B::Error>| reply.expect("the backend replies");
    assert!(answer(limiter.check(&key, 2)).decision.is_allowed());
    let reservations: Vec<_> = (0..20)
        .map(|_| answer(limiter.reserve(&key, 1, 30 * DAY)).reservation)
        .collect();
    let owed = || {
        limiter
            .peek(&key)
            .expect("the backend replies")
            .reset_after()
    };
    assert!(owed() > 10 * HOUR);
    let returned: Vec<_> = reservations
        .into_iter()
        .map(|reservation| {
            limiter
                .cancel(&key, reservation.expect("the request waits"))
                .expect("the backend replies")
        })
        .collect();
    let expected: Vec<_> = (0..20).map(|number| number == 19).collect();
    assert_eq!(returned, expected);
    // A few minutes may have passed on a busy machine.
    assert!(owed() <= HOUR && owed() > HOUR / 2, "{:?}", owed());
}
