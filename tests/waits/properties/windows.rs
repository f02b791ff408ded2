//! Waiters before windows.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tower_sluice::clock::{Clock, Timestamp};
use tower_sluice::limiter::Rejected;
use tower_sluice::{Decision, Policy, Quota, RetryAfter};

use super::{KEYS, Model, STEPS, Step, for_all, key, least_limit, peek, step, tokens};
use crate::executor::us;
use crate::property::Coverage;
use crate::queue::TestQueue;

fn with_a_window() -> impl Strategy<Value = (Policy, u64)> {
    let parts = (1..=6_u64, 1..=500_u64, 0..4_u8, 1..=6_u64, 1..=100_u64);
    parts.prop_map(|(limit, window, kind, refill, period)| {
        let quota = match kind {
            0 => Quota::fixed_window(limit, us(window)),
            1 => Quota::sliding_window(limit, us(window)),
            2 => Quota::sliding_log(limit, us(window)),
            _ => Quota::token_bucket(limit, refill, us(period)),
        };
        let policy = Policy::new("window", quota);
        let policy = match kind {
            3 => policy.and("log", Quota::sliding_log(limit, us(window))),
            _ => policy,
        };
        (policy, window)
    })
}

/// A waiter in a queue.
struct QueuedWaiter {
    key: usize,
    asked: Timestamp,
    cost: u64,
    max_wait: Duration,
}

#[test]
fn dropped_window_waiters_leave_a_correct_queue() {
    let case = with_a_window()
        .prop_flat_map(|(policy, span)| (Just(policy), vec(step(span), 1..=STEPS), any::<u64>()));
    let coverage = for_all(case, |(policy, steps, seed), coverage| {
        let mut queue = TestQueue::of(&policy).in_disorder(seed);
        let mut models: [Model; KEYS] = std::array::from_fn(|_| Model::of(&policy));
        let mut queued: BTreeMap<usize, QueuedWaiter> = BTreeMap::new();
        let mut last = [0; KEYS];
        for step in steps {
            let now = queue.clock.now();
            match step {
                Step::Join {
                    key: number,
                    cost,
                    max_wait,
                } => {
                    let (cost, max_wait) = (tokens(cost, least_limit(&policy)), us(max_wait));
                    let wait = queue.wait_for(&key(number), cost, max_wait);
                    let waiter = queue.executor.join(wait);
                    coverage.note("joined");
                    queued.insert(
                        waiter,
                        QueuedWaiter {
                            key: number,
                            asked: now,
                            cost,
                            max_wait,
                        },
                    );
                }
                Step::Leave(_) | Step::LeaveLast | Step::LeaveLate(..) => {
                    let waiting = queue.executor.waiting();
                    let waiter = match &step {
                        Step::Leave(index) if !waiting.is_empty() => *index.get(&waiting),
                        Step::LeaveLast if !waiting.is_empty() => waiting[waiting.len() - 1],
                        // The first waiter of any queue.
                        Step::LeaveLate(..) if !waiting.is_empty() => waiting[0],
                        _ => continue,
                    };
                    prop_assert!(queue.executor.leave(waiter));
                    queued.remove(&waiter);
                    coverage.note("left");
                    queue.executor.run();
                }
                Step::Pass(span) => queue.executor.until(queue.clock.passed() + us(span)),
                Step::Check { key: number, cost } => {
                    let cost = tokens(cost, least_limit(&policy));
                    let allowed = models[number].check(now, cost).is_allowed();
                    let backend = queue.limiter.backend();
                    prop_assert_eq!(backend.check(&policy, &key(number), cost), allowed);
                }
            }
            ended_waiters(&mut queue, &mut queued, &mut models, &mut last, coverage)?;
            let now = queue.clock.now();
            for (number, models) in models.iter().enumerate() {
                let look = models.look(now);
                prop_assert_eq!(&peek(&queue, number), look.snapshot());
                // The queue head waits only for missing tokens.
                if let Some(first) = queued.values().find(|own| own.key == number) {
                    let decision = models.clone().check(now, first.cost);
                    prop_assert!(!decision.is_allowed());
                }
            }
            prop_assert_eq!(queue.waiting(), queued.len());
        }
        // No waiter stays longer than its maximum wait.
        let ends = queued.values().map(|own| own.asked.after(own.max_wait));
        if let Some(end) = ends.max() {
            queue
                .executor
                .until(us(end.as_micros() - crate::executor::START));
        }
        ended_waiters(&mut queue, &mut queued, &mut models, &mut last, coverage)?;
        prop_assert!(queued.is_empty() && queue.executor.waiting().is_empty());
        prop_assert_eq!(queue.waiting(), 0);
        Ok(())
    });
    coverage.at_least(10_000, &["joined"]);
    coverage.at_least(400, &["waited", "at once", "denied", "given up", "left"]);
    coverage.at_least(40, &["overtakes"]);
}

/// Waiters that were served in order, and waiters that were denied correctly.
fn ended_waiters(
    queue: &mut TestQueue,
    queued: &mut BTreeMap<usize, QueuedWaiter>,
    models: &mut [Model; KEYS],
    last: &mut [usize; KEYS],
    coverage: &Coverage,
) -> TestCaseResult {
    let limit = least_limit(queue.limiter.policy());
    for ended in queue.executor.ended.drain(..) {
        let own = queued
            .remove(&ended.waiter)
            .expect("the request is allowed");
        let at = Timestamp::from_micros(crate::executor::START).after(ended.at);
        let waited = us(at.micros_since(own.asked));
        prop_assert!(waited <= own.max_wait, "{:?}", waited);
        let stands = 0 < own.cost && own.cost <= limit && !own.max_wait.is_zero();
        match ended.outcome {
            Ok(charge) => {
                prop_assert_eq!(charge.waited(), waited);
                let mut in_front = queued.range(..ended.waiter).map(|(_, first)| first);
                let first = in_front.find(|first| first.key == own.key);
                if let Some(first) = first.filter(|_| stands && waited.is_zero()) {
                    // It overtakes only a wait that was impossible.
                    let first = models[own.key].clone().check(at, first.cost);
                    let Some(RetryAfter::In(wait)) = first.retry_after() else {
                        return Err(TestCaseError::fail(format!("{first:?}")));
                    };
                    prop_assert!(wait > own.max_wait, "{:?}", wait);
                    coverage.note("overtakes");
                }
                // The tokens that all other requests have left are sufficient.
                let decision = models[own.key].check(at, own.cost);
                prop_assert_eq!(charge.decision(), Some(decision));
                if stands && !waited.is_zero() && waited < own.max_wait {
                    prop_assert!(ended.waiter >= last[own.key], "out of order");
                    last[own.key] = ended.waiter;
                }
                coverage.note(if waited.is_zero() {
                    "at once"
                } else {
                    "waited"
                });
            }
            Err(Rejected::Denied(Decision::Deny(_, RetryAfter::In(wait)))) => {
                let left = own.max_wait - waited;
                // The reported wait may be one that it could have waited, but only by overtaking.
                let mut in_front = queued.range(..ended.waiter).map(|(_, first)| first);
                let is_behind = in_front.any(|first| first.key == own.key);
                prop_assert!(wait > left || is_behind, "{:?} of {:?}", wait, left);
                coverage.note(if waited.is_zero() {
                    "denied"
                } else {
                    "given up"
                });
            }
            Err(Rejected::Denied(Decision::Deny(_, RetryAfter::Never))) => {
                prop_assert!(own.cost > limit && waited.is_zero());
            }
            Err(other) => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }
    Ok(())
}
