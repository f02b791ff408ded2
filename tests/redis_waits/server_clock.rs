//! Reservations of several processes, by the server's clock.

use std::process::{Command, Stdio};

use futures_util::future::join_all;
use tokio::time::sleep;
use tower_sluice::backend::Backend;
use tower_sluice::{Key, Limiter, MaxWait, Policy, Quota, RedisBackend};

use crate::harness::{
    ann, context, decided, guarded, limiter, long_limit_builder, ms, secs, timed, to_fill,
    uncached_builder, until, us,
};
use crate::monitor::{Monitor, max_wait};
use crate::reservations::{load_script, script_calls};
use crate::support::redis::RedisServer;

/// The arguments of a child process: the URL of the server, and the number of its first waiter.
const URL: &str = "SLUICE_TEST_URL";

const FIRST: &str = "SLUICE_TEST_FIRST";

const EACH: u64 = 50;

/// One token in this many µs.
const EACH_TOKEN: u64 = 10_000;

/// Both processes share one token in 10 ms, after the first five.
fn a_hundred_a_second() -> Policy {
    timed("fleet", Quota::per_second(100).burst(5))
}

/// The server time, µs.
async fn time(connection: &mut redis::aio::MultiplexedConnection) -> u64 {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME")
        .query_async(connection)
        .await
        .expect("the server runs");
    seconds * 1_000_000 + micros
}

/// Fifty waiters in a child process. Without the arguments it does nothing.
#[tokio::test]
async fn a_process_with_fifty_waiters() {
    let (Ok(url), Ok(first)) = (std::env::var(URL), std::env::var(FIRST)) else {
        return;
    };
    let first: u64 = first.parse().expect("a number");
    let backend = long_limit_builder()
        .connect(&url)
        .await
        .expect("the server runs");
    let limiter = Limiter::new(a_hundred_a_second(), backend);
    let client = redis::Client::open(url).expect("a URL");
    let own = client
        .get_multiplexed_async_connection()
        .await
        .expect("the server runs");
    // Waits until the other process is ready too.
    let mut here = redis::cmd("INCR").arg("here").to_owned();
    while 2 > here
        .query_async::<u64>(&mut own.clone())
        .await
        .expect("the server runs")
    {
        sleep(ms(2)).await;
        here = redis::cmd("GET").arg("here").to_owned();
    }
    let one = |number: u64| {
        let (limiter, mut own) = (limiter.clone(), own.clone());
        async move {
            // Spread over a quarter of a second.
            sleep(us(number * 7_919 % 250_000)).await;
            let charge = limiter.acquire(&ann(), 1, max_wait(number)).await;
            let charge = charge.expect("the reservation is due");
            let went = time(&mut own).await;
            println!(
                "went {number} {went} {} {}",
                decided(&charge),
                to_fill(&charge)
            );
        }
    };
    join_all((first..first + EACH).map(one)).await;
    assert_eq!(context(&limiter), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_of_two_processes_are_ordered_by_the_server() {
    guarded(async {
        let server = RedisServer::start();
        let own = limiter(long_limit_builder(), &server, &a_hundred_a_second()).await;
        load_script(&own).await;
        let monitor = Monitor::of(&server);
        let processes = [0, EACH].map(|first| {
            let program = std::env::current_exe().expect("this program");
            Command::new(program)
                .args([
                    "--exact",
                    "server_clock::a_process_with_fifty_waiters",
                    "--nocapture",
                ])
                .env(URL, server.url())
                .env(FIRST, first.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("this program")
        });
        let mut went = std::collections::BTreeMap::new();
        for process in processes {
            let output = tokio::task::spawn_blocking(|| process.wait_with_output());
            let output = output.await.expect("no panic").expect("the process ends");
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}{errors}");
            for queue in text.lines() {
                let Some((_, numbers)) = queue.split_once("went ") else {
                    continue;
                };
                let numbers: Vec<u64> = numbers
                    .split(' ')
                    .map(|n| n.parse().expect("a number"))
                    .collect();
                went.insert(numbers[0], (numbers[1], numbers[2], numbers[3]));
            }
        }
        let order = monitor.order(&server);
        assert_eq!((order.len(), went.len()), (100, 100));
        // Both processes wait at the same time.
        let of_first = |number: &&u64| **number < EACH;
        let in_first_half = order[..50].iter().filter(of_first).count();
        assert!((5..=45).contains(&in_first_half), "{in_first_half}");
        let mut last = (0, 0);
        for (place, number) in (0..).zip(&order) {
            let (went, decided, to_fill) = went[number];
            // In the order of the server each reservation adds one token to the debt.
            let full = decided + to_fill;
            if place > 0 {
                let after_idleness = decided + EACH_TOKEN;
                assert_eq!(full, (last.1 + EACH_TOKEN).max(after_idleness), "{place}");
            }
            assert!(decided >= last.0);
            last = (decided, full);
            // Five tokens are not a debt.
            let moment = full - 5 * EACH_TOKEN;
            assert!(went >= moment, "{} µs early", moment - went);
        }
        let script_calls = script_calls(&server);
        println!("{script_calls} commands for 100 reservations");
        // Connecting costs each process three more commands.
        assert!(script_calls <= 105 + 2 * 3, "{script_calls}");
    })
    .await;
}

/// A waiter with a reservation sleeps and sends no command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_with_reservations_check_once() {
    guarded(async {
        let server = RedisServer::start();
        let policy = Policy::new("turns", Quota::per_second(500).burst(1));
        let limiter = limiter(long_limit_builder(), &server, &policy).await;
        let (url, key) = (server.url(), ann());
        let _ = (
            url,
            limiter
                .try_acquire(&Key::from("warm"), 1)
                .await
                .expect("it must exist"),
        );
        server.command(&["CONFIG", "RESETSTAT"]);
        let start = std::time::Instant::now();
        let all = join_all((0..400).map(|_| limiter.acquire(&key, 1, secs(10))));
        let sleeping = async {
            until("all have sent a command", secs(20), || {
                server.calls("set") >= 400
            })
            .await;
            let asked_by_then = script_calls(&server);
            (asked_by_then, start.elapsed())
        };
        let (all, (by_then, after)) = tokio::join!(all, sleeping);
        assert!(all.iter().all(Result::is_ok));
        assert!(start.elapsed() >= ms(798), "{:?}", start.elapsed());
        assert!(after < start.elapsed(), "a waiter sent a command");
        // No command follows the reservations, which were sent in batches.
        assert_eq!(script_calls(&server), by_then);
        assert!(script_calls(&server) <= 400 * 105 / 100);
        println!("{by_then} commands for 400 reservations, sent within {after:?}");
    })
    .await;
}

/// Only the queue head checks: once when it becomes the head, and once after its wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_waiter_at_a_time_checks_a_window() {
    guarded(async {
        let server = RedisServer::start();
        // Without and with the deny cache.
        for (name, builder) in [
            ("asks", uncached_builder()),
            ("knows", RedisBackend::builder()),
        ] {
            let policy = Policy::new(name, Quota::sliding_log(5, ms(200)));
            let limiter = limiter(builder.time_limit(secs(20)), &server, &policy).await;
            server.command(&["CONFIG", "RESETSTAT"]);
            let start = std::time::Instant::now();
            let one = |number: u64| {
                let limiter = limiter.clone();
                async move {
                    sleep(ms(number / 4)).await;
                    let charge = limiter.acquire(&ann(), 1, secs(20)).await;
                    charge.expect("the reply arrives");
                    start.elapsed()
                }
            };
            let went = join_all((0..20).map(one)).await;
            let last = went.into_iter().max().expect("twenty");
            assert!(last >= ms(600), "20 at 5 in 200 ms: {last:?}");
            let script_calls = script_calls(&server);
            assert!((20..=42).contains(&script_calls), "{script_calls}");
            assert_eq!(context(&limiter), (0, 0, 0));
        }
    })
    .await;
}

