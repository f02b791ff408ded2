//! Decisions by a Redis Cluster with 1, 2 and 3 primaries beside one standalone server, in one run.
//!
//! 10 000 keys, one token bucket each, never empty. The servers and the client share the machine, so the rates show the
//! cost of a decision, and not what more machines add.
//!
//! Run: `cargo bench --features cluster --bench cluster`, for a quick look with `-- --seconds 0.2`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use support::cluster::RedisCluster;
use support::redis::RedisServer;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

type Error = Box<dyn std::error::Error + Send + Sync>;

const KEYS: u32 = 10_000;
const TASKS: [usize; 2] = [64, 256];
/// The best of these turns counts, because the load of the machine changes.
const TURNS: usize = 3;

/// The servers of one row.
struct Servers {
    name: String,
    nodes: Vec<RedisServer>,
    limiter: Limiter<RedisBackend>,
}

/// Decisions/s, and the CPU of a decision in µs: of the client, and of all servers together.
#[derive(Clone, Copy, Default)]
struct Figures {
    rate: f64,
    client: f64,
    servers: f64,
}

fn main() -> Result<(), Error> {
    let mut args = std::env::args();
    let seconds = match args.find(|arg| arg == "--seconds") {
        Some(_) => args.next().ok_or("--seconds needs a number")?.parse()?,
        // `cargo test --benches` only checks that it runs.
        None if !std::env::args().any(|arg| arg == "--bench") => 0.02,
        None => 1.0,
    };
    let (runtime, time) = (Runtime::new()?, Duration::from_secs_f64(seconds));
    let mut all = vec![Servers::standalone(&runtime)?];
    for primaries in 1..=3 {
        all.push(Servers::cluster(&runtime, primaries)?);
    }
    println!(
        "| servers | tasks | decisions/s | client CPU, µs each | Redis CPU, µs each | rate / standalone | Redis CPU / standalone |\n|---|---|---|---|---|---|---|"
    );
    for tasks in TASKS {
        let mut best = vec![Figures::default(); all.len()];
        for _ in 0..TURNS {
            for (servers, best) in all.iter().zip(&mut best) {
                let figures = servers.run(&runtime, tasks, time)?;
                if figures.rate > best.rate {
                    *best = figures;
                }
            }
        }
        let alone = best[0];
        for (servers, of) in all.iter().zip(&best) {
            println!(
                "| {} | {tasks} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
                servers.name,
                of.rate,
                of.client,
                of.servers,
                of.rate / alone.rate,
                of.servers / alone.servers
            );
        }
    }
    Ok(())
}

impl Servers {
    fn standalone(runtime: &Runtime) -> Result<Self, Error> {
        let server = RedisServer::start();
        let url = server.url();
        Self::new(runtime, "standalone".to_owned(), vec![server], &url)
    }

    fn cluster(runtime: &Runtime, primaries: usize) -> Result<Self, Error> {
        let cluster = RedisCluster::start(primaries, 0);
        let url = cluster.url();
        Self::new(
            runtime,
            format!("cluster of {primaries}"),
            cluster.nodes,
            &url,
        )
    }

    fn new(
        runtime: &Runtime,
        name: String,
        nodes: Vec<RedisServer>,
        url: &str,
    ) -> Result<Self, Error> {
        // A pause of the machine delays a decision, and ends no run.
        let builder = RedisBackend::builder().time_limit(Duration::from_secs(20));
        let backend = runtime.block_on(builder.connect(url))?;
        let plenty = Policy::new("bench", Quota::per_hour(100_000_000));
        let limiter = Limiter::new(plenty, backend);
        Ok(Self {
            name,
            nodes,
            limiter,
        })
    }

    fn run(&self, runtime: &Runtime, tasks: usize, time: Duration) -> Result<Figures, Error> {
        let keys: Arc<[_]> = (0..KEYS).map(|key| Key::from(u64::from(key))).collect();
        let (client, servers) = (cpu("self")?, self.cpu()?);
        let (count, took) = runtime.block_on(async {
            let (mut running, start) = (JoinSet::new(), Instant::now());
            for task in 0..tasks {
                let (limiter, keys) = (self.limiter.clone(), Arc::clone(&keys));
                running.spawn(async move {
                    let (mut random, mut count) = (SmallRng::seed_from_u64(task as u64), 0_u64);
                    while start.elapsed() < time {
                        let key = &keys[random.random_range(0..keys.len())];
                        assert!(limiter.check(key, 1).await?.decision.is_allowed());
                        count += 1;
                    }
                    Ok::<_, Error>(count)
                });
            }
            let mut count = 0;
            while let Some(done) = running.join_next().await {
                count += done??;
            }
            Ok::<_, Error>((count as f64, start.elapsed()))
        })?;
        Ok(Figures {
            rate: count / took.as_secs_f64(),
            client: (cpu("self")? - client) / count * 1e6,
            servers: (self.cpu()? - servers) / count * 1e6,
        })
    }

    fn cpu(&self) -> Result<f64, Error> {
        self.nodes
            .iter()
            .map(|node| cpu(&node.id().to_string()))
            .sum()
    }
}

/// Seconds of CPU of a process, in hundredths.
fn cpu(process: &str) -> Result<f64, Error> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("a line without a name")?;
    let fields: Vec<_> = fields.split(' ').collect();
    // `utime` is field 14 of proc(5), the first one here field 3.
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
