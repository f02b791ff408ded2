//! Windows, with and without a bucket: waiters form a queue, and the queue head checks again.

use std::time::Duration;

use futures_util::FutureExt;
use tower_sluice::decision::DenialReason;
use tower_sluice::{Cost, Key, MaxWait, Policy, Quota, RetryAfter};

use crate::executor::{denied, ms, retry_after, secs, us};
use crate::queue::TestQueue;

/// Three tokens in ten seconds, by every policy with a window.
pub(crate) fn three_in_ten_seconds() -> [Policy; 4] {
    let window = Quota::fixed_window(3, secs(10));
    [
        Policy::new("fixed", window),
        Policy::new("counter", Quota::sliding_window(3, secs(10))),
        Policy::new("log", Quota::sliding_log(3, secs(10))),
        Policy::new("mixed", Quota::per_second(1).burst(4)).and("window", window),
    ]
}

pub(crate) fn fixed(limit: u64) -> Policy {
    Policy::new("fixed", Quota::fixed_window(limit, secs(10)))
}

/// `spent` tokens of `policy` are spent, one second after the start.
pub(crate) fn queue_after(spent: u64, policy: &Policy) -> TestQueue {
    let mut queue = TestQueue::of(policy);
    queue.clock.jump(secs(1));
    queue
        .at_once(spent, MaxWait::NONE)
        .expect("the tokens exist");
    queue
}

#[test]
fn only_the_queue_head_checks_and_waiters_are_served_in_order() {
    for policy in three_in_ten_seconds() {
        for seed in 0..20 {
            let mut queue = queue_after(3, &policy).in_disorder(seed);
            queue.join_all(10);
            let asked = queue.limiter.backend().operations();
            let allowed: Vec<_> = asked.iter().map(|asked| asked.is_allowed).collect();
            assert_eq!(allowed, [true, false], "{policy:?}");
            assert_eq!(queue.waiting(), 10);

            queue.executor.until(secs(100));
            let ended = queue.ended();
            let waiter: Vec<_> = ended.iter().map(|(waiter, ..)| *waiter).collect();
            assert_eq!(waiter, Vec::from_iter(1..=10), "{policy:?}");
            assert!(ended.iter().all(|(.., allowed)| *allowed));
            assert_eq!(queue.waiting(), 0);
            // Each waiter checks when it becomes the head, and once more after the reported wait.
            let asked = queue.limiter.backend().operations();
            assert!(asked.iter().all(|asked| asked.what == "check"));
            for two in asked.windows(2) {
                assert!(two[0].is_allowed || two[1].is_allowed, "{two:?}");
            }
            let refusals = asked.iter().filter(|asked| !asked.is_allowed).count();
            assert_eq!(asked.len(), 1 + 10 + refusals);
            if policy == fixed(3) {
                // Three are allowed at each edge, and a fourth learns the next edge.
                assert_eq!(refusals, 1 + 3);
                let at: Vec<_> = ended.iter().map(|(_, at, _)| at.as_secs()).collect();
                assert_eq!(at, [10, 10, 10, 20, 20, 20, 30, 30, 30, 40]);
            }
        }
    }
}

#[test]
fn waiters_end_when_their_key_is_blocked_meanwhile() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(3, &policy);
        queue.join_all(3);
        queue.executor.until(secs(2));
        assert_eq!(queue.waiting(), 3);
        let ann = Key::from("ann");
        let blocked = queue.limiter.block(&ann, secs(3_600)).now_or_never();
        assert_eq!(blocked, Some(Ok(())));
        queue.executor.until(secs(60));
        assert_eq!(queue.executor.ended.len(), 3, "{policy:?}");
        for ended in queue.executor.ended.drain(..) {
            // Not before the time at which the first of them checks again.
            assert!(ended.at <= secs(20), "{policy:?}");
            let denied = denied(&ended.outcome);
            assert_eq!(denied.denial_reason(), Some(DenialReason::Blocked));
            let rest = secs(3_602) - ended.at;
            assert_eq!(denied.retry_after(), Some(RetryAfter::In(rest)));
        }
        let late = queue.at_once(1, MaxWait::Unbounded);
        assert_eq!(denied(&late).denial_reason(), Some(DenialReason::Blocked));
    }
}