#[tokio::test]
async fn many_dropped_waiters_all_cancel_their_reservations() {
    guarded(async {
        const KEYS: u64 = 3_000;
        let server = RedisServer::start();
        let policy = Policy::new("api", Quota::per_hour(60).burst(1));
        let limiter = limiter(long_limit_builder(), &server, &policy).await;
        let checks = (0..KEYS).map(|number| {
            let limiter = limiter.clone();
            async move { limiter.check(&Key::from(number), 1).await }
        });
        let checks = join_all(checks).await;
        assert!(checks.iter().all(|reply| {
            reply
                .as_ref()
                .is_ok_and(|reply| reply.decision.is_allowed())
        }));
        let waits: Vec<_> = (0..KEYS)
            .map(|number| {
                let limiter = limiter.clone();
                tokio::spawn(async move {
                    let _ = limiter
                        .acquire(&Key::from(number), 1, MaxWait::Unbounded)
                        .await;
                })
            })
            .collect();
        // All waiters have reservations, a minute away.
        until("all wait", secs(20), || {
            limiter.backend().context().stats().waiting as u64 == KEYS
        })
        .await;
        let owed = |number: u64| {
            let limiter = limiter.clone();
            async move {
                limiter
                    .peek(&Key::from(number))
                    .await
                    .expect("the server runs")
                    .reset_after()
            }
        };
        for number in 0..KEYS {
            while owed(number).await <= secs(61) {
                sleep(ms(1)).await;
            }
        }
        for wait in waits {
            wait.abort();
        }
        until("all have left", secs(20), || {
            limiter.backend().context().stats().waiting == 0
        })
        .await;
        until("all background tasks have run", secs(20), || {
            limiter.backend().context().stats().background_tasks == 0
        })
        .await;
        assert_eq!(
            limiter.backend().context().stats().failed_background_tasks,
            0
        );
        for number in 0..KEYS {
            assert!(
                owed(number).await <= secs(60),
                "waiter {number} kept its reservation"
            );
        }
    })
    .await;
}
