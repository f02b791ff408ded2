//! Decisions by Redis: their rate, their latency, and the cost on both sides. Our modes beside other clients and
//! redis-benchmark, on one server in one run.
//!
//! | mode | description |
//! |---|---|
//! | batch | the default: decisions that arrive while others are in flight are sent together |
//! | direct | `batching(false)`: an EVALSHA for each decision, multiplexed over 4 connections |
//! | optimistic | `Atomicity::Optimistic`: WATCH, MULTI and EXEC |
//! | plain | the same EVALSHA over one multiplexed connection of redis-rs, and nothing else |
//! | bb8 | the same EVALSHA over a default pool of bb8-redis: a PING, then one connection held for one decision |
//! | redis-benchmark | the same script by `redis-benchmark -P 16 -c 50` |
//!
//! 10 000 keys, one token bucket each, never empty. Latencies are those of tasks that send the next check after each
//! reply. Redis and its clients share the machine.
//!
//! Run: `cargo bench --features redis --bench redis`, for a quick look with `-- --seconds 0.2`.
//!
//! The file is long because its modes share one run, one server and one account of CPU time.

mod clients;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clients::{Plain, Pooled, RedisBenchmark, Script};
use futures_util::FutureExt;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use support::redis::RedisServer;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tower_sluice::backend::Backend;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota, RedisBackend};

type Error = Box<dyn std::error::Error + Send + Sync>;

const KEYS: u32 = 10_000;
const TASKS: [usize; 4] = [1, 8, 64, 256];
const TURNS: u32 = 5;

/// Never empty and never full: every decision is allowed, and reads and writes a debt.
fn plenty() -> Policy {
    Policy::new("bench", Quota::per_hour(100_000_000))
}

/// The form of a random number of redis-benchmark.
fn key(number: u32) -> String {
    format!("{number:012}")
}

fn main() -> Result<(), Error> {
    let bench = Bench::new()?;
    bench.print_head()?;
    let script = bench.runtime.block_on(Script::spied(&bench.server))?;

    println!(
        "| mode | tasks | decisions/s | p50, µs | p99, µs | longest, µs | client CPU, µs each | Redis CPU, µs each |\n|---|---|---|---|---|---|---|---|"
    );
    let rival = RedisBenchmark::new(&bench.server, &script);
    bench.rival_row(&rival)?;
    let keys: Arc<[_]> = (0..KEYS).map(|number| Key::from(key(number))).collect();
    let ours = |builder: RedisBuilder| -> Result<_, Error> {
        // A pause of the machine delays a decision, and ends no run.
        let patient = builder.time_limit(Duration::from_secs(20));
        let connect = patient.connect(bench.server.url());
        let limiter = Limiter::new(plenty(), bench.runtime.block_on(connect)?);
        let keys = Arc::clone(&keys);
        Ok(Ours { limiter, keys })
    };
    let batch = ours(RedisBackend::builder())?;
    bench.rows("batch", &batch, &TASKS)?;
    let direct = ours(RedisBackend::builder().batching(false))?;
    bench.rows("direct", &direct, &TASKS)?;
    let plain = bench
        .runtime
        .block_on(Plain::connect(&bench.server, &script))?;
    bench.rows("plain", &plain, &TASKS)?;
    let pooled = bench
        .runtime
        .block_on(Pooled::connect(&bench.server, &script))?;
    bench.rows("bb8", &pooled, &TASKS)?;
    let optimistic = ours(RedisBackend::builder().atomicity(Atomicity::Optimistic))?;
    bench.rows("optimistic", &optimistic, &[1, 64])?;

    println!("\n| budget | is | of |\n|---|---|---|");
    let [limit, at_64, at_256] = bench.alternating_rates(&rival, &batch)?;
    let budget = |name: &str, is: f64, of: String| println!("| {name} | {is:.2} | {of} |");
    let of_limit = |rate: f64| format!("{rate:.0} of {limit:.0}/s, the best of {TURNS} turns each");
    budget(
        "64 tasks ≥ 0.9 × redis-benchmark",
        at_64 / limit,
        of_limit(at_64),
    );
    budget(
        "256 tasks ≥ 1.5 × redis-benchmark",
        at_256 / limit,
        of_limit(at_256),
    );
    let [alone, plainly] = bench.alternating_medians(&batch, &plain)?;
    let of = format!("{alone:.1} of {plainly:.1} µs, in turns");
    budget("1 task, p50 ≤ 1.1 × plain", alone / plainly, of);
    let Denied {
        cached,
        memory,
        commands,
    } = bench.denied()?;
    let of = format!("{cached:.0} of {memory:.0} ns, {commands} commands");
    budget("denied by the deny cache ≤ 2 × memory", cached / memory, of);
    Ok(())
}

struct Bench {
    server: RedisServer,
    runtime: Runtime,
    /// The time of one cell.
    time: Duration,
}

/// Makes one decision.
trait Decide: Clone + Send + 'static {
    fn decide(&mut self, key: u32) -> impl Future<Output = Result<bool, Error>> + Send;
}