#[test]
fn waiter_proceeds_when_its_tokens_exist_and_reports_its_wait() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(3, &policy);
        let mut without = queue_after(3, &policy);
        for _ in 0..10 {
            queue.join(2, MaxWait::Unbounded);
        }
        queue.executor.until(secs(200));
        assert_eq!(queue.executor.ended.len(), 10);
        for ended in queue.executor.ended.drain(..) {
            // At the earliest possible time.
            let wait = retry_after(&without.at_once(2, us(1)));
            without.executor.until(without.clock.passed() + wait);
            without
                .at_once(2, MaxWait::NONE)
                .expect("the request is allowed");
            assert_eq!(ended.at, without.clock.passed(), "{policy:?}");
            let charge = ended.outcome.expect("without bound");
            assert_eq!(charge.waited(), ended.at - secs(1));
        }
    }
}

/// A new waiter joins the end of the queue, even if the tokens suffice for it.
#[test]
fn no_waiter_overtakes_the_queue_head() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(1, &policy);
        let first = queue.join(3, MaxWait::Unbounded);
        let second = queue.join(1, MaxWait::Unbounded);
        assert!(queue.executor.waits(second));
        queue.executor.until(secs(100));
        let waiter: Vec<_> = queue.ended().iter().map(|(waiter, ..)| *waiter).collect();
        assert_eq!(waiter, [first, second], "{policy:?}");
    }
}

#[test]
fn dropped_queue_head_wakes_the_next_waiter() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(1, &policy);
        let first = queue.join(3, MaxWait::Unbounded);
        let second = queue.join(1, MaxWait::Unbounded);
        let third = queue.join(3, MaxWait::Unbounded);
        queue.executor.until(secs(1) + us(1));
        let models = queue.state();
        assert!(queue.executor.leave(first));
        assert_eq!(queue.state(), models, "a waiter was charged");
        queue.executor.run();
        assert_eq!(
            queue.ended(),
            [(second, secs(1) + us(1), true)],
            "{policy:?}"
        );
        // A waiter further back may be dropped too.
        let last = queue.join(1, MaxWait::Unbounded);
        assert!(queue.executor.leave(third));
        queue.executor.run();
        assert_eq!(queue.ended(), [(last, secs(1) + us(1), true)], "{policy:?}");
        assert_eq!(queue.waiting(), 0);
    }
}

#[test]
fn request_dropped_before_its_check_sends_nothing() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(3, &policy);
        let wait = queue.wait(1, MaxWait::Unbounded);
        let waiter = queue.executor.add(wait);
        assert!(queue.executor.leave(waiter));
        assert_eq!((queue.operation_count(), queue.waiting()), (1, 0));
    }
}

#[test]
fn keys_and_policies_have_their_own_queues() {
    let mut queue = queue_after(3, &fixed(3));
    queue.join_all(2);
    let bob = queue.wait_for(&Key::from("bob"), 1, MaxWait::Unbounded);
    queue.executor.at_once(bob).expect("no token was spent");
    let other = queue
        .limiter
        .with_policy(&Policy::new("other", Quota::fixed_window(3, secs(10))));
    queue
        .executor
        .at_once(async move {
            other
                .acquire(&Key::from("ann"), 1, MaxWait::Unbounded)
                .await
        })
        .expect("nothing is spent of it");
}

/// A client of a larger policy does not wait in the queue of a smaller one, and does not see its limits.
#[test]
fn tiers_of_one_policy_have_their_own_queues() {
    let mut queue = queue_after(3, &fixed(3));
    queue.join_all(2);
    let paid = fixed(8).and("day", Quota::fixed_window(8, secs(86_400)));
    let paid = queue.limiter.with_policy(&paid);
    let wait = |cost: u64, max_wait: Duration| {
        let paid = paid.clone();
        async move { paid.acquire(&Key::from("ann"), cost, max_wait).await }
    };
    queue
        .executor
        .at_once(wait(5, secs(1)))
        .expect("it must exist");
    let head = queue.executor.join(wait(4, secs(86_400)));
    let rejected = queue.executor.at_once(wait(4, secs(1)));
    assert_eq!(denied(&rejected).snapshot().quotas().len(), 2);
    assert_eq!(
        retry_after(&rejected),
        secs(86_400) - secs(1) - secs(day_of_the_start())
    );
    assert!(queue.executor.waits(head));
}

/// Seconds of the day of the start.
fn day_of_the_start() -> u64 {
    crate::executor::START / 1_000_000 % 86_400
}

