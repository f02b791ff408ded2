//! How many may wait, of one key and in all.

use std::future::{Future, poll_fn};
use std::task::Poll;

use tower_sluice::backend::Backend;
use tower_sluice::{Cost, Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};

use crate::crowd::{Alarms, denied, retry_after, secs, us};
use crate::line::{Counting, Line};

fn bounded(policy: &Policy, each_key: usize, in_all: usize) -> Line {
    let clock = Alarms::new();
    let memory = MemoryBackend::builder().max_waiters(each_key, in_all);
    let memory = memory.clock(clock.clone()).build();
    Line::over(policy, Counting::of(memory, &clock), &clock)
}

/// One token at once and one in ten seconds, by both ways of waiting.
fn one_in_ten_seconds() -> [Policy; 2] {
    [
        Policy::new("bucket", Quota::token_bucket(2, 2, secs(20))),
        Policy::new("window", Quota::sliding_log(2, secs(10))),
    ]
}

#[test]
fn above_the_bound_of_a_key_nobody_waits() {
    for policy in one_in_ten_seconds() {
        let mut line = bounded(&policy, 3, 100);
        line.at_once(2, MaxWait::NONE).expect("they are there");
        line.join_all(3);
        let books = line.books();
        for max_wait in [
            MaxWait::of(us(1)),
            MaxWait::of(secs(100)),
            MaxWait::Unbounded,
        ] {
            let usual = line.check(1).decision;
            let refused = line.at_once(1, max_wait);
            assert_eq!(*denied(&refused), usual, "{policy:?}");
            assert!(retry_after(&refused) >= secs(10));
        }
        assert_eq!((line.books(), line.waiters()), (books, 3));
        assert_eq!(line.lobby().turned_away(), 3);
        // Another client waits beside them.
        let bob = Key::from("bob");
        let two = line.wait_for(&bob, 2, MaxWait::NONE);
        line.crowd.at_once(two).expect("they are there");
        let other = line.wait_for(&bob, 1, MaxWait::Unbounded);
        line.crowd.join(other);
        assert_eq!(line.waiters(), 4);
        line.crowd.until(secs(60));
        assert_eq!((line.waiters(), line.crowd.waiting().len()), (0, 0));
        line.join_all(5);
        assert_eq!(line.waiters(), 3, "there is room again");
    }
}

#[test]
fn above_the_bound_in_all_nobody_waits_whoever_it_is() {
    for policy in one_in_ten_seconds() {
        let mut line = bounded(&policy, 100, 4);
        for number in 0..4_u64 {
            for cost in [2, 1] {
                let wait = line.wait_for(&Key::from(number), cost, MaxWait::Unbounded);
                line.crowd.join(wait);
            }
        }
        assert_eq!(line.waiters(), 4);
        let new = Key::from("new");
        for (cost, is_there) in [(2, true), (1, false), (0, true)] {
            let wait = line.wait_for(&new, cost, MaxWait::Unbounded);
            let outcome = line.crowd.at_once(wait);
            assert_eq!(outcome.is_ok(), is_there, "who need not wait passes");
        }
        // What is free asks for no place.
        assert_eq!((line.waiters(), line.lobby().turned_away()), (4, 2));
        let one = line.crowd.waiting()[2];
        assert!(line.crowd.leave(one));
        let wait = line.wait_for(&new, 1, MaxWait::Unbounded);
        line.crowd.join(wait);
        assert_eq!(line.waiters(), 4);
        line.crowd.until(secs(60));
        assert_eq!((line.waiters(), line.crowd.waiting().len()), (0, 0));
    }
}

/// There is enough for one who costs little, but the first of the line waits for more.
#[test]
fn who_is_turned_away_passes_if_there_is_enough() {
    let mut line = bounded(&one_in_ten_seconds()[1], 2, 100);
    line.at_once(1, MaxWait::NONE).expect("it is there");
    for _ in 0..2 {
        line.join(2, MaxWait::Unbounded);
    }
    let passes = line.at_once(1, MaxWait::Unbounded).expect("it is there");
    assert!(passes.waited().is_zero());
    assert_eq!((line.waiters(), line.lobby().turned_away()), (2, 1));
}

#[test]
fn with_no_room_at_all_to_wait_is_to_check() {
    for (each_key, in_all) in [(0, 9), (9, 0), (0, 0)] {
        for policy in one_in_ten_seconds() {
            let mut line = bounded(&policy, each_key, in_all);
            for _ in 0..2 {
                line.at_once(1, MaxWait::Unbounded).expect("it is there");
            }
            let usual = line.check(1).decision;
            let refused = line.at_once(1, MaxWait::Unbounded);
            assert_eq!(*denied(&refused), usual);
            assert_eq!((line.waiters(), line.lobby().turned_away()), (0, 3));
        }
    }
}

#[test]
fn if_nothing_is_said_1024_wait_for_a_key_and_65536_in_all() {
    let mut line = Line::of(&Policy::new("bucket", Quota::per_day(1)));
    line.join_all(1 + 1_024);
    assert_eq!(line.waiters(), 1_024);
    assert!(line.at_once(1, MaxWait::Unbounded).is_err());
    for number in 0..63_u64 {
        for _ in 0..=1_024 {
            let wait = line.wait_for(&Key::from(number), 1, MaxWait::Unbounded);
            line.crowd.join(wait);
        }
    }
    assert_eq!((line.waiters(), line.lobby().turned_away()), (65_536, 1));
    let wait = line.wait_for(&Key::from("new"), Cost::ONE, MaxWait::Unbounded);
    line.crowd.at_once(wait).expect("it is there");
    let wait = line.wait_for(&Key::from("new"), Cost::ONE, MaxWait::Unbounded);
    assert!(line.crowd.at_once(wait).is_err());
    for who in line.crowd.waiting() {
        assert!(line.crowd.leave(who));
    }
    assert_eq!(line.waiters(), 0);
}

/// In threads: the counts are changed by many at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_ten_thousand_who_came_and_went_nobody_is_counted_any_more() {
    for policy in one_in_ten_seconds() {
        let clock = Alarms::new();
        let backend = MemoryBackend::builder().max_waiters(40, 1_500);
        let backend = backend.clock(clock.clone()).build();
        let limiter = Limiter::new(policy, backend.clone());
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..10_000_u64 {
            let limiter = limiter.clone();
            tasks.spawn(async move {
                let key = Key::from(number % 100);
                let wait = limiter.wait(&key, 1, MaxWait::Unbounded);
                let mut wait = std::pin::pin!(wait);
                for _ in 0..number % 7 {
                    let poll = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await;
                    if poll.is_ready() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            });
            assert!(backend.lobby().waiters() <= 1_500);
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no panic");
            clock.jump(clock.passed() + us(5));
        }
        let lobby = backend.lobby();
        assert!(lobby.turned_away() < 10_000);
        assert_eq!((lobby.waiters(), lobby.lost_errands()), (0, 0));
    }
}
