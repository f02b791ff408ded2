//! Redis is down or stalls while many requests wait.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::limiter::{Rejected, WithFailurePolicy};
use tower_sluice::{Charge, FailurePolicy, MaxWait, MemoryBackend, Policy, Quota};

use crate::harness::{
    LIMIT, Redis, SLACK, ann, assert_no_panic, context, guarded, limiter, ms, secs,
    uncached_builder, until, watch_for_panics,
};
use crate::support::redis::RedisServer;

type Outcome = Result<Charge, Rejected<tower_sluice::backend::BackendError>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// Connections are reset, and no server listens.
    Killed,
    /// Connections stay open, and no reply arrives.
    Stopped,
}

impl Outage {
    fn begin(self, server: &mut RedisServer) {
        match self {
            Self::Killed => server.kill9(),
            Self::Stopped => server.pause(),
        }
    }

    fn end(self, server: &mut RedisServer) {
        match self {
            Self::Killed => server.restart(),
            Self::Stopped => server.resume(),
        }
    }
}

/// This many unbounded waiters. Returns their outcomes with the times since their start.
fn waiters_of(limiter: &Redis, count: usize) -> JoinSet<(Duration, Outcome)> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            let outcome = limiter.acquire(&ann(), 1, MaxWait::Unbounded).await;
            (start.elapsed(), outcome)
        });
    }
    tasks
}

/// Checks until Redis replies.
async fn wait_for_recovery(limiter: &Redis) {
    let start = Instant::now();
    while let Err(why) = limiter.peek(&ann()).await {
        assert!(start.elapsed() < secs(8), "{why:?}");
        sleep(ms(5)).await;
    }
}