#[test]
fn dropped_waiter_does_not_deny_others() {
    let mut queue = queue_after(2, &fixed(4));
    let dear = queue.join(4, MaxWait::Unbounded);
    let next = queue.join(1, MaxWait::Unbounded);
    assert!(queue.executor.leave(dear));
    // The next waiter does not know the time of the edge yet.
    let newcomer = queue.join(1, secs(1));
    queue.executor.run();
    let ended = queue.ended();
    assert_eq!(ended, [(next, secs(1), true), (newcomer, secs(1), true)]);
}

#[test]
fn free_and_impossible_requests_join_no_queue() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(3, &policy);
        queue.join_all(2);
        for max_wait in [MaxWait::NONE, MaxWait::within(secs(1)), MaxWait::Unbounded] {
            let free = queue
                .at_once(Cost::ZERO, max_wait)
                .expect("the cost is zero");
            assert_eq!(free.waited(), Duration::ZERO);
            let never = queue.at_once(5, max_wait);
            assert_eq!(denied(&never).retry_after(), Some(RetryAfter::Never));
        }
        assert_eq!(queue.waiting(), 2);
    }
}

/// How much later than reported each of 100 waiters checks again.
fn jitter(wait: Duration, max_wait: MaxWait, is_shared: bool) -> Vec<Duration> {
    let policy = Policy::new("log", Quota::sliding_log(1, wait));
    let mut queue = TestQueue::with(&policy, |backend| match is_shared {
        true => backend.shared(),
        false => backend,
    });
    for number in 0..100_u64 {
        let key = Key::from(number);
        let first = queue.wait_for(&key, 1, MaxWait::NONE);
        queue.executor.at_once(first).expect("it must exist");
        let again = queue.wait_for(&key, 1, max_wait);
        queue.executor.join(again);
    }
    queue.executor.until(wait - us(1));
    assert!(queue.executor.ended.is_empty(), "never early");
    queue.executor.until(2 * wait);
    assert_eq!(queue.executor.ended.len(), 100);
    queue
        .ended()
        .into_iter()
        .map(|(_, at, allowed)| {
            assert!(allowed);
            at - wait
        })
        .collect()
}

#[test]
fn shared_backend_delays_its_next_check_by_up_to_a_tenth() {
    for wait in [
        us(1),
        us(9),
        us(10),
        us(100),
        ms(20),
        ms(999),
        secs(1),
        secs(60),
        secs(86_400),
    ] {
        let most = (wait / 10).min(ms(100));
        let late = jitter(wait, MaxWait::Unbounded, true);
        let (least, longest) = (late.iter().min(), late.iter().max());
        assert!(longest <= Some(&most), "{longest:?} of {wait:?}");
        if most >= us(10) {
            assert!(least < Some(&(most / 5)), "{least:?} of {wait:?}");
            assert!(longest > Some(&(most / 5 * 4)), "{longest:?} of {wait:?}");
        }
        // Without other processes there is no delay.
        let alone = jitter(wait, MaxWait::Unbounded, false);
        assert!(alone.iter().all(Duration::is_zero));
    }
}

#[test]
fn waiter_makes_no_check_after_its_deadline() {
    for wait in [ms(20), secs(60)] {
        for late in jitter(wait, MaxWait::within(wait + us(3)), true) {
            assert!(late <= us(3), "{late:?}");
        }
    }
}

/// Nothing refills a total, so that a wait ends where the total denies, also behind waiters for a window.
#[test]
fn wait_for_a_total_that_is_used_up_ends_at_once() {
    for max_wait in [MaxWait::within(secs(100)), MaxWait::Unbounded] {
        let mut queue = queue_after(3, &Policy::new("total", Quota::total(3)));
        let outcome = queue.at_once(1, max_wait);
        assert_eq!(denied(&outcome).retry_after(), Some(RetryAfter::Never));
        assert_eq!((queue.waiting(), queue.operation_count()), (0, 2));

        let window = Quota::fixed_window(3, secs(10));
        let policy = Policy::new("both", window).and("total", Quota::total(5));
        let mut queue = queue_after(3, &policy);
        let head = queue.join(2, max_wait);
        let outcome = queue.at_once(3, max_wait);
        assert_eq!(denied(&outcome).retry_after(), Some(RetryAfter::Never));
        let behind = queue.join(2, max_wait);
        assert_eq!(queue.waiting(), 2);
        queue.executor.until(secs(30));
        let mut ended: Vec<_> = queue
            .ended()
            .into_iter()
            .map(|(waiter, _, ok)| (waiter, ok))
            .collect();
        ended.retain(|(waiter, _)| [head, behind].contains(waiter));
        assert_eq!(ended, [(head, true), (behind, false)]);
    }
}
