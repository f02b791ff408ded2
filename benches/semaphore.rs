//! The cost of acquiring and releasing a permit, in memory and in Redis, all in one run.
//!
//! The peers in memory are tower's `ConcurrencyLimit`, which has no keys, and a tokio semaphore for each key in a
//! `DashMap`, which grows without bound. The peer in Redis is a list with an item for each free permit. `BLPOP` takes
//! one and `LPUSH` returns it. A client that dies keeps its permit, and each waiter needs its own connection.
//!
//! Run: `cargo bench --features redis --bench semaphore`, for a quick look with `-- --seconds 0.5`.

mod interleaved;
#[path = "../tests/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use redis::aio::MultiplexedConnection;
use support::redis::RedisServer;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::response::HeaderFormat;
use tower_sluice::{
    Global, Key, MemorySemaphore, RedisBackend, RedisSemaphore, Semaphore, SemaphoreLayer,
    SemaphorePolicy,
};

use self::interleaved::{Subject, measure};

type Error = Box<dyn std::error::Error + Send + Sync>;

const OURS: &str = "ours";
const OURS_HELD: &str = "ours, of keys with another holder";
const TOKIO: &str = "tokio's semaphore in a DashMap";
const BARE: &str = "a service without a limit";
const SILENT: &str = "`SemaphoreLayer`, no fields, no extensions";

const KEYS: usize = 10_000;
const HELD: u64 = 10_000;

fn main() -> Result<(), Error> {
    let mut args = std::env::args();
    let seconds = match args.find(|arg| arg == "--seconds") {
        Some(_) => args.next().ok_or("--seconds needs a number")?.parse()?,
        // `cargo test --benches` only checks that it runs.
        None if !std::env::args().any(|arg| arg == "--bench") => 0.05,
        None => 2.0,
    };
    let time = Duration::from_secs_f64(seconds);
    let runtime = Runtime::new()?;
    let (rounds, repetitions) = if seconds < 0.5 {
        (3, 100)
    } else {
        (101, 10_000)
    };
    in_memory(rounds, repetitions);
    around_a_service(rounds, repetitions);
    let server = RedisServer::start();
    println!("\n| in Redis, {KEYS} keys | tasks | pairs/s |\n|---|---|---|");
    runtime.block_on(in_redis(&server, time))?;
    println!("\n| held in Redis | bytes for each |\n|---|---|");
    runtime.block_on(memory_held(&server))
}

/// Returns the output of a future that completes at its first poll.
fn at_once<T, E: std::fmt::Debug>(future: impl Future<Output = Result<T, E>>) -> T {
    let output = future
        .now_or_never()
        .expect("an answer in memory is immediate");
    output.expect("a permit is free")
}

fn in_memory(rounds: usize, repetitions: u64) {
    for count in [1, 1_000] {
        let ours = Semaphore::new(SemaphorePolicy::new("bench", 5), MemorySemaphore::new());
        let keys: Vec<_> = (0..1_000_u64).map(Key::from).collect();
        // Permits of other holders.
        let others = ours.clone();
        let _held: Vec<_> = keys[..count]
            .iter()
            .map(|key| at_once(others.try_acquire(key, 1)))
            .collect();
        let alone = Semaphore::new(SemaphorePolicy::new("bench", 5), MemorySemaphore::new());
        let per_key: DashMap<String, Arc<tokio::sync::Semaphore>> = DashMap::new();
        let names: Vec<_> = (0..1_000).map(|number: u64| number.to_string()).collect();
        let mut numbers = [const { 0_usize }; 3];
        let [first, second, third] = numbers.each_mut();
        let next = move |number: &mut usize| {
            *number += 1;
            *number % count
        };
        let table = measure(
            &format!("keys: {count}, ns to acquire and release a permit in memory"),
            rounds,
            repetitions,
            vec![
                Subject::new(OURS, || {
                    drop(black_box(at_once(alone.try_acquire(&keys[next(first)], 1))));
                }),
                Subject::new(OURS_HELD, || {
                    drop(black_box(at_once(ours.try_acquire(&keys[next(second)], 1))));
                }),
                Subject::new(TOKIO, || {
                    let own = per_key.entry(names[next(third)].clone());
                    let own = own.or_insert_with(|| Arc::new(tokio::sync::Semaphore::new(5)));
                    let own = Arc::clone(&own);
                    drop(black_box(
                        own.try_acquire_owned().expect("a permit is free"),
                    ));
                }),
            ],
        );
        for name in [OURS, OURS_HELD] {
            table.at_most(2.0, name, TOKIO);
        }
    }
}

/// A service that does nothing, its limit, and a body that is read to its end.
fn around_a_service(rounds: usize, repetitions: u64) {
    let bare = tower::service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let layer = SemaphoreLayer::new(
        SemaphorePolicy::new("bench", 5),
        Global,
        MemorySemaphore::new(),
    );
    let silent = layer.clone().headers(HeaderFormat::None).extensions(false);
    let table = measure(
        "a layer around a service, ns",
        rounds,
        repetitions,
        vec![
            call(BARE, bare),
            call("tower's ConcurrencyLimit", ConcurrencyLimit::new(bare, 5)),
            call(SILENT, silent.layer(bare)),
            call("`SemaphoreLayer` as it comes", layer.layer(bare)),
        ],
    );
    table.adds_at_most_nanos(250.0, SILENT, BARE);
}

