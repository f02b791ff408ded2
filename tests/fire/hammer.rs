//! One of the processes that fire: what it asks, and the list of all it was answered.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tower_sluice::backend::Backend;
use tower_sluice::{Key, Limiter, Policy, RedisBackend};

use crate::get_then_set::GetThenSet;
use crate::judge::Check;
use crate::{Aim, Load, PROCESSES, SCENARIOS, Scenario};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A child's life: gets ready and says so, waits for the start and the end of the run on a line of its standard input, fires,
/// and writes down all checks.
pub fn child(mut args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let mut next = || args.next().ok_or("too few arguments");
    let (url, name, run, number) = (next()?, next()?, next()?, next()?);
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.ok_or("no such scenario")?;
    let first = number.parse::<usize>()? * scenario.tasks();
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let checks = match scenario.aim {
        Aim::NotAtomic => {
            let gun = runtime.block_on(GetThenSet::connect(&url))?;
            fire(&runtime, scenario, &run, first, gun.clone(), gun)
        }
        Aim::Backend { deny_cache } => {
            let connect = |deny_cache| {
                let builder = RedisBackend::builder().deny_cache(deny_cache);
                // Nothing may fail here, however busy the machine is: a check without an answer may have been charged.
                builder.time_limit(Duration::from_secs(20)).connect(&url)
            };
            let gun = runtime.block_on(connect(deny_cache))?;
            let closer = runtime.block_on(connect(Duration::ZERO))?;
            fire(&runtime, scenario, &run, first, gun, closer)
        }
    }?;
    let mut bytes = Vec::new();
    checks.iter().for_each(|check| check.write(&mut bytes));
    Ok(std::io::stdout().write_all(&bytes)?)
}

fn fire<B: Backend>(
    runtime: &Runtime,
    scenario: &'static Scenario,
    run: &str,
    first: usize,
    gun: B,
    closer: B,
) -> Result<Vec<Check>, Failure> {
    let policy = Policy::new("fire", scenario.rule.quota());
    let (limiter, closer) = (
        Limiter::new(policy.clone(), gun),
        Limiter::new(policy, closer),
    );
    // Connected, and the script is loaded.
    let warm = Key::from(format!("{run}-warm"));
    let _ = runtime.block_on(limiter.check(&warm, 1))?;
    let _ = runtime.block_on(closer.check(&warm, 1))?;
    let keys: Arc<[_]> = (0..scenario.keys())
        .map(|key| Key::from(format!("{run}-{key}")))
        .collect();

    println!("ready");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let (start, end) = line.trim_end().split_once(' ').ok_or("no start and end")?;
    let (start, end) = (start.parse()?, end.parse()?);

    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for task in first..first + scenario.tasks() {
            let (limiter, keys) = (limiter.clone(), Arc::clone(&keys));
            tasks.spawn(async move {
                match scenario.load {
                    Load::Rounds(_) => rounds(&limiter, &keys, start).await,
                    _ => hammer(&limiter, &keys, scenario, task, (start, end)).await,
                }
            });
        }
        let mut checks = Vec::new();
        while let Some(done) = tasks.join_next().await {
            checks.append(&mut done??);
        }
        while scenario.is_closed() {
            let check = ask(&closer, &keys, 0, 1).await?;
            checks.push(check);
            if !check.allowed {
                break;
            }
        }
        Ok(checks)
    })
}

/// Asks all the time, each key in its turn.
///
/// Of one key it must be known well when it was asked first and refused last. So one task begins alone, and leaves something
/// to be paid back until the others come; and after the last check each process asks, alone and past the deny cache, until it
/// is refused.
async fn hammer<B: Backend>(
    limiter: &Limiter<B>,
    keys: &[Key],
    scenario: &Scenario,
    task: usize,
    (start, end): (u64, u64),
) -> Result<Vec<Check>, B::Error> {
    let cached = scenario.is_cached();
    let mut checks = Vec::new();
    // Tasks are spread evenly over the keys.
    let first = task * keys.len() / (PROCESSES * scenario.tasks());
    let mut start = start;
    if let Load::OneKey = scenario.load {
        if task == 0 {
            sleep_until(start).await;
            checks.push(ask(limiter, keys, 0, 100).await?);
        }
        start += 20_000;
    }
    sleep_until(start).await;
    for key in (0..keys.len()).cycle().skip(first) {
        let check = ask(limiter, keys, key, rand::random_range(1..=scenario.costs)).await?;
        if check.allowed || !cached {
            checks.push(check);
        }
        if check.got >= end {
            break;
        }
        if cached {
            // A denial from the cache is there at once: let others run.
            tokio::task::yield_now().await;
        }
    }
    Ok(checks)
}

/// Asks each key once, all tasks of all processes at the same time.
async fn rounds<B: Backend>(
    limiter: &Limiter<B>,
    keys: &[Key],
    start: u64,
) -> Result<Vec<Check>, B::Error> {
    const ROUND: u64 = 50_000;
    let mut checks = Vec::new();
    for key in 0..keys.len() {
        sleep_until(start + key as u64 * ROUND).await;
        checks.push(ask(limiter, keys, key, 1).await?);
    }
    Ok(checks)
}

async fn ask<B: Backend>(
    limiter: &Limiter<B>,
    keys: &[Key],
    key: usize,
    cost: u32,
) -> Result<Check, B::Error> {
    let sent = now();
    let decision = limiter.check(&keys[key], cost).await?.decision;
    let got = now();
    let snapshot = decision.snapshot();
    let reset_after = snapshot.reset_after().as_micros();
    Ok(Check {
        key: u32::try_from(key).expect("few"),
        sent,
        got,
        cost,
        allowed: decision.is_allowed(),
        remaining: snapshot.remaining(),
        reset_after: u64::try_from(reset_after).expect("far below 2^53"),
    })
}

/// The clock that a Redis on this machine reads, in whole µs.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_micros()).expect("before the year 500000")
}

async fn sleep_until(time: u64) {
    tokio::time::sleep(Duration::from_micros(time.saturating_sub(now()))).await;
}

// -- Records

impl Check {
    fn write(&self, bytes: &mut Vec<u8>) {
        for number in [self.sent, self.got, self.reset_after] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [self.key, self.cost, self.remaining, self.allowed.into()] {
            bytes.extend(number.to_le_bytes());
        }
    }

    pub fn read_all(bytes: &[u8]) -> Vec<Self> {
        let long = |at: &[u8]| u64::from_le_bytes(at.try_into().expect("8 bytes"));
        let short = |at: &[u8]| u32::from_le_bytes(at.try_into().expect("4 bytes"));
        let (records, rest) = bytes.as_chunks::<40>();
        assert!(rest.is_empty(), "a record was cut off");
        let read = |record: &[u8; 40]| Self {
            sent: long(&record[..8]),
            got: long(&record[8..16]),
            reset_after: long(&record[16..24]),
            key: short(&record[24..28]),
            cost: short(&record[28..32]),
            remaining: short(&record[32..36]),
            allowed: short(&record[36..]) != 0,
        };
        records.iter().map(read).collect()
    }
}
