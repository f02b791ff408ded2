//! Waiters on a real Redis that are dropped before they are due, in any order. The debt is that of the remaining
//! waiters.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::clock::{Clock, ManualClock, Timestamp};
use tower_sluice::limiter::Rejected;
use tower_sluice::{Charge, Limiter, MaxWait, Policy, Quota};

use crate::harness::{Redis, ann, context, guarded, long_limit_builder, ms, secs, until, us};
use crate::support::clock_proxy::ClockProxy;
use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

/// A time in the year 2027, µs.
const START: u64 = 1_800_000_000_000_000;

type Outcome = Result<Charge, Rejected<tower_sluice::backend::BackendError>>;
type Waiter = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Two tokens are spent, and `count` waiters join 5 ms apart.
async fn waiters_of(limiter: &Redis, clock: &ManualClock, count: u64) -> Vec<Option<Waiter>> {
    clock.set(Timestamp::from_micros(START));
    limiter
        .try_acquire(&ann(), 2)
        .await
        .expect("the tokens exist");
    let mut waiters = Vec::new();
    for number in 1..=count {
        clock.set(Timestamp::from_micros(START + 5_000 * number));
        let own = limiter.clone();
        let mut wait: Waiter =
            Box::pin(async move { own.acquire(&ann(), 1, MaxWait::Unbounded).await });
        let owed = owed(clock, 2 + number);
        loop {
            assert!(wait.as_mut().now_or_never().is_none(), "the request waits");
            if reset_after(limiter).await == owed {
                break;
            }
        }
        waiters.push(Some(wait));
    }
    waiters
}

/// The debt of this many tokens, at one token a second.
fn owed(clock: &ManualClock, tokens: u64) -> Duration {
    secs(tokens) - us(clock.now().as_micros() - START)
}

async fn reset_after(limiter: &Redis) -> Duration {
    let snapshot = limiter.peek(&ann()).await.expect("the server runs");
    snapshot.reset_after()
}

/// The orders in which `count` waiters are dropped.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut random: Vec<_> = (0..count).collect();
    random.shuffle(&mut StdRng::seed_from_u64(7));
    vec![(0..count).collect(), (0..count).rev().collect(), random]
}

/// Of `count` waiters the first `stay` remain, and the debt is theirs.
async fn assert_drop_order(limiter: &Redis, clock: &ManualClock, count: usize, stay: usize) {
    for order in orders(count - stay) {
        for is_at_once in [false, true] {
            let mut waiters = waiters_of(limiter, clock, count as u64).await;
            // The replies have arrived, and no waiter is due.
            clock.advance(ms(1));
            for number in &order {
                drop(waiters[stay + number].take());
                if !is_at_once {
                    until("the operation is complete", secs(5), || {
                        context(limiter).1 == 0
                    })
                    .await;
                    clock.advance(us(1));
                }
            }
            until("all is complete", secs(10), || context(limiter).1 == 0).await;
            assert_eq!(context(limiter), (stay, 0, 0));
            let owed = owed(clock, 2 + stay as u64);
            assert_eq!(reset_after(limiter).await, owed, "{order:?}, {is_at_once}");
            // The remaining waiters are unaffected.
            drop(waiters);
            until("all is complete", secs(10), || context(limiter).1 == 0).await;
            limiter.reset(&ann()).await.expect("the server runs");
        }
    }
}

fn policies() -> [Policy; 2] {
    let steady = Quota::per_second(1).burst(2);
    [
        Policy::new("steady", steady),
        Policy::new("both", steady).and("more", Quota::per_second(7).burst(9)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_dropped_in_any_order_leave_only_the_debt_of_the_rest() {
    guarded(async {
        let server = RedisServer::start();
        for policy in policies() {
            let clock = ManualClock::at(Timestamp::from_micros(START));
            let connection = Frozen::connect(&server.url(), &clock).await;
            let backend = long_limit_builder()
                .clock(clock.clone())
                .idle_ttl(secs(3_600));
            let limiter = Limiter::new(
                policy,
                backend.from_transport(RedisConnection::new(connection)),
            );
            assert_drop_order(&limiter, &clock, 100, 3).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_dropped_without_scripts_leave_no_debt() {
    guarded(async {
        let (server, clock) = (
            RedisServer::start(),
            ManualClock::at(Timestamp::from_micros(START)),
        );
        let proxy = ClockProxy::to(server.port(), &clock).await;
        let backend = long_limit_builder()
            .clock(clock.clone())
            .idle_ttl(secs(3_600));
        let backend = backend.atomicity(Atomicity::Optimistic);
        let backend = backend.connect_lazy(proxy.url()).expect("a URL");
        let [policy, _] = policies();
        let limiter = Limiter::new(policy, backend);
        assert_drop_order(&limiter, &clock, 12, 2).await;
    })
    .await;
}
