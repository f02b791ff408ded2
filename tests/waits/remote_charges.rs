//! Charges are settled over a remote backend, in the background.

use tower_sluice::backend::Backend;
use tower_sluice::{Charge, Cost, Key, Limiter, Policy, Quota};

use crate::charges::{hundred_tokens, outcome};
use crate::executor::AlarmClock;
use crate::wire::{Wire, settle};

struct RemoteLimiter {
    wire: Wire,
    limiter: Limiter<Wire>,
    ann: Key,
}

impl RemoteLimiter {
    fn of(policy: &Policy) -> Self {
        let wire = Wire::new(&AlarmClock::new());
        Self {
            limiter: Limiter::new(policy.clone(), wire.clone()),
            wire,
            ann: Key::from("ann"),
        }
    }

    async fn acquire(&self, cost: impl Into<Cost>) -> Charge {
        let admitted = self.limiter.try_acquire(&self.ann, cost).await;
        admitted.expect("it must exist")
    }

    fn left(&self) -> u64 {
        self.wire.state(self.limiter.policy(), &self.ann).0
    }

    fn background_tasks(&self) -> (usize, usize) {
        let context = self.wire.context();
        (
            context.stats().background_tasks,
            context.stats().failed_background_tasks,
        )
    }
}

#[tokio::test]
async fn settlement_completes_without_being_awaited() {
    for policy in hundred_tokens() {
        let remote = RemoteLimiter::of(&policy);
        let charge = remote.acquire(30).await;
        remote.wire.hold();
        drop(charge.settle(45));
        drop(charge);
        assert_eq!(remote.background_tasks(), (1, 0));
        settle().await;
        assert_eq!((remote.left(), remote.background_tasks()), (55, (1, 0)));
        remote.wire.release();
        settle().await;
        assert_eq!((remote.left(), remote.background_tasks()), (55, (0, 0)));

        let charge = remote.acquire(30).await;
        let settlement = charge.settle(5);
        let snapshot = settlement
            .await
            .expect("the wire holds its reply")
            .expect("the settlement changes the charge");
        assert_eq!((snapshot.remaining(), remote.left()), (50, 50));
        assert_eq!(remote.wire.sent(), ["check", "penalty", "check", "refund"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_concurrent_remote_settlements_takes_effect() {
    let remote = RemoteLimiter::of(&hundred_tokens()[0]);
    for _ in 0..200 {
        let charge = remote.acquire(30).await;
        remote.wire.sent();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8_u64 {
            let charge = charge.clone();
            tasks.spawn(async move {
                let (settlement, spent) = match number % 4 {
                    0 => (charge.charge(3 + number), 33 + number),
                    1 => (charge.refund(3 + number), 27 - number),
                    2 => (charge.settle(50 + number), 50 + number),
                    _ => (charge.cancel(), 0),
                };
                match settlement.await {
                    Ok(_) => Some(spent),
                    Err(error) => {
                        assert!(error.is_settled());
                        None
                    }
                }
            });
        }
        let ended = tasks.join_all().await;
        let done: Vec<_> = ended.into_iter().flatten().collect();
        assert_eq!((done.len(), remote.wire.sent().len()), (1, 1), "{done:?}");
        assert_eq!(remote.left(), 100 - done[0]);
        remote
            .limiter
            .reset(&remote.ann)
            .await
            .expect("the wire holds its reply");
    }
    assert_eq!(remote.background_tasks(), (0, 0));
}

#[tokio::test]
async fn unsettled_charge_sends_no_command() {
    let remote = RemoteLimiter::of(&hundred_tokens()[0]);
    let charge = remote.acquire(30).await;
    drop(charge.clone());
    drop(charge);
    settle().await;
    assert_eq!(
        (remote.wire.sent(), remote.background_tasks()),
        (vec!["check"], (0, 0))
    );
    // A settlement of the exact estimate sends no command.
    let right = remote
        .acquire(30)
        .await
        .settle(30)
        .await
        .expect("the first");
    assert_eq!(right, None);
    assert_eq!(remote.wire.sent(), ["check"]);
}

#[tokio::test]
async fn settlement_up_and_down_takes_two_operations() {
    let policy = Policy::new("both", Quota::per_day(100)).and("bytes", Quota::per_day(1_000));
    let remote = RemoteLimiter::of(&policy);
    let charge = remote.acquire(Cost::each([10, 500])).await;
    let after = charge.settle(Cost::each([30, 100])).await;
    let after = after
        .expect("the wire holds its reply")
        .expect("the settlement changes the charge");
    let left: Vec<_> = after
        .quotas()
        .iter()
        .map(|quota| quota.remaining())
        .collect();
    assert_eq!(left, [70, 900]);
    assert_eq!(remote.wire.sent(), ["check", "refund", "penalty"]);
    assert_eq!(remote.background_tasks(), (0, 0));
    // If the first step fails, the second step is not sent.
    let charge = remote.acquire(Cost::each([10, 500])).await;
    remote.wire.sent();
    remote.wire.cut();
    let error = charge
        .settle(Cost::each([30, 100]))
        .await
        .expect_err("the wire is cut");
    assert!(!error.is_settled());
    assert_eq!(
        (remote.wire.sent(), remote.background_tasks()),
        (vec!["refund"], (0, 1))
    );
}

#[tokio::test]
async fn failed_settlement_reports_its_cause_and_is_counted() {
    use std::error::Error;
    let remote = RemoteLimiter::of(&hundred_tokens()[0]);
    let charge = remote.acquire(30).await;
    remote.wire.cut();
    let error = charge.settle(45).await.expect_err("the wire is cut");
    assert!(!error.is_settled());
    assert_eq!(error.to_string(), "the backend failed to settle the charge");
    let source = error.source().expect("the backend error");
    assert_eq!(source.to_string(), "the wire is cut");
    assert_eq!(remote.background_tasks(), (0, 1));
    // It was the one settlement. Whether it took effect is unknown.
    remote.wire.mend();
    let error = charge.cancel().await.expect_err("the charge was settled");
    assert!(error.is_settled());
    assert_eq!(error.to_string(), "the charge was already settled");
    assert_eq!((remote.left(), remote.background_tasks()), (70, (0, 1)));
}

#[tokio::test]
async fn settlement_that_cannot_start_returns_an_error_and_is_counted() {
    let remote = RemoteLimiter::of(&hundred_tokens()[0]);
    let charge = remote.acquire(30).await;
    remote.wire.open_circuit();
    let error = outcome(charge.settle(45)).expect_err("the circuit is open");
    assert!(!error.is_settled());
    assert_eq!(error.to_string(), "the backend failed to settle the charge");
    assert_eq!(
        (remote.background_tasks(), remote.wire.sent()),
        ((0, 1), vec!["check"])
    );
}

#[tokio::test]
async fn settlements_above_1024_fail_and_are_counted() {
    let remote = RemoteLimiter::of(&Policy::new("bucket", Quota::per_day(10_000)));
    let mut charges = Vec::new();
    for _ in 0..1_030 {
        charges.push(remote.acquire(1).await);
    }
    remote.wire.hold();
    let settlements: Vec<_> = charges.iter().map(Charge::cancel).collect();
    assert_eq!(remote.background_tasks(), (1_024, 6));
    settle().await;
    remote.wire.release();
    let (mut done, mut crowded) = (0, 0);
    for settlement in settlements {
        match settlement.await {
            Ok(snapshot) => done += u64::from(snapshot.is_some()),
            Err(error) => {
                assert!(!error.is_settled());
                assert_eq!(error.to_string(), "too many settlements are running");
                crowded += 1;
            }
        }
    }
    assert_eq!(
        (done, crowded, remote.background_tasks()),
        (1_024, 6, (0, 6))
    );
    // The other charges stay as estimated.
    assert_eq!(remote.left(), 10_000 - 6);
    let charge = remote.acquire(1).await;
    charge.cancel().await.expect("the queue has room again");
}

#[tokio::test(start_paused = true)]
async fn slow_settlement_times_out_and_is_counted() {
    let remote = RemoteLimiter::of(&hundred_tokens()[0]);
    let charge = remote.acquire(30).await;
    remote.wire.hold();
    let error = charge.settle(45).await.expect_err("no answer comes");
    assert!(!error.is_settled());
    assert_eq!(error.to_string(), "the settlement timed out");
    assert_eq!(remote.background_tasks(), (0, 1));
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

#[test]
fn settlement_without_a_runtime_returns_an_error() {
    let remote = RemoteLimiter::of(&hundred_tokens()[0]);
    let charge = runtime().block_on(remote.acquire(30));
    let error = outcome(charge.settle(45)).expect_err("there is no bound");
    assert!(!error.is_settled());
    assert_eq!(
        error.to_string(),
        "a remote backend needs a Tokio runtime to settle a charge; call it within one"
    );
    assert_eq!((remote.background_tasks(), remote.left()), ((0, 1), 70));
    assert_eq!(remote.wire.sent(), ["check"]);
}

#[test]
fn settlement_whose_runtime_ends_returns_an_error() {
    let remote = RemoteLimiter::of(&hundred_tokens()[0]);
    let runtime = runtime();
    let charge = runtime.block_on(remote.acquire(30));
    remote.wire.hold();
    let entered = runtime.enter();
    let settlement = charge.settle(45);
    drop(entered);
    runtime.block_on(settle());
    drop(runtime);
    let error = outcome(settlement).expect_err("the task has ended");
    assert!(!error.is_settled());
    assert_eq!(
        error.to_string(),
        "the runtime ended before the settlement was complete"
    );
    assert_eq!(remote.background_tasks(), (0, 1));
}