fn call<'a, S, B>(name: &'static str, mut service: S) -> Subject<'a>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + 'a,
    B: Body<Error: std::fmt::Debug>,
{
    Subject::new(name, move || {
        at_once(async {
            let response = service.ready().await.expect("it is ready");
            let response = response.call(Request::new(())).await.expect("a response");
            response.into_body().collect().await.map(black_box)
        });
    })
}

/// Acquires and releases, as one task of many.
trait Pair: Clone + Send + 'static {
    fn pair(&mut self, key: usize) -> impl Future<Output = Result<(), Error>> + Send;
}

#[derive(Clone)]
struct Ours(Semaphore<RedisSemaphore>);

impl Pair for Ours {
    async fn pair(&mut self, key: usize) -> Result<(), Error> {
        let permit = self.0.try_acquire(&Key::from(key as u64), 1).await?;
        permit.release().await?;
        Ok(())
    }
}

/// A list of free permits.
#[derive(Clone)]
struct List(MultiplexedConnection);

impl List {
    async fn make(&mut self, key: &str) -> Result<(), Error> {
        let made: bool = redis::cmd("SETNX")
            .arg(format!("{key}-exists"))
            .arg(1)
            .query_async(&mut self.0)
            .await?;
        if made {
            let _: i64 = redis::cmd("RPUSH")
                .arg(key)
                .arg(&[1; 5])
                .query_async(&mut self.0)
                .await?;
        }
        Ok(())
    }

    async fn expire(&mut self, pipe: &mut redis::Pipeline, key: &str) -> Result<(), Error> {
        let marker = format!("{key}-exists");
        pipe.cmd("EXPIRE")
            .arg(key)
            .arg(60)
            .ignore()
            .cmd("EXPIRE")
            .arg(marker)
            .arg(60)
            .ignore();
        Ok(pipe.query_async(&mut self.0).await?)
    }
}

impl Pair for List {
    async fn pair(&mut self, key: usize) -> Result<(), Error> {
        let key = format!("list:{key}");
        self.make(&key).await?;
        let mut pipe = redis::pipe();
        self.expire(pipe.cmd("BLPOP").arg(&key).arg(30).ignore(), &key)
            .await?;
        let mut pipe = redis::pipe();
        self.expire(pipe.cmd("LPUSH").arg(&key).arg(1).ignore(), &key)
            .await
    }
}

async fn ours(server: &RedisServer, capacity: u32) -> Result<Ours, Error> {
    let redis = RedisBackend::builder().time_limit(Duration::from_secs(20));
    let redis = redis.connect(server.url()).await?;
    Ok(Ours(Semaphore::new(
        SemaphorePolicy::new("bench", capacity),
        RedisSemaphore::new(&redis),
    )))
}

async fn list(server: &RedisServer) -> Result<List, Error> {
    let client = redis::Client::open(server.url())?;
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(List(
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await?,
    ))
}

async fn in_redis(server: &RedisServer, time: Duration) -> Result<(), Error> {
    for tasks in [1, 64, 256] {
        let one = ours(server, 5).await?;
        let all = (0..tasks).map(|_| one.clone()).collect();
        measure_pairs("ours", all, time).await?;
        let mut all = Vec::new();
        for _ in 0..tasks {
            all.push(list(server).await?);
        }
        measure_pairs("list and BLPOP", all, time).await?;
    }
    Ok(())
}

async fn measure_pairs<P: Pair>(name: &str, all: Vec<P>, time: Duration) -> Result<(), Error> {
    let (tasks, start) = (all.len(), Instant::now());
    let mut running = JoinSet::new();
    for (number, mut own) in all.into_iter().enumerate() {
        running.spawn(async move {
            let mut count = 0_usize;
            while start.elapsed() < time {
                own.pair((count * 256 + number) * 7 % KEYS).await?;
                count += 1;
            }
            Ok::<_, Error>(count)
        });
    }
    let mut pairs = 0;
    while let Some(own) = running.join_next().await {
        pairs += own??;
    }
    println!(
        "| {name} | {tasks} | {:.0} |",
        pairs as f64 / start.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn memory_held(server: &RedisServer) -> Result<(), Error> {
    let used = || -> Result<u64, Error> {
        let info: String = server.get(&["INFO", "memory"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        Ok(line.ok_or("no such line")?.trim().parse()?)
    };
    let Ours(semaphore) = ours(server, 65_535).await?;
    let tell = |name: &str, before: u64, after: u64| {
        println!("| {name} | {} |", after.saturating_sub(before) / HELD);
    };
    for (name, keys, weight) in [
        ("ours, all of one key", 1, 1),
        ("ours, all of one key, of weight 2", 1, 2),
        ("ours, each of a key of its own", HELD, 1),
    ] {
        let _: String = server.get(&["FLUSHALL"]);
        let (before, mut held) = (used()?, Vec::new());
        for number in 0..HELD {
            held.push(
                semaphore
                    .try_acquire(&Key::from(number % keys), weight)
                    .await?,
            );
        }
        tell(name, before, used()?);
    }
    let _: String = server.get(&["FLUSHALL"]);
    let (before, mut lists) = (used()?, list(server).await?);
    for number in 0..HELD {
        let key = format!("list:{number}");
        lists.make(&key).await?;
        let mut pipe = redis::pipe();
        lists
            .expire(pipe.cmd("BLPOP").arg(&key).arg(30).ignore(), &key)
            .await?;
    }
    tell(
        "list and BLPOP, each of a key of its own, 4 of 5 free",
        before,
        used()?,
    );
    Ok(())
}