/// The outcome of requests during the outage: an error, or the failure policy.
async fn assert_each_failure_policy(limiter: &Redis) {
    let failed = limiter.acquire(&ann(), 1, secs(5)).await;
    assert!(matches!(failed, Err(Rejected::Backend(_))), "{failed:?}");
    let resilient = |choice| WithFailurePolicy::new(limiter.clone(), choice);
    let start = Instant::now();
    let denied = resilient(FailurePolicy::FailClosed)
        .acquire(&ann(), 1, secs(5))
        .await;
    assert!(matches!(denied, Err(Rejected::Backend(_))), "{denied:?}");
    let passes = resilient(FailurePolicy::FailOpen)
        .acquire(&ann(), 1, secs(5))
        .await;
    assert!(passes.expect("by the failure policy").is_none());
    let local = FailurePolicy::Fallback(MemoryBackend::new());
    let local = resilient(local);
    // In the local state one request is allowed at once, and the others wait for their reservations.
    let key = ann();
    let three = [(); 3].map(|()| local.acquire(&key, 1, secs(5)));
    let mut waited: Vec<_> = join_all(three)
        .await
        .into_iter()
        .map(|charge| {
            charge
                .expect("the reply arrives")
                .expect("counted")
                .waited()
        })
        .collect();
    assert!(start.elapsed() < 3 * LIMIT + SLACK);
    waited.sort_unstable();
    assert!(waited[0].is_zero() && waited[1] > Duration::ZERO && waited[2] > waited[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservation_proceeds_at_its_time_despite_an_outage() {
    for outage in [Outage::Killed, Outage::Stopped] {
        guarded(async {
            let mut server = RedisServer::start();
            let policy = Policy::new("turns", Quota::token_bucket(1, 1, ms(30)));
            let limiter = limiter(uncached_builder(), &server, &policy).await;
            let mut tasks = waiters_of(&limiter, 51);
            until("they have reservations", secs(5), || {
                server.calls("set") >= 51 && context(&limiter).0 >= 45
            })
            .await;
            sleep(ms(50)).await;
            let last = limiter
                .peek(&ann())
                .await
                .expect("the server runs")
                .reset_after();
            outage.begin(&mut server);
            assert_each_failure_policy(&limiter).await;
            let start = Instant::now();
            let mut ended = Vec::new();
            while let Some(one) = tasks.join_next().await {
                let (at, charge) = one.expect("no panic");
                charge.expect("its reservation is due");
                ended.push(at);
            }
            // The last one is allowed when the bucket lacks one token.
            assert!(start.elapsed() < last + SLACK);
            for (reservation, at) in (0..).zip(&ended) {
                assert!(
                    *at >= ms(30) * reservation,
                    "{at:?} is early for {reservation}"
                );
            }
            assert_eq!(context(&limiter), (0, 0, 0), "{outage:?}");
            outage.end(&mut server);
            wait_for_recovery(&limiter).await;
            limiter
                .acquire(&ann(), 1, secs(5))
                .await
                .expect("the check succeeds");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_cancellation_is_counted() {
    for outage in [Outage::Killed, Outage::Stopped] {
        guarded(async {
            let mut server = RedisServer::options()
                .line("appendonly yes")
                .line("appendfsync always")
                .start();
            let policy = Policy::new("turns", Quota::per_hour(1));
            let limiter = limiter(uncached_builder(), &server, &policy).await;
            let mut tasks = waiters_of(&limiter, 11);
            until("they have reservations", secs(5), || {
                server.calls("set") >= 11 && context(&limiter).0 == 10
            })
            .await;
            sleep(ms(50)).await;
            outage.begin(&mut server);
            let start = Instant::now();
            let first = tasks
                .join_next()
                .await
                .expect("the first waiter was served");
            assert!(first.expect("no panic").1.is_ok());
            tasks.shutdown().await;
            until("all have failed", secs(5), || {
                context(&limiter) == (0, 0, 10)
            })
            .await;
            assert!(start.elapsed() < LIMIT + SLACK, "{:?}", start.elapsed());
            outage.end(&mut server);
            wait_for_recovery(&limiter).await;
            let owed = limiter
                .peek(&ann())
                .await
                .expect("the server runs")
                .reset_after();
            match outage {
                Outage::Killed => assert!(owed > secs(3_600 * 11 - 60), "{owed:?}"),
                // A stalled server may execute its commands late, in another order: then only the last reservation is
                // refunded.
                Outage::Stopped => assert!(owed > secs(3_600 - 60), "{owed:?}"),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_waiter_before_a_window_sees_the_outage_in_time() {
    for outage in [Outage::Killed, Outage::Stopped] {
        guarded(async {
            let mut server = RedisServer::start();
            let policy = Policy::new("window", Quota::sliding_log(5, ms(400)));
            let limiter = limiter(uncached_builder(), &server, &policy).await;
            let mut tasks = waiters_of(&limiter, 55);
            until("five were served", secs(5), || {
                tasks.len() == 55 && context(&limiter).0 == 50
            })
            .await;
            sleep(ms(20)).await;
            outage.begin(&mut server);
            let start = Instant::now();
            let (mut served, mut failed) = (0, 0);
            while let Some(one) = tasks.join_next().await {
                match one.expect("no panic").1 {
                    Ok(_) => served += 1,
                    Err(Rejected::Backend(why)) => {
                        assert_ne!(*why.kind(), BackendErrorKind::Corrupt);
                        failed += 1;
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert_eq!((served, failed), (5, 50));
            // The wait of the first waiter, and five failures that open the circuit.
            let took = start.elapsed();
            assert!(took < ms(440) + 5 * LIMIT + SLACK, "{took:?}");
            assert_eq!(context(&limiter), (0, 0, 0));
            let choice = WithFailurePolicy::new(limiter.clone(), FailurePolicy::FailOpen);
            let passes = choice.acquire(&ann(), 1, secs(5)).await;
            assert!(passes.expect("by the failure policy").is_none());

            outage.end(&mut server);
            wait_for_recovery(&limiter).await;
            let mut tasks = waiters_of(&limiter, 10);
            while let Some(one) = tasks.join_next().await {
                one.expect("no panic").1.expect("the queue continues");
            }
        })
        .await;
    }
}

/// The queue head sleeps meanwhile, and no other request is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unobserved_outage_costs_a_queue_nothing() {
    for outage in [Outage::Killed, Outage::Stopped] {
        guarded(async {
            let mut server = RedisServer::start();
            let policy = Policy::new("window", Quota::sliding_log(5, ms(1_400)));
            let limiter = limiter(uncached_builder(), &server, &policy).await;
            let mut tasks = waiters_of(&limiter, 10);
            until("five were served", secs(5), || context(&limiter).0 == 5).await;
            sleep(ms(20)).await;
            outage.begin(&mut server);
            sleep(ms(100)).await;
            outage.end(&mut server);
            while let Some(one) = tasks.join_next().await {
                one.expect("no panic").1.expect("the queue continues");
            }
            assert_eq!(context(&limiter), (0, 0, 0));
        })
        .await;
    }
}

#[test]
fn runtime_that_ends_with_waiters_leaves_no_stuck_request() {
    watch_for_panics();
    let runtime = |is_multi_thread| {
        let mut builder = match is_multi_thread {
            true => tokio::runtime::Builder::new_multi_thread(),
            false => tokio::runtime::Builder::new_current_thread(),
        };
        builder.enable_all().build().expect("a runtime")
    };
    for (policy, lost) in [
        (Policy::new("turns", Quota::per_hour(5)), 100),
        (Policy::new("window", Quota::sliding_log(5, secs(3_600))), 0),
    ] {
        for is_multi_thread in [true, false] {
            let server = RedisServer::start();
            let first = runtime(is_multi_thread);
            let limiter = first.block_on(async {
                let limiter = limiter(uncached_builder(), &server, &policy).await;
                let mut tasks = waiters_of(&limiter, 105);
                for _ in 0..5 {
                    let one = tasks.join_next().await.expect("five are allowed at once");
                    one.expect("no panic").1.expect("it must exist");
                }
                let all_told = || context(&limiter).0 == 100;
                until("the others wait", secs(5), all_told).await;
                sleep(ms(100)).await;
                tasks.detach_all();
                limiter
            });
            let start = Instant::now();
            drop(first);
            assert!(start.elapsed() < SLACK);
            assert_eq!(context(&limiter), (0, 0, lost), "{policy:?}");
            // The state is unchanged, and another runtime reads it.
            runtime(false).block_on(guarded(async {
                wait_for_recovery(&limiter).await;
                let rejected = limiter.acquire(&ann(), 1, secs(1)).await;
                assert!(matches!(rejected, Err(Rejected::Denied(_))), "{rejected:?}");
            }));
            assert_no_panic();
        }
    }
}
