//! Reservations: under buckets only, the time of each waiter is fixed when it joins.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tower_sluice::{Cost, MaxWait, Policy, Quota, RetryAfter};

use crate::executor::{denied, ms, retry_after, secs, us};
use crate::queue::TestQueue;

/// The time of the `k`-th token of a quota, counted from 1, if each token is spent at once.
type Schedule = fn(u64) -> Duration;

/// Policies of buckets with five tokens at once and five a second, and the schedules of their tokens.
fn at_five_a_second() -> [(Policy, Schedule); 3] {
    let steadily: Schedule =
        |k| ms(200) * u32::try_from(k.saturating_sub(5)).expect("a small number");
    let by_ticks: Schedule = |k| secs(k.saturating_sub(5).div_ceil(5));
    // Ten more tokens at a third of a second each are the longer wait from the 15th token on.
    let by_both: Schedule = |k| {
        let thirds = us((k.saturating_sub(10) * 1_000_000).div_ceil(3));
        thirds.max(ms(200) * u32::try_from(k.saturating_sub(5)).expect("a small number"))
    };
    [
        (Policy::new("steady", Quota::per_second(5)), steadily),
        (
            Policy::new("ticks", Quota::interval_bucket(5, 5, secs(1))),
            by_ticks,
        ),
        (
            Policy::new("both", Quota::per_second(5)).and("more", Quota::per_second(3).burst(10)),
            by_both,
        ),
    ]
}

#[test]
fn hundred_waiters_are_served_at_the_refill_rate() {
    for (policy, schedule) in at_five_a_second() {
        let mut queue = TestQueue::of(&policy);
        queue.join_all(100);
        assert_eq!(queue.waiting(), queue.executor.waiting().len());
        queue.executor.until(secs(40));
        assert_eq!(queue.executor.ended.len(), 100);
        for (index, ended) in queue.executor.ended.iter().enumerate() {
            let moment = schedule(index as u64 + 1);
            assert_eq!((ended.waiter, ended.at), (index, moment), "{policy:?}");
            let charge = ended.outcome.as_ref().expect("without bound");
            assert_eq!(charge.waited(), moment);
        }
        assert_eq!(queue.waiting(), 0);
    }
}

/// A constant number of requests waits: each one asks again as soon as it is allowed.
#[test]
fn permanent_waiters_lose_and_create_no_token() {
    for (policy, schedule) in at_five_a_second() {
        let mut queue = TestQueue::of(&policy);
        for _ in 0..8 {
            queue.join(1, secs(5));
        }
        let mut proceeded: Vec<Duration> = Vec::new();
        for step in (0..60_000).step_by(10) {
            while let Some(ended) = queue.executor.ended.pop() {
                ended.outcome.expect("the reservation is due within 5 s");
                proceeded.push(ended.at);
                queue.join(1, secs(5));
            }
            // A check without a wait is always denied: the waiters get every token.
            let passer = queue.check(1);
            assert!(!passer.decision.is_allowed(), "{step} ms");
            queue.executor.until(ms(step + 10));
        }
        assert!(proceeded.is_sorted());
        assert!(proceeded.len() >= 180, "{}", proceeded.len());
        for (index, at) in proceeded.iter().enumerate() {
            assert_eq!(*at, schedule(index as u64 + 1), "{index} of {policy:?}");
        }
        assert!(
            schedule(proceeded.len() as u64 + 1) >= secs(60),
            "{policy:?}"
        );
    }
}

#[test]
fn repeated_checks_without_waiting_get_the_full_rate() {
    for (policy, schedule) in at_five_a_second() {
        let mut queue = TestQueue::of(&policy);
        let mut proceeded = 0;
        for step in 0..20_000_u64 {
            queue.clock.jump(ms(step));
            while queue.at_once(1, MaxWait::NONE).is_ok() {
                proceeded += 1;
                assert!(schedule(proceeded) <= ms(step));
                // It checks every millisecond.
                assert!(
                    ms(step) < schedule(proceeded) + ms(1),
                    "{proceeded} of {policy:?}"
                );
            }
            assert!(schedule(proceeded + 1) > ms(step));
        }
    }
}

