//! A backend that answers later: queues, and the reply to their heads.

use tower_sluice::backend::Backend;
use tower_sluice::limiter::Rejected;
use tower_sluice::{Key, MaxWait};

use crate::executor::{ms, secs};
use crate::remote::{FRESH, RemoteLimiter, bucket, window};
use crate::wire::{Cut, settle};

#[test]
fn runtime_that_ends_with_waiters_leaves_no_stuck_request() {
    for (policy, is_held, expected) in [
        (bucket(), false, 95),
        (bucket(), true, 100),
        (window(), false, 0),
        // The queue head has checked, and the others have not.
        (window(), true, 1),
    ] {
        for is_multi_thread in [false, true] {
            let mut builder = match is_multi_thread {
                true => tokio::runtime::Builder::new_multi_thread(),
                false => tokio::runtime::Builder::new_current_thread(),
            };
            let runtime = builder.enable_all().build().expect("a runtime");
            let remote = RemoteLimiter::of(&policy);
            if is_held {
                remote.wire.hold();
            }
            for _ in 0..100 {
                let limiter = remote.limiter.clone();
                runtime.spawn(async move {
                    let ann = Key::from("ann");
                    let charge = limiter.acquire(&ann, 1, MaxWait::Unbounded).await;
                    drop(charge.expect("no failure"));
                });
            }
            // Under a bucket every waiter has reserved, and five were allowed at once. Under a window only the head of
            // the queue has checked.
            let waiters = if is_held { 100 } else { 95 };
            let asked = || remote.wire.all_sent().len();
            let least = match (policy.name(), is_held) {
                ("window", true) => 1,
                ("window", false) => 6,
                _ => 100,
            };
            runtime.block_on(async {
                while remote.wire.context().stats().waiting != waiters || asked() < least {
                    tokio::task::yield_now().await;
                }
                settle().await;
            });
            drop(runtime);
            // The next of the queue may ask on another thread before that thread shuts down.
            let lost = if is_held { asked() } else { expected };
            assert!(is_multi_thread || lost == expected, "{policy:?} {is_held}");
            assert_eq!(remote.context(), (0, 0, lost), "{policy:?} {is_held}");
        }
    }
}

#[tokio::test]
async fn queue_head_dropped_before_its_reply_wakes_the_next_waiter() {
    let mut remote = RemoteLimiter::of(&window());
    remote.wire.hold();
    let first = remote.join(5, MaxWait::Unbounded);
    let second = remote.join(5, MaxWait::Unbounded);
    assert_eq!(remote.wire.sent(), ["check"]);
    assert!(remote.executor.leave(first));
    remote.executor.run();
    assert_eq!(remote.wire.sent(), ["check"]);
    remote.wire.release();
    remote.executor.run();
    // The second check was denied, because the first one had charged. The charge of the first one is refunded.
    settle().await;
    assert_eq!((remote.state(), remote.context()), (FRESH, (1, 0, 0)));
    remote.executor.until(secs(1));
    assert_eq!(remote.ended(), [(second, Ok(()))]);
}

#[tokio::test]
async fn waiters_use_the_reply_to_the_queue_head() {
    let mut remote = RemoteLimiter::of(&window());
    remote.wire.hold();
    for _ in 0..7 {
        remote.join(1, ms(100));
    }
    assert_eq!(remote.wire.sent(), ["check"]);
    remote.executor.until(ms(50));
    remote.wire.release();
    remote.executor.run();
    // Each waiter checks after the one before it. The sixth and the seventh are denied.
    let (served, rejected): (Vec<_>, Vec<_>) = remote
        .ended()
        .into_iter()
        .partition(|(_, outcome)| outcome.is_ok());
    let waiter = |ended: &[(usize, _)]| ended.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>();
    assert_eq!(
        (waiter(&served), waiter(&rejected)),
        (vec![0, 1, 2, 3, 4], vec![5, 6])
    );
    assert_eq!(remote.wire.sent(), ["check"; 6]);
    assert_eq!(remote.context(), (0, 0, 0));
}

/// No waiter in the queue was denied yet: the tokens may suffice for all. This waiter expires before the reply.
#[tokio::test]
async fn waiter_that_expires_before_any_reply_checks_itself() {
    let mut remote = RemoteLimiter::of(&window());
    remote.wire.hold();
    remote.join(1, MaxWait::Unbounded);
    remote.join(1, ms(10));
    remote.join(1, MaxWait::Unbounded);
    remote.executor.until(ms(9));
    assert_eq!(remote.wire.sent(), ["check"]);
    remote.executor.until(ms(10));
    assert_eq!(remote.wire.sent(), ["check"]);
    remote.wire.release();
    remote.executor.run();
    assert_eq!(remote.ended(), [(0, Ok(())), (1, Ok(())), (2, Ok(()))]);
}

#[tokio::test]
async fn waiters_see_the_failure_in_order_and_the_queue_continues() {
    let mut remote = RemoteLimiter::of(&window());
    remote.join(5, MaxWait::NONE);
    for _ in 0..5 {
        remote.join(1, MaxWait::Unbounded);
    }
    remote.executor.ended.clear();
    remote.executor.until(ms(500));
    remote.wire.cut();
    remote.executor.until(secs(1));
    let cut = || Err(Rejected::Backend(Cut));
    let failed: Vec<_> = (1..=5).map(|waiter| (waiter, cut())).collect();
    assert_eq!(remote.ended(), failed);
    assert_eq!(remote.join(1, secs(9)), 6);
    assert_eq!(remote.ended(), [(6, cut())]);
    remote.wire.mend();
    assert_eq!(remote.join(1, secs(9)), 7);
    assert_eq!(remote.ended(), [(7, Ok(()))]);
    assert_eq!(remote.context(), (0, 0, 0));
}