impl Bench {
    fn new() -> Result<Self, Error> {
        let mut args = std::env::args();
        let seconds = match args.find(|arg| arg == "--seconds") {
            Some(_) => args.next().ok_or("--seconds needs a number")?.parse()?,
            // `cargo test --benches` only checks that it runs.
            None if !std::env::args().any(|arg| arg == "--bench") => 0.02,
            None => 1.5,
        };
        Ok(Self {
            server: RedisServer::start(),
            runtime: Runtime::new()?,
            time: Duration::from_secs_f64(seconds),
        })
    }

    fn print_head(&self) -> Result<(), Error> {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("an unknown CPU", |model| {
            model.trim_start_matches([' ', '\t', ':'])
        });
        let cores = std::thread::available_parallelism()?;
        let server: String = self.server.get(&["INFO", "server"]);
        let version = server
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"));
        let rustc = Command::new("rustc").arg("--version").output()?;
        println!(
            "{cores} cores of {model}, redis-server {}, {}\n",
            version.unwrap_or("?"),
            String::from_utf8_lossy(&rustc.stdout).trim()
        );
        Ok(())
    }

    /// A row for each number of tasks, and their decisions/s.
    fn rows(&self, mode: &str, decide: &impl Decide, tasks: &[usize]) -> Result<Vec<f64>, Error> {
        let row = |&tasks: &usize| {
            let _warm = self.run(decide, tasks, self.time / 8)?;
            let (client, redis) = (cpu()?.0, self.redis_cpu());
            let (took, mut spans) = self.run(decide, tasks, self.time)?;
            let count = spans.len() as f64;
            let (client, redis) = (cpu()?.0 - client, self.redis_cpu() - redis);
            let rate = count / took.as_secs_f64();
            spans.sort_unstable();
            print_row(
                mode,
                &tasks.to_string(),
                rate,
                [50, 99, 100].map(|percent| percentile(&spans, percent)),
                [client / count * 1e6, redis / count * 1e6],
            );
            Ok(rate)
        };
        tasks.iter().map(row).collect()
    }

    /// The duration, and the time of each decision.
    fn run(
        &self,
        decide: &impl Decide,
        tasks: usize,
        time: Duration,
    ) -> Result<(Duration, Vec<Duration>), Error> {
        self.runtime.block_on(async {
            let start = Instant::now();
            let mut running = JoinSet::new();
            for task in 0..tasks {
                let mut decide = decide.clone();
                running.spawn(async move {
                    let mut random = SmallRng::seed_from_u64(task as u64);
                    let (mut spans, mut asked) = (Vec::with_capacity(1 << 12), Instant::now());
                    while start.elapsed() < time {
                        assert!(decide.decide(random.random_range(0..KEYS)).await?);
                        let answered = Instant::now();
                        spans.push(answered - asked);
                        asked = answered;
                    }
                    Ok::<_, Error>(spans)
                });
            }
            let mut spans = Vec::new();
            while let Some(done) = running.join_next().await {
                spans.append(&mut done??);
            }
            Ok((start.elapsed(), spans))
        })
    }

    /// Seconds of CPU that the server has used.
    fn redis_cpu(&self) -> f64 {
        let info: String = self.server.get(&["INFO", "cpu"]);
        let seconds = |name| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|seconds| seconds.trim().parse::<f64>().ok())
        };
        seconds("used_cpu_user:").unwrap_or(0.0) + seconds("used_cpu_sys:").unwrap_or(0.0)
    }

    /// The most decisions/s of redis-benchmark, and of our backend with 64 and 256 tasks. They alternate, and the best
    /// of each counts, because the load of the machine changes.
    fn alternating_rates(
        &self,
        rival: &RedisBenchmark,
        ours: &impl Decide,
    ) -> Result<[f64; 3], Error> {
        let mut best = [0.0_f64; 3];
        for _ in 0..TURNS {
            let rate = |tasks| -> Result<f64, Error> {
                let (took, spans) = self.run(ours, tasks, self.time / 3)?;
                Ok(spans.len() as f64 / took.as_secs_f64())
            };
            let (limit, ..) = rival.run(self.time / 3)?;
            let rates = [limit, rate(64)?, rate(256)?];
            for (best, rate) in best.iter_mut().zip(rates) {
                *best = best.max(rate);
            }
        }
        Ok(best)
    }

    /// The p50 in µs of one task that alternates between the two. Measured in groups of some hundred decisions. The
    /// pair with the middle ratio counts, because the machine changes between two speeds for a single task.
    fn alternating_medians(
        &self,
        one: &impl Decide,
        other: &impl Decide,
    ) -> Result<[f64; 2], Error> {
        let in_turns = Alternating(one.clone(), other.clone(), false);
        let (_, spans) = self.run(&in_turns, 1, 2 * self.time)?;
        let median = |spans: &[Duration], which| {
            let mut spans: Vec<_> = spans.iter().skip(which).step_by(2).copied().collect();
            spans.sort_unstable();
            percentile(&spans, 50)
        };
        let blocks = spans.chunks(200);
        let mut pairs: Vec<_> = blocks
            .map(|block| [median(block, 0), median(block, 1)])
            .collect();
        pairs.sort_unstable_by(|a, b| (a[0] / a[1]).total_cmp(&(b[0] / b[1])));
        let middle = pairs.get(pairs.len() / 2);
        middle.copied().ok_or_else(|| "no decision in time".into())
    }
}

