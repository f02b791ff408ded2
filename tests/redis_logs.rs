//! Long sliding logs in Redis: they decide like memory, and no call takes more than a millisecond of the server.

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::clock::{Clock, ManualClock, Timestamp};
use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota, Receipt, RedisBackend};

use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

const TODAY: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
const WINDOW: Duration = Duration::from_secs(1);

fn ann() -> Key {
    Key::from("ann")
}

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// A log in Redis with a manual clock.
async fn log(server: &RedisServer, clock: &ManualClock, limit: u64) -> Limiter<RedisBackend> {
    let connection = Frozen::connect(&server.url(), clock).await;
    let backend = RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
        .idle_ttl(Duration::from_secs(86_400))
        .from_transport(RedisConnection::new(connection));
    Limiter::new(
        Policy::new("log", Quota::sliding_log(limit, WINDOW)),
        backend,
    )
}

/// Random charges, refunds, penalties and clock steps on one key, in Redis and in memory.
struct Both {
    clock: ManualClock,
    redis: Limiter<RedisBackend>,
    memory: Limiter<MemoryBackend<ManualClock>>,
    receipts: Vec<[Receipt; 2]>,
    random: StdRng,
}

impl Both {
    async fn new(server: &RedisServer, limit: u64, seed: u64) -> Self {
        let clock = ManualClock::at(TODAY);
        let redis = log(server, &clock, limit).await;
        let memory = MemoryBackend::builder().clock(clock.clone()).build();
        let memory = Limiter::new(redis.policy().clone(), memory);
        Self {
            clock,
            redis,
            memory,
            receipts: Vec::new(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    async fn check(&mut self, cost: u64) {
        let redis = self
            .redis
            .check(&ann(), cost)
            .await
            .expect("the backend replies");
        let memory = self.memory.check_now(&ann(), cost);
        assert_eq!(redis.decision, memory.decision, "a cost of {cost}");
        if let (Some(redis), Some(memory)) = (redis.receipt, memory.receipt)
            && cost > 0
        {
            self.receipts.push([redis, memory]);
        }
    }

    async fn penalize(&mut self, cost: u64) {
        let redis = self.redis.penalize(&ann(), cost).await;
        let memory = self.memory.penalize(&ann(), cost).await;
        assert_eq!(
            redis.expect("the backend replies"),
            memory.expect("the backend replies")
        );
    }

    async fn refund(&mut self, at: usize, cost: u64) {
        let [redis, memory] = &mut self.receipts[at];
        let redis = self.redis.refund(&ann(), redis, cost).await;
        let memory = self.memory.refund(&ann(), memory, cost).await;
        assert_eq!(
            redis.expect("the backend replies"),
            memory.expect("the backend replies")
        );
        if self.receipts[at][0].tokens() == 0 {
            drop(self.receipts.swap_remove(at));
        }
    }

    async fn step(&mut self, limit: u64) {
        let now = self.clock.now();
        let window = WINDOW.as_micros() as u64;
        match self.random.random_range(0..1_000) {
            0..900 => self
                .clock
                .advance(micros(self.random.random_range(0..window / 2_000))),
            900..960 => self
                .clock
                .advance(micros(self.random.random_range(0..window / 50))),
            960..985 => self
                .clock
                .set(back(now, self.random.random_range(0..window / 2))),
            985..990 => self
                .clock
                .set(back(now, self.random.random_range(0..3 * window))),
            _ => {}
        }
        let cost = match self.random.random_range(0..20) {
            0 => self.random.random_range(0..=limit + 1),
            1 => 0,
            2 => limit,
            _ => self.random.random_range(1..3),
        };
        let count = self.receipts.len();
        match self.random.random_range(0..20) {
            0 => self.penalize(cost).await,
            1..6 if count > 0 => {
                let at = self.random.random_range(0..count);
                self.refund(at, cost).await;
            }
            6 if count > 0 => self.refund(count - 1, limit).await,
            _ => self.check(cost).await,
        }
    }
}

fn back(now: Timestamp, by: u64) -> Timestamp {
    Timestamp::from_micros(now.as_micros() - by)
}

#[tokio::test]
async fn long_logs_decide_in_redis_as_in_memory() {
    let server = RedisServer::start();
    for (seed, limit) in [(1, 600), (2, 1_500), (3, 3_000)] {
        server.command(&["FLUSHALL"]);
        let mut both = Both::new(&server, limit, seed).await;
        for _ in 0..limit {
            both.clock.advance(micros(10));
            both.check(1).await;
        }
        let length: u64 = server.get(&["LLEN", &server.keys()[0]]);
        assert!(length < 300, "{length} entries are not packed");
        // From the oldest to the newest, until chunks are empty.
        for at in (0..limit as usize / 2).rev() {
            both.refund(at, 1).await;
        }
        for _ in 0..2_500 {
            both.step(limit).await;
        }
        both.clock.advance(2 * WINDOW);
        both.check(1).await;
        let length: u64 = server.get(&["LLEN", &server.keys()[0]]);
        assert_eq!(length, 1, "expired entries are dropped");
    }
}

/// The least server µs of several calls: other work on this machine must not fail the test.
async fn least_micros(restored: &Restored<'_>, mut call: impl AsyncFnMut(usize)) -> u64 {
    let mut least = u64::MAX;
    for reservation in 0..TRIES {
        restored.again();
        restored.server.command(&["CONFIG", "RESETSTAT"]);
        call(reservation).await;
        let stats: String = restored.server.get(&["INFO", "commandstats"]);
        // The first call may load the script.
        let of_scripts = stats
            .lines()
            .filter(|line| line.starts_with("cmdstat_eval"));
        let micros = of_scripts.map(|line| {
            let micros = line.split("usec=").nth(1).expect("its log line");
            let digits = micros.split(',').next().expect("a number");
            digits.parse::<u64>().expect("a number")
        });
        let micros: u64 = micros.sum();
        assert!(micros > 0, "{stats}");
        least = least.min(micros);
    }
    least
}

const TRIES: usize = 12;
const MOST: u64 = 65_535;

struct Restored<'a> {
    server: &'a RedisServer,
    key: String,
    dump: Vec<u8>,
}

impl Restored<'_> {
    fn again(&self) {
        let client = redis::Client::open(self.server.url()).expect("a URL");
        let mut connection = client.get_connection().expect("the server runs");
        let restore = redis::cmd("RESTORE")
            .arg(&self.key)
            .arg(0)
            .arg(&self.dump)
            .arg("REPLACE")
            .exec(&mut connection);
        restore.expect("the server runs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_on_the_longest_log_takes_longer_than_a_millisecond() {
    let server = RedisServer::start();
    let clock = ManualClock::at(TODAY);
    let limiter = log(&server, &clock, MOST).await;
    let key = ann();
    let mut receipts = Vec::new();
    while receipts.len() < MOST as usize {
        clock.advance(micros(500));
        let some = (MOST as usize - receipts.len()).min(64 * 16);
        for reply in join_all((0..some).map(|_| limiter.check(&key, 1))).await {
            receipts.push(
                reply
                    .expect("the backend replies")
                    .receipt
                    .expect("allowed"),
            );
        }
    }
    // Penalties make it longer.
    for _ in 0..32 {
        clock.advance(micros(500));
        for reported in join_all((0..1_024).map(|_| limiter.penalize(&key, 1))).await {
            assert_eq!(reported.expect("the backend replies").remaining(), 0);
        }
    }
    let now = clock.now();
    let name = server.keys().pop().expect("one key");
    let dump = server.get(&["DUMP", &name]);
    let (server, key) = (&server, &key);
    let restored = Restored {
        server,
        key: name,
        dump,
    };
    // The longest calls: all entries count, a part has expired, all have expired, and the clock moved back by more than
    // the window.
    let times = [
        ("all counts", now),
        ("some passed", now.after(WINDOW - micros(40_000))),
        ("all passed", now.after(Duration::from_secs(3))),
        ("step back", back(now, 3_000_000)),
    ];
    let mut reported = Vec::new();
    for (reservation, (at, when)) in times.into_iter().enumerate() {
        clock.set(when);
        for cost in [0, 1, MOST] {
            let call = async |_| drop(limiter.check(key, cost).await.expect("the backend replies"));
            let least = least_micros(&restored, call).await;
            reported.push((format!("{at}: check of {cost}"), least));
        }
        let call = async |_| {
            drop(
                limiter
                    .penalize(key, MOST)
                    .await
                    .expect("the backend replies"),
            )
        };
        reported.push((
            format!("{at}: penalty"),
            least_micros(&restored, call).await,
        ));
        for (of, from) in [("first", 0), ("middle", 32_000), ("last", 65_400)] {
            // Another receipt each time: one receipt has one refund, which removes the whole entry.
            let call = async |number| {
                let receipt = &mut receipts[from + TRIES * reservation + number];
                let refund = limiter.refund(key, receipt, 1).await;
                drop(refund.expect("the backend replies"));
            };
            let least = least_micros(&restored, call).await;
            reported.push((format!("{at}: refund of the {of}"), least));
        }
    }
    for (what, micros) in &reported {
        println!("{what}: {micros} µs");
    }
    for (what, micros) in reported {
        assert!(micros <= 1_000, "{what} took {micros} µs");
    }
}
