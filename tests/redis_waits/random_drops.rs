//! Thousands of waiters on Redis that are dropped at random: no excess token is admitted, and no state is left.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tower_sluice::{Charge, Key, MaxWait, Policy, Quota};

use crate::harness::{
    Redis, ann, context, decided, guarded, limiter, long_limit_builder, ms, secs, timed, to_fill,
    until, us,
};
use crate::support::redis::RedisServer;

/// The number of concurrent waiters, and how often each one waits.
const CLIENTS: u64 = 400;
const ROUNDS: u64 = 40;
const KEYS: u64 = 50;
const CAPACITY: u64 = 5;
/// One token in this many µs.
const EACH_TOKEN: u64 = 10_000;

fn key_of(number: u64) -> Key {
    Key::from(number % KEYS)
}

const fn cost_of(number: u64) -> u64 {
    1 + (number / KEYS % 3)
}

/// Waits, and may be dropped: before its request is sent, before its reply, or before or after its time.
async fn one(limiter: &Redis, number: u64) -> Option<Charge> {
    sleep(us(rand::random_range(0..100_000))).await;
    // On a busy machine cancels may lag behind: wait until few of them are running.
    while context(limiter).1 > 500 {
        sleep(ms(1)).await;
    }
    let key = key_of(number);
    let mut wait = pin!(limiter.acquire(&key, cost_of(number), secs(60)));
    match rand::random_range(0..10) {
        // Some hundred µs, like the reply.
        0..4 => {
            let polls = rand::random_range(0..20) * rand::random_range(0..20);
            for _ in 0..polls {
                let poll = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await;
                if let Poll::Ready(charge) = poll {
                    return Some(charge.expect("the reservation is due"));
                }
                yield_now().await;
            }
            None
        }
        4..9 => {
            let patience = ms(rand::random_range(0..60));
            match timeout(patience, &mut wait).await {
                Ok(charge) => Some(charge.expect("the reservation is due")),
                Err(_) => None,
            }
        }
        _ => Some(wait.await.expect("the reservation is due")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_random_drops_spend_no_extra_token() {
    guarded(async {
        let server = RedisServer::start();
        let rate = us(EACH_TOKEN * CAPACITY);
        let (capacity, refill) = (5, 5);
        let policy = timed("books", Quota::token_bucket(capacity, refill, rate));
        let limiters = [
            limiter(long_limit_builder(), &server, &policy).await,
            limiter(long_limit_builder(), &server, &policy).await,
        ];
        let mut tasks = JoinSet::new();
        for client in 0..CLIENTS {
            let limiter = limiters[usize::try_from(client % 2).expect("0 or 1")].clone();
            tasks.spawn(async move {
                let mut went = BTreeMap::new();
                for number in (0..ROUNDS).map(|round| round * CLIENTS + client) {
                    if let Some(charge) = one(&limiter, number).await {
                        // The time of its reservation, by the server clock.
                        let full = decided(&charge) + to_fill(&charge);
                        let moment = decided(&charge).max(full - CAPACITY * EACH_TOKEN);
                        went.insert(number, moment);
                    }
                }
                went
            });
        }
        let mut went = BTreeMap::new();
        while let Some(ended) = tasks.join_next().await {
            went.append(&mut ended.expect("no panic"));
        }
        for limiter in &limiters {
            let is_done = || matches!(context(limiter), (0, 0, _));
            until("every background task ends", secs(5), is_done).await;
            assert_eq!(context(limiter), (0, 0, 0));
        }
        assert_nothing_is_left(&server, &limiters[0]).await;

        let dropped = usize::try_from(CLIENTS * ROUNDS).expect("a small number") - went.len();
        println!("{} went, {dropped} did not wait for it", went.len());
        assert!(went.len() > 1_500 && dropped > 8_000);
        let mut moments: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for (number, moment) in went {
            let own = moments.entry(number % KEYS).or_default();
            own.push((moment, cost_of(number)));
        }
        let mut tightest = u64::MAX;
        for moments in moments.values_mut() {
            moments.sort_unstable();
            for (index, (first, _)) in moments.iter().enumerate() {
                let mut spent = 0;
                for (last, cost) in &moments[index..] {
                    spent += cost;
                    // Times are rounded up to whole µs.
                    let span = last - first + 1;
                    let most = CAPACITY + span / EACH_TOKEN;
                    assert!(spent <= most, "{spent} in {span} µs");
                    tightest = tightest.min(most - spent);
                }
            }
        }
        assert_eq!(tightest, 0, "the sum of all charges is wrong");
    })
    .await;
}

/// A key expires a second after it owes nothing, or two seconds if it was written again.
async fn assert_nothing_is_left(server: &RedisServer, limiter: &Redis) {
    let mut last = Duration::ZERO;
    let buckets = || {
        let keys = server.keys().into_iter();
        keys.filter(|key| !key.ends_with(":clock"))
            .collect::<Vec<_>>()
    };
    assert!(!buckets().is_empty());
    for key in buckets() {
        let left: i64 = server.get(&["PTTL", &key]);
        assert_ne!(left, -1, "{key} never expires");
        // The key may have expired meanwhile.
        last = last.max(ms(u64::try_from(left).unwrap_or(0)));
    }
    let mut owed = Duration::ZERO;
    for number in 0..KEYS {
        let snapshot = limiter
            .peek(&key_of(number))
            .await
            .expect("the server runs");
        owed = owed.max(snapshot.quotas()[0].reset_after());
    }
    // The two reads are some ms apart.
    assert!(last <= owed + ms(2_300), "{last:?} for {owed:?}");
    sleep(owed).await;
    for number in 0..KEYS {
        let snapshot = limiter
            .peek(&key_of(number))
            .await
            .expect("the server runs");
        assert_eq!(
            (snapshot.remaining(), snapshot.reset_after()),
            (5, Duration::ZERO)
        );
    }
    sleep(ms(2_010)).await;
    assert_eq!(buckets(), [""; 0]);
}

/// Five tokens are spent, and `count` waiters have reservations.
async fn queue(limiter: &Redis, count: usize) -> Vec<tokio::task::JoinHandle<Charge>> {
    limiter
        .acquire(&ann(), 5, MaxWait::Unbounded)
        .await
        .expect("it must exist");
    let mut waits = Vec::new();
    for _ in 0..count {
        let own = limiter.clone();
        let wait = async move { own.acquire(&ann(), 1, MaxWait::Unbounded).await };
        waits.push(tokio::spawn(async {
            wait.await.expect("the reservation is due")
        }));
        // In this order.
        let wanted =
            Duration::from_secs(720) * u32::try_from(5 + waits.len()).expect("a small number");
        wait_for_debt(limiter, wanted).await;
    }
    waits
}

/// Waits until the debt is `owed`, less the tokens refilled since.
async fn wait_for_debt(limiter: &Redis, owed: Duration) {
    let peek = || async {
        limiter
            .peek(&ann())
            .await
            .expect("the server runs")
            .reset_after()
    };
    let start = std::time::Instant::now();
    loop {
        let now = peek().await;
        if now <= owed && now + secs(60) > owed {
            return;
        }
        assert!(start.elapsed() < secs(5), "{now:?}, expected {owed:?}");
        sleep(ms(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_reservation_is_refunded_if_nothing_follows_it() {
    guarded(async {
        const TOKEN: Duration = secs(720);
        let server = RedisServer::start();
        let policy = Policy::new("turns", Quota::per_hour(5));
        let limiter = limiter(long_limit_builder(), &server, &policy).await;
        let mut waits = queue(&limiter, 10).await;
        let is_quiet = || context(&limiter) == (6, 0, 0);
        waits.pop().expect("the last").abort();
        wait_for_debt(&limiter, TOKEN * 14).await;
        // A charge behind this reservation was refunded since.
        waits.pop().expect("the last").abort();
        wait_for_debt(&limiter, TOKEN * 13).await;
        // In the middle.
        waits.drain(3..5).for_each(|wait| wait.abort());
        until("they were served", secs(5), is_quiet).await;
        wait_for_debt(&limiter, TOKEN * 13).await;
        // Never sent, or dropped at once.
        drop(limiter.acquire(&ann(), 1, MaxWait::Unbounded));
        let key = ann();
        let asks = limiter.acquire(&key, 1, MaxWait::Unbounded).now_or_never();
        assert!(asks.is_none());
        until("the operation is undone", secs(5), is_quiet).await;
        wait_for_debt(&limiter, TOKEN * 13).await;
        waits.drain(..).for_each(|wait| wait.abort());
        let is_over = || context(&limiter) == (0, 0, 0);
        until("all were served", secs(5), is_over).await;
        wait_for_debt(&limiter, TOKEN * 5).await;
    })
    .await;
}
