//! Decisions by Redis: this crate beside redis-cell, a bare batcher and tower-rate-limiter, on one server in one process.
//!
//! Each limiter is measured in turns, several times, and the medians are printed. 10 000 keys with plenty of tokens, so
//! every request is allowed. A limiter of this crate and redis-cell have the same quota. Redis and the clients share the
//! machine.
//!
//! Run: `REDIS_CELL=/path/to/libredis_cell.so cargo run --release --ignore-rust-version --target-dir target/peers
//! --manifest-path benches/redis_peers/Cargo.toml`. Options: `-- --seconds 1 --rounds 5`. redis-cell is built from its
//! own source. Without the variable, its rows are missing.

mod peers;
mod server;

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::peers::{Bare, Cell, Decide, FixedWindow, Sluice};
use crate::server::{Server, client_cpu};

type Error = Box<dyn std::error::Error + Send + Sync>;

const KEYS: usize = 10_000;
const TASKS: [usize; 2] = [64, 256];
const NAMES: [&str; 4] = [
    "tower-sluice",
    "redis-cell",
    "a bare batcher, GCRA",
    "tower-rate-limiter",
];

/// One run of a limiter.
#[derive(Clone, Copy)]
struct Figures {
    /// Decisions per second.
    rate: f64,
    /// µs for each decision.
    redis_cpu: f64,
    client_cpu: f64,
}

struct Bench {
    server: Server,
    time: Duration,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let bench = Bench {
        server: Server::start().await?,
        time: Duration::from_secs_f64(option("--seconds", 1.0)?),
    };
    let rounds = option("--rounds", 5.0)? as usize;
    let only: Option<String> = std::env::args().skip_while(|arg| arg != "--only").nth(1);
    let is_wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let cores = std::thread::available_parallelism()?;
    println!(
        "{cores} cores, redis-server {}, {rounds} rounds of {:?}",
        bench.server.version().await?,
        bench.time
    );
    if !bench.server.has_cell {
        println!("redis-cell is missing: set REDIS_CELL to the path of libredis_cell.so");
    }
    let sluice = Sluice::connect(&bench.server).await?;
    let cell = Cell::connect(&bench.server).await?;
    let bare = Bare::connect(&bench.server).await?;
    let window = FixedWindow::connect(&bench.server).await?;
    // By number of tasks and limiter.
    let mut runs = [const { [const { Vec::new() }; NAMES.len()] }; TASKS.len()];
    for _ in 0..rounds {
        for (tasks, runs) in TASKS.into_iter().zip(&mut runs) {
            for (name, runs) in NAMES.into_iter().zip(runs) {
                if !is_wanted(name) || name == "redis-cell" && !bench.server.has_cell {
                    continue;
                }
                runs.push(match name {
                    "tower-sluice" => bench.run(&sluice, tasks).await?,
                    "redis-cell" => bench.run(&cell, tasks).await?,
                    "tower-rate-limiter" => bench.run(&window, tasks).await?,
                    _ => bench.run(&bare, tasks).await?,
                });
            }
        }
    }
    print(&runs);
    Ok(())
}

impl Bench {
    async fn run(&self, decide: &impl Decide, tasks: usize) -> Result<Figures, Error> {
        self.decide(decide, tasks, self.time / 8).await?;
        let before = (self.server.cpu().await?, client_cpu()?);
        let start = Instant::now();
        let count = self.decide(decide, tasks, self.time).await? as f64;
        let took = start.elapsed();
        let after = (self.server.cpu().await?, client_cpu()?);
        Ok(Figures {
            rate: count / took.as_secs_f64(),
            redis_cpu: (after.0 - before.0) / count * 1e6,
            client_cpu: (after.1 - before.1) / count * 1e6,
        })
    }

    /// Returns the number of decisions of `tasks` tasks, which send the next one after each reply.
    async fn decide(
        &self,
        decide: &impl Decide,
        tasks: usize,
        time: Duration,
    ) -> Result<u64, Error> {
        let end = Instant::now() + time;
        let mut running = JoinSet::new();
        for task in 0..tasks {
            let mut decide = decide.clone();
            running.spawn(async move {
                let (mut count, mut random) = (0, task as u64 + 1);
                while Instant::now() < end {
                    // A generator by Lehmer; the upper bits are the random ones.
                    random = random.wrapping_mul(0xda94_2042_e4dd_58b5).wrapping_add(1);
                    if !decide.decide((random >> 40) as usize % KEYS).await? {
                        return Err("a request was denied".into());
                    }
                    count += 1;
                }
                Ok::<u64, Error>(count)
            });
        }
        let mut count = 0;
        while let Some(done) = running.join_next().await {
            count += done??;
        }
        Ok(count)
    }
}

fn print(runs: &[[Vec<Figures>; NAMES.len()]; TASKS.len()]) {
    println!(
        "\n| | tasks | decisions/s | client CPU, µs each | Redis CPU, µs each |\n|---|---|---|---|---|"
    );
    for (index, name) in NAMES.into_iter().enumerate() {
        for (tasks, runs) in TASKS.into_iter().zip(runs) {
            if runs[index].is_empty() {
                continue;
            }
            let of = |field: fn(&Figures) -> f64| median(runs[index].iter().map(field));
            println!(
                "| {name} | {tasks} | {:.0} | {:.2} | {:.2} |",
                of(|run| run.rate),
                of(|run| run.client_cpu),
                of(|run| run.redis_cpu)
            );
        }
    }
    println!("\n| budget | is | |\n|---|---|---|");
    let verdict = |passes: bool| if passes { "pass" } else { "fail" };
    for ((tasks, least), runs) in TASKS.into_iter().zip([1.1, 1.4]).zip(runs) {
        if runs[0].is_empty() || runs[1].is_empty() {
            continue;
        }
        // The two runs of a round follow each other.
        let ratio = median(
            runs[0]
                .iter()
                .zip(&runs[1])
                .map(|(own, cell)| own.rate / cell.rate),
        );
        println!(
            "| {tasks} tasks ≥ {least} × redis-cell | {ratio:.2} | {} |",
            verdict(ratio >= least)
        );
    }
    for (tasks, runs) in TASKS.into_iter().zip(runs) {
        if !runs[0].is_empty() {
            let each = median(runs[0].iter().map(|run| run.redis_cpu));
            println!(
                "| {tasks} tasks, Redis CPU ≤ 4.2 µs | {each:.2} | {} |",
                verdict(each <= 4.2)
            );
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the number behind `name` among the arguments.
fn option(name: &str, default: f64) -> Result<f64, Error> {
    match std::env::args().skip_while(|arg| arg != name).nth(1) {
        Some(number) => Ok(number.parse()?),
        None => Ok(default),
    }
}