#[test]
fn waiters_are_served_in_order_of_arrival_at_any_cost() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let policy = Policy::new("steady", Quota::per_second(5));
        let mut queue = TestQueue::of(&policy).in_disorder(seed);
        let (mut asked, mut free, mut moments) = (0, 0_u64, Vec::new());
        for _ in 0..100 {
            asked += random.random_range(0..100_000);
            let cost = random.random_range(1..=5);
            queue.executor.until(us(asked));
            queue.join(cost, MaxWait::Unbounded);
            // All charges are refilled at `free`. A full bucket forgets its debt, up to a second back.
            free = free.max(asked) + cost * 200_000;
            moments.push(us(free.saturating_sub(1_000_000).max(asked)));
        }
        queue.executor.until(secs(120));
        let mut ended: Vec<_> = queue
            .executor
            .ended
            .iter()
            .map(|e| (e.waiter, e.at))
            .collect();
        assert_eq!(ended.len(), 100);
        ended.sort_by_key(|(waiter, _)| *waiter);
        assert!(ended.is_sorted_by_key(|(_, at)| *at));
        for ((_, at), moment) in ended.iter().zip(&moments) {
            assert_eq!(at, moment);
        }
    }
}

#[test]
fn request_beyond_max_wait_is_denied_at_once_and_not_charged() {
    for (policy, schedule) in at_five_a_second() {
        for ahead in [5, 6, 9, 14, 15, 16, 40] {
            let mut queue = TestQueue::of(&policy);
            queue.clock.jump(us(1));
            queue.join_all(ahead);
            let reservation = schedule(ahead + 1);
            let before = queue.state();
            for short in [us(1), reservation / 2, reservation - us(1), reservation] {
                let rejected = queue.at_once(1, reservation - short);
                assert_eq!(retry_after(&rejected), reservation, "{policy:?}");
                assert_eq!(denied(&rejected).snapshot().remaining(), 0);
            }
            assert_eq!(
                (queue.state(), queue.waiting()),
                (before, queue.executor.waiting().len())
            );
            // A maximum wait that is exact to the microsecond.
            let waiter = queue.join(1, reservation);
            assert!(queue.executor.waits(waiter));
            queue.executor.until(us(1) + reservation - us(1));
            assert!(queue.executor.waits(waiter), "not a microsecond early");
            queue.executor.until(us(1) + reservation);
            assert!(!queue.executor.waits(waiter));
        }
    }
}

#[test]
fn retry_after_of_a_denial_is_exact() {
    for (policy, _) in at_five_a_second() {
        let mut queue = TestQueue::of(&policy);
        queue.join_all(12);
        let wait = retry_after(&queue.at_once(3, us(1)));
        queue.executor.until(wait - us(1));
        assert_eq!(retry_after(&queue.at_once(3, MaxWait::NONE)), us(1));
        queue.executor.until(wait);
        queue
            .at_once(3, MaxWait::NONE)
            .expect("the reservation is due");
    }
}

#[test]
fn no_wait_is_a_check() {
    for none in [
        MaxWait::NONE,
        MaxWait::within(Duration::ZERO),
        Duration::ZERO.into(),
    ] {
        for (policy, _) in at_five_a_second() {
            let mut queue = TestQueue::of(&policy);
            for left in (0..5).rev() {
                let charge = queue.at_once(1, none).expect("it must exist");
                assert_eq!(charge.waited(), Duration::ZERO);
                assert_eq!(queue.state().0, left);
            }
            let models = queue.state();
            let rejected = queue.at_once(1, none);
            let check = queue.check(1).decision;
            assert_eq!(*denied(&rejected), check);
            assert_eq!(queue.state(), models);
        }
    }
}

#[test]
fn unbounded_wait_waits_as_long_as_needed() {
    let mut queue = TestQueue::of(&Policy::new("slow", Quota::per_day(1)));
    queue.join_all(400);
    queue.executor.until(secs(399 * 86_400) - us(1));
    assert_eq!(queue.executor.waiting(), [399]);
    queue.executor.until(secs(399 * 86_400));
    let last = queue
        .executor
        .ended
        .pop()
        .expect("the reservation is due")
        .outcome;
    assert_eq!(last.expect("no bound").waited(), secs(399 * 86_400));
}

#[test]
fn zero_cost_is_allowed_at_once_despite_waiters() {
    for (policy, _) in at_five_a_second() {
        let mut queue = TestQueue::of(&policy);
        queue.join_all(20);
        let models = queue.state();
        for max_wait in [MaxWait::NONE, MaxWait::within(secs(1)), MaxWait::Unbounded] {
            for nothing in [Cost::ZERO, Cost::each([0, 0, 0])] {
                let charge = queue.at_once(nothing, max_wait).expect("the cost is zero");
                assert_eq!(charge.waited(), Duration::ZERO);
            }
        }
        assert_eq!(queue.state(), models);
    }
}

