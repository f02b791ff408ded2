//! Reservations on one Redis are ordered by arrival, with a manual clock.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tower_sluice::backend::Backend;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::clock::{Clock, ManualClock, Timestamp};
use tower_sluice::limiter::Rejected;
use tower_sluice::{Key, Limiter, MaxWait, Policy, Quota, RetryAfter};

use crate::harness::{ann, context, guarded, limiter, long_limit_builder, ms, secs, until, us};
use crate::monitor::{Monitor, max_wait};
use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

/// A time in the year 2027, µs.
const START: u64 = 1_800_000_000_000_000;

fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_micros(START))
}

/// A limiter with its own connection, whose scripts see the time of `clock`.
async fn frozen(
    server: &RedisServer,
    clock: &ManualClock,
    policy: &Policy,
) -> crate::harness::Redis {
    let connection = Frozen::connect(&server.url(), clock).await;
    let backend = long_limit_builder()
        .clock(clock.clone())
        .idle_ttl(secs(3_600));
    Limiter::new(
        policy.clone(),
        backend.from_transport(RedisConnection::new(connection)),
    )
}

/// Loads the script that reserves.
pub(crate) async fn load_script(limiter: &crate::harness::Redis) {
    let first = limiter.acquire(&Key::from("first"), 1, secs(1)).await;
    first.expect("it must exist");
}

