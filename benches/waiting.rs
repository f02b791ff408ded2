//! Waiting for a shared limit: a reservation beside loops that check again, on one Redis in one run.
//!
//! | mode | what a waiter does |
//! |---|---|
//! | reserve | `Limiter::acquire`: sends one command, and sleeps until its reservation is due |
//! | retry_after | checks, sleeps for `retry_after`, and checks again |
//! | poll | checks every 10 ms |
//!
//! 100 waiters of two backends, which act as two servers, share one bucket of 200 a second with a burst of 1. Each
//! waits again after each token. Concurrent requests of one backend share a command in every mode. The unfairness of
//! a wait is the longest wait compared to the mean.
//!
//! Run: `cargo bench --features redis --bench waiting`, for a quick look with `-- --seconds 0.5`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use support::redis::RedisServer;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tower_sluice::{Key, Limiter, MaxWait, Policy, Quota, RedisBackend, RetryAfter};

type Error = Box<dyn std::error::Error + Send + Sync>;

const SERVERS: usize = 2;
const WAITERS: usize = 50;
const RATE: u64 = 200;

#[derive(Clone, Copy)]
enum Mode {
    Reserve,
    RetryAfter,
    Poll,
}

impl Mode {
    /// Waits until one token is free.
    async fn wait(self, limiter: &Limiter<RedisBackend>, key: &Key) -> Result<(), Error> {
        loop {
            let pause = match self {
                Self::Reserve => {
                    limiter.acquire(key, 1, MaxWait::Unbounded).await?;
                    return Ok(());
                }
                Self::RetryAfter | Self::Poll => {
                    match limiter.check(key, 1).await?.decision.retry_after() {
                        None => return Ok(()),
                        Some(RetryAfter::In(reported)) if matches!(self, Self::RetryAfter) => {
                            reported
                        }
                        Some(_) => Duration::from_millis(10),
                    }
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

fn main() -> Result<(), Error> {
    let mut args = std::env::args();
    let seconds = match args.find(|arg| arg == "--seconds") {
        Some(_) => args.next().ok_or("--seconds needs a number")?.parse()?,
        // `cargo test --benches` only checks that it runs.
        None if !std::env::args().any(|arg| arg == "--bench") => 0.05,
        None => 5.0,
    };
    let (server, runtime) = (RedisServer::start(), Runtime::new()?);
    println!(
        "| mode | admitted/s, of {RATE} | Redis commands for each | mean wait, ms | longest wait, ms |\n|---|---|---|---|---|"
    );
    for (name, mode) in [
        ("reserve", Mode::Reserve),
        ("retry_after", Mode::RetryAfter),
        ("poll", Mode::Poll),
    ] {
        let time = Duration::from_secs_f64(seconds);
        let row = runtime.block_on(measure(&server, name, mode, time))?;
        println!("{row}");
    }
    Ok(())
}

async fn measure(
    server: &RedisServer,
    name: &str,
    mode: Mode,
    time: Duration,
) -> Result<String, Error> {
    let policy = Policy::new("upstream", Quota::per_second(RATE).burst(1));
    let mut waiters = JoinSet::new();
    let before = server.calls("evalsha") + server.calls("eval");
    let start = Instant::now();
    for _ in 0..SERVERS {
        // A manual loop caches no denials.
        let backend = RedisBackend::builder().deny_cache(Duration::ZERO);
        let limiter = Limiter::new(policy.clone(), backend.connect(server.url()).await?);
        for _ in 0..WAITERS {
            let (limiter, key) = (limiter.clone(), Key::from(name));
            waiters.spawn(async move {
                let mut waits = Vec::new();
                while start.elapsed() < time {
                    let asked = Instant::now();
                    mode.wait(&limiter, &key).await?;
                    waits.push(asked.elapsed());
                }
                Ok::<_, Error>(waits)
            });
        }
    }
    let mut waits = Vec::new();
    while let Some(own) = waiters.join_next().await {
        waits.extend(own??);
    }
    let (elapsed, admitted) = (start.elapsed().as_secs_f64(), waits.len() as f64);
    let commands = server.calls("evalsha") + server.calls("eval") - before;
    let mean = waits.iter().sum::<Duration>().as_secs_f64() * 1e3 / admitted;
    let longest = waits.iter().max().map_or(0.0, Duration::as_secs_f64) * 1e3;
    Ok(format!(
        "| {name} | {:.1} | {:.2} | {mean:.0} | {longest:.0} |",
        admitted / elapsed,
        commands as f64 / admitted,
    ))
}
