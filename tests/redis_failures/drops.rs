//! Requests that are dropped before their reply.

use std::future::{Future, poll_fn};
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::{JoinSet, yield_now};
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::{Key, Limiter};

use crate::harness::{check, distinct, guarded, limit_of, spent, tokens, uncached_builder};
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;

/// Polls a future this many times while other tasks run, then drops it. Returns whether it completed.
async fn dropped_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let poll = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if poll.is_ready() {
            return true;
        }
        yield_now().await;
    }
    false
}

/// 1000 checks of one key are dropped at random points. Each has its own limit and an exact count: a reply to the wrong
/// request would show.
async fn assert_replies_are_not_mixed_up(builder: RedisBuilder) {
    let server = RedisServer::start();
    let builder = builder.time_limit(Duration::from_secs(10));
    let backend = builder
        .connect(server.url())
        .await
        .expect("the server runs");
    let limiters = distinct(&backend, 8);
    let (dropped, kept) = limiters.split_at(2);
    let key = Key::from("ann");
    let (mut started, mut ended) = (0, 0);
    for round in 1..=1000 {
        let mut tasks = JoinSet::new();
        for limiter in dropped {
            let (limiter, key) = (limiter.clone(), key.clone());
            // 0 to 400 polls are 0 to some hundred µs: from before the request to after its reply.
            let polls = rand::random_range(0..20) * rand::random_range(0..20);
            started += 1;
            tasks.spawn(async move { dropped_after(polls, check(&limiter, &key)).await });
        }
        let all = join_all(kept.iter().map(|limiter| check(limiter, &key))).await;
        // A bucket of 1000 is empty after 1000.
        for (answer, limiter) in all.into_iter().zip(kept) {
            assert_eq!(answer, Ok(round.min(limit_of(limiter))));
        }
        ended += tasks
            .join_all()
            .await
            .into_iter()
            .filter(|end| *end)
            .count();
    }
    assert!(ended > 0 && ended < started, "{ended} of {started}");
    println!("{} of {started} were dropped", started - ended);
    for limiter in dropped {
        assert!(
            spent(limiter, &key).await <= 1000,
            "charged more than asked"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn future_dropped_before_its_reply_leaves_no_reply_for_other_requests() {
    guarded(assert_replies_are_not_mixed_up(uncached_builder())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_batches_a_dropped_future_leaves_no_reply_for_other_requests() {
    guarded(assert_replies_are_not_mixed_up(
        uncached_builder()
            .batching(false)
            .connections(NonZeroU32::MIN),
    ))
    .await;
}

/// A dropped transaction may still watch its keys: its connection is not reused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_transaction_leaves_no_reply_for_other_requests() {
    guarded(assert_replies_are_not_mixed_up(
        uncached_builder().atomicity(Atomicity::Optimistic),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_dropped_futures_leave_no_stuck_batch() {
    guarded(async {
        let server = RedisServer::start();
        for batching in [true, false] {
            let backend = uncached_builder()
                .batching(batching)
                .connect(server.url())
                .await;
            let backend = backend.expect("the server runs");
            let limiters = distinct(&backend, 64);
            let mut tasks = JoinSet::new();
            for limiter in &limiters {
                let limiter = limiter.clone();
                tasks.spawn(async move {
                    let key = Key::from("dropped");
                    for round in 0..50 {
                        dropped_after(round % 5, check(&limiter, &key)).await;
                    }
                });
            }
            tasks.join_all().await;
            for round in 1..=5 {
                let key = Key::from(format!("after{batching}").as_str());
                let all = join_all(limiters.iter().map(|limiter| check(limiter, &key))).await;
                assert!(all.iter().all(|spent| *spent == Ok(round)), "{all:?}");
            }
            // No key was charged for more than its requests.
            for limiter in &limiters {
                assert!(spent(limiter, &Key::from("dropped")).await <= 50 * 2);
            }
        }
    })
    .await;
}

/// One request leads a batch, and the first request creates a connection. Its drop must not block the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_waiter_does_not_block_others_for_the_same_connection() {
    guarded(async {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.port()).await;
        proxy.set(Mode::Trickle(Duration::ZERO)).await;
        for round in 0..20 {
            let builder = uncached_builder().time_limit(Duration::from_secs(10));
            let backend = builder.connect_lazy(proxy.url()).expect("a URL");
            let limiters = distinct(&backend, 16);
            let key = Key::from(format!("u{round}").as_str());
            let leaver = Limiter::new(tokens("leaver", 5), backend.clone());
            let (_, all) = tokio::join!(
                dropped_after(1 + round % 10, check(&leaver, &key)),
                join_all(limiters.iter().map(|limiter| check(limiter, &key))),
            );
            assert!(all.iter().all(|spent| *spent == Ok(1)), "{all:?}");
        }
    })
    .await;
}
