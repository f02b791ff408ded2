//! Settlements on Redis: each takes effect once, completes, and is counted if it fails.

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tower_sluice::backend::Backend;
use tower_sluice::{Charge, Cost, Key, Policy, Quota};

use crate::harness::{
    LIMIT, Redis, SLACK, ann, context, guarded, limiter, long_limit_builder, ms, secs,
    uncached_builder, until,
};
use crate::support::redis::RedisServer;

fn a_hundred() -> Policy {
    Policy::new("charges", Quota::per_day(100))
}

async fn left(limiter: &Redis, key: &Key) -> u64 {
    limiter
        .peek(key)
        .await
        .expect("the server runs")
        .remaining()
}

async fn acquire(limiter: &Redis, key: &Key, cost: impl Into<Cost>) -> Charge {
    limiter.try_acquire(key, cost).await.expect("it must exist")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_concurrent_settlements_takes_effect() {
    guarded(async {
        let server = RedisServer::start();
        let limiter = limiter(long_limit_builder(), &server, &a_hundred()).await;
        for round in 0..100_u64 {
            let key = Key::from(round);
            let charge = acquire(&limiter, &key, 30).await;
            let before = server_calls(&server, round);
            let mut tasks = JoinSet::new();
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
                        Ok(after) => Some((
                            spent,
                            after
                                .expect("the settlement changes the charge")
                                .remaining(),
                        )),
                        Err(error) => {
                            assert!(error.is_settled());
                            None
                        }
                    }
                });
            }
            let done: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
            let [(spent, reported)] = done[..] else {
                panic!("{done:?}");
            };
            assert_eq!(
                (reported, left(&limiter, &key).await),
                (100 - spent, 100 - spent)
            );
            if let Some(before) = before {
                // The settlement and the peek.
                let calls = server.calls("evalsha") + server.calls("eval");
                assert!(calls <= before + 4, "{before} and {calls}");
            }
        }
        assert_eq!(context(&limiter), (0, 0, 0));
    })
    .await;
}