/// The number of script calls, including calls of unknown scripts.
pub(crate) fn script_calls(server: &RedisServer) -> u64 {
    server.calls("evalsha") + server.calls("eval")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_of_two_backends_are_ordered_by_the_server() {
    guarded(async {
        const EACH: u64 = 50;
        let (server, clock) = (RedisServer::start(), clock());
        let policy = Policy::new("turns", Quota::per_second(100).burst(1));
        let backends = [
            frozen(&server, &clock, &policy).await,
            frozen(&server, &clock, &policy).await,
        ];
        load_script(&backends[0]).await;
        let monitor = Monitor::of(&server);
        let (went, mut goes) = mpsc::unbounded_channel();
        for number in 0..2 * EACH {
            let limiter = backends[usize::try_from(number % 2).expect("0 or 1")].clone();
            let (went, clock) = (went.clone(), clock.clone());
            tokio::spawn(async move {
                let charge = limiter.acquire(&ann(), 1, max_wait(number)).await;
                let charge = charge.expect("the reservation is due");
                went.send((number, clock.now(), charge.waited()))
                    .expect("a receiver is open");
            });
        }
        let all_wait = || {
            backends
                .iter()
                .map(|backend| context(backend).0)
                .sum::<usize>()
                == 99
        };
        until(
            "all have sent a command, and one was served",
            secs(20),
            all_wait,
        )
        .await;
        let order = monitor.order(&server);
        assert_eq!(order.len(), 100);
        for (reservation, number) in (0..).zip(&order) {
            // The times of the reservations are a hundredth of a second apart.
            let moment = Timestamp::from_micros(START + 10_000 * reservation);
            if reservation > 0 {
                clock.set(Timestamp::from_micros(START + 10_000 * reservation - 1));
                sleep(Duration::from_micros(300)).await;
                assert!(goes.is_empty(), "not a microsecond early");
                clock.set(moment);
            }
            let (served, at, waited) = goes.recv().await.expect("its time has come");
            assert_eq!((served, at), (*number, moment));
            assert_eq!(
                waited,
                us(10_000) * u32::try_from(reservation).expect("a small number")
            );
        }
        // One command for each waiter at most, some of them in batches, and one that loaded the script.
        assert!(script_calls(&server) <= 102, "{}", script_calls(&server));
        assert!(backends.iter().all(|backend| context(backend) == (0, 0, 0)));
    })
    .await;
}

#[tokio::test]
async fn wait_is_known_at_once_and_a_longer_one_denied_with_its_time() {
    guarded(async {
        let (server, clock) = (RedisServer::start(), clock());
        for policy in [
            Policy::new("steady", Quota::per_second(5)),
            Policy::new("ticks", Quota::interval_bucket(5, 5, ms(200))),
            Policy::new("both", Quota::per_second(5)).and("more", Quota::per_second(50)),
        ] {
            let limiter = frozen(&server, &clock, &policy).await;
            limiter
                .acquire(&ann(), 5, MaxWait::Unbounded)
                .await
                .expect("it must exist");
            for short in [0, 1, 199_999] {
                let rejected = limiter.acquire(&ann(), 1, us(short)).await;
                let reported = rejected
                    .expect_err("its tokens arrive in 200 ms")
                    .retry_after();
                assert_eq!(reported, Some(RetryAfter::In(ms(200))), "{policy:?}");
            }
            let never = limiter.acquire(&ann(), 6, MaxWait::Unbounded).await;
            assert_eq!(
                never.expect_err("too much").retry_after(),
                Some(RetryAfter::Never)
            );
            limiter
                .acquire(&ann(), 0, MaxWait::Unbounded)
                .await
                .expect("the cost is zero");
            let mut waits = tokio::spawn({
                let limiter = limiter.clone();
                async move { limiter.acquire(&ann(), 1, ms(200)).await }
            });
            until("its reservation is due", secs(5), || {
                context(&limiter).0 == 1
            })
            .await;
            let soon = timeout(ms(20), &mut waits).await;
            assert!(soon.is_err(), "the request waits");
            clock.advance(ms(200));
            let charge = waits
                .await
                .expect("no panic")
                .expect("the reservation is due");
            assert_eq!(charge.waited(), ms(200));
        }
    })
    .await;
}

#[tokio::test]
async fn shared_backend_delays_its_next_check_by_up_to_100_ms() {
    guarded(async {
        let (server, clock) = (RedisServer::start(), clock());
        let policy = Policy::new("window", Quota::sliding_log(1, secs(10)));
        let connection = Frozen::connect(&server.url(), &clock).await;
        // One request a call, so that requests can be counted.
        let backend = long_limit_builder().batching(false).clock(clock.clone());
        let backend = backend
            .idle_ttl(secs(3_600))
            .from_transport(RedisConnection::new(connection));
        let limiter = Limiter::new(policy, backend);
        let mut waits = tokio::task::JoinSet::new();
        for number in 0..40_u64 {
            let (limiter, key) = (limiter.clone(), Key::from(number));
            limiter.try_acquire(&key, 1).await.expect("it must exist");
            waits.spawn(async move { limiter.acquire(&key, 1, secs(60)).await });
        }
        until("all have replied", secs(20), || script_calls(&server) >= 80).await;
        until("all wait", secs(5), || context(&limiter).0 == 40).await;
        sleep(ms(20)).await;
        clock.advance(secs(10) - us(1));
        sleep(ms(20)).await;
        assert_eq!(context(&limiter).0, 40, "never early");
        clock.advance(us(1));
        sleep(ms(20)).await;
        assert!(
            context(&limiter).0 >= 35,
            "the waiters must not all start at once"
        );
        clock.advance(ms(50));
        until("some were served", secs(5), || context(&limiter).0 <= 35).await;
        assert!(context(&limiter).0 >= 5, "no charge is split");
        clock.advance(ms(50));
        until("the last was served", secs(5), || context(&limiter).0 == 0).await;
        for charge in waits.join_all().await {
            let waited = charge.expect("the request is allowed").waited();
            assert!(
                (secs(10)..=secs(10) + ms(100)).contains(&waited),
                "{waited:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn max_waiters_applies_to_redis() {
    guarded(async {
        let server = RedisServer::start();
        for (policy, each_key, in_all) in [
            (Policy::new("turns", Quota::per_hour(1)), 3, 100),
            (Policy::new("turns-in-all", Quota::per_hour(1)), 100, 3),
            (
                Policy::new("window", Quota::sliding_log(1, secs(3_600))),
                3,
                100,
            ),
            (
                Policy::new("window-in-all", Quota::sliding_log(1, secs(3_600))),
                100,
                3,
            ),
        ] {
            let builder = long_limit_builder().max_waiters(each_key, in_all);
            let limiter = limiter(builder, &server, &policy).await;
            let [ann, bob] = [ann(), Key::from("bob")];
            for key in [&ann, &bob] {
                limiter.try_acquire(key, 1).await.expect("it must exist");
            }
            let waits: Vec<_> = (0..3)
                .map(|_| {
                    let (limiter, key) = (limiter.clone(), ann.clone());
                    tokio::spawn(async move { limiter.acquire(&key, 1, MaxWait::Unbounded).await })
                })
                .collect();
            until("three wait", secs(5), || context(&limiter).0 == 3).await;
            sleep(ms(20)).await;
            let key = if each_key == 3 { &ann } else { &bob };
            let rejected = limiter.acquire(key, 1, MaxWait::Unbounded).await;
            let Err(Rejected::Denied(decision)) = rejected else {
                panic!("{rejected:?}");
            };
            let Some(RetryAfter::In(reported)) = decision.retry_after() else {
                panic!("{decision:?}");
            };
            assert!(reported > secs(3_500), "{reported:?}");
            assert_eq!(limiter.backend().context().stats().rejected_waiters, 1);
            // A request that need not wait is allowed.
            let cid = Key::from("cid");
            limiter
                .acquire(&cid, 1, MaxWait::Unbounded)
                .await
                .expect("it must exist");
            waits.iter().for_each(tokio::task::JoinHandle::abort);
            until("no waiter and no background task", secs(5), || {
                context(&limiter) == (0, 0, 0)
            })
            .await;
        }
    })
    .await;
}
