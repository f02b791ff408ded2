//! One of the load processes: the checks that it sends, and the record of their replies.

use std::fmt::Display;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tower_sluice::backend::Backend;
use tower_sluice::{Key, Limiter, Policy, RedisBackend};

use crate::get_then_set::GetThenSet;
use crate::records::Check;
use crate::{Load, PROCESSES, SCENARIOS, Scenario, Target};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The main function of a child. It prepares and reports so, waits on standard input for the start and the end, sends
/// checks, and writes down all of them.
pub fn child(mut args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let mut next = || args.next().ok_or("too few arguments");
    let (url, name, slower, number) = (next()?, next()?, next()?, next()?);
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.ok_or("no such scenario")?;
    let process = LoadProcess {
        scenario,
        slower: slower.parse()?,
        first: number.parse::<usize>()? * scenario.tasks(),
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let checks = match scenario.target {
        Target::NotAtomic => {
            let gun = runtime.block_on(GetThenSet::connect(&url))?;
            process.run_load(&runtime, gun.clone(), gun)
        }
        Target::Backend { deny_cache } => {
            let connect = |deny_cache| {
                let builder = RedisBackend::builder().deny_cache(deny_cache);
                // No check may fail, however busy the machine is: a check without a reply may have been charged.
                builder.time_limit(Duration::from_secs(20)).connect(&url)
            };
            let gun = runtime.block_on(connect(deny_cache))?;
            let closer = runtime.block_on(connect(Duration::ZERO))?;
            process.run_load(&runtime, gun, closer)
        }
    }?;
    let mut bytes = Vec::new();
    checks.iter().for_each(|check| check.write(&mut bytes));
    Ok(std::io::stdout().write_all(&bytes)?)
}

/// The part of one process in a run.
#[derive(Clone, Copy)]
struct LoadProcess {
    scenario: &'static Scenario,
    /// The factor by which all times are longer.
    slower: u64,
    /// The number of its first task, counted over all processes.
    first: usize,
}

impl LoadProcess {
    fn run_load<B: Backend>(
        self,
        runtime: &Runtime,
        gun: B,
        closer: B,
    ) -> Result<Vec<Check>, Failure> {
        let (scenario, slower) = (self.scenario, self.slower);
        let policy = Policy::new("fire", scenario.rule.slower(slower).quota());
        let limiter = Limiter::new(policy.clone(), gun);
        let closer = Limiter::new(policy, closer);
        // Keys of this run only. The first check connects a limiter and loads the script.
        let key = |name: &dyn Display| Key::from(format!("{slower}-{name}"));
        let _ = runtime.block_on(limiter.check(&key(&"warm"), 1))?;
        let _ = runtime.block_on(closer.check(&key(&"warm"), 1))?;
        let keys: Arc<[_]> = (0..scenario.keys()).map(|number| key(&number)).collect();

        println!("ready");
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let (start, end) = line.trim_end().split_once(' ').ok_or("no start and end")?;
        let (start, end) = (start.parse::<u64>()?, end.parse::<u64>()?);

        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for task in self.first..self.first + scenario.tasks() {
                let (limiter, keys) = (limiter.clone(), Arc::clone(&keys));
                tasks.spawn(async move {
                    match scenario.load {
                        Load::Rounds(_) => self.rounds(&limiter, &keys, start).await,
                        _ => {
                            self.check_all_the_time(&limiter, &keys, task, start, end)
                                .await
                        }
                    }
                });
            }
            let mut checks = Vec::new();
            while let Some(done) = tasks.join_next().await {
                checks.append(&mut done??);
            }
            // Bounded in time, in case tokens refill faster than this machine can check.
            while scenario.is_closed() && now() < end + (end - start) / 4 {
                let check = ask(&closer, &keys, 0, 1).await?;
                checks.push(check);
                if !check.allowed {
                    break;
                }
            }
            Ok(checks)
        })
    }

    /// Checks all the time, each key in turn.
    ///
    /// The first check and the last denial of a single key must be known exactly. Therefore one task starts alone, and
    /// leaves a debt until the others start. After the last check each process checks alone, past the deny cache, until
    /// it is denied.
    async fn check_all_the_time<B: Backend>(
        self,
        limiter: &Limiter<B>,
        keys: &[Key],
        task: usize,
        mut start: u64,
        end: u64,
    ) -> Result<Vec<Check>, B::Error> {
        let (scenario, cached) = (self.scenario, self.scenario.is_cached());
        let mut checks = Vec::new();
        if let Load::OneKey = scenario.load {
            if task == 0 {
                sleep_until(start).await;
                checks.push(ask(limiter, keys, 0, 100).await?);
            }
            start += 20_000 * self.slower;
        }
        sleep_until(start).await;
        // Evenly over the keys of each process: some processes are faster than others.
        let (process, own) = (task / scenario.tasks(), task % scenario.tasks());
        let place = own * PROCESSES + process;
        let first = place * keys.len() / (PROCESSES * scenario.tasks());
        for key in (0..keys.len()).cycle().skip(first) {
            let check = ask(limiter, keys, key, rand::random_range(1..=scenario.costs)).await?;
            if check.allowed || !cached {
                checks.push(check);
            }
            if check.got >= end {
                break;
            }
            if cached {
                // A cached denial is immediate: let other tasks run.
                tokio::task::yield_now().await;
            }
        }
        Ok(checks)
    }

    /// Checks each key once, with all tasks of all processes at the same time.
    async fn rounds<B: Backend>(
        self,
        limiter: &Limiter<B>,
        keys: &[Key],
        start: u64,
    ) -> Result<Vec<Check>, B::Error> {
        let mut checks = Vec::new();
        for key in 0..keys.len() {
            sleep_until(start + key as u64 * 50_000 * self.slower).await;
            checks.push(ask(limiter, keys, key, 1).await?);
        }
        Ok(checks)
    }
}

async fn ask<B: Backend>(
    limiter: &Limiter<B>,
    keys: &[Key],
    key: usize,
    cost: u64,
) -> Result<Check, B::Error> {
    let sent = now();
    let decision = limiter.check(&keys[key], cost).await?.decision;
    let got = now();
    let snapshot = decision.snapshot();
    let reset_after = snapshot.reset_after().as_micros();
    Ok(Check {
        key: u64::try_from(key).expect("a small number"),
        sent,
        got,
        cost,
        allowed: decision.is_allowed(),
        remaining: snapshot.remaining(),
        reset_after: u64::try_from(reset_after).expect("far below 2^53"),
    })
}

/// The clock of a Redis on this machine, in whole µs.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_micros()).expect("before the year 500000")
}

async fn sleep_until(time: u64) {
    tokio::time::sleep(Duration::from_micros(time.saturating_sub(now()))).await;
}

impl Check {
    fn write(&self, bytes: &mut Vec<u8>) {
        let (key, allowed) = (self.key, self.allowed.into());
        let times = [self.sent, self.got, self.reset_after];
        for number in times
            .into_iter()
            .chain([key, self.cost, self.remaining, allowed])
        {
            bytes.extend(number.to_le_bytes());
        }
    }

    pub fn read_all(bytes: &[u8]) -> Vec<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let (records, others) = numbers.as_chunks::<7>();
        assert!(rest.is_empty() && others.is_empty(), "a record was cut off");
        let read = |record: &[[u8; 8]; 7]| {
            let [sent, got, reset_after, key, cost, remaining, allowed] =
                record.map(u64::from_le_bytes);
            Self {
                sent,
                got,
                reset_after,
                key,
                cost,
                remaining,
                allowed: allowed != 0,
            }
        };
        records.iter().map(read).collect()
    }
}