/// Alternates between the first and the second.
#[derive(Clone)]
struct Alternating<A, B>(A, B, bool);

impl<A: Decide, B: Decide> Decide for Alternating<A, B> {
    async fn decide(&mut self, key: u32) -> Result<bool, Error> {
        self.2 = !self.2;
        match self.2 {
            true => self.0.decide(key).await,
            false => self.1.decide(key).await,
        }
    }
}

/// µs
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = sorted.len().saturating_sub(1) * percent / 100;
    sorted
        .get(at)
        .map_or(f64::NAN, |span| span.as_secs_f64() * 1e6)
}

fn print_row(
    mode: &str,
    tasks: &str,
    rate: f64,
    [p50, p99, longest]: [f64; 3],
    [client, redis]: [f64; 2],
) {
    println!(
        "| {mode} | {tasks} | {rate:.0} | {p50:.0} | {p99:.0} | {longest:.0} | {client:.2} | {redis:.2} |"
    );
}

/// Seconds of CPU of this process and of its ended children, from `/proc/self/stat`, in hundredths.
fn cpu() -> Result<(f64, f64), Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("a line without a name")?;
    let fields: Vec<_> = fields.split(' ').collect();
    // `utime` is field 14 of proc(5), the first one here field 3.
    let sum = |from: usize| -> Result<f64, Error> {
        Ok((fields[from].parse::<f64>()? + fields[from + 1].parse::<f64>()?) / 100.0)
    };
    Ok((sum(11)?, sum(13)?))
}

#[derive(Clone)]
struct Ours {
    limiter: Limiter<RedisBackend>,
    keys: Arc<[Key]>,
}

impl Decide for Ours {
    async fn decide(&mut self, key: u32) -> Result<bool, Error> {
        let reply = self.limiter.check(&self.keys[key as usize], 1).await?;
        Ok(reply.decision.is_allowed())
    }
}

struct Denied {
    /// ns a decision
    cached: f64,
    memory: f64,
    /// The commands sent to Redis meanwhile.
    commands: u64,
}

impl Bench {
    /// A denied key: by the deny cache, and in memory.
    fn denied(&self) -> Result<Denied, Error> {
        let policy = Policy::new("denied", Quota::per_hour(1));
        let connect = RedisBackend::connect(self.server.url());
        let redis = Limiter::new(policy.clone(), self.runtime.block_on(connect)?);
        let memory = Limiter::new(policy, MemoryBackend::new());
        let (mut cached, mut local, mut commands) = (f64::INFINITY, f64::INFINITY, 0);
        // Within the second for which a denial is cached.
        let time = (self.time / 4).min(Duration::from_millis(300));
        for round in 0..u64::from(TURNS) {
            let key = Key::from(round);
            self.runtime.block_on(async {
                while redis.check(&key, 1).await?.decision.is_allowed() {}
                Ok::<_, Error>(())
            })?;
            let before = self.commands();
            cached = cached.min(self.runtime.block_on(async { denials(&redis, &key, time) }));
            // Without the command that reads the counters.
            commands += self.commands() - before - 1;
            let _ = memory.check_now(&key, 1);
            local = local.min(denials(&memory, &key, time));
        }
        Ok(Denied {
            cached,
            memory: local,
            commands,
        })
    }

    fn commands(&self) -> u64 {
        let stats: String = self.server.get(&["INFO", "commandstats"]);
        let calls = stats.lines().filter_map(|line| {
            // Connecting sends commands, also for the connection that reads the counters.
            let command = line
                .strip_prefix("cmdstat_")
                .filter(|command| !command.starts_with("client|"));
            let (_, calls) = command?.split_once(":calls=")?;
            calls.split(',').next()?.parse::<u64>().ok()
        });
        calls.sum()
    }
}

/// ns a decision
fn denials<B: Backend>(limiter: &Limiter<B>, key: &Key, time: Duration) -> f64 {
    const BLOCK: u32 = 1_000;
    let (start, mut blocks) = (Instant::now(), 0_u32);
    while start.elapsed() < time {
        for _ in 0..BLOCK {
            let Some(Ok(reply)) = black_box(limiter).check(black_box(key), 1).now_or_never() else {
                panic!("the backend replies at once")
            };
            assert!(!black_box(reply).decision.is_allowed());
        }
        blocks += 1;
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(blocks * BLOCK)
}

impl Bench {
    fn rival_row(&self, rival: &RedisBenchmark) -> Result<(), Error> {
        let (client, redis) = (cpu()?.1, self.redis_cpu());
        let (rate, spans, count) = rival.run(self.time)?;
        let count = count + 20_000.0;
        let spent = [cpu()?.1 - client, self.redis_cpu() - redis];
        let each = spent.map(|seconds| seconds / count * 1e6);
        print_row("redis-benchmark", "50 × 16", rate, spans, each);
        Ok(())
    }
}
