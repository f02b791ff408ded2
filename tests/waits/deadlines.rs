//! Windows, with and without a bucket: waiters whose wait is longer than their maximum.

use std::time::Duration;

use tower_sluice::MaxWait;

use crate::executor::{denied, retry_after, secs, us};
use crate::windows::{fixed, queue_after, three_in_ten_seconds};

#[test]
fn wait_longer_than_the_rest_of_max_wait_is_denied_at_once() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(3, &policy);
        let wait = retry_after(&queue.at_once(1, us(1)));
        let models = queue.state();
        for too_short in [Duration::ZERO, us(1), wait - us(1)] {
            let operation_count = queue.operation_count();
            let rejected = queue.at_once(1, too_short);
            assert_eq!(retry_after(&rejected), wait, "{policy:?}");
            assert_eq!(
                (queue.operation_count(), queue.state(), queue.waiting()),
                (operation_count + 1, models, 0)
            );
        }
        // Exact to the microsecond.
        let waiter = queue.join(1, wait);
        queue.executor.until(secs(1) + wait - us(1));
        assert!(queue.executor.waits(waiter));
        queue.executor.until(secs(1) + wait);
        assert_eq!(queue.ended(), [(waiter, secs(1) + wait, true)]);
    }
}

#[test]
fn queue_head_is_denied_as_soon_as_its_wait_is_too_long() {
    let mut queue = queue_after(3, &fixed(3));
    let first = queue.join(3, MaxWait::Unbounded);
    let second = queue.join(1, secs(18));
    queue.executor.until(secs(60));
    let first_gone = queue.executor.ended.remove(0);
    let rejected = queue.executor.ended.remove(0);
    assert_eq!((first_gone.waiter, rejected.waiter), (first, second));
    // Of 18 s it has 9 left, and the next edge is 10 s away.
    assert_eq!(rejected.at, secs(10));
    assert_eq!(retry_after(&rejected.outcome), secs(10));
}

#[test]
fn new_waiter_is_checked_before_it_is_denied() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(1, &policy);
        let head = queue.join(3, MaxWait::Unbounded);
        let wait = retry_after(&queue.at_once(3, MaxWait::NONE));
        queue.clock.jump(secs(1) + us(5));
        let short = wait - us(6);
        // Two tokens exist, and the head needs three.
        let operation_count = queue.operation_count();
        for _ in 0..2 {
            let charge = queue.at_once(1, short).expect("allowed without a wait");
            assert_eq!(charge.waited(), Duration::ZERO);
        }
        // The numbers of its own check, not those of the head.
        let check = queue.check(1).decision;
        let rejected = queue.at_once(1, short);
        assert_eq!(*denied(&rejected), check, "{policy:?}");
        assert_eq!(
            (queue.operation_count(), queue.waiting()),
            (operation_count + 3, 1)
        );
        // A waiter with a sufficient maximum wait does not overtake.
        let waiter = queue.join(1, wait - us(5));
        assert!(queue.executor.waits(waiter) && queue.executor.waits(head));
        assert_eq!(queue.operation_count(), operation_count + 3);
    }
}

#[test]
fn expired_waiter_is_checked_before_it_is_denied() {
    let mut queue = queue_after(2, &fixed(4));
    let head = queue.join(4, MaxWait::Unbounded);
    let hasty = queue.join(1, secs(11));
    let dear = queue.join(4, secs(11));
    // At the edge another request takes the tokens before the head, which checks again ten seconds later.
    queue.clock.jump(secs(10));
    assert!(queue.check(1).decision.is_allowed());
    queue.executor.until(secs(12) - us(1));
    assert!(queue.executor.waits(hasty) && queue.executor.waits(dear));
    queue.executor.until(secs(12));
    let ended: Vec<_> = queue.executor.ended.drain(..).collect();
    assert_eq!(
        ended.iter().map(|e| e.waiter).collect::<Vec<_>>(),
        [hasty, dear]
    );
    let charge = ended[0].outcome.as_ref().expect("three tokens exist");
    assert_eq!(charge.waited(), secs(11));
    assert_eq!(retry_after(&ended[1].outcome), secs(8));
    queue.executor.until(secs(20));
    assert_eq!(queue.ended(), [(head, secs(20), true)]);
}

#[test]
fn queued_waiter_is_denied_at_its_deadline() {
    let mut queue = queue_after(3, &fixed(3));
    queue.join(3, MaxWait::Unbounded);
    queue.join(3, MaxWait::Unbounded);
    let hasty = queue.join(1, secs(12));
    let behind = queue.join(1, MaxWait::Unbounded);
    queue.executor.until(secs(10));
    let operation_count = queue.operation_count();
    queue.executor.until(secs(13) - us(1));
    assert!(queue.executor.waits(hasty));
    queue.executor.until(secs(13));
    let rejected = queue
        .executor
        .ended
        .pop()
        .expect("its maximum wait has passed");
    assert_eq!((rejected.waiter, rejected.at), (hasty, secs(13)));
    // The wait of the queue head, less the time that has passed.
    assert_eq!(retry_after(&rejected.outcome), secs(7));
    assert_eq!(denied(&rejected.outcome).snapshot().limit(), 3);
    assert_eq!(
        queue.operation_count(),
        operation_count + 1,
        "denied by its own check"
    );
    queue.ended();
    queue.executor.until(secs(60));
    let waiter: Vec<_> = queue.ended().iter().map(|(waiter, ..)| *waiter).collect();
    assert_eq!(waiter, [2, behind]);
}

/// A waiter expires at the moment of an edge. It may be too late, but it does not overtake.
#[test]
fn expired_waiter_overtakes_no_other() {
    for seed in 0..200 {
        let mut queue = queue_after(2, &fixed(2)).in_disorder(seed);
        let first = queue.join(1, MaxWait::Unbounded);
        let second = queue.join(1, MaxWait::Unbounded);
        let hasty = queue.join(1, secs(9));
        queue.executor.until(secs(10));
        let ended = queue.ended();
        let gone: Vec<_> = ended.iter().filter(|(.., proceeded)| *proceeded).collect();
        assert_eq!(gone, [&(first, secs(10), true), &(second, secs(10), true)]);
        assert!(!queue.executor.waits(hasty));
    }
}

#[test]
fn waiter_reached_at_its_deadline_is_served() {
    for policy in three_in_ten_seconds() {
        let mut queue = queue_after(3, &policy);
        let wait = retry_after(&queue.at_once(3, MaxWait::NONE));
        let two = [queue.join(1, wait), queue.join(2, wait)];
        queue.executor.until(secs(1) + wait);
        let at = secs(1) + wait;
        assert!(queue.ended().contains(&(two[1], at, true)), "{policy:?}");
    }
}

#[test]
fn denied_waiter_does_not_deny_others() {
    let mut queue = queue_after(2, &fixed(4));
    // It waits until the edge, and is denied there: another request took the tokens.
    let dear = queue.join(4, secs(10));
    let next = queue.join(1, secs(11));
    queue.clock.jump(secs(10));
    assert!(queue.check(2).decision.is_allowed());
    queue.executor.until(secs(10));
    assert_eq!(
        queue.ended(),
        [(dear, secs(10), false), (next, secs(10), true)]
    );
}