/// Only now and then: the read takes longer than a settlement.
fn server_calls(server: &RedisServer, round: u64) -> Option<u64> {
    (round % 20 == 19).then(|| server.calls("evalsha") + server.calls("eval"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsettled_charge_sends_no_command() {
    guarded(async {
        let server = RedisServer::start();
        let limiter = limiter(long_limit_builder(), &server, &a_hundred()).await;
        let charges = join_all((0..64_u64).map(|number| {
            let limiter = limiter.clone();
            async move { acquire(&limiter, &Key::from(number), 30).await }
        }))
        .await;
        let asked = || server.calls("evalsha") + server.calls("eval");
        let before = asked();
        for charge in charges {
            drop(charge.clone());
            let right = charge.clone().settle(30).await.expect("the first");
            assert!(right.is_none());
        }
        drop(acquire(&limiter, &ann(), 30).await);
        tokio::time::sleep(ms(50)).await;
        assert_eq!((asked(), context(&limiter)), (before + 1, (0, 0, 0)));
        assert_eq!(left(&limiter, &ann()).await, 70);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_settlement_completes() {
    guarded(async {
        let server = RedisServer::start();
        let policy = Policy::new("both", Quota::per_day(1_000))
            .and("window", Quota::sliding_log(1_000, secs(3_600)));
        let limiter = limiter(long_limit_builder(), &server, &policy).await;
        let mut charges = Vec::new();
        for _ in 0..20 {
            charges.push(acquire(&limiter, &ann(), Cost::each([10, 20])).await);
        }
        for charge in charges {
            // A lower and a higher cost.
            drop(charge.settle(Cost::each([5, 30])));
        }
        assert_eq!(context(&limiter).1, 20);
        until("all have completed", secs(5), || {
            context(&limiter) == (0, 0, 0)
        })
        .await;
        let snapshot = limiter.peek(&ann()).await.expect("the server runs");
        let spent: Vec<_> = snapshot
            .quotas()
            .iter()
            .map(|q| q.limit() - q.remaining())
            .collect();
        assert_eq!(spent, [100, 600]);
    })
    .await;
}

#[tokio::test]
async fn passed_windows_are_not_refunded() {
    guarded(async {
        let server = RedisServer::start();
        for cost in [0, 10] {
            let policy = Policy::new("log", Quota::sliding_log(100, ms(60)));
            let limiter = limiter(long_limit_builder(), &server, &policy).await;
            let charge = acquire(&limiter, &ann(), 30).await;
            tokio::time::sleep(ms(61)).await;
            let after = charge.settle(cost).await.expect("the first");
            assert_eq!(after.expect("the numbers").remaining(), 100);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extra_cost_is_a_debt_of_up_to_twice_the_limit() {
    guarded(async {
        let server = RedisServer::start();
        for quota in [
            Quota::token_bucket(100, 100, secs(1_000)),
            Quota::interval_bucket(100, 100, secs(1_000)),
            Quota::fixed_window(100, secs(1_000)),
            Quota::sliding_window(100, secs(1_000)),
            Quota::sliding_log(100, secs(1_000)),
        ] {
            let limiter =
                limiter(long_limit_builder(), &server, &Policy::new("debts", quota)).await;
            for (number, cost) in [(1, u64::MAX), (2, 201), (3, 150), (4, 0)] {
                let key = Key::from(number);
                let charge = acquire(&limiter, &key, 30).await;
                let after = charge.settle(cost).await.expect("the first");
                let after = after.expect("the settlement changes the charge");
                assert_eq!(after.remaining(), 100_u64.saturating_sub(cost));
                let rest = after.reset_after();
                assert!(rest <= secs(2_000), "{rest:?} {quota}");
                let charge = charge
                    .charge(u64::MAX)
                    .await
                    .expect_err("the charge is settled");
                assert!(charge.is_settled());
            }
            limiter
                .reset(&Key::from(1_u64))
                .await
                .expect("the server runs");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlements_above_1024_fail_and_are_counted() {
    guarded(async {
        let server = RedisServer::start();
        let policy = Policy::new("many", Quota::per_day(10_000));
        // Longer than the server stalls, and shorter than the time limit of a background task.
        let limiter = limiter(uncached_builder().time_limit(secs(4)), &server, &policy).await;
        let ann = ann();
        let charges = join_all((0..1_030).map(|_| limiter.try_acquire(&ann, 1))).await;
        let charges: Vec<_> = charges
            .into_iter()
            .map(|c| c.expect("it must exist"))
            .collect();
        server.pause();
        let settlements: Vec<_> = charges.iter().map(Charge::cancel).collect();
        assert_eq!(context(&limiter), (0, 1_024, 6));
        tokio::time::sleep(ms(100)).await;
        assert_eq!(context(&limiter), (0, 1_024, 6));
        server.resume();
        let outcomes = join_all(settlements).await;
        let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert_eq!(failed.len(), 6);
        for error in failed {
            assert!(!error.is_settled());
            assert_eq!(error.to_string(), "too many settlements are running");
        }
        until("all have completed", secs(5), || {
            context(&limiter) == (0, 0, 6)
        })
        .await;
        assert_eq!(left(&limiter, &ann).await, 10_000 - 6);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_settlement_returns_an_error_and_is_counted() {
    guarded(async {
        let mut server = RedisServer::start();
        let limiter = limiter(uncached_builder(), &server, &a_hundred()).await;
        let ann = ann();
        let charges = join_all((0..8).map(|_| limiter.try_acquire(&ann, 1))).await;
        let charges: Vec<_> = charges
            .into_iter()
            .map(|c| c.expect("it must exist"))
            .collect();
        server.kill9();
        for (number, charge) in (1..).zip(&charges) {
            let start = std::time::Instant::now();
            let error = charge.settle(5).await.expect_err("Redis is down");
            assert!(!error.is_settled());
            assert_eq!(error.to_string(), "the backend failed to settle the charge");
            let source = std::error::Error::source(&error).expect("the backend error");
            assert!(
                source.is::<tower_sluice::backend::BackendError>(),
                "{source}"
            );
            assert!(start.elapsed() < LIMIT + SLACK);
            assert_eq!(context(&limiter), (0, 0, number));
        }
        // The circuit is open: a settlement fails at once and starts no task.
        assert!(
            charges[0]
                .cancel()
                .await
                .expect_err("the only settlement")
                .is_settled()
        );
    })
    .await;
}

#[test]
fn settlement_without_a_runtime_returns_an_error() {
    let server = RedisServer::start();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    let (limiter, charge) = runtime.block_on(async {
        let limiter = limiter(long_limit_builder(), &server, &a_hundred()).await;
        let charge = acquire(&limiter, &ann(), 30).await;
        (limiter, charge)
    });
    let settled = charge.settle(45).now_or_never().expect("at once");
    let error = settled.expect_err("there is no bound");
    assert!(!error.is_settled());
    assert_eq!(
        error.to_string(),
        "a remote backend needs a Tokio runtime to settle a charge; call it within one"
    );
    assert_eq!(
        limiter.backend().context().stats().failed_background_tasks,
        1
    );
    let left = runtime.block_on(left(&limiter, &ann()));
    assert_eq!(left, 70);
}
