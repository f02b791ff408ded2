//! A distant Redis.

use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tower_sluice::blocking::{Limiter, RedisBackend};
use tower_sluice::{Key, Policy, Quota};

use super::{check, tokens, uncached_builder};
use crate::shared_checks::{HOUR, runtime};
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;
use crate::support::stalls;

/// A server behind a proxy, at this round trip time.
fn far(runtime: &Runtime, millis: u64) -> (RedisServer, Proxy, RedisBackend) {
    let server = RedisServer::start();
    let proxy = runtime.block_on(Proxy::to(server.port()));
    let delay = Mode::Delay(Duration::from_millis(millis) / 2);
    runtime.block_on(proxy.set(delay));
    let backend = uncached_builder()
        .connect_blocking(proxy.url())
        .expect("the server runs");
    (server, proxy, backend)
}

#[test]
fn idle_program_far_from_redis_gets_every_reply() {
    let runtime = runtime();
    let series = |millis| {
        let (_server, _proxy, backend) = far(&runtime, millis);
        let limiters = [
            Limiter::new(tokens(100), backend.clone()),
            Limiter::new(Policy::new("log", Quota::sliding_log(100, HOUR)), backend),
        ];
        for round in 1..=5 {
            for limiter in &limiters {
                let spent = check(limiter, &Key::from("ann"));
                if spent != Ok(round) {
                    return Err(format!("{spent:?} at {millis} ms"));
                }
            }
            thread::sleep(Duration::from_millis(1500));
        }
        Ok(())
    };
    stalls::retry_after_stalls_blocking(|| {
        thread::scope(|scope| {
            let all =
                [1, 20, 63, 70, 90, 150, 200].map(|millis| scope.spawn(move || series(millis)));
            all.into_iter()
                .try_for_each(|one| one.join().expect("no panic"))
        })
    });
}

#[test]
fn burst_of_threads_far_from_redis_gets_every_reply() {
    let runtime = runtime();
    stalls::retry_after_stalls_blocking(|| {
        let (_server, _proxy, backend) = far(&runtime, 200);
        let limiter = &Limiter::new(tokens(1_000), backend);
        for pause in [0, 1500] {
            thread::sleep(Duration::from_millis(pause));
            thread::scope(|scope| {
                let check = |number| check(limiter, &Key::from(number));
                let all: Vec<_> = (0..64_u64)
                    .map(|number| scope.spawn(move || check(number)))
                    .collect();
                let mut all = all.into_iter();
                all.try_for_each(|one| match one.join().expect("no panic") {
                    Ok(_) => Ok(()),
                    Err(why) => Err(format!("{why:?} in a burst")),
                })
            })?;
        }
        Ok(())
    });
}