#[test]
fn cost_above_the_limit_is_denied_for_good_at_once() {
    for (policy, _) in at_five_a_second() {
        for waiters in [0, 20] {
            let mut queue = TestQueue::of(&policy);
            queue.join_all(waiters);
            let models = queue.state();
            for max_wait in [MaxWait::NONE, MaxWait::within(secs(1)), MaxWait::Unbounded] {
                for cost in [6, u64::MAX] {
                    let rejected = queue.at_once(cost, max_wait);
                    assert_eq!(denied(&rejected).retry_after(), Some(RetryAfter::Never));
                }
            }
            assert_eq!(
                (queue.state(), queue.waiting()),
                (models, queue.executor.waiting().len())
            );
        }
    }
    // Denied by one of several quotas.
    let mut queue = TestQueue::of(&at_five_a_second()[2].0);
    let rejected = queue.at_once(Cost::each([1, 11]), MaxWait::Unbounded);
    assert_eq!(denied(&rejected).retry_after(), Some(RetryAfter::Never));
}

/// Five requests were allowed. Three more have reservations 200, 400 and 600 ms from now.
fn three_waiters(policy: &Policy) -> (TestQueue, [usize; 3]) {
    let mut queue = TestQueue::of(policy);
    queue.join_all(5);
    let three = [(); 3].map(|()| queue.join(1, MaxWait::Unbounded));
    queue.executor.ended.clear();
    (queue, three)
}

#[test]
fn last_reservation_is_refunded_on_cancel() {
    for (policy, schedule) in at_five_a_second() {
        let (mut queue, [.., last]) = three_waiters(&policy);
        queue.executor.until(ms(100));
        assert!(queue.executor.leave(last));
        // The next waiter gets its time.
        let next = queue.join(1, MaxWait::Unbounded);
        queue.executor.until(secs(10));
        assert_eq!(
            queue.ended(),
            [
                (5, schedule(6), true),
                (6, schedule(7), true),
                (next, schedule(8), true)
            ],
            "{policy:?}"
        );
    }
}

#[test]
fn reservations_cancelled_from_the_last_are_refunded() {
    for (policy, schedule) in at_five_a_second() {
        let (mut queue, three) = three_waiters(&policy);
        for waiter in three.into_iter().rev() {
            assert!(queue.executor.leave(waiter));
        }
        assert_eq!(queue.waiting(), 0);
        let rejected = queue.at_once(1, us(1));
        assert_eq!(retry_after(&rejected), schedule(6), "{policy:?}");
    }
}

#[test]
fn reservation_followed_by_others_is_not_refunded() {
    for (policy, schedule) in at_five_a_second() {
        let (mut queue, [first, middle, last]) = three_waiters(&policy);
        let models = queue.state();
        assert!(queue.executor.leave(middle));
        assert_eq!(queue.state(), models, "later waiters keep their times");
        let next = queue.join(1, MaxWait::Unbounded);
        queue.executor.until(secs(10));
        let moments = [
            (first, schedule(6), true),
            (last, schedule(8), true),
            (next, schedule(9), true),
        ];
        assert_eq!(queue.ended(), moments, "{policy:?}");
    }
}

/// A waiter that never proceeds spends nothing, even after its time.
#[test]
fn unclaimed_reservation_is_cancelled_after_its_reply() {
    for (policy, _) in at_five_a_second() {
        for late in [us(0), us(1), ms(150)] {
            let (mut queue, [.., last]) = three_waiters(&policy);
            let (without, [.., leaving]) = three_waiters(&policy);
            // The same queue without the last waiter.
            let mut without = without;
            assert!(without.executor.leave(leaving));
            for queue in [&mut queue, &mut without] {
                queue.clock.jump(secs(1) + late);
            }
            assert_ne!(queue.state(), without.state());
            assert!(queue.executor.leave(last));
            assert_eq!(queue.state(), without.state(), "{policy:?}");
            queue.executor.run();
            assert_eq!((queue.executor.ended.len(), queue.waiting()), (2, 0));
        }
    }
}

#[test]
fn waiter_dropped_before_its_check_changes_nothing() {
    for (policy, _) in at_five_a_second() {
        let mut queue = TestQueue::of(&policy);
        queue.join_all(5);
        let models = queue.state();
        for max_wait in [MaxWait::NONE, MaxWait::within(secs(1)), MaxWait::Unbounded] {
            let wait = queue.wait(1, max_wait);
            let waiter = queue.executor.add(wait);
            assert_eq!(queue.waiting(), 0);
            assert!(queue.executor.leave(waiter));
        }
        assert_eq!((queue.state(), queue.waiting()), (models, 0));
    }
}

#[test]
fn charge_stays_once_the_waiter_proceeds() {
    for (policy, schedule) in at_five_a_second() {
        let (mut queue, _) = three_waiters(&policy);
        queue.executor.until(schedule(8));
        assert_eq!(queue.executor.ended.len(), 3);
        let models = queue.state();
        queue.executor.ended.clear();
        assert_eq!(queue.state(), models, "{policy:?}");
    }
}
